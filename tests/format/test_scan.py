"""Many lines: whole batches up to where the bytes stop being lines, however they are cut into chunks."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpcheckpoint import _core
from mpcheckpoint._format import scan as scan_module
from mpcheckpoint._format.frame import (
    CLOSING_BYTES,
    EndState,
    Line,
    Payload,
    closing,
    encode_batch,
    parse_line,
    running_crc,
)
from mpcheckpoint._format.scan import Scan, Stop, scan
from support.log_bytes import common_prefix

if TYPE_CHECKING:
    from collections.abc import Sequence

START = EndState(200, 0x1234ABCD, 1_000)
HUGE = 20_000_000
# Seconds of this process, for bytes that take 4 at worst. Anything quadratic would take hours.
BOUND_S = 10.0

PLAIN = [[1], [2], [3, 4, 5], [6], [7, 8]]


class SmallLog:
    """The bytes of a log behind its header, and where its batches and lines end."""

    def __init__(self, start: EndState = START) -> None:
        self.start = self.end = start
        self.data = b""
        self.batch_ends = [start.offset]
        self.events: list[list[object]] = []

    def write(self, events: Sequence[object], *, durable: int | None = None) -> SmallLog:
        """Append one batch; ``durable`` states that everything before it is, unless told otherwise."""
        payloads = [
            Payload(b'"k%d"' % number, json.dumps(event).encode()) for number, event in enumerate(events)
        ]
        stated = self.end.offset if durable is None else durable
        data, self.end = encode_batch(payloads, end=self.end, stamp_us=self.end.stamp_us + 10, durable=stated)
        self.data += data
        self.batch_ends.append(self.end.offset)
        self.events.append(list(events))
        return self

    def tear(self, size: int) -> bytes:
        """Return the first ``size`` bytes."""
        return self.data[:size]

    def flip_bit(self, bit: int) -> bytes:
        """Return the bytes with one bit wrong."""
        flipped = bytearray(self.data)
        flipped[bit // 8] ^= 1 << bit % 8
        return bytes(flipped)

    def whole_batches_below(self, size: int) -> int:
        """Return how many batches lie within the first ``size`` bytes."""
        return sum(end - self.start.offset <= size for end in self.batch_ends[1:])

    def line_starts(self) -> list[int]:
        """Return where each line starts in ``data``."""
        return [0, *(index + 1 for index, byte in enumerate(self.data[:-1]) if byte == 10)]

    def batch_start(self, position: int) -> int:
        """Return where the batch starts that holds the byte at ``position``."""
        return max(end for end in self.batch_ends if end - self.start.offset <= position) - self.start.offset


def write(batches: Sequence[Sequence[object]]) -> SmallLog:
    log = SmallLog()
    for events in batches:
        log.write(events)
    return log


def events_of(lines: Sequence[Line]) -> list[object]:
    return [json.loads(line.event) for line in lines]


def flat(batches: Sequence[Sequence[object]]) -> list[object]:
    return [event for events in batches for event in events]


def line_by_line(data: bytes, end: EndState) -> Scan:
    """Return what a scan that looks at each line finds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_core, "native", None)
        patch.setattr(scan_module, "_WORTH_COLUMNS_BYTES", len(data) + 1)
        return scan(data, end)


class Part(NamedTuple):
    lines: list[Line]
    end: EndState
    stop: Stop


def in_parts(data: bytes, cuts: Sequence[int], start: EndState) -> Part:
    """Scan as a reader does: what is left of a part stands before the next."""
    lines: list[Line] = []
    end, result = start, None
    for cut in [*sorted(cuts), len(data)]:
        result = scan(data[end.offset - start.offset : cut], end)
        lines += result.lines
        end = result.end
    assert result is not None
    return Part(lines, end, result.stop)


# --- whole logs --------------------------------------------------------------------------------------------

batches = st.lists(st.lists(st.integers() | st.text(max_size=30), min_size=1, max_size=4), max_size=12)


@given(batches=batches)
def test_scan_of_a_log_gives_what_was_written(batches: list[list[object]]) -> None:
    log = write(batches)
    found = scan(log.data, log.start)

    assert events_of(found.lines) == flat(batches)
    assert (found.end, found.stop, found.damage) == (log.end, Stop.END, None)
    assert (found.broken_at, found.broken_crc) == (log.end.offset, running_crc(log.end.stored_crc))


@given(batches=batches, data=st.data())
def test_scan_of_a_log_cut_into_parts_gives_the_same(
    batches: list[list[object]], data: st.DataObject
) -> None:
    log = write(batches)
    cuts = data.draw(st.lists(st.integers(0, len(log.data)), max_size=5))

    assert in_parts(log.data, cuts, log.start) == (scan(log.data, log.start).lines, log.end, Stop.END)


def test_scan_of_a_log_cut_into_two_at_every_byte_gives_the_same() -> None:
    log = write(PLAIN)
    whole = scan(log.data, log.start)
    for cut in range(len(log.data) + 1):
        assert in_parts(log.data, [cut], log.start) == (whole.lines, whole.end, Stop.END)


@pytest.mark.rule(26)
@given(batches=batches, size=st.integers(0, 70_000))
def test_scan_passes_over_padding_at_the_end_only(batches: list[list[object]], size: int) -> None:
    log = write(batches)
    found = scan(log.data + b"\n" * size, log.start)

    assert (found.end, found.stop) == (log.end, Stop.PADDING if size else Stop.END)
    assert scan(log.data + b"\n" * size + b"x", log.start).stop is Stop.DAMAGED


# --- every truncation, every flip --------------------------------------------------------------------------


@pytest.mark.guarantee(2)
@pytest.mark.guarantee(6)
def test_scan_of_every_truncation_gives_the_whole_batches_before_it() -> None:
    log = write(PLAIN)
    for size in range(len(log.data) + 1):
        found = scan(log.tear(size), log.start)
        count = log.whole_batches_below(size)
        assert events_of(found.lines) == flat(PLAIN[:count])
        assert found.end.offset == log.batch_ends[count]
        is_whole = size == log.batch_ends[count] - log.start.offset
        assert found.stop is (Stop.END if is_whole else Stop.INCOMPLETE)


@pytest.mark.guarantee(2)
@pytest.mark.guarantee(6)
def test_scan_of_every_bit_flip_stops_before_the_batch_it_hit() -> None:
    log = write(PLAIN)
    for bit in range(len(log.data) * 8):
        found = scan(log.flip_bit(bit), log.start)
        start = log.batch_start(bit // 8)
        count = log.whole_batches_below(start)
        assert events_of(found.lines) == flat(PLAIN[:count])
        assert found.end.offset == log.start.offset + start
        assert found.stop in (Stop.DAMAGED, Stop.INCOMPLETE)
        if found.damage is not None:
            assert found.damage.offset == log.start.offset + start
            assert found.damage.expected
            assert found.damage.found


@given(batches=batches, data=st.data())
def test_scan_of_any_bytes_put_anywhere_never_gives_a_wrong_record(
    batches: list[list[object]], data: st.DataObject
) -> None:
    log = write(batches)
    start = data.draw(st.integers(0, len(log.data)))
    stop = data.draw(st.integers(start, len(log.data)))
    other = data.draw(st.binary(max_size=80) | st.sampled_from([log.data, b"\0" * 512, b"\n" * 512]))
    changed = log.data[:start] + other + log.data[stop:]
    found = scan(changed, log.start)
    same = len(flat(batches[: log.whole_batches_below(common_prefix(changed, log.data))]))

    assert events_of(found.lines) == flat(batches)[:same]


@pytest.mark.parametrize("limit", [300, 700, 1500])
def test_scan_in_bulk_takes_no_batch_longer_than_a_look_at_each_line_does(
    monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(scan_module, "MAX_BATCH_BYTES", limit)
    log = write([[0], list(range(10)), [1]])
    for size in range(0, len(log.data) + 1, 7):
        assert scan(log.tear(size), log.start) == line_by_line(log.tear(size), log.start)


@given(batches=batches, data=st.data())
def test_scan_in_bulk_finds_what_a_look_at_each_line_finds(
    batches: list[list[object]], data: st.DataObject
) -> None:
    log = write(batches)
    changed = bytearray(log.data + data.draw(st.sampled_from([b"", b"\n", b"\n" * 600, b'["0000', b"\0"])))
    if changed and data.draw(st.booleans()):
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(changed)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_core, "native", None)
        patch.setattr(scan_module, "_WORTH_COLUMNS_BYTES", 1)
        in_bulk = scan(bytes(changed[:cut]), log.start)

    assert in_bulk == line_by_line(bytes(changed[:cut]), log.start)


# --- lines that are whole and out of place -----------------------------------------------------------------


def test_scan_of_lines_left_out_repeated_or_exchanged_stops_there() -> None:
    log = write([[number] for number in range(20)])
    starts = [*log.line_starts(), len(log.data)]
    lines = [log.data[start:stop] for start, stop in pairwise(starts)]
    for changed in (
        lines[:5] + lines[6:],
        lines[:6] + lines[5:],
        [*lines[:5], lines[6], lines[5], *lines[7:]],
    ):
        found = scan(b"".join(changed), log.start)
        assert events_of(found.lines) == list(range(6 if changed[5] == lines[5] else 5))
        assert found.stop is Stop.DAMAGED


@pytest.mark.rule(7)
def test_scan_of_lines_of_another_generation_takes_none() -> None:
    log = write(PLAIN)

    assert scan(log.data, log.start._replace(stored_crc=0)).lines == []


def chain(*lines: tuple[int, int, int]) -> bytes:
    """Return lines of (stamp, durable, more) with right lengths and crcs, padded to be worth a bulk look."""
    data = b""
    crc = running_crc(START.stored_crc)
    for stamp_us, durable, more in lines:
        rest = b'",%d,%d,%d,"k","%b",null,' % (stamp_us, durable, more, b"x" * 300)
        body = b'["%08x' % (10 + len(rest) + CLOSING_BYTES) + rest
        data += body + closing(crc32(body, crc))
        crc = running_crc(crc32(body, crc))
    return data


@pytest.mark.guarantee(2)
@pytest.mark.parametrize(
    ("lines", "whole"),
    [
        ([(1001, 0, 0), (1002, 0, 0)], 2),
        ([(1001, 0, 0), (1001, 0, 0)], 1),
        ([(1001, 0, 0), (1000, 0, 0)], 1),
        ([(1000, 0, 0)], 0),
        ([(1001, 0, 1), (1001, 0, 0), (1002, 0, 0)], 3),
        ([(1001, 0, 0), (1002, 0, 1), (1003, 0, 0)], 1),
        ([(1001, 0, 0), (1002, 0, 2), (1002, 0, 0)], 1),
        ([(1001, 0, 0), (1002, 0, 2), (1002, 0, 1), (1003, 0, 0)], 1),
        ([(1001, 0, 0), (1002, 0, 1), (1002, 0, 1), (1002, 0, 0)], 1),
        ([(1001, 0, 0), (1002, 0, 2), (1002, 0, 2), (1002, 0, 0)], 1),
        ([(1001, 0, 0), (1002, 0, 2), (1002, 0, 0), (1002, 0, 0)], 1),
        ([(1001, 0, 0), (1002, 1_000_000, 0)], 1),
        ([(1001, 0, 0), (2**53, 0, 0)], 1),
    ],
)
def test_scan_of_valid_lines_in_the_wrong_order_stops_before_their_batch(
    lines: list[tuple[int, int, int]], whole: int
) -> None:
    data = chain(*lines)
    found = scan(data, START)

    assert len(found.lines) == whole
    assert found == line_by_line(data, START)
    assert found.stop is (Stop.END if whole == len(lines) else Stop.DAMAGED)
    if found.damage is not None:
        assert found.damage.offset == found.end.offset


@pytest.mark.parametrize("length", [b"zzzzzzzz", b"0000015C", b"-0000001", b"0_0000ff", b""])
def test_scan_of_a_length_that_is_no_number_stops_before_it(length: bytes) -> None:
    """The crc is right, so no accident did this, but somebody else's program."""
    first = chain((1001, 0, 0), (1002, 0, 0))
    crc = crc32(first, running_crc(START.stored_crc))
    body = b'["' + length + b'",1003,0,0,"k","' + b"x" * 305 + b'",null,'
    data = first + body + closing(crc32(body, crc))
    found = scan(data, START)

    assert found == line_by_line(data, START)
    assert len(found.lines) == 2


@pytest.mark.guarantee(2)
def test_scan_of_a_batch_without_its_end_holds_it_back() -> None:
    log = write([[1], [2, 3, 4]])
    *_, last = log.line_starts()

    assert scan(log.data[:last], log.start)[1:4] == (
        EndState(log.batch_ends[1], *end_of(log, 1)),
        Stop.INCOMPLETE,
        None,
    )
    padded = scan(log.data[:last] + b"\n" * 100, log.start)
    assert (padded.stop, padded.end.offset) == (Stop.DAMAGED, log.batch_ends[1])
    assert padded.damage is not None
    assert padded.damage.offset == log.batch_ends[1]
    assert padded.broken_at == log.start.offset + last


def end_of(log: SmallLog, batch: int) -> tuple[int, int]:
    size = log.batch_ends[batch] - log.start.offset
    return int(log.data[size - 11 : size - 3], 16), log.start.stamp_us + 10 * batch


# --- events that look like logs ----------------------------------------------------------------------------


def test_scan_of_events_that_hold_the_text_of_lines_takes_them_for_events() -> None:
    inner = write(PLAIN).data.decode()
    log = write([[inner], [inner * 3, inner], ["\n" + inner]])

    assert events_of(scan(log.data, log.start).lines) == flat(log.events)
    for start in range(len(log.data)):
        assert start in log.line_starts() or not any(
            isinstance(parse_line(log.data, start, stop, base=0, crc=0), Line)
            for stop in range(start + 40, min(start + 80, len(log.data)))
        )


# --- bounds ------------------------------------------------------------------------------------------------


@pytest.mark.guarantee(6)
@pytest.mark.rule(4)
@pytest.mark.parametrize("byte", [b"\0", b"\n"])
def test_scan_of_64_kib_of_one_byte_gives_no_record(byte: bytes) -> None:
    log = write(PLAIN)
    found = scan(log.data + byte * 65536, log.start)

    assert (events_of(found.lines), found.end) == (flat(PLAIN), log.end)
    assert found.stop is (Stop.PADDING if byte == b"\n" else Stop.DAMAGED)
    assert scan(byte * 65536, log.start).lines == []


@pytest.mark.guarantee(6)
@pytest.mark.rule(6)
@pytest.mark.parametrize("digit", range(8))
def test_scan_of_a_raised_length_neither_waits_nor_takes_more(digit: int) -> None:
    """All of the log is there, so a length that points behind its newline is damage at once, not a reason to wait."""
    log = write(PLAIN)
    *_, last = log.line_starts()[:-1]
    changed = bytearray(log.data)
    changed[last + 2 + digit] = ord("f") if changed[last + 2 + digit] != ord("f") else ord("e")
    found = scan(bytes(changed), log.start)

    assert found.stop is Stop.DAMAGED
    assert found.end.offset == log.start.offset + log.batch_start(last)


@pytest.mark.parametrize(
    "unit",
    [
        b"\n",
        b"\0",
        b'["0000',
        b'\n["0000',
        b'["00000028"\n',
        b'["03ffffff',
        b'"00000000"]\n',
        b'["00000028"00000000"]\n',
    ],
)
def test_scan_of_20_megabytes_of_hostile_bytes_takes_bounded_time(unit: bytes) -> None:
    log = write(PLAIN)
    data = log.data + unit * (HUGE // len(unit))
    begin = time.process_time()
    found = scan(data, log.start)

    assert time.process_time() - begin < BOUND_S
    assert found.end == log.end
