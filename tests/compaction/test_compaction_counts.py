"""What a compaction drops, and that counts, conditions and record ids outlive it."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint._format import codec, dropped
from mpcheckpoint._logfile import generations
from mpcheckpoint.errors import CompactionError, ConflictError, InvalidEventError, LimitExceededError
from mpcheckpoint.testing import SimulatedProcess
from support.verbs import Faults, become_a_new_process, inside, log_file, tree

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.guarantee(12)

HOUR_US = 3_600_000_000
WEEK_US = 7 * 24 * HOUR_US


class Clock:
    """The wall clock of this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_us = system.now_us()
        monkeypatch.setattr(system, "now_us", lambda: self.now_us)

    def pass_hours(self, hours: float) -> None:
        self.now_us += int(hours * HOUR_US)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def appended(store: Path, number: int = 6) -> Log:
    log = Checkpoint(store).log("a")
    for event in range(number):
        log.append("x", event, record_id=f"id {event}")
    return log


def lines_of(store: Path) -> list[list[Any]]:
    return [json.loads(line) for line in log_file(store).read_bytes().splitlines()]


# --- rules ------------------------------------------------------------------------------------------------------


def test_compaction_without_a_rule_changes_nothing_and_leaves_no_file(store: Path) -> None:
    log = appended(store)
    log.flush()
    before = log_file(store).read_bytes()

    found = log.compact()

    assert not found.is_changed
    assert (found.records_before, found.records_after) == (6, 6)
    assert log_file(store).read_bytes() == before
    assert not list(inside(store).glob("*.tmp*"))


def test_dry_run_tells_what_a_run_does_and_changes_nothing(store: Path) -> None:
    log = appended(store)
    log.compact(keep_last=5)  # the side files are there
    before = tree(store)

    told = log.compact(keep_last=2, dry_run=True)

    assert not told.is_changed
    assert {name: each[3] for name, each in tree(store).items()} == {
        name: each[3] for name, each in before.items()
    }
    done = log.compact(keep_last=2)
    assert done.is_changed
    assert (told.records_before, told.records_after) == (done.records_before, done.records_after) == (5, 2)


def test_record_stays_if_either_of_two_rules_keeps_it(store: Path, clock: Clock) -> None:
    log = Checkpoint(store).log("a")
    log.append_many([("old", number) for number in range(3)])
    clock.pass_hours(10)
    log.append_many([("new", number) for number in range(3)])

    log.compact(keep_last=2, newer_than_s=5 * 3600)

    assert log.events("old") == (1, 2)
    assert log.events("new") == (0, 1, 2)


def test_age_is_counted_from_the_newest_stamp_where_the_wall_clock_is_ahead(
    store: Path, clock: Clock
) -> None:
    log = appended(store)
    clock.pass_hours(24 * 365)

    assert not log.compact(newer_than_s=3600).is_changed
    assert log.events("x") == tuple(range(6))


def test_age_is_counted_from_the_wall_clock_where_the_log_is_ahead(store: Path, clock: Clock) -> None:
    log = Checkpoint(store).log("a")
    log.append("x", 0)
    clock.pass_hours(2)
    log.append("x", 1)
    clock.pass_hours(24 * 365)
    log.append("ahead", 2)
    clock.pass_hours(-24 * 365)
    become_a_new_process()

    Checkpoint(store).log("a").compact(newer_than_s=3600)

    assert Checkpoint(store).log("a").events("x") == (1,)
    assert Checkpoint(store).log("a").events("ahead") == (2,)


def test_pattern_and_function_drop_whatever_the_others_keep(store: Path) -> None:
    log = Checkpoint(store).log("a")
    log.append_many([("tmp/1", 1), ("keep", 2), ("tmp/2", 3), ("keep", 4)])

    log.compact(keep_last=5, drop="tmp/*")
    assert [record.event for record in log.read()] == [2, 4]
    log.compact(drop=lambda record: record.event == 2)
    assert [record.event for record in log.read()] == [4]
    assert log.count("keep") == 2


def test_folds_of_folds_count_what_went_into_them(store: Path) -> None:
    log = Checkpoint(store).log("a")
    stamps = [log.append("x", number).stamp_us for number in range(1, 7)]

    log.compact(fold=lambda earlier, later: earlier + later, keep_last=3)
    first = next(iter(log.read()))
    log.append("x", 7)
    log.compact(fold=lambda earlier, later: earlier + later, keep_last=2)
    second = next(iter(log.read()))

    assert (first.event, first.folded.count, first.folded.first_us) == (6, 3, stamps[0])  # type: ignore[union-attr]
    assert (second.event, second.folded.count, second.folded.first_us) == (15, 5, stamps[0])  # type: ignore[union-attr]
    assert second.stamp_us == stamps[4]
    assert log.events("x") == (15, 6, 7)
    assert log.count("x") == 7
    assert not log.compact(fold=lambda earlier, later: earlier + later, keep_last=2).is_changed


@pytest.mark.parametrize("fold", [lambda earlier, later: 1 / 0, lambda earlier, later: {1, 2}])
def test_fold_that_fails_changes_nothing(store: Path, fold: Any) -> None:
    log = appended(store)
    log.flush()
    before = log_file(store).read_bytes()

    with pytest.raises((ZeroDivisionError, InvalidEventError)):
        log.compact(fold=fold)

    assert log_file(store).read_bytes() == before
    assert sorted(path.name for path in inside(store).glob("a.jsonl*")) == ["a.jsonl"]
    log.append("x", 6)
    assert log.compact(keep_last=1).is_changed


@pytest.mark.parametrize("name", ["drop", "fold", "on_progress"])
def test_error_of_the_system_that_a_function_of_the_caller_raises_is_raised_as_it_is(
    store: Path, name: str
) -> None:
    log = appended(store)

    def fail(*args: Any) -> None:
        raise BrokenPipeError(errno.EPIPE, "nobody listens")

    with pytest.raises(BrokenPipeError, match="nobody listens") as caught:
        log.compact(**{"keep_last": 1, name: fail})

    assert bool(getattr(caught.value, "__notes__", ())) == (name == "fold")
    assert log.events("x") == tuple(range(6))
    assert sorted(path.name for path in inside(store).glob("a.jsonl*")) == ["a.jsonl"]


# --- counts -----------------------------------------------------------------------------------------------------


def test_counts_and_conditions_go_on_over_several_compactions(store: Path) -> None:
    log = appended(store)
    other = Checkpoint(store).log("a")
    assert other.count("x") == 6
    for turn in range(3):
        log.compact(keep_last=2)
        assert log.count("x") == other.count("x") == 6 + turn
        assert Checkpoint(store, read_only=True).log("a").count("x") == 6 + turn
        for wrong in (2, 5 + turn, 7 + turn):
            with pytest.raises(ConflictError) as caught:
                other.append("x", "wrong", expected_count=wrong)
            assert caught.value.found == 6 + turn
        other.append("x", 6 + turn, expected_count=6 + turn)
    assert log.events("x") == (6, 7, 8)


def test_recovery_and_salvage_keep_what_was_dropped(store: Path) -> None:
    log = appended(store)
    place = log.append("x", 0, record_id="id 0")
    log.compact(keep_last=2)

    log.recover()

    assert log.count("x") == 6
    assert log.append("x", 0, record_id="id 0").stamp_us == place.stamp_us
    assert log.events("x") == (4, 5)


def test_transaction_over_a_compaction_commits_if_nothing_came(store: Path) -> None:
    log = appended(store)
    with log.transaction() as transaction:
        assert transaction.events("x") == tuple(range(6))
        Checkpoint(store).log("a").compact(keep_last=1)
        transaction.append("x", 6)
    assert log.events("x") == (5, 6)
    with pytest.raises(ConflictError), log.transaction() as transaction:  # noqa: PT012 - its end raises
        transaction.events("x")
        Checkpoint(store).log("a").append("x", 7)
        log.compact(keep_last=1)
        transaction.append("x", "late")
    assert log.events("x") == (7,)
    assert log.count("x") == 8


def test_object_of_which_nothing_is_left_is_counted_until_its_time_is_over(store: Path, clock: Clock) -> None:
    log = appended(store)
    log.append("y", 0)
    log.compact(drop="x", keep_ids_s=3600)
    assert log.count("x") == 6
    clock.pass_hours(0.5)
    log.append("y", 1)
    log.compact(keep_last=1, keep_ids_s=3600)
    assert log.count("x") == 6

    clock.pass_hours(1)
    log.append("y", 2)
    log.compact(keep_last=1, keep_ids_s=3600)

    assert log.count("x") == 0
    assert log.count("y") == 3
    assert log.append("x", "anew", expected_count=0)


def test_object_that_comes_back_while_it_is_about_to_be_forgotten_keeps_its_count(
    store: Path, clock: Clock
) -> None:
    log = appended(store)
    clock.pass_hours(2)
    log.append_many([("y", number) for number in range(3)])
    other = SimulatedProcess()

    def bring_back(done: int, total: int) -> None:
        if done == total and Checkpoint(store, read_only=True).log("a").events("x")[-1:] != ("again",):
            with other:
                Checkpoint(store).log("a").append("x", "again", expected_count=6)

    log.compact(keep_last=1, drop="x", keep_ids_s=3600, on_progress=bring_back)

    assert log.count("x") == 7
    other.kill()


# --- record ids -------------------------------------------------------------------------------------------------


def test_record_id_of_a_dropped_record_is_found_until_its_time_is_over(store: Path, clock: Clock) -> None:
    log = appended(store)
    places = [log.append("x", 0, record_id=f"id {number}") for number in range(6)]
    for hours in (0.0, 0.5):
        clock.pass_hours(hours)
        log.append("y", hours)
        log.compact(keep_last=1, keep_ids_s=3600)
        for number in range(6):
            found = log.append("x", "twice", record_id=f"id {number}")
            assert found.stamp_us == places[number].stamp_us
            assert [record.event for record in log.read(after=found, object_key="x")] == [5] * (number < 5)
    assert log.count("x") == 6

    clock.pass_hours(1)
    log.append("y", "late")
    log.compact(keep_last=1, keep_ids_s=3600)

    assert log.append("x", "kept", record_id="id 5").stamp_us == places[5].stamp_us
    log.append("x", "anew", record_id="id 0")
    assert log.events("x") == (5, "anew")


def test_record_id_of_a_folded_record_is_found(store: Path) -> None:
    log = appended(store)

    log.compact(fold=lambda earlier, later: later, keep_last=1)
    for number in range(6):
        log.append("x", "twice", record_id=f"id {number}")

    assert log.events("x") == (4, 5)


def test_many_ids_and_objects_stand_in_lines_of_a_bounded_length_after_the_header(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dropped, "_LINE_BYTES", 2000)
    log = Checkpoint(store).log("a")
    for number in range(150):
        log.append("x", number, record_id=f"id {number}", durability="never")
        log.append(f"object {number}", number, durability="never")

    log.compact(drop="*")

    lines = lines_of(store)
    controls = [line[5]["control"] for line in lines]
    assert controls[0] == "header"
    assert set(controls[1:-1]) == {"dropped"}
    assert controls[-1] == "copied"
    assert len(controls) > 5
    log.append("x", 150)
    log.compact(drop="*")  # adds up what two compactions left out
    assert log.count("x") == 151
    assert all(log.count(f"object {number}") == 1 for number in range(150))
    assert all(log.append("x", "twice", record_id=f"id {number}") for number in range(150))
    assert log.events("x") == ()


def test_what_was_dropped_stands_in_batches_of_a_bounded_length(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dropped, "_LINE_BYTES", 100)
    monkeypatch.setattr(generations, "_LEADING_BYTES_A_BATCH", 1000)
    log = Checkpoint(store).log("a")
    log.append_many([(f"object {number}", number) for number in range(50)])
    log.compact(drop="*")
    batches: dict[int, int] = {}
    for line in log_file(store).read_bytes().splitlines():
        if b'"dropped"' in line:
            stamp_us = json.loads(line)[1]
            batches[stamp_us] = batches.get(stamp_us, 0) + len(line)
    assert len(batches) > 2
    assert max(batches.values()) <= 1000
    assert [Checkpoint(store).log("a").count(f"object {number}") for number in range(50)] == [1] * 50


@pytest.mark.parametrize("names", ["key", "fold", "batch"])
def test_what_would_make_a_line_or_batch_too_long_is_refused_and_changes_nothing(
    store: Path, monkeypatch: pytest.MonkeyPatch, names: str
) -> None:
    log = Checkpoint(store).log("a")
    log.append_many([("x" * 300, "y" * 500)] * 3 + [("z", 1)])
    before = log_file(store).read_bytes()
    module, name, limit = {
        "key": (generations, "MAX_LINE_BYTES", 400),
        "fold": (codec, "MAX_LINE_BYTES", 1000),
        "batch": (generations, "MAX_BATCH_BYTES", 3000),
    }[names]
    monkeypatch.setattr(module, name, limit)
    long = "y" * (4000 if names == "batch" else 590)  # fits but for what tells that it was folded

    with pytest.raises(LimitExceededError):
        log.compact(drop="xx*" if names == "key" else None, fold=lambda earlier, later: long)

    assert log_file(store).read_bytes() == before
    assert sorted(path.name for path in inside(store).glob("a.jsonl*")) == ["a.jsonl"]
    log.append("z", 2)
    monkeypatch.undo()
    assert log.compact(fold=lambda earlier, later: long).is_changed
    assert Checkpoint(store).log("a").events("x" * 300) == (long,)


# --- batches ----------------------------------------------------------------------------------------------------


def test_batch_of_which_lines_go_stays_one_batch_of_the_same_count(store: Path) -> None:
    log = Checkpoint(store).log("a")
    log.append_many([("x", 0), ("y", 1), ("x", 2), ("y", 3)])
    log.append_many([("y", 4), ("y", 5)])
    log.append_many([("x", 6), ("x", 7)])
    before = [line[1:4:2] for line in lines_of(store)[1:]]

    log.compact(drop="y")
    log.compact(drop=lambda record: record.event == 2)

    lines = [line for line in lines_of(store) if line[4] is not None or line[5]["control"] == "gone"]
    assert [line[1:4:2] for line in lines] == before[:4] + before[6:]
    assert [line[4] for line in lines] == ["x", None, None, None, "x", "x"]
    assert lines[1][5] == {"control": "gone", "ignorable": True}
    assert log.stats()["records"] == 3
    log.compact(drop=lambda record: record.event == 0)
    assert [line[5]["control"] for line in lines_of(store) if line[4] is None] == [
        "header",
        "dropped",
        "copied",
    ]


# --- who gives up -----------------------------------------------------------------------------------------------


def test_log_that_gets_another_generation_all_the_time_is_left_alone(store: Path) -> None:
    log = appended(store)
    other = SimulatedProcess()

    def recover(done: int, total: int) -> None:
        with other:
            Checkpoint(store).log("a").recover()

    with pytest.raises(CompactionError, match="another generation 5 times"):
        log.compact(keep_last=1, on_progress=recover)

    assert log.events("x") == tuple(range(6))
    assert sorted(path.name for path in inside(store).glob("a.jsonl*")) == ["a.jsonl"]
    other.kill()


def test_log_that_gets_another_generation_once_is_compacted_as_it_is_then(store: Path) -> None:
    log = appended(store)
    other = SimulatedProcess()
    looks: list[int] = []

    def recover(done: int, total: int) -> None:
        if done == total and not looks:
            looks.append(done)
            with other:
                later = Checkpoint(store).log("a")
                later.recover()
                later.append("x", 6)

    assert log.compact(keep_last=1, on_progress=recover).records_before == 7
    assert log.events("x") == (6,)
    assert log.count("x") == 7
    other.kill()


def test_no_room_is_refused_before_anything_is_written(store: Path, faults: Faults) -> None:
    log = appended(store)
    log.flush()
    faults.act("free_bytes", lambda real, fd: 1000)
    made = faults.watch("open_file", on=r"\.jsonl\..")

    with pytest.raises(OSError, match="a copy needs"):
        log.compact(keep_last=1)

    assert not made.seen
    assert log.events("x") == tuple(range(6))


def test_room_is_counted_in_bytes_of_what_is_left_not_in_lines(store: Path, faults: Faults) -> None:
    spare = 1024 * 1024
    log = Checkpoint(store).log("a")
    log.append_many([("small", number) for number in range(100)])
    log.append("large", "y" * 50_000)
    log.append("large", "y" * 50_000)
    faults.act("free_bytes", lambda real, fd: spare + 50_000)
    with pytest.raises(OSError, match="a copy needs"):
        log.compact(keep_last=1)
    faults.act("free_bytes", lambda real, fd: spare + 65_000)
    assert log.compact(keep_last=1).bytes_after < 65_000
    assert (log.count("small"), log.count("large")) == (100, 2)
    assert len(list(log.read())) == 2


# --- figures ----------------------------------------------------------------------------------------------------


def test_syncs_are_not_counted_from_lines_that_were_copied(store: Path) -> None:
    log = appended(store)
    log.compact(keep_last=5)
    log.append("x", 6)
    log.append("x", 7)

    stats = Checkpoint(store, read_only=True).log("a").stats()

    assert stats["records"] == 7
    assert stats["stated_syncs"] == 1
