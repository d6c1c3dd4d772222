"""Lines behind damage: all that a wrong bit did not hit, and nothing that only looks like a line."""

from __future__ import annotations

import json
import time
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_scan import BOUND_S, HUGE, PLAIN, START, SmallLog, write

from mpcheckpoint._format.frame import CLOSING_BYTES, Line, Payload, closing, encode_line, running_crc
from mpcheckpoint._format.resync import last_line, lines_after_damage
from mpcheckpoint._format.scan import Stop, scan

HOSTILE = [
    b"\n",
    b"\0",
    b'["0000',
    b'\n["0000',
    b'\n["03ffffff',
    b'"00000000"]\n',
    b'["00000028"00000000"]\n',
]


def places(lines: list[Line]) -> list[tuple[int, int]]:
    return [(line.offset, line.end) for line in lines]


def behind(data: bytes, log: SmallLog) -> list[Line]:
    """Return the lines that are found behind the first damage in ``data``, as whoever judges a log finds them."""
    found = scan(data, log.start)
    assert found.stop is not Stop.END
    start = found.broken_at - log.start.offset
    return list(lines_after_damage(data[start:], base=found.broken_at, crc=found.broken_crc))


# --- one wrong bit -----------------------------------------------------------------------------------------


@pytest.mark.guarantee(6)
def test_salvage_of_every_bit_flip_costs_the_line_it_hit_and_no_other() -> None:
    log = write(PLAIN)
    whole = scan(log.data, log.start).lines
    for bit in range(len(log.data) * 8):
        position = log.start.offset + bit // 8
        assert behind(log.flip_bit(bit), log) == [line for line in whole if line.offset > position]


@pytest.mark.guarantee(6)
def test_salvage_of_every_byte_exchanged_costs_at_most_two_lines() -> None:
    """A byte that became a newline, a newline that became another byte: still only the line it stood in."""
    log = write(PLAIN)
    whole = scan(log.data, log.start).lines
    for index, byte in enumerate(log.data):
        for other in {0, 10, 34, 91, 93, 255} - {byte}:
            changed = log.data[:index] + bytes([other]) + log.data[index + 1 :]
            expected = [line for line in whole if line.offset > log.start.offset + index]
            assert behind(changed, log) == expected


@pytest.mark.guarantee(6)
def test_salvage_of_a_line_zeroed_finds_all_lines_behind_the_next() -> None:
    """Nothing is left to seed the line right behind; its own crc field seeds the one after."""
    log = write([[number] for number in range(6)])
    whole = scan(log.data, log.start).lines
    for line in whole[:-1]:
        start, stop = line.offset - log.start.offset, line.end - log.start.offset
        changed = log.data[:start] + b"\0" * (stop - start) + log.data[stop:]
        assert behind(changed, log) == [other for other in whole if other.offset > line.end]


@given(data=st.data())
def test_salvage_of_two_damaged_places_finds_whole_lines_only(data: st.DataObject) -> None:
    log = write(PLAIN)
    changed = bytearray(log.data)
    for _ in range(2):
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    if bytes(changed) == log.data:
        return
    whole = scan(log.data, log.start).lines

    assert set(behind(bytes(changed), log)) <= set(whole)


# --- what only looks like a line ---------------------------------------------------------------------------


def test_salvage_of_a_damaged_event_that_holds_log_lines_finds_none_of_them() -> None:
    inner = write(PLAIN)
    log = write([[1], [inner.data.decode() * 2], [2]])
    whole = scan(log.data, log.start).lines
    damaged = whole[1]
    for bit in range((damaged.offset - log.start.offset) * 8, (damaged.end - log.start.offset) * 8, 7):
        assert behind(log.flip_bit(bit), log) == whole[2:]


def test_salvage_of_lines_of_another_log_finds_those_that_follow_one_of_theirs() -> None:
    """Left in a block, they cannot be told from this log's own. That errs to the safe side: an error, not a cut."""
    other = write([[number] for number in range(3)])
    log = SmallLog(START._replace(stored_crc=99)).write(["kept"])
    lines = behind(log.data + other.data, log)

    assert [json.loads(line.event) for line in lines] == [1, 2]


def test_salvage_takes_no_line_that_states_more_durable_than_its_own_offset() -> None:
    log = write([[1], [2]])
    stored_crc = log.end.stored_crc
    for above, is_line in ((0, True), (1, False)):
        line, _ = encode_line(
            Payload(b'"k"', b"1"),
            stamp_us=9,
            durable=log.end.offset + above,
            more=0,
            crc=running_crc(stored_crc),
        )
        data = log.flip_bit(3) + line
        assert len(behind(data, log)) == (2 if is_line else 1)


def test_salvage_takes_no_line_that_holds_a_newline() -> None:
    log = write([[1]])
    rest = b'",9,0,0,"k",\n1,null,'
    body = b'["%08x' % (10 + len(rest) + CLOSING_BYTES) + rest
    line = body + closing(crc32(body, running_crc(log.end.stored_crc)))

    assert json.loads(line)[5] == 1
    assert behind(log.flip_bit(3) + line, log) == []


# --- the last line -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("behind_it", [b"", b"\n" * 100, b'["0000', b"\0" * 700, b"rubbish\nrubbish\n"])
def test_last_line_is_found_whatever_stands_behind_it(behind_it: bytes) -> None:
    log = write(PLAIN)

    assert last_line(log.data + behind_it, base=log.start.offset) == scan(log.data, log.start).lines[-1]


def test_last_line_of_every_truncation_is_the_last_whole_one_but_the_first() -> None:
    log = write(PLAIN)
    whole = scan(log.data, log.start).lines
    for size in range(len(log.data) + 1):
        provable = [line for line in whole[1:] if line.end - log.start.offset <= size]
        assert last_line(log.tear(size), base=log.start.offset) == (provable[-1] if provable else None)


def test_last_line_is_never_one_that_a_flip_hit() -> None:
    log = write([[1], [2], [3]])
    whole = set(scan(log.data, log.start).lines)
    for bit in range(len(log.data) * 8):
        found = last_line(log.flip_bit(bit), base=log.start.offset)
        assert found is None or found in whole


# --- bounds ------------------------------------------------------------------------------------------------


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("unit", HOSTILE)
def test_salvage_of_20_megabytes_of_hostile_bytes_takes_bounded_time(unit: bytes) -> None:
    log = write(PLAIN)
    data = log.data + b"x" + unit * (HUGE // len(unit))
    begin = time.process_time()

    assert behind(data, log) == []
    assert time.process_time() - begin < BOUND_S


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("unit", HOSTILE[:4])
def test_last_line_before_20_megabytes_of_hostile_bytes_takes_bounded_time(unit: bytes) -> None:
    log = write(PLAIN)
    data = log.data + b"x" + unit * (HUGE // len(unit))
    begin = time.process_time()
    last_line(data, base=log.start.offset)

    assert time.process_time() - begin < 2 * BOUND_S


@pytest.mark.guarantee(6)
def test_salvage_takes_time_in_proportion_to_an_event_full_of_lines() -> None:
    """Were every start of a line tried, this would be quadratic: each would cost a pass over the rest."""
    inner = write([[number] for number in range(20)]).data
    damaged = write([[1], [(inner * 1000).decode()], [2]])
    begin = time.process_time()

    assert len(behind(damaged.flip_bit(len(damaged.data) * 4), damaged)) == 1
    assert time.process_time() - begin < BOUND_S
