"""Looking inside from Python: chosen records in the merged order, objects, and the figures of a log."""

from __future__ import annotations

import random
import sys
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Record
from mpcheckpoint import _system as system
from mpcheckpoint._logfile import near_end as log_end
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._logfile.descriptors import pool
from mpcheckpoint._system.holders import LockState, LockStatus
from mpcheckpoint._view import merged_read as reading_module
from mpcheckpoint.errors import CorruptLogError, InvalidKeyError, LogNotFoundError
from support.processes import call
from support.verbs import Faults, become_a_new_process, inside, log_file, tear, tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mpcheckpoint import Log

YEAR_2255_US = (1 << 53) - 1


@pytest.fixture
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs of a few kilobytes are read in many parts, and their ends looked for step by step."""
    monkeypatch.setattr(reading_module, "_PART_BYTES", 300)
    monkeypatch.setattr(reading_module, "_NEAR_END_BYTES", 100)
    monkeypatch.setattr(reading_module, "_USUAL_RECORD_BYTES", 1)
    monkeypatch.setattr(log_end, "_FIRST_LOOK_BYTES", 200)


@pytest.fixture
def checkpoint(store: Path, without_syncs: None, early_padding: None) -> Checkpoint:
    """Three logs with batches, long lines, notes, ids and padding."""
    del without_syncs, early_padding
    checkpoint = Checkpoint(store)
    chance = random.Random("reading")
    logs = [checkpoint.log(log_key) for log_key in ("a", "b", "c ö")]
    for number in range(150):
        log = chance.choice(logs)
        objects = [f"x{chance.randrange(6)}" for _ in range(chance.choice((1, 1, 1, 2, 5)))]
        if chance.random() < 0.1:
            with log.claim("claimed"):
                log.append("claimed", "y" * chance.randrange(900), record_id=str(number))
        log.append_many([(object_key, number) for object_key in objects])
    return checkpoint


def in_order(checkpoint: Checkpoint) -> list[Record]:
    """Return all records in the merged order: what the whole of each log says, sorted."""
    records = [record for log_key in checkpoint.logs() for record in checkpoint.log(log_key).read()]
    return sorted(records, key=lambda record: (record.stamp_us, record.log_key))


# --- records ------------------------------------------------------------------------------------------------


@pytest.mark.guarantee(3)
@pytest.mark.usefixtures("_small_parts")
def test_read_gives_all_records_in_the_merged_order(checkpoint: Checkpoint) -> None:
    everything = in_order(checkpoint)

    found = list(checkpoint.read())

    assert found == everything
    for object_key in checkpoint:
        assert (
            tuple(record.event for record in found if record.object_key == object_key)
            == checkpoint[object_key]
        )


@pytest.mark.guarantee(3)
def test_records_with_one_stamp_in_two_logs_come_in_the_order_of_their_log_keys(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "highest_us", 0)
    monkeypatch.setattr(system, "now_us", lambda: 1_700_000_000_000_000)
    checkpoint = Checkpoint(store)
    for log_key in "cab":  # also the order in which the handle meets them
        clock.highest_us = 0  # as in another process, which has not seen the other logs
        checkpoint.log(log_key).append_many([("x", f"{log_key}1"), ("x", f"{log_key}2")])

    found = list(checkpoint.read())

    assert len({record.stamp_us for record in found}) == 1
    assert [record.event for record in found] == ["a1", "a2", "b1", "b2", "c1", "c2"]
    assert [record.event for record in checkpoint.read(last=3)] == ["b2", "c1", "c2"]
    assert checkpoint["x"] == ("a1", "a2", "b1", "b2", "c1", "c2")


@pytest.mark.guarantee(3)
@pytest.mark.usefixtures("_small_parts")
def test_read_of_an_object_gives_its_records_alone(checkpoint: Checkpoint) -> None:
    everything = in_order(checkpoint)

    for object_key in ("x0", "claimed", "unknown"):
        expected = [record for record in everything if record.object_key == object_key]
        assert list(checkpoint.read(object_key=object_key)) == expected
        for log_key in checkpoint.logs():
            of_log = [record for record in expected if record.log_key == log_key]
            assert list(checkpoint.log(log_key).read(object_key=object_key)) == of_log


@pytest.mark.usefixtures("_small_parts")
def test_read_from_and_to_a_time_includes_both(checkpoint: Checkpoint) -> None:
    everything = in_order(checkpoint)
    stamps = [record.stamp_us for record in everything]

    for first, last in ((0, -1), (10, 60), (len(stamps) // 2, -1), (-1, -1), (50, 50)):
        since_us, until_us = stamps[first], stamps[last]
        expected = [record for record in everything if since_us <= record.stamp_us <= until_us]
        assert list(checkpoint.read(since=since_us, until=until_us)) == expected
    assert list(checkpoint.read(since=stamps[-1] + 1)) == []
    assert list(checkpoint.read(until=stamps[0] - 1)) == []


@pytest.mark.usefixtures("_small_parts")
def test_read_of_the_last_records_gives_the_end_of_the_merged_order(checkpoint: Checkpoint) -> None:
    everything = in_order(checkpoint)

    for count in (0, 1, 2, 7, 40, len(everything), len(everything) + 1, 10**6):
        assert list(checkpoint.read(last=count)) == everything[max(0, len(everything) - count) :], count
    recent = [record for record in everything if record.stamp_us >= everything[-9].stamp_us]
    assert list(checkpoint.read(last=4, since=everything[-9].stamp_us)) == recent[-4:]
    assert list(checkpoint.read(last=10**6, since=everything[-9].stamp_us)) == recent
    of_object = [record for record in everything if record.object_key == "claimed"]
    assert list(checkpoint.read(last=2, object_key="claimed")) == of_object[-2:]


@pytest.mark.usefixtures("_small_parts")
@pytest.mark.parametrize(
    "options", [{}, {"last": 0}, {"last": 3}, {"since": YEAR_2255_US}, {"object_key": "x"}]
)
def test_cursor_of_what_was_read_is_where_following_goes_on(
    checkpoint: Checkpoint, options: dict[str, Any]
) -> None:
    reading = checkpoint.read(**options)
    list(reading)
    expected = [("a", "next", 1), ("new", "next", 2), ("b", "next", 3)]
    for log_key, object_key, event in expected:
        checkpoint.log(log_key).append(object_key, event)

    with checkpoint.follow(reading.cursor, idle_timeout_s=0) as follower:
        found = [(record.log_key, record.object_key, record.event) for record in follower]

    assert sorted(found) == sorted(expected)


def test_cursor_in_the_midst_of_reading_is_behind_what_was_given(checkpoint: Checkpoint) -> None:
    everything = in_order(checkpoint)
    reading = checkpoint.read()
    given = [next(reading) for _ in range(25)]

    with checkpoint.follow(reading.cursor, idle_timeout_s=0) as follower:
        rest = list(follower)

    assert given == everything[:25]
    assert sorted(map(str, rest)) == sorted(map(str, everything[25:]))


@pytest.mark.usefixtures("_small_parts")
def test_follow_from_the_end_gives_nothing_that_was_there(checkpoint: Checkpoint) -> None:
    follower = checkpoint.follow("end", idle_timeout_s=0)
    assert list(follower) == []

    checkpoint.log("b").append("next", 1)

    assert [record.event for record in follower] == [1]


def test_end_of_a_large_log_is_found_without_reading_the_rest(
    store: Path, log: Log, without_syncs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    del without_syncs
    for number in range(0, 60_000, 1000):
        log.append_many([(f"x{each}", "y" * 60) for each in range(number, number + 1000)], durability="never")
    size_bytes = log_file(store).stat().st_size
    become_a_new_process()
    checkpoint = Checkpoint(store, read_only=True)
    read: list[int] = []
    real = system.read_at
    monkeypatch.setattr(system, "read_at", lambda *args: (data := real(*args), read.append(len(data)))[0])

    assert [record.object_key for record in checkpoint.read(last=3)] == ["x59997", "x59998", "x59999"]

    assert sum(read) < size_bytes / 10


def test_read_is_in_bounded_memory(store: Path, without_syncs: None) -> None:
    del without_syncs
    checkpoint = Checkpoint(store, durability="never")
    checkpoint.log("small").append("x", 1)
    for _ in range(60):
        checkpoint.log("a").append_many([("x", "y" * 5000)] * 100)
    size_bytes = log_file(store).stat().st_size
    checkpoint = Checkpoint(store, read_only=True)

    for look in (checkpoint.read, checkpoint.objects, lambda: checkpoint.read(object_key="x", last=5)):
        tracemalloc.start()
        for _ in look():
            pass
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak_bytes < size_bytes / 2


def test_read_of_many_logs_keeps_few_files_open(
    store: Path, without_syncs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    del without_syncs
    monkeypatch.setattr(pool, "_limit", 4)
    checkpoint = Checkpoint(store, durability="never")
    for log_key in range(12):
        for _ in range(3):
            checkpoint.log(str(log_key)).append_many([("x", "y" * 1000)] * 100)
    become_a_new_process()
    checkpoint = Checkpoint(store, read_only=True)
    opened: list[system.Descriptor] = []
    real = system.open_file
    monkeypatch.setattr(system, "open_file", lambda *args: (opened.append(real(*args)), opened[-1])[1])
    most_open = 0
    for _ in checkpoint.read():
        most_open = max(most_open, sum(sys.getrefcount(descriptor) > 3 for descriptor in opened))

    assert len(opened) > 12
    assert most_open <= 6


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("last", [None, 1000])
def test_read_beside_damage_gives_all_that_can_be_read_and_then_raises(
    checkpoint: Checkpoint, store: Path, last: int | None
) -> None:
    everything = in_order(checkpoint)
    checkpoint.close()
    become_a_new_process()
    data = bytearray(log_file(store, "b").read_bytes())
    data[len(data.rstrip()) // 2] ^= 1
    log_file(store, "b").write_bytes(data)
    reading = Checkpoint(store, read_only=True).read(last=last)
    found: list[Record] = []

    with pytest.raises(CorruptLogError) as raised:
        found += iter(lambda: next(reading), None)

    whole = [record for record in everything if record.log_key != "b"]
    before = [
        record
        for record in everything
        if record.log_key == "b" and record.position.offset <= raised.value.offset
    ]
    assert 0 < len(before) < len(everything) - len(whole)
    assert [record for record in found if record.log_key != "b"] == whole
    assert [record for record in found if record.log_key == "b"] == before


@pytest.mark.guarantee(6)
def test_damage_before_the_part_that_is_read_does_not_stand_in_the_way(
    store: Path, log: Log, without_syncs: None
) -> None:
    del without_syncs
    log.append_many([("x", "y" * 100)] * 3000)
    log.append("x", "last")
    become_a_new_process()
    data = bytearray(log_file(store).read_bytes())
    data[1000] ^= 1
    log_file(store).write_bytes(data)

    assert [record.event for record in Checkpoint(store, read_only=True).read(last=1)] == ["last"]


def test_log_that_went_away_is_named_when_all_others_were_read(checkpoint: Checkpoint, store: Path) -> None:
    others = [record for record in in_order(checkpoint) if record.log_key != "b"]
    reading = checkpoint.read()
    log_file(store, "b").unlink()
    found: list[Record] = []

    with pytest.raises(LogNotFoundError, match="'b'"):
        found += iter(lambda: next(reading), None)

    assert found == others


@pytest.mark.parametrize("last", [-1, True, 1.0, "1"])
def test_count_of_last_records_that_is_none_is_refused(checkpoint: Checkpoint, last: Any) -> None:
    with pytest.raises(ValueError, match="last is a number of records"):
        checkpoint.read(last=last)


def test_object_key_that_is_none_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(InvalidKeyError):
        checkpoint.read(object_key=7)  # type: ignore[arg-type]  # the mistake is the point
    with pytest.raises(InvalidKeyError):
        next(checkpoint.log("a").read(object_key="\ud800"))


# --- objects ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_small_parts")
def test_objects_come_in_the_order_of_their_first_records_with_count_and_last_one(
    checkpoint: Checkpoint,
) -> None:
    everything = in_order(checkpoint)

    objects = list(checkpoint.objects())

    assert [summary.object_key for summary in objects] == checkpoint.getCheckpointKeys()
    for summary in objects:
        of_object = [record for record in everything if record.object_key == summary.object_key]
        assert summary.count == len(of_object)
        assert summary.first_us == of_object[0].stamp_us
        assert summary.last == of_object[-1]


def test_objects_are_chosen_by_pattern_and_by_time(checkpoint: Checkpoint) -> None:
    everything = in_order(checkpoint)
    middle_us = everything[len(everything) // 2].stamp_us

    assert {summary.object_key for summary in checkpoint.objects(match="x[0-2]")} == {"x0", "x1", "x2"}
    assert list(checkpoint.objects(match="X*")) == []
    for since_us, until_us in ((middle_us, YEAR_2255_US), (0, middle_us)):
        chosen = [record for record in everything if since_us <= record.stamp_us <= until_us]
        counts = {each.object_key: each.count for each in checkpoint.objects(since=since_us, until=until_us)}
        assert counts == {key: sum(each.object_key == key for each in chosen) for key in counts}
        assert list(counts) == list(dict.fromkeys(record.object_key for record in chosen))


# --- figures ------------------------------------------------------------------------------------------------


def test_stats_count_what_the_log_holds_and_only_read_what_is_new(
    store: Path, log: Log, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append_many([("x", 1), ("y", 2), ("x", 3)])
    log.append("z", 4)
    figures = log.stats()
    records = list(log.read())

    assert figures["records"] == 5
    assert figures["objects"] == 3
    assert figures["batches"] == 3
    assert figures["stated_syncs"] == 2, "the sync of the last append is stated by none behind it"
    assert (figures["first_us"], figures["last_us"]) == (records[0].stamp_us, records[-1].stamp_us)
    assert figures["size_bytes"] == log_file(store).stat().st_size
    assert (figures["state"], figures["is_poisoned"], figures["repairs"]) == ("whole", False, 0)
    assert (figures["appends"], figures["syncs"]) == (3, 3)
    log.append("z", 5)
    read: list[int] = []
    real = system.read_at
    monkeypatch.setattr(
        system, "read_at", lambda fd, size, offset: (read.append(offset), real(fd, size, offset))[1]
    )
    assert log.stats()["records"] == 6
    assert max(read) > 0
    assert [offset for offset in read if 100 < offset < records[-1].position.offset - 12] == []


@pytest.mark.guarantee(9)
def test_stats_after_a_recovery_count_syncs_anew_and_batches_on(log: Log) -> None:
    log.append_many([("x", 1), ("x", 2)])
    log.append("x", 3)

    log.recover()

    figures = log.stats()
    assert (figures["records"], figures["batches"], figures["stated_syncs"]) == (4, 3, 0)
    for number in range(3):
        log.append("x", number)
    figures = log.stats()
    assert (figures["records"], figures["batches"], figures["stated_syncs"]) == (7, 6, 2)


@pytest.mark.guarantee(6)
def test_stats_tell_torn_from_pending_by_who_holds_the_lock(store: Path, log: Log, faults: Faults) -> None:
    tear(store)
    become_a_new_process()
    before = tree(inside(store))
    answers = {LockState.FREE: "torn", LockState.HELD: "pending", LockState.UNKNOWN: "pending"}
    for state, expected in answers.items():
        status = LockStatus(state, None, None)
        fault = faults.act("lock_status", lambda real, path, status=status: status, times=1 << 30)
        assert Checkpoint(store, read_only=True).log("a").stats()["state"] == expected
        fault.clear()
    assert tree(inside(store)) == before

    log.append("x", 1)

    assert log.stats()["state"] == "whole"
    assert log.stats()["repairs"] == 1


@pytest.mark.guarantee(6)
def test_bytes_that_change_while_they_are_looked_at_are_pending(
    store: Path, log: Log, faults: Faults
) -> None:
    tear(store)

    def write_on(real: Callable[[str], Any], path: str) -> Any:
        tear(store, b"1")
        return real(path)

    faults.act("lock_status", write_on, times=1 << 30)

    assert log.stats()["state"] == "pending"


def test_stats_in_a_forked_child_and_after_close_are_right(log: Log, store: Path) -> None:
    assert log.stats()["records"] == 1
    log.append("x", 1)
    assert call(lambda: log.stats()["records"], method="fork") == 2
    checkpoint = Checkpoint(store)
    assert checkpoint.log("a").stats()["records"] == 2
    checkpoint.close()
