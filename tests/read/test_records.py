"""The packed records of a view: what was put in comes out, in little memory."""

from __future__ import annotations

import json
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpcheckpoint import Checkpoint
from mpcheckpoint._format.columns import Lines
from mpcheckpoint._format.frame import Line
from mpcheckpoint._view.records import Records
from support.processes import call
from support.verbs import log_file

if TYPE_CHECKING:
    from pathlib import Path

RECORDS = 20_000


def lines_in(batches: list[list[int]]) -> list[Line]:
    """Return the lines of batches; each number is an object's."""
    lines: list[Line] = []
    for stamp, numbers in enumerate(batches, 1):
        for place, number in enumerate(numbers):
            offset = lines[-1].end if lines else 300
            event = json.dumps("x" * len(lines)).encode()
            more = len(numbers) - 1 - place
            lines.append(Line(offset, offset + 50, stamp, 0, more, f"k{number}", event, b"null", 0))
    return lines


@given(data=st.data())
def test_records_give_back_what_was_added_however_it_was_divided(data: st.DataObject) -> None:
    batches = data.draw(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), max_size=8))
    # Some may be missing, as control lines are.
    lines = [line for line in lines_in(batches) if data.draw(st.integers(0, 5))]
    cut = data.draw(st.integers(0, len(lines)))
    records = Records()
    records.add(Lines.of(lines[:cut]))
    frozen = records.cut()
    records.add(Lines.of(lines[cut:]))

    assert records.count == len(lines)
    for number, line in enumerate(lines):
        entry = records.entry(number)
        assert (entry.stamp_us, entry.more, entry.event) == (line.stamp_us, line.more, line.event)
        assert records.event(number) == line.event
        assert records.stamp_us(number) == line.stamp_us
        assert entry.end == line.end if line.more == 0 else 300 <= entry.end <= line.offset
    for held, until in ((records, len(lines)), (frozen, cut)):
        for key in ("k0", "k1", "k2", "k3", "k4"):
            expected = [number for number in range(until) if lines[number].object_key == key]
            assert list(held.numbers_of(key)) == expected
        assert list(held.objects) == list(dict.fromkeys(line.object_key for line in lines[:until]))


@given(data=st.data())
def test_part_of_an_object_and_first_record_after_a_place_are_those_of_the_whole(data: st.DataObject) -> None:
    batches = data.draw(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), max_size=8))
    lines = [line for line in lines_in(batches) if data.draw(st.integers(0, 5))]
    cut = data.draw(st.integers(0, len(lines)))
    records = Records()
    records.add(Lines.of(lines[:cut]))
    records.add(Lines.of(lines[cut:]))

    for key in ("k0", "k1", "k2"):
        expected = [line.event for line in lines if line.object_key == key]
        for number in range(len(expected) + 2):
            assert records.events_from(key, number) == expected[number:]
            assert records.last_of(key, number) == expected[max(0, len(expected) - number) :]
    for stamp_us in range(len(batches) + 2):
        for more in range(6):
            after = [at for at, line in enumerate(lines) if (line.stamp_us, -line.more) > (stamp_us, -more)]
            assert records.first_after(stamp_us, more) == min(after, default=len(lines))


def fill(store: Path, events_per_object: int, batch: int) -> None:
    objects = RECORDS // events_per_object
    with Checkpoint(store, durability="never") as checkpoint:
        log = checkpoint.log("a")
        for start in range(0, RECORDS, batch):
            log.append_many(
                [
                    (f"object-{number % objects:07d}", {"state": "UPLOADED", "try": number // objects})
                    for number in range(start, start + batch)
                ]
            )


@pytest.mark.parametrize(
    ("events_per_object", "batch", "bound"), [(1, 100, 2.0), (1, 1, 2.2), (10, 100, 1.0)]
)
def test_view_of_small_events_takes_little_more_memory_than_the_log_has_bytes(
    store: Path, events_per_object: int, batch: int, bound: float
) -> None:
    call(fill, store, events_per_object, batch)
    size = log_file(store).stat().st_size
    with Checkpoint(store, read_only=True) as checkpoint:
        tracemalloc.start()
        try:
            assert len(checkpoint) == RECORDS // events_per_object
            held_bytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert held_bytes <= bound * size, held_bytes / size


def test_read_takes_as_much_memory_for_a_log_of_three_times_the_length(store: Path, tmp_path: Path) -> None:
    """So many that each is read in several chunks."""
    call(fill_with_kilobytes, store, 4_000)
    call(fill_with_kilobytes, tmp_path / "longer", 12_000)

    longer_bytes = peak_of_read_bytes(tmp_path / "longer", 12_000)
    assert longer_bytes < 1.2 * peak_of_read_bytes(store, 4_000)


def fill_with_kilobytes(store: Path, count: int) -> None:
    with Checkpoint(store, durability="never") as checkpoint:
        log = checkpoint.log("a")
        for start in range(0, count, 200):
            log.append_many([("x", f"{number} " + "x" * 1000) for number in range(start, start + 200)])


def peak_of_read_bytes(store: Path, count: int) -> int:
    with Checkpoint(store, read_only=True) as checkpoint:
        log = checkpoint.log("a")
        tracemalloc.start()
        try:
            assert sum(1 for _ in log.read()) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
