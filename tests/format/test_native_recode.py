"""Lines written anew: the native core makes the bytes that Python makes."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from mpcheckpoint._format import recode
from mpcheckpoint._format.columns import Lines
from mpcheckpoint._format.frame import EndState, Payload, encode_batch
from mpcheckpoint._format.recode import DROP, KEEP, LEFT, keep_places, recoded
from mpcheckpoint._format.scan import scan
from support.capabilities import native_core
from support.leaks import CALLS, require_no_leak

if TYPE_CHECKING:
    pass

START = EndState(1000, 0x1234ABCD, 17)
PAYLOADS = st.builds(
    Payload,
    st.sampled_from([b"null", b'"x"', b'"\xc3\xbc,\\""', b'"a,b"']),
    st.sampled_from([b"1", b'{"control":"note","ignorable":true}', b'"a,b"', b"[1,2,3]"]),
    st.sampled_from([b"null", b'{"id":"a,b"}']),
)
BATCHES = st.lists(st.lists(PAYLOADS, min_size=1, max_size=4), max_size=8)


def written(batches: list[list[Payload]]) -> tuple[bytes, Lines]:
    """Return the bytes of some batches after START, and their lines."""
    data, end = b"", START
    for number, payloads in enumerate(batches):
        made, end = encode_batch(payloads, end=end, stamp_us=18 + number, durable=min(end.offset, 1000))
        data += made
    return data, Lines.of(scan(data, START).lines)


@given(BATCHES, st.data(), st.integers(300, 10**12))
def test_native_core_makes_the_same_bytes(batches: list[list[Payload]], data: st.DataObject, at: int) -> None:
    native_core()
    bytes_there, lines = written(batches)
    fates = bytearray(
        data.draw(st.lists(st.sampled_from([DROP, KEEP]), min_size=len(lines), max_size=len(lines)))
    )
    keep_places(lines, fates)
    end = EndState(at, 0xFFFFFFFF, 3)

    made, after = recoded(bytes_there, START.offset, lines, fates, end)

    assert (made, after) == recode._recoded(bytes_there, START.offset, lines, fates, end, {})
    again = scan(made, end)
    assert again.end == after
    assert [(line.object_key, line.event, line.meta, line.more, line.stamp_us) for line in again.lines] == [
        (line.object_key, line.event, line.meta, line.more, line.stamp_us)
        if fate == KEEP
        else (None, b'{"control":"gone","ignorable":true}', b"null", line.more, line.stamp_us)
        for line, fate in zip(lines, fates, strict=True)
        if fate != DROP
    ]


def test_what_is_not_framed_is_left_to_python() -> None:
    native = native_core()
    data, lines = written([[Payload(b'"x"', b"1")]])
    columns = [array("Q", lines.offsets), array("Q", lines.ends), array("Q", lines.stamps_us)]
    mores, kept, place = array("I", lines.mores), bytearray([KEEP]), (b"null,1,null,", 5000, 7, 3)

    assert native.recode(data, START.offset, *columns, mores, kept, *place) is not None
    assert native.recode(data, START.offset + 1, *columns, mores, kept, *place) is None  # other bytes
    assert native.recode(data[:-1], START.offset, *columns, mores, kept, *place) is None
    assert native.recode(data, START.offset, *columns, mores, bytearray([7]), *place) is None
    assert native.recode(data, START.offset, *columns, array("I"), kept, *place) is None
    assert native.recode(data.replace(b",", b";"), START.offset, *columns, mores, kept, *place) is None


def test_recoded_lines_leave_no_memory_behind(intensity: int) -> None:
    native_core()
    data, lines = written([[Payload(b'"x"', b"1"), Payload(b'"y"', b"2")]])

    require_no_leak(
        lambda: recoded(data, START.offset, lines, bytes([KEEP, LEFT]), START), calls=CALLS * intensity
    )
