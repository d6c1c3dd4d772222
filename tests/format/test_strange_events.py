"""Events and meta that no decoder takes, in lines whose checksums fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._format.codec import decode_event
from mpcheckpoint._format.frame import Line, closing, parse_line
from mpcheckpoint._format.rows import parse_lines
from mpcheckpoint.errors import CorruptLogError
from support import log_bytes
from support.fuzz_bench import MARKER, Bench, Reading
from support.log_bytes import SOUND_VALUES, UNSOUND_VALUES, forged_log

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.guarantee(6)


def only_line(data: bytes) -> bytes:
    """Return the line behind the header, with the crc that it would have at the start of a file."""
    body = data[data.index(b"\n") + 1 : -12]
    return body + closing(crc32(body))


@pytest.mark.parametrize("text", UNSOUND_VALUES, ids=lambda text: f"{text[:12]!r}-{len(text)}")
def test_line_whose_event_cannot_be_decoded_is_damage_that_names_its_place(bench: Bench, text: bytes) -> None:
    first, second = (forged_log(b'"x",%b,null' % event, b'"x",2,null') for event in (b"1", text))
    offset = first.index(b"\n") + 1
    line = only_line(forged_log(b'"x",%b,null' % text))
    bench.put(second)

    assert isinstance(parse_line(line, 0, len(line), base=offset, crc=0), str)
    assert parse_lines(line, base=offset, crc=0) == []
    assert bench.read() == Reading([], (CorruptLogError, offset))  # the line behind it calls it durable
    with Checkpoint(bench.store, read_only=True) as checkpoint, pytest.raises(CorruptLogError) as caught:
        checkpoint.get("x")
    assert (caught.value.path, caught.value.offset) == (str(bench.file), offset)


@pytest.mark.parametrize("text", UNSOUND_VALUES, ids=lambda text: f"{text[:12]!r}-{len(text)}")
def test_line_whose_event_cannot_be_decoded_at_the_end_is_torn(bench: Bench, text: bytes) -> None:
    bench.put(forged_log(b'"x",1,null', b'"x",%b,null' % text))

    assert bench.read() == Reading([("x", 1)], None)
    assert bench.append() is None
    assert bench.read() == Reading([("x", 1), MARKER], None)


@pytest.mark.parametrize("text", SOUND_VALUES, ids=lambda text: f"{text[:12]!r}-{len(text)}")
def test_line_whose_event_is_strange_and_sound_is_read(bench: Bench, text: bytes) -> None:
    line = only_line(forged_log(b'"x",%b,null' % text))
    bench.put(forged_log(b'"x",%b,null' % text, b'"x",2,null'))

    assert isinstance(parse_line(line, 0, len(line), base=500, crc=0), Line)
    assert len(parse_lines(line, base=500, crc=0)) == 1
    assert bench.read() == Reading([("x", decode_event(text)), ("x", 2)], None)


@pytest.mark.guarantee(5)
@pytest.mark.parametrize("depth", [129, 300, 900])
def test_event_nested_beyond_the_limit_is_refused_however_deep_the_stack_is(depth: int) -> None:
    """Whether there is stack left to decode it must not decide what a log holds."""
    line = only_line(forged_log(b'"x",' + b"[" * depth + b"]" * depth + b",null"))

    def at(calls: int) -> Any:
        return at(calls - 1) if calls else parse_line(line, 0, len(line), base=500, crc=0)

    for calls in (0, 200, 400):
        assert isinstance(at(calls), str)


@pytest.mark.parametrize("meta", [b"5", b'"id"', b"[]", b"true", b'{"id":1e999}', b'{"id":"\xff"}'])
def test_line_whose_meta_is_no_object_is_damage(bench: Bench, meta: bytes) -> None:
    bench.put(forged_log(b'"x",1,' + meta, b'"x",2,null'))

    assert bench.read().error == (CorruptLogError, len(log_bytes.header()[0]))
