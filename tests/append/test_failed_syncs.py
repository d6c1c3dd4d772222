"""A sync that failed is final: the log takes no appends until its records stand in another generation."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint, Log, Position
from mpcheckpoint import _system as system
from mpcheckpoint._store.process import process
from mpcheckpoint.errors import CheckpointError, OutcomeUnknownError, PoisonedLogError, WriteFailedError
from mpcheckpoint.testing._simulation.seam import path_of
from support import tally
from support.processes import call
from support.verbs import (
    TORN,
    Faults,
    assert_goes_on,
    become_a_new_process,
    inside,
    log_file,
    seen_anew,
    tear,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.processes import Children

pytestmark = pytest.mark.guarantee(9)

LOG = r"a\.jsonl$"
NEW_GENERATION = r"a\.jsonl\..*tmp$"


def poison(log: Log, faults: Faults, event: object = 1) -> Position:
    """Let the sync of an append fail; return the position that its record has if it is there."""
    fault = faults.fail("sync_data", errno.EIO, on=LOG)
    with pytest.raises(OutcomeUnknownError, match="not known whether it is durable") as caught:
        log.append("x", event)
    fault.clear()
    assert caught.value.position is not None
    return caught.value.position


def append_and_tell(store: Path) -> str:
    """Append as a process that has just been started; return the name of the error, if there is one."""
    become_a_new_process()
    try:
        Checkpoint(store).log("a").append("x", "by another")
    except CheckpointError as error:
        return type(error).__name__
    return "appended"


# --- poison ------------------------------------------------------------------------------------------------


def test_append_whose_sync_fails_says_where_the_record_would_be(log: Log, faults: Faults) -> None:
    position = poison(log, faults)

    (record,) = [record for record in log.read() if record.event == 1]
    assert record.position == position


def test_append_after_a_failed_sync_is_refused_though_syncs_succeed_again(
    store: Path, log: Log, faults: Faults
) -> None:
    poison(log, faults)
    before = log_file(store).read_bytes()

    for attempt in (lambda: log.append("x", 2), lambda: log.append_many([("x", 2)]), log.flush):
        with pytest.raises(PoisonedLogError, match=r"Log\.recover\(\)"):
            attempt()

    assert log_file(store).read_bytes() == before
    assert log.stats()["is_poisoned"] is True
    assert log.events("x") == (0, 1)


def test_append_by_other_processes_after_a_failed_sync_is_refused(
    store: Path, log: Log, faults: Faults, children: Children
) -> None:
    poison(log, faults)

    assert call(append_and_tell, store, method="spawn") == "PoisonedLogError"
    assert call(log.events, "x", method="fork") == (0, 1)


def test_append_by_a_process_that_had_the_log_open_is_refused(store: Path, log: Log) -> None:
    assert call(poison_elsewhere, store, method="fork") == "poisoned"

    with pytest.raises(PoisonedLogError):
        log.append("x", 2)


def poison_elsewhere(store: Path) -> str:
    log = Checkpoint(store).log("a")
    log.append("x", "first use")
    with pytest.MonkeyPatch.context() as patches:
        poison(log, Faults(patches))
    return "poisoned"


@pytest.mark.parametrize("name", ["open_file", "write_at", "sync_data", "sync_directory"])
def test_failed_sync_whose_note_cannot_be_written_still_refuses_here(
    log: Log, faults: Faults, name: str
) -> None:
    faults.fail(name, errno.EIO, on=r"\.checkpoint$" if name == "sync_directory" else r"\.tmp$")
    failed = (
        faults.fail("sync_data", errno.EIO, on=LOG)
        if name != "sync_data"
        else faults.fail("sync_data", errno.EIO, times=2)
    )
    with pytest.raises(OutcomeUnknownError):
        log.append("x", 1)
    failed.clear()

    with pytest.raises(PoisonedLogError):
        log.append("x", 2)


def test_failed_sync_of_a_first_use_poisons(store: Path, log: Log, faults: Faults) -> None:
    log.append("x", 1, durability="never")
    become_a_new_process()
    fault = faults.fail("sync_data", errno.EIO, on=LOG)

    with pytest.raises(PoisonedLogError, match=r"recover\(\)"):
        log.append("x", 2)
    fault.clear()

    assert append_and_tell(store) == "PoisonedLogError"
    assert seen_anew(log) == [0, 1]


def test_failed_sync_of_a_repair_poisons(store: Path, log: Log, faults: Faults) -> None:
    # Another process has written and dies before its own sync: the repair's is the only one that hears of the failure.
    call(append_unsynced, store, method="fork")
    tear(store)
    fault = faults.fail("sync_data", errno.EIO, on=LOG)

    with pytest.raises(CheckpointError):
        log.append("x", 2)
    fault.clear()

    with pytest.raises(PoisonedLogError):
        log.append("x", 3)
    assert append_and_tell(store) == "PoisonedLogError"


def append_unsynced(store: Path) -> None:
    Checkpoint(store).log("a").append("x", 1, durability="never")


@pytest.mark.parametrize("looks_that_fail", [1, 1 << 30])
def test_log_that_was_synced_and_cannot_be_looked_at_afterwards_is_not_poisoned(
    store: Path, log: Log, monkeypatch: pytest.MonkeyPatch, looks_that_fail: int
) -> None:
    real = system.file_status
    failing = [0]

    def look(fd: int) -> system.FileStatus:
        if failing[0] and path_of(fd).endswith("a.jsonl"):
            failing[0] -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd)

    def sync(real: Callable[[int], None], fd: int) -> None:
        real(fd)
        failing[0] = looks_that_fail

    monkeypatch.setattr(system, "file_status", look)
    Faults(monkeypatch).act("sync_data", sync, on=LOG)

    if looks_that_fail == 1:  # it was synced again, and looked at
        position = log.append("x", 1, record_id="id")
    else:
        with pytest.raises(OutcomeUnknownError) as caught:
            log.append("x", 1, record_id="id")
        failing[0] = 0
        assert caught.value.position is not None
        position = caught.value.position

    assert position == log.append("x", 1, record_id="id")
    assert_goes_on(log, [0, 1])


@pytest.mark.guarantee(1)
def test_flush_that_was_interrupted_leaves_what_is_still_to_be_synced(store: Path, faults: Faults) -> None:
    log = Checkpoint(store, durability="interval:600000").log("a")
    log.append("x", 1)
    log.append("x", 2)
    fault = faults.fail("sync_data", KeyboardInterrupt(), on=r"\.jsonl$")
    with pytest.raises(KeyboardInterrupt):
        process.interval.flush()
    fault.clear()

    syncs = faults.watch("sync_data", on=r"\.jsonl$")
    process.interval.flush()
    assert syncs.seen == 1


@pytest.mark.guarantee(1)
def test_background_sync_without_memory_is_tried_again(store: Path, faults: Faults) -> None:
    log = Checkpoint(store, durability="interval:10").log("a")
    log.append("x", 1)
    fault = faults.fail("sync_data", MemoryError(), on=r"\.jsonl$")
    syncs = log.stats()["syncs"]

    log.append("x", 2)

    wait_until(lambda: fault.hits and log.stats()["syncs"] != syncs, "the log was synced")


def test_failed_background_sync_poisons_and_the_next_append_says_so(store: Path, faults: Faults) -> None:
    log = Checkpoint(store, durability="interval:600000").log("a")
    log.append("x", 0)
    fault = faults.fail("sync_data", errno.EIO, on=LOG)

    with pytest.raises(OutcomeUnknownError):
        log.flush()
    fault.clear()

    with pytest.raises(PoisonedLogError):
        log.append("x", 1)


def test_threads_that_share_a_failed_sync_are_none_of_them_acknowledged(log: Log, faults: Faults) -> None:
    from concurrent.futures import ThreadPoolExecutor

    faults.fail("sync_data", errno.EIO, on=LOG)

    def attempt(number: int) -> str:
        try:
            log.append("x", number)
        except CheckpointError as error:
            return type(error).__name__
        return "acknowledged"

    with ThreadPoolExecutor(8) as threads:
        outcomes = set(threads.map(attempt, range(16)))

    assert outcomes <= {"OutcomeUnknownError", "PoisonedLogError"}


def test_poison_of_another_generation_is_void_and_of_no_sense_counts(
    store: Path, log: Log, faults: Faults
) -> None:
    poison(log, faults)
    note = inside(store, "a.poison").read_bytes()
    log.recover()
    inside(store, "a.poison").write_bytes(note)
    log.append("x", 2)

    inside(store, "a.poison").write_bytes(b"")
    become_a_new_process()
    with pytest.raises(PoisonedLogError):
        log.append("x", 3)


# --- recovery ----------------------------------------------------------------------------------------------


def test_recover_brings_every_record_into_a_generation_that_takes_appends(
    store: Path, log: Log, faults: Faults
) -> None:
    log.append_many([("x", "batch"), ("y", "batch")])
    position = poison(log, faults)

    log.recover()

    assert not inside(store, "a.poison").exists()
    assert log.append("x", 2).generation != position.generation
    assert_goes_on(log, [0, "batch", 1, 2])
    assert log.events("y") == ("batch",)


def test_positions_and_cursors_from_before_a_recovery_stay_valid(
    store: Path, log: Log, faults: Faults
) -> None:
    first = log.append("x", "first")
    log.append_many([("x", number) for number in range(5)])
    inside_batch = next(record.position for record in log.read() if record.event == 2)
    cursor = follow_one(Checkpoint(store)).cursor
    unknown = poison(log, faults, "unknown")

    log.recover()
    log.append("x", "last")

    assert [record.event for record in log.read(first)] == [0, 1, 2, 3, 4, "unknown", "last"]
    assert [record.event for record in log.read(inside_batch)] == [3, 4, "unknown", "last"]
    assert [record.event for record in log.read(unknown)] == ["last"]
    with Checkpoint(store).follow(cursor, idle_timeout_s=0) as follower:
        assert [record.event for record in follower][-2:] == ["unknown", "last"]
    positions = [record.position for record in log.read()]
    assert first < inside_batch < unknown < positions[-1]
    assert unknown == positions[-2]


def follow_one(checkpoint: Checkpoint):  # type: ignore[no-untyped-def]
    follower = checkpoint.follow()
    next(follower)
    return follower


def test_recover_keeps_record_ids_counts_and_stamps(store: Path, log: Log, faults: Faults) -> None:
    log.append("x", 1, record_id="once")
    before = [(record.stamp_us, record.event, record.record_id) for record in log.read()]

    log.recover()

    assert [(record.stamp_us, record.event, record.record_id) for record in log.read()] == before
    log.append("x", 1, record_id="once")
    log.append("x", 2, expected_count=2)
    assert log.events("x") == (0, 1, 2)


@pytest.mark.guarantee(6)
def test_recover_of_a_torn_log_keeps_the_torn_bytes(store: Path, log: Log) -> None:
    tear(store)

    log.recover()

    assert_goes_on(log, [0])
    assert [repair.length_bytes for repair in log.repairs()] == [len(TORN)]


def test_handles_and_followers_elsewhere_go_on_through_a_recovery(store: Path, log: Log) -> None:
    other = Checkpoint(store).log("a")
    follower = other.follow(idle_timeout_s=5)
    assert next(follower).event == 0
    view = Checkpoint(store)
    assert view["x"] == (0,)

    call(recover_elsewhere, store, method="fork")
    log.append("x", 2)

    assert view["x"] == (0, 1, 2) == other.events("x")
    assert [next(follower).event, next(follower).event] == [1, 2]


def recover_elsewhere(store: Path) -> None:
    log = Checkpoint(store).log("a")
    log.append("x", 1)
    log.recover()


def test_append_during_a_recovery_is_found_in_the_next_generation(
    store: Path, log: Log, faults: Faults
) -> None:
    def recover_first(real: Callable[[int], None], fd: int) -> None:
        call(recover_elsewhere, store, method="fork")
        real(fd)

    faults.act("sync_data", recover_first, on=LOG)

    position = log.append("x", "mine")

    assert log.events("x") == (0, "mine", 1)
    assert [record.position for record in log.read() if record.event == "mine"] == [position]
    assert position.generation == log.append("x", 2).generation


@pytest.mark.parametrize("name", ["open_file", "write_at", "sync_data", "replace"])
def test_recover_refused_changes_nothing(store: Path, log: Log, faults: Faults, name: str) -> None:
    unknown = poison(log, faults)
    fault = faults.fail(name, errno.ENOSPC, on=NEW_GENERATION)

    with pytest.raises(WriteFailedError):
        log.recover()

    assert fault.hits == 1
    assert seen_anew(log) == [0, 1]
    assert list(inside(store).glob("*.tmp")) == []
    with pytest.raises(PoisonedLogError):
        log.append("x", 2)
    log.recover()
    assert list(log.read(unknown)) == []
    assert_goes_on(log, [0, 1])


def test_recover_on_a_disk_too_full_to_seal_does_without(store: Path, log: Log, faults: Faults) -> None:
    faults.fail("write_at", errno.ENOSPC, on=LOG)

    log.recover()

    assert_goes_on(log, [0])


# --- dying inside a recovery -------------------------------------------------------------------------------


@pytest.mark.guarantee(8)
@pytest.mark.guarantee(1)
def test_process_killed_at_any_call_of_a_recovery_leaves_a_log_that_goes_on(tmp_path: Path) -> None:
    number, was_killed = 0, True
    while was_killed:
        number += 1
        store = tmp_path / f"{number}"
        try:
            call(recover_until_killed, store, number, method="fork")
            was_killed = False
        except ChildProcessError:
            tally.add("kills")
        log = Checkpoint(store).log("a")
        assert seen_anew(log) == [0, 1, 2]
        assert append_and_tell(store) in {"appended", "PoisonedLogError"}
        log.recover()
        log.append("x", 3)
        assert [event for event in log.events("x") if event != "by another"] == [0, 1, 2, 3]
        assert list(inside(store).glob("*.tmp")) == [] or was_killed
    assert number > 7


def recover_until_killed(store: Path, number: int) -> None:
    log = Checkpoint(store).log("a")
    log.append_many([("x", 0), ("x", 1)])
    with pytest.MonkeyPatch.context() as patches:
        poison(log, Faults(patches), 2)
        Faults(patches).any_call(number, lambda _: os.kill(os.getpid(), signal.SIGKILL))
        log.recover()


def test_seal_whose_writer_died_is_void_and_said_to_be(store: Path, log: Log) -> None:
    with pytest.raises(ChildProcessError):
        call(seal_and_die, store, method="fork")
    tally.add("kills")
    assert b'"sealed"' in log_file(store).read_bytes()

    assert_goes_on(log, [0])

    content = log_file(store).read_bytes()
    assert content.count(b'"sealed"') == content.count(b'"unsealed"') == 1


def seal_and_die(store: Path) -> None:
    with pytest.MonkeyPatch.context() as patches:
        Faults(patches).act("replace", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        Checkpoint(store).log("a").recover()


def test_new_generation_of_a_killed_recovery_is_removed_by_the_next_creator(store: Path, log: Log) -> None:
    with pytest.raises(ChildProcessError):
        call(seal_and_die, store, method="fork")
    tally.add("kills")
    assert len(list(inside(store).glob("a.jsonl.*"))) == 1

    Checkpoint(store).log("b")

    assert list(inside(store).glob("*.tmp")) == []
