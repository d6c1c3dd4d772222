"""The settings of durability: what is synced, when, and by whom; with an interval, in the background."""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint._store.process import process
from mpcheckpoint.errors import OutcomeUnknownError, PoisonedLogError
from support.processes import in_a_child
from support.verbs import LOG, Faults, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


NEVER_DUE = "interval:600000"


@pytest.mark.guarantee(1)
def test_record_written_during_a_sync_is_not_covered_by_it(log: Log, faults: Faults) -> None:
    def write_behind_it(real: Callable[..., None], fd: int) -> None:
        real(fd)
        log.append("x", 2, durability="never")

    syncs = faults.act("sync_data", write_behind_it, on=LOG)
    log.append("x", 1)
    before = syncs.seen

    log.flush()

    assert log.events("x") == (0, 1, 2)
    assert syncs.seen == before + 1


@pytest.mark.guarantee(1)
@pytest.mark.parametrize("of_the_handle", ["always", NEVER_DUE, "never"])
@pytest.mark.parametrize("of_the_append", ["always", NEVER_DUE, "never", None])
def test_append_syncs_as_its_setting_says(
    store: Path, log: Log, faults: Faults, of_the_handle: str, of_the_append: str | None
) -> None:
    with Checkpoint(store, durability=of_the_handle) as checkpoint:
        handle = checkpoint.log("a")
        syncs = faults.watch("sync_data", on=LOG)

        handle.append("x", 1, durability=of_the_append)

        assert syncs.seen == ((of_the_append or of_the_handle) == "always")
        handle.flush()
        assert syncs.seen == 1


@pytest.mark.guarantee(1)
def test_log_released_has_synced_what_the_interval_setting_left(
    store: Path, log: Log, faults: Faults
) -> None:
    checkpoint = Checkpoint(store, durability=NEVER_DUE)
    checkpoint.createCheckpointLog("a")
    checkpoint.writeCheckpoint("a", "x", 1)
    syncs = faults.watch("sync_data", on=LOG)

    checkpoint.releaseCheckpointLog("a")

    assert syncs.seen == 1


# --- the interval setting ------------------------------------------------------------------------------------


@pytest.mark.guarantee(1)
def test_close_syncs_each_of_more_logs_than_the_process_keeps_open(store: Path) -> None:
    assert in_a_child(syncs_at_close_of, store, 60) == 60


def syncs_at_close_of(store: Path, logs: int) -> int:
    checkpoint = Checkpoint(store, durability=NEVER_DUE)
    for log in [checkpoint.log(f"l{number}") for number in range(logs)]:
        log.append("x", 1)
    with pytest.MonkeyPatch.context() as patches:
        syncs = Faults(patches).watch("sync_data", on=r"l\d+\.jsonl$")
        checkpoint.close()
    return syncs.seen


@pytest.mark.guarantee(1)
def test_interval_shorter_than_the_one_waited_for_is_kept(store: Path) -> None:
    assert in_a_child(syncs_of_a_shorter_interval, store) == 1


def syncs_of_a_shorter_interval(store: Path) -> int:
    log = Checkpoint(store, durability=NEVER_DUE).log("a")
    log.append("x", 1)
    condition: Any = process.interval._condition
    wait_until(lambda: condition._waiters, "the interval thread waits for the long one")
    with pytest.MonkeyPatch.context() as patches:
        syncs = Faults(patches).watch("sync_data", on=LOG)
        log.append("x", 2, durability="interval:10")
        wait_until(lambda: syncs.seen, "10 ms are over and the log is synced", 2)
    return syncs.seen


@pytest.mark.guarantee(1)
def test_appends_scheduled_in_another_order_than_written_are_all_synced(store: Path) -> None:
    assert in_a_child(syncs_when_scheduled_in_reverse, store) == 1


def syncs_when_scheduled_in_reverse(store: Path) -> int:
    """Return how often close syncs when two threads were preempted between their appends and the schedule."""
    checkpoint = Checkpoint(store, durability=NEVER_DUE)
    log = checkpoint.log("a")
    scheduled: list[tuple[Any, ...]] = []
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(process.interval, "schedule", lambda *args: scheduled.append(args))
        log.append("x", 1)
        log.flush()
        log.append("x", 2)
    for args in reversed(scheduled):
        process.interval.schedule(*args)
    with pytest.MonkeyPatch.context() as patches:
        syncs = Faults(patches).watch("sync_data", on=LOG)
        checkpoint.close()
    return syncs.seen


@pytest.mark.guarantee(9)
def test_interval_without_a_thread_to_be_had_syncs_at_once_and_gets_one_later(store: Path) -> None:
    assert in_a_child(append_without_threads, store) == [1, True]


def append_without_threads(store: Path) -> list[object]:
    """Return how often the log was synced while no thread was to be had, and whether one is there afterwards."""
    log = Checkpoint(store, durability="interval:10").log("a")
    with pytest.MonkeyPatch.context() as patches:
        syncs = Faults(patches).watch("sync_data", on=LOG)
        with pytest.MonkeyPatch.context() as no_threads:
            no_threads.setattr(threading.Thread, "start", refuse_to_start)
            log.append("x", 1)
        without = syncs.seen
        log.append("x", 2)
        wait_until(lambda: syncs.seen > without, "the interval thread has synced", 15)
    return [without, any(thread.name == "mpcheckpoint-interval" for thread in threading.enumerate())]


def refuse_to_start(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


# --- a background sync that fails ----------------------------------------------------------------------------


@pytest.mark.guarantee(9)
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


@pytest.mark.guarantee(9)
@pytest.mark.guarantee(1)
def test_background_sync_without_memory_is_tried_again(store: Path, faults: Faults) -> None:
    log = Checkpoint(store, durability="interval:10").log("a")
    log.append("x", 1)
    fault = faults.fail("sync_data", MemoryError(), on=r"\.jsonl$")
    syncs = log.stats()["syncs"]

    log.append("x", 2)

    wait_until(lambda: fault.hits and log.stats()["syncs"] != syncs, "the log was synced")


@pytest.mark.guarantee(9)
def test_failed_background_sync_poisons_and_the_next_append_says_so(store: Path, faults: Faults) -> None:
    log = Checkpoint(store, durability="interval:600000").log("a")
    log.append("x", 0)
    fault = faults.fail("sync_data", errno.EIO, on=LOG)

    with pytest.raises(OutcomeUnknownError):
        log.flush()
    fault.clear()

    with pytest.raises(PoisonedLogError):
        log.append("x", 1)
