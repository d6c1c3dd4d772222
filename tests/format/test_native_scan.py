"""The scan of the native core: it takes all that our writer makes, and nothing that Python would not take as well."""

from __future__ import annotations

import threading
from array import array
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpcheckpoint._format import frame
from mpcheckpoint._format import scan as scan_module
from mpcheckpoint._format.codec import encode_payload
from mpcheckpoint._format.columns import Lines, canonical_lines
from mpcheckpoint._format.control import Note, note_payload
from mpcheckpoint._format.frame import (
    MAX_BATCH_BYTES,
    EndState,
    Payload,
    closing,
    encode_batch,
    running_crc,
)
from mpcheckpoint._format.scan import Stop, scan
from support import log_bytes, scan_fuzz
from support.capabilities import native_core_in_use
from support.leaks import CALLS, require_no_leak
from support.scan_fuzz import START, forged, scanned_alone, scanned_natively

if TYPE_CHECKING:
    from types import ModuleType

    from mpcheckpoint._format.scan import Scan

# What a run in CI tries; the command in support.scan_fuzz tries more.
LOGS = 20_000
PLAIN = b'1001,0,0,"k",{"a":1},null'


@pytest.fixture(autouse=True, scope="module")
def native() -> Any:
    """The native core, in use also where it was told not to run."""
    with native_core_in_use() as found:
        yield found


def taken(data: bytes, start: EndState = START) -> int:
    """Return how many lines the native core takes."""
    found = canonical_lines(data, start, most_batch_bytes=MAX_BATCH_BYTES)
    return 0 if found is None else len(found[0])


def require_alike(data: bytes, start: EndState = START) -> Scan:
    """Require of both scans to find the same; return it."""
    found = scanned_natively(data, start)
    assert found == scanned_alone(data, start)
    return found


# --- it takes what our writer makes ----------------------------------------------------------------------------

json_texts = st.text(st.characters(exclude_categories=["Cs"]))
# The highest doubles of all are left to Python: what is below 1e308 is so by its digits.
json_numbers = st.integers(-(2**64), 2**64) | st.floats(-9e307, 9e307)
json_events = st.recursive(
    st.none() | st.booleans() | json_numbers | json_texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(json_texts, inner, max_size=4),
    max_leaves=20,
)
batches = st.lists(
    st.lists(st.tuples(json_texts, json_events), min_size=1, max_size=3), min_size=1, max_size=4
)


@given(written=batches, record_id=st.none() | json_texts.filter(bool))
def test_every_line_that_our_writer_makes_is_taken(
    written: list[list[tuple[str, Any]]], record_id: str | None
) -> None:
    data, end = b"", START
    for records in written:
        payloads = [
            *(encode_payload(key, event, record_id=record_id) for key, event in records),
            note_payload(Note("claim", {"object_key": records[0][0], "worker": None})),
        ]
        lines, end = encode_batch(payloads, end=end, stamp_us=end.stamp_us + 1, durable=START.offset)
        data += lines

    assert taken(data) == sum(len(records) + 1 for records in written)
    assert require_alike(data).end == end


@pytest.mark.parametrize("value", log_bytes.SOUND_VALUES)
def test_sound_value_is_read_alike_whoever_takes_it(value: bytes) -> None:
    data = forged([PLAIN, b'1002,0,0,"k",%b,null' % value])

    require_alike(forged([b'1001,0,0,"k",1,{"a":%b}' % value]))
    assert len(require_alike(data).lines) == 2


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("value", log_bytes.UNSOUND_VALUES)
def test_unsound_value_is_not_taken(value: bytes) -> None:
    for line in (b'1002,0,0,"k",%b,null' % value, b'1002,0,0,"k",1,{"a":%b}' % value):
        data = forged([PLAIN, line])
        assert taken(data) == 1
        assert len(require_alike(data).lines) == 1


# --- it takes nothing else -------------------------------------------------------------------------------------

OTHER_FORMS = {
    "white space": b'1002,0,0,"k",[1, 2],null',
    "a needless escape": b'1002,0,0,"k","\\u0041",null',
    "an escaped slash": b'1002,0,0,"k","\\/",null',
    "an escape in upper case": b'1002,0,0,"k","\\u001F",null',
    "a number with leading zeros": b'1002,0,00,"k",1,null',
    "more lines than 32 bits count": b'1002,0,4294967296,"k",1,null',
    "an exponent of four digits": b'1002,0,0,"k",1e-1000,null',
    "one of the highest doubles": b'1002,0,0,"k",1.5e308,null',
    "an integer beyond a double": b'1002,0,0,"k",' + b"1" * 309 + b",null",
}


@pytest.mark.parametrize("line", OTHER_FORMS.values(), ids=OTHER_FORMS)
def test_line_in_another_form_is_left_to_python(line: bytes) -> None:
    data = forged([PLAIN, line, b'1003,0,0,"k",1,null'])

    assert taken(data) == 1
    assert require_alike(data).stop in {Stop.END, Stop.DAMAGED}


@pytest.mark.guarantee(2)
@pytest.mark.parametrize("where", range(0, 120, 3))
def test_bit_that_is_flipped_anywhere_ends_what_is_taken(where: int) -> None:
    data = bytearray(forged([PLAIN, PLAIN.replace(b"1001", b"1002"), PLAIN.replace(b"1001", b"1003")]))
    for bit in range(8):
        changed = bytearray(data)
        changed[where] ^= 1 << bit
        assert taken(bytes(changed)) == where // (len(data) // 3)
        require_alike(bytes(changed))


@pytest.mark.guarantee(2)
@pytest.mark.parametrize(
    ("lines", "count"),
    [
        ([(1000, 0, 0)], 0),
        ([(1001, 0, 0), (1001, 0, 0)], 1),
        ([(1001, 0, 1), (1001, 0, 0), (1002, 0, 0)], 3),
        ([(1001, 0, 1), (1002, 0, 0)], 1),
        ([(1001, 0, 2), (1001, 0, 0)], 1),
        ([(1001, 0, 2), (1001, 0, 2)], 1),
        ([(1001, 5_000, 0), (1002, 5_045, 0)], 2),
        ([(1001, 5_001, 0)], 0),
        ([(2**53 - 1, 0, 0)], 1),
        ([(2**53, 0, 0)], 0),
    ],
)
def test_line_out_of_its_place_is_left_to_python(lines: list[tuple[int, int, int]], count: int) -> None:
    data = forged([b'%d,%d,%d,"k",1,null' % numbers for numbers in lines])

    assert taken(data) == count
    require_alike(data)


# Each would come to the 48 bytes of the line if what is no digit counted for what its bits are.
@pytest.mark.parametrize(
    "length", [b"00000030", b"0000002g", b"000000 0", b"0000003`", b"000/0030", b"0000003:"]
)
def test_length_with_what_is_no_digit_is_not_taken(length: bytes) -> None:
    body = b'["%b",1001,0,0,"k",12345,null,' % length
    crc = crc32(body, running_crc(START.stored_crc))
    data = body + closing(crc)

    assert len(data) == 0x30
    assert taken(data) == (length == b"00000030")
    require_alike(data)


def test_batch_that_is_longer_than_allowed_is_left_to_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "MAX_BATCH_BYTES", 200)
    data = forged([b'1001,0,%d,"k","%b",null' % (more, b"x" * 50) for more in range(4, -1, -1)])

    assert require_alike(data).stop is Stop.DAMAGED


def test_batch_whose_end_is_missing_is_held_back() -> None:
    data = forged([PLAIN, b'1002,0,2,"k",1,null', b'1002,0,1,"k",2,null'])
    found = require_alike(data)

    assert (len(found.lines), found.stop) == (1, Stop.INCOMPLETE)
    assert found.broken_at == START.offset + len(data)


@pytest.mark.guarantee(6)
def test_fuzzed_logs_are_read_alike_with_the_native_core_and_without() -> None:
    seen = set()
    for found in scan_fuzz.differences(LOGS, seed=11):
        assert isinstance(found, str), found
        seen.add(found)

    assert {"end, some lines", "damaged, some lines", "incomplete, some lines", "padding, some lines"} <= seen


@given(data=log_bytes.forged_logs() | log_bytes.damaged_logs().map(lambda log: log.data))
def test_logs_of_hypothesis_are_read_alike(data: bytes) -> None:
    _, start = log_bytes.header()

    require_alike(data[start.offset :], start)


def test_bounds_are_those_of_python(native: ModuleType) -> None:
    lines = frame.MIN_LINE_BYTES, frame.MAX_LINE_BYTES, frame.MAX_STAMP_US

    assert (*lines, frame.MAX_DEPTH, frame.LENGTH_END, frame.CLOSING_BYTES) == native.LIMITS


# --- as Python's own -------------------------------------------------------------------------------------------


def test_columns_of_a_part_and_of_a_mixture_are_the_lines_that_they_were() -> None:
    odd = b'1003,0,0,"k",[1, 2],{"id":"i"}'
    data = forged(
        [PLAIN, b'1002,0,0,null,{"control":"x","ignorable":true},null', odd, b'1004,0,0,"k",1,null']
    )
    found = require_alike(data)
    lines = Lines.of(found.lines)

    assert isinstance(canonical_lines(data, START, most_batch_bytes=1)[0].ends, array)  # type: ignore[index]
    assert lines[1:3] == scanned_alone(data).lines[1:3]
    assert [each.stamp_us for each in lines.records()] == [1001, 1003, 1004]
    assert [index for index, _ in lines.controls()] == [1]


BAD_ARGUMENTS: list[tuple[Any, ...]] = [
    *((), (b"",), (b"", 0, 0, 0, 0, 0), (bytearray(), 0, 0, 0, 0), ("", 0, 0, 0, 0)),
    *((b"", "0", 0, 0, 0), (b"", 0, 0, 0, None)),
]


@pytest.mark.parametrize("arguments", BAD_ARGUMENTS)
def test_bad_arguments_raise_type_error(native: ModuleType, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        native.scan(*arguments)


def test_numbers_out_of_range_take_nothing(native: ModuleType) -> None:
    data = forged([PLAIN])

    assert native.scan(data, -1, 0, 0, 0) is None
    assert native.scan(data, 2**53, START.stored_crc, 0, MAX_BATCH_BYTES) is None


def test_scans_leave_no_memory_behind(native: ModuleType, intensity: int) -> None:
    data = forged(
        [b'1001,0,0,"k\\n",{"a":1},{"id":"x"}', b'1002,0,0,null,{"control":"x"},null', b"1003,0,0,x"]
    )
    other = b"x" * 200
    shared = (data, None, True, False)

    def call() -> None:
        native.scan(data, *START, MAX_BATCH_BYTES)
        native.scan(other, *START, MAX_BATCH_BYTES)

    require_no_leak(call, shared, calls=CALLS * intensity)


def test_threads_that_scan_at_once_find_what_one_finds() -> None:
    payload = [Payload(b'"k"', b'"%b"' % (b"x" * 200))] * 2_000
    data, _ = encode_batch(payload, end=START, stamp_us=1_001, durable=0)
    expected = scanned_alone(data, in_bulk=True)
    found: list[Scan] = []

    threads = [threading.Thread(target=lambda: found.append(scan(data, START))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [expected] * 8
