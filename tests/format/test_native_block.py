"""Lines that the native core holds, of which no object of Python is made until it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpcheckpoint import _core
from mpcheckpoint._format import recode
from mpcheckpoint._format.blocks import scan_block
from mpcheckpoint._format.columns import Lines
from mpcheckpoint._format.frame import EndState, Payload, encode_batch
from mpcheckpoint._format.recode import DROP, KEEP, LEFT, keep_places, recoded
from mpcheckpoint._format.scan import Stop, scan
from support.capabilities import native_core, native_core_in_use
from support.leaks import CALLS, require_no_leak

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

START = EndState(1000, 0x1234ABCD, 17)
PAYLOADS = st.builds(
    Payload,
    st.sampled_from([b"null", b'"x"', b'"\xc3\xbc,\\""', b'"a,b"']),
    st.sampled_from([b"1", b'{"control":"note","ignorable":true}', b'"a,b"', b"[1,2,3]"]),
    st.sampled_from([b"null", b"null", b'{"id":"a,b"}']),
)
BATCHES = st.lists(st.lists(PAYLOADS, min_size=1, max_size=4), min_size=1, max_size=8)


@pytest.fixture(scope="module", autouse=True)
def native_in_use() -> Iterator[None]:
    """Have the native core run, also where it was told not to."""
    with native_core_in_use():
        yield


def written(batches: list[list[Payload]]) -> bytes:
    """Return the bytes of some batches after START."""
    data, end = b"", START
    for number, payloads in enumerate(batches):
        made, end = encode_batch(payloads, end=end, stamp_us=18 + number, durable=min(end.offset, 1000))
        data += made
    return data


def in_block(data: bytes) -> Lines:
    """Return the lines of these bytes, none of which has been made."""
    lines = Lines.of(scan_block(data, START).lines)
    assert lines.block is not None
    return lines


@given(BATCHES, st.integers(0, 300))
def test_lines_of_a_block_are_those_of_a_scan(batches: list[list[Payload]], less: int) -> None:
    native_core()
    data = written(batches)
    data = data[: max(len(data) - less, 0)]
    expected = scan(data, START)

    found = scan_block(data, START)

    assert found._replace(lines=[]) == expected._replace(lines=[])
    lines, others = Lines.of(found.lines), Lines.of(expected.lines)
    assert len(lines) == len(others)
    if others:
        assert (lines.start, lines.stop) == (others.offsets[0], others.ends[-1])
        assert lines.has_batches == others.has_batches
        assert lines.has_metas or all(line.meta == b"null" for line in others)
    assert list(lines.controls()) == list(others.controls())
    assert lines == others
    assert (lines[1:3], lines.records()) == (others[1:3], others.records())


def test_lines_that_only_python_takes_are_found_with_those_of_the_block() -> None:
    native_core()
    head = written([[Payload(b'"x"', b"1")]])
    end = scan(head, START).end
    odd, _ = encode_batch([Payload(b'"x"', b"[1, 2]")] * 20, end=end, stamp_us=30, durable=0)

    found = scan_block(head + odd, START)

    assert len(found.lines) == 21
    assert found == scan(head + odd, START)
    assert scan_block(b"\n" * 600, START).stop is Stop.PADDING


@given(BATCHES, st.data(), st.integers(300, 10**12))
def test_block_is_recoded_to_the_same_bytes(
    batches: list[list[Payload]], data: st.DataObject, at: int
) -> None:
    native_core()
    bytes_there = written(batches)
    lines, others = in_block(bytes_there), Lines.of(scan(bytes_there, START).lines)
    chosen = st.lists(st.sampled_from([DROP, KEEP]), min_size=len(lines), max_size=len(lines))
    fates = bytearray(data.draw(chosen))
    same_fates = bytearray(fates)
    end = EndState(at, 0xFFFFFFFF, 3)

    keep_places(lines, fates)
    keep_places(others, same_fates)

    assert fates == same_fates
    expected = recode._recoded(bytes_there, START.offset, others, fates, end, {})
    assert recoded(bytes_there, START.offset, lines, fates, end) == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_core, "native", None)
        assert recoded(bytes_there, START.offset, lines, fates, end) == expected


def test_what_a_block_cannot_take_is_refused() -> None:
    native = native_core()
    lines = in_block(written([[Payload(b'"x"', b"1")]]))
    assert lines.block is not None
    block, place = lines.block.lines, (b"null,1,null,", 5000, 7, 3)

    assert native.recode_block(block, bytearray([KEEP]), *place) is not None
    for fates in (bytearray(), bytearray([7])):
        assert native.recode_block(block, fates, *place) is None
    with pytest.raises(ValueError, match="one fate a line"):
        block.keep_places(bytearray(2))
    for arguments in ((lines, bytearray([KEEP]), *place), (block,)):
        with pytest.raises(TypeError):
            native.recode_block(*arguments)
    with pytest.raises(TypeError):
        native.block()
    assert native.block(b"x" * 100, *START, 1) is native.block(b"", *START, 1) is None
    assert native.block(b"", -1, 0, 0, 1) is None
    with pytest.raises(AttributeError):
        _ = lines.nothing  # type: ignore[attr-defined]


def calls() -> dict[str, Callable[[], Any]]:
    data = written([[Payload(b'"x\\n"', b"1"), Payload(b"null", b"2", b'{"id":"i"}')]])
    rest = data + data[: len(data) // 2]

    def make() -> None:
        lines = in_block(rest)
        assert lines.block is not None
        lines.block.lines.columns()
        lines.block.lines.controls()
        keep_places(lines, bytearray([KEEP, DROP]))
        scan_block(b"x" * 200, START)

    lines = in_block(data)
    return {
        "block": make,
        "recode_block": lambda: recoded(data, START.offset, lines, bytes([KEEP, LEFT]), START),
    }


@pytest.mark.parametrize("name", ["block", "recode_block"])
def test_blocks_leave_no_memory_behind(name: str, intensity: int) -> None:
    native_core()

    require_no_leak(calls()[name], calls=CALLS // 8 * intensity)
