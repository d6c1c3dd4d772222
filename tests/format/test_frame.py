"""One line: its fields become bytes and come back, and nothing else passes for it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpcheckpoint._format.frame import (
    CLOSING_BYTES,
    LENGTH_END,
    MAX_LINE_BYTES,
    MAX_STAMP_US,
    MIN_LINE_BYTES,
    EndState,
    Line,
    Payload,
    batch_bytes_bound,
    closing,
    encode_batch,
    encode_line,
    parse_line,
    running_crc,
    stated_length,
    stored_crc_before,
)
from mpcheckpoint._format.rows import parse_lines

if TYPE_CHECKING:
    from collections.abc import Callable

crcs = st.integers(0, 2**32 - 1)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def write(text: bytes = b'"event"', *, crc: int = 0, offset: int = 500, **numbers: int) -> tuple[bytes, int]:
    """Return a line that stands at ``offset``, and its crc field."""
    fields = {"stamp_us": 7, "durable": offset, "more": 0} | numbers
    return encode_line(Payload(b'"object"', text), crc=crc, **fields)


def forge(fields: str, *, crc: int = 0) -> bytes:
    """Return a line with the right length and crc around any ``fields``."""
    rest = f'",{fields},'.encode()
    body = b'["%08x' % (LENGTH_END + len(rest) + CLOSING_BYTES) + rest
    return body + closing(crc32(body, crc))


def read(line: bytes, *, crc: int = 0, offset: int = 500) -> Line | str:
    return parse_line(line, 0, len(line), base=offset, crc=crc)


# --- round trip --------------------------------------------------------------------------------------------


@given(
    object_key=st.text() | st.none(),
    event=json_values,
    meta=st.none() | st.dictionaries(st.text(), json_values, max_size=2),
    stamp_us=st.integers(0, MAX_STAMP_US),
    offset=st.integers(0, 2**50),
    more=st.integers(0, 10**6),
    crc=crcs,
    data=st.data(),
)
def test_line_of_any_fields_comes_back_as_written(
    object_key: str | None,
    event: object,
    meta: object,
    stamp_us: int,
    offset: int,
    more: int,
    crc: int,
    data: st.DataObject,
) -> None:
    durable = data.draw(st.integers(0, offset))
    payload = Payload(*(json.dumps(part).encode() for part in (object_key, event, meta)))
    line, stored_crc = encode_line(payload, stamp_us=stamp_us, durable=durable, more=more, crc=crc)
    found = read(line, crc=crc, offset=offset)

    assert isinstance(found, Line)
    assert found == Line(
        offset,
        offset + len(line),
        stamp_us,
        durable,
        more,
        object_key,
        payload.event,
        payload.meta,
        stored_crc,
    )
    assert len(line) <= batch_bytes_bound([payload])
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert len(json.loads(line)) == 8
    assert parse_lines(line, base=offset, crc=crc) == [found]


@given(before=st.binary(max_size=50), text=st.binary(max_size=50))
def test_running_crc_covers_every_byte_before_the_crc_field(before: bytes, text: bytes) -> None:
    line, stored_crc = encode_line(
        Payload(b'"k"', json.dumps(text.decode("latin1")).encode()),
        stamp_us=1,
        durable=0,
        more=0,
        crc=crc32(before),
    )

    assert stored_crc == crc32(before + line[: line.rindex(b'"', 0, -4)])
    assert running_crc(stored_crc) == crc32(before + line)
    assert stored_crc_before(before + line, len(before) + len(line)) == stored_crc


def test_batch_counts_down_and_shares_stamp_and_durable() -> None:
    payloads = [Payload(b'"k"', b"%d" % number) for number in range(4)]
    data, end = encode_batch(payloads, end=EndState(200, 99, 5), stamp_us=6, durable=150)
    lines = parse_lines(data, base=200, crc=running_crc(99))

    assert [(line.more, line.stamp_us, line.durable) for line in lines] == [
        (more, 6, 150) for more in (3, 2, 1, 0)
    ]
    assert end == EndState(200 + len(data), lines[-1].stored_crc, 6)


@pytest.mark.parametrize(
    ("stamp_us", "durable"),
    [(5, 0), (4, 0), (MAX_STAMP_US + 1, 0), (6, 201)],
    ids=["same", "lower", "high", "above"],
)
def test_batch_that_would_break_the_order_is_not_written(stamp_us: int, durable: int) -> None:
    with pytest.raises(AssertionError):
        encode_batch([Payload(b'"k"', b"1")], end=EndState(200, 0, 5), stamp_us=stamp_us, durable=durable)


# --- what is no line ---------------------------------------------------------------------------------------


def test_line_with_any_bit_flipped_is_refused() -> None:
    line, _ = write()
    for index in range(len(line) * 8):
        flipped = bytearray(line)
        flipped[index // 8] ^= 1 << index % 8
        assert isinstance(read(bytes(flipped)), str)
        assert parse_lines(bytes(flipped), base=500, crc=0) == []


def test_line_cut_anywhere_is_refused() -> None:
    line, _ = write()
    for size in range(len(line)):
        assert isinstance(read(line[:size]), str)


@given(crc=crcs.filter(bool))
def test_line_behind_other_bytes_is_refused(crc: int) -> None:
    line, _ = write()

    assert isinstance(read(line), Line)
    assert isinstance(read(line, crc=crc), str)


@pytest.mark.parametrize(
    "fields",
    [
        '9007199254740992,0,0,"k",1,null',
        '-1,0,0,"k",1,null',
        '1,501,0,"k",1,null',
        '1,-1,0,"k",1,null',
        '1,0,-1,"k",1,null',
        '1.0,0,0,"k",1,null',
        '"1",0,0,"k",1,null',
        'true,0,0,"k",1,null',
        "1,0,0,5,1,null",
        '1,0,0,"k",1',
        '1,0,0,"k",1,null,null',
        '1,0,0,"k",,null',
        '1,0,0,"k",nul,null',
        '1,0,0,"\\ud800",1,null',
    ],
)
def test_line_with_a_right_crc_and_wrong_fields_is_refused(fields: str) -> None:
    line = forge(fields)

    assert isinstance(read(forge('1,500,0,"k",1,null')), Line)
    assert isinstance(read(line), str)
    assert parse_lines(line, base=500, crc=0) == []


@pytest.mark.parametrize(
    "length", ["0000003B", "0000003c", " 000003b", "0x00003b", "+000003b", "0_00003b", "zzzzzzzz"]
)
def test_line_with_a_right_crc_and_a_wrong_length_is_refused(length: str) -> None:
    line = forge('1000000000000000,0,0,"kkkk",1,null')
    body = b'["' + length.encode() + line[LENGTH_END:-CLOSING_BYTES]

    assert line[2:10] == b"0000003b"
    assert isinstance(read(line), Line)
    assert isinstance(read(body + closing(crc32(body))), str)


@pytest.mark.parametrize("data", [b"", b"\0" * 65536, b"\n" * 65536, b'["', b"[" * 100])
def test_bytes_of_one_kind_are_no_line(data: bytes) -> None:
    assert crc32(b"") == 0  # why a run of zeros must not be judged by its crc alone
    assert stated_length(data, 0) is None
    assert stored_crc_before(data, len(data)) is None
    assert isinstance(parse_line(data, 0, len(data), base=0, crc=0), str)


@pytest.mark.rule(6)
@pytest.mark.parametrize(
    ("digits", "length"),
    [
        ("00000028", MIN_LINE_BYTES),
        ("00000027", None),
        ("00000000", None),
        ("04000000", MAX_LINE_BYTES),
        ("04000001", None),
        ("ffffffff", None),
        ("0000002A", None),
        ("0000 028", None),
    ],
)
def test_length_is_believed_within_the_limits_only(digits: str, length: int | None) -> None:
    assert stated_length(f'["{digits}",'.encode(), 0) == length


@pytest.mark.guarantee(6)
def test_line_read_on_a_deep_stack_is_never_called_damaged() -> None:
    """What cannot be decoded for want of stack is not damage: a writer would cut it off."""
    event = b"[" * 128 + b"]" * 128
    line, _ = write(event)

    def at(depth: int, call: Callable[[], object]) -> object:
        return at(depth - 1, call) if depth else call()

    for depth in range(0, sys.getrecursionlimit(), 10):
        try:
            found = at(depth, lambda: read(line))
        except RecursionError:
            continue
        assert isinstance(found, Line), f"at depth {depth}: {found}"
