"""Who else is at work while a log is compacted: writers, creators of other logs, another compaction, killed ones."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint._logfile import compaction
from mpcheckpoint._view.log_handle import LogHandle
from mpcheckpoint._view.view import LogView
from mpcheckpoint.errors import (
    ConflictError,
    CorruptLogError,
    LockTimeoutError,
    OutcomeUnknownError,
    PoisonedLogError,
)
from mpcheckpoint.testing import SimulatedDisk, SimulatedProcess
from support.processes import in_a_child
from support.verbs import (
    LOG,
    Faults,
    assert_goes_on,
    become_a_new_process,
    flip,
    generation_of,
    inside,
    is_locked,
    lock_file,
    log_file,
    poison,
    tear,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.processes import Children

pytestmark = pytest.mark.guarantee(12)


def filled(store: Path, number: int = 6) -> Log:
    log = Checkpoint(store).log("a")
    for event in range(number):
        log.append("x", event)
    return log


def copies(store: Path) -> list[str]:
    """Return the names of unfinished files."""
    return sorted(path.name for path in inside(store).iterdir() if path.name not in KNOWN)


KNOWN = {
    *("a.jsonl", "a.lock", "a.sync", "a.page", "a.compact", "logs", "store.lock", "quarantine", "wakeups"),
    *("b.jsonl", "b.lock", "b.sync", "b.page", "b.compact", "workers", "a.poison", "wake"),
}


def once(act: Callable[[], object], *, at_end: bool = True) -> Callable[[int, int], None]:
    """Return what acts at the end of the copy that a compaction makes, the first time; or at its start."""
    called: list[int] = []

    def progress(done: int, total: int) -> None:
        if not called and (done == total or not at_end):
            called.append(done)
            act()

    return progress


# --- writers ----------------------------------------------------------------------------------------------------


def test_records_appended_meanwhile_stay_whatever_the_rules_say(store: Path) -> None:
    log = filled(store)
    other = SimulatedProcess()

    def append() -> None:
        with other:
            late = Checkpoint(store).log("a")
            late.append_many([("x", 6), ("y", 7)])
            late.append("x", 8, durability="never")

    log.compact(keep_last=1, on_progress=once(append))
    with other:
        Checkpoint(store).log("a").append("x", 9)

    assert [record.event for record in log.read()] == [5, 6, 7, 8, 9]
    assert log.count("x") == 9
    other.kill()


def test_records_appended_between_the_decision_and_the_copy_are_copied_once_as_they_are(store: Path) -> None:
    log = Checkpoint(store).log("a")
    log.append_many([("x", number) for number in range(4)])
    late: list[int] = []

    def meanwhile(done: int, total: int) -> None:
        if not late:
            late.append(done)
            log.append_many([("x", 4), ("y", 5)])

    log.compact(keep_last=1, on_progress=meanwhile)

    assert [record.event for record in log.read()] == [3, 4, 5]
    assert log.count("x") == 5


def test_functions_of_the_caller_run_under_no_lock(store: Path) -> None:
    log = Checkpoint(store).log("a")
    log.append_many([("x", number) for number in range(4)])
    called: list[str] = []

    def look(name: str) -> None:
        called.append(name)
        assert not is_locked(lock_file(store))
        assert not is_locked(inside(store, "store.lock"))

    def fold(earlier: int, later: int) -> int:
        look("fold")
        return earlier + later

    log.compact(drop=lambda record: look("drop"), fold=fold, on_progress=lambda done, total: look("progress"))

    assert set(called) == {"drop", "fold", "progress"}


def test_record_appended_just_before_the_switch_is_in_the_copy(store: Path, faults: Faults) -> None:
    log = filled(store)
    other = SimulatedProcess()

    def append(real: Callable[..., Any], fd: int) -> Any:
        found = real(fd)
        with other:
            Checkpoint(store).log("a").append("x", 6)
        return found

    # The sync of the last pass, before the locks are taken.
    faults.act("sync_data", append, on=r"a\.jsonl\..")

    log.compact(keep_last=1)

    assert [record.event for record in log.read()] == [5, 6]
    other.kill()


@pytest.mark.parametrize("expected", [7, 8, 9])
def test_condition_is_judged_on_the_generation_that_the_record_goes_to(
    store: Path, monkeypatch: pytest.MonkeyPatch, expected: int
) -> None:
    log = filled(store)
    log.append("x", "in use", expected_count=6)
    other = SimulatedProcess()
    real = LogHandle._append

    def switch_first(*args: Any) -> Any:  # between the look outside the lock and the lock
        monkeypatch.setattr(LogHandle, "_append", real)
        with other:
            late = Checkpoint(store).log("a")
            late.append("x", 7)
            late.compact(keep_last=1)
        return real(*args)

    monkeypatch.setattr(LogHandle, "_append", switch_first)
    if expected == 8:
        log.append("x", 8, expected_count=8)
    else:
        with pytest.raises(ConflictError):
            log.append("x", 8, expected_count=expected)

    assert log.events("x") == ((7, 8) if expected == 8 else (7,))
    other.kill()


def test_append_lock_is_given_back_while_another_generation_is_read(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = filled(store)
    log.append("x", "in use", expected_count=6)
    other = SimulatedProcess()
    real_append, real_apply = LogHandle._append, LogView.apply
    held: list[bool] = []

    def switch_first(*args: Any) -> Any:
        monkeypatch.setattr(LogHandle, "_append", real_append)
        with other:
            Checkpoint(store).log("a").compact(keep_last=1)
        return real_append(*args)

    def apply(view: LogView, chunk: Any) -> None:
        if chunk.is_reset:
            held.append(is_locked(lock_file(store)))
        real_apply(view, chunk)

    monkeypatch.setattr(LogHandle, "_append", switch_first)
    monkeypatch.setattr(LogView, "apply", apply)
    log.append("x", 8, expected_count=7)

    assert not any(held)
    assert log.events("x") == ("in use", 8)
    other.kill()


def stop_before_the_sync(store: Path, faults: Faults, act: Callable[[], None]) -> None:
    """Do something when the next record of log "a" is written, and not synced."""

    def first_act(real: Callable[..., Any], fd: int) -> Any:
        act()
        return real(fd)

    faults.act("sync_data", first_act, on=LOG)


@pytest.mark.parametrize("is_dropped", [True, False])
@pytest.mark.parametrize("later", [0, 1, 200])
def test_append_in_flight_during_the_switch_is_acknowledged_also_if_it_is_dropped(
    store: Path, faults: Faults, is_dropped: bool, later: int
) -> None:
    log = filled(store)
    other = SimulatedProcess()

    def compact() -> None:
        with other:
            late = Checkpoint(store).log("a")
            late.compact(
                drop=(lambda record: record.event == "mine") if is_dropped else "nothing", keep_last=5
            )
            for number in range(later):
                late.append("y", [number, "." * 1000], durability="never")

    stop_before_the_sync(store, faults, compact)
    place = log.append("x", "mine", record_id="mine")

    assert log.append("x", "again", record_id="mine").stamp_us == place.stamp_us
    assert ("mine" in log.events("x")) is not is_dropped
    assert len(list(log.read(after=place))) == later
    assert log.count("x") == 7
    other.kill()


def test_append_in_flight_that_a_recovery_lost_is_not_acknowledged_by_a_compaction_after_it(
    store: Path, faults: Faults
) -> None:
    log = filled(store)
    length = log_file(store).stat().st_size
    other = SimulatedProcess()

    def lose() -> None:
        # What a disk does that drops what it could not write.
        with log_file(store).open("r+b") as file:
            file.truncate(length)
        with other:
            late = Checkpoint(store).log("a")
            late.recover()
            late.append("x", 6)
            late.append("x", 7)
            late.compact(keep_last=1)

    stop_before_the_sync(store, faults, lose)
    with pytest.raises(OutcomeUnknownError):
        log.append("x", "lost")

    assert log.events("x") == (7,)
    other.kill()


def test_threads_of_this_process_append_on_through_compactions(store: Path) -> None:
    log = filled(store)
    is_over = threading.Event()
    acknowledged: list[list[int]] = [[] for _ in range(3)]

    def write(number: int) -> None:
        mine = Checkpoint(store).log("a") if number else log
        while not is_over.is_set():
            mine.append(f"by {number}", len(acknowledged[number]), expected_count=len(acknowledged[number]))
            acknowledged[number].append(len(acknowledged[number]))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(8):
        log.compact(keep_last=3)
    is_over.set()
    for thread in threads:
        thread.join(60)

    for number in range(3):
        assert log.count(f"by {number}") == len(acknowledged[number]) > 0
        assert list(log.events(f"by {number}"))[-1:] == acknowledged[number][-1:]
    assert copies(store) == []


def test_writer_after_a_compaction_of_this_process_reads_no_byte_of_the_copy_again(
    store: Path, faults: Faults
) -> None:
    log = filled(store, 2)
    for number in range(300):
        log.append("y", [number, "." * 1000], durability="never")
    log.compact(keep_last=250)
    read: list[int] = []

    def note(real: Callable[..., Any], fd: int, length: int, offset: int) -> Any:
        data = real(fd, length, offset)
        read.append(len(data))
        return data

    faults.act("read_at", note, times=10**9, on=LOG)
    log.append("x", 6)

    assert sum(read) < 100_000
    assert generation_of(store).end.is_used


# --- another compaction, creators of other logs ------------------------------------------------------------------


def test_one_compaction_of_a_log_at_a_time(store: Path) -> None:
    log = filled(store)
    other = SimulatedProcess()
    refused: list[str] = []

    def compact() -> None:
        with other, pytest.raises(LockTimeoutError, match="compacted the log 'a'") as caught:
            Checkpoint(store, lock_timeout_s=0).log("a").compact(keep_last=1)
        refused.append(str(caught.value))

    log.compact(keep_last=2, on_progress=once(compact))

    assert refused
    assert log.events("x") == (4, 5)
    other.kill()


def test_creator_of_another_log_leaves_the_copy_alone(store: Path) -> None:
    log = filled(store)

    found = log.compact(keep_last=2, on_progress=once(lambda: in_a_child(create, store)))

    assert found.is_changed
    assert log.events("x") == (4, 5)
    assert sorted(Checkpoint(store).logs()) == ["a", "b"]


def create(store: Path) -> None:
    become_a_new_process()
    Checkpoint(store).log("b").append("y", 1)


def test_next_compaction_clears_away_what_a_killed_one_left(store: Path, children: Children) -> None:
    filled(store)
    for _ in range(3):
        children.start(compact_and_die, store, method="fork").wait()
        assert len(copies(store)) == 1
    log = Checkpoint(store).log("a")
    assert log.events("x") == tuple(range(6))

    log.compact(keep_last=1)

    assert copies(store) == []
    assert log.events("x") == (5,)


def compact_and_die(store: Path) -> None:
    become_a_new_process()
    Checkpoint(store).log("a").compact(keep_last=1, on_progress=once(lambda: os._exit(0)))


# --- logs that are not sound -------------------------------------------------------------------------------------


def test_torn_end_is_repaired_and_kept_and_the_rest_compacted(store: Path) -> None:
    log = filled(store)
    tear(store)

    log.compact(keep_last=1)

    assert log.events("x") == (5,)
    assert len(list(inside(store, "quarantine").iterdir())) == 1


def test_corrupt_log_is_refused_and_left_as_it_is(store: Path) -> None:
    log = filled(store)
    log.flush()
    flip(store, 400)
    before = log_file(store).read_bytes()
    become_a_new_process()

    with pytest.raises(CorruptLogError):
        Checkpoint(store).log("a").compact(keep_last=1)

    assert log_file(store).read_bytes() == before
    assert copies(store) == []


def test_poisoned_log_is_refused_until_it_was_recovered(store: Path, faults: Faults) -> None:
    log = filled(store)
    poison(log, faults, "unknown")

    with pytest.raises(PoisonedLogError):
        log.compact(keep_last=1)
    assert copies(store) == []

    log.recover()
    log.compact(keep_last=1)
    assert log.count("x") == 7
    assert_goes_on(log, ["unknown"])


def test_log_whose_bytes_changed_below_the_end_is_begun_anew_not_copied(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = filled(store)
    monkeypatch.setattr(compaction, "_MOST_BEGINNINGS", 1)

    def overwrite() -> None:
        # A backup of the same length was copied over the log.
        data = log_file(store).read_bytes()
        with log_file(store).open("r+b") as file:
            file.truncate(len(data.splitlines(keepends=True)[0]))
        with other:
            late = Checkpoint(store).log("a")
            for number in range(6):
                late.append("x", number + 10)

    other = SimulatedProcess()
    with pytest.raises((compaction.CompactionError, CorruptLogError)):
        log.compact(keep_last=1, on_progress=once(overwrite))

    assert copies(store) == []
    assert Checkpoint(store, read_only=True).log("a").events("x")[-1:] == (15,)
    other.kill()


# --- the order of calls ------------------------------------------------------------------------------------------


def test_copy_is_synced_after_its_last_byte_and_before_it_gets_the_name(store: Path, faults: Faults) -> None:
    log = filled(store)
    calls: list[str] = []

    def noted(name: str) -> Callable[..., Any]:
        def act(real: Callable[..., Any], *args: Any) -> Any:
            calls.append(name)
            return real(*args)

        return act

    for name in ("write_at", "sync_data", "replace"):
        faults.act(name, noted(name), times=10**9, on=r"a\.jsonl\..")
    faults.act("sync_directory", noted("sync_directory"), times=10**9)
    log.compact(keep_last=1)

    assert calls[-4:] == ["write_at", "sync_data", "replace", "sync_directory"]


@pytest.mark.guarantee(1)
def test_compaction_that_returned_survives_a_loss_of_power_and_so_does_what_came_after_it(
    tmp_path: Path,
) -> None:
    with SimulatedDisk(tmp_path.resolve(), seed=1) as disk, SimulatedProcess():
        log = Checkpoint(disk.root / "store").log("a")
        for number in range(4):
            log.append("x", number)
        log.compact(keep_last=1)
        images = disk.images(limit=20)
        log.append("x", 4)
        generation = next(iter(log.read())).position.generation
        later = disk.images(limit=20)

    name = "store/.checkpoint/a.jsonl"
    assert all(generation.encode() in image.content[name] for image in [*images, *later])
    assert all(b'"x",4' in image.content[name] for image in later)
