"""A sync that failed is final: the log takes no appends until its records stand in another generation."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint.errors import CheckpointError, OutcomeUnknownError, PoisonedLogError
from mpcheckpoint.testing._simulation.seam import path_of
from support.fuzz_bench import MARKER, Bench, Reading
from support.log_bytes import forged_log
from support.processes import call
from support.verbs import (
    LOG,
    Faults,
    append_and_tell,
    assert_goes_on,
    become_a_new_process,
    inside,
    log_file,
    poison,
    seen_anew,
    tear,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.processes import Children

pytestmark = pytest.mark.guarantee(9)


def test_append_whose_sync_fails_says_where_the_record_would_be(log: Log, faults: Faults) -> None:
    position = poison(log, faults)

    (record,) = [record for record in log.read() if record.event == 1]
    assert record.position == position


@pytest.mark.rule(14)
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


@pytest.mark.rule(14)
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


# --- what is kept of it --------------------------------------------------------------------------------------


@pytest.mark.guarantee(9)
def test_poison_outlives_everybody_who_knew_and_the_power(store: Path, log: Log, faults: Faults) -> None:
    note_synced = faults.watch("sync_directory", on=r"\.checkpoint$")
    fault = faults.fail("sync_data", 5, on=LOG)
    with pytest.raises(OutcomeUnknownError):
        log.append("x", 1)
    fault.clear()

    assert note_synced.seen == 1
    assert inside(store, "a.poison").read_bytes()
    become_a_new_process()
    with pytest.raises(PoisonedLogError):
        Checkpoint(store).log("a").append("x", 2)
    assert seen_anew(log) == [0, 1]


@pytest.mark.guarantee(9)
def test_sync_inside_which_another_failed_acknowledges_nothing(log: Log, faults: Faults) -> None:
    def append_and_be_silent(real: Callable[..., None], fd: int) -> None:
        failing = faults.fail("sync_data", 5, on=LOG)
        with pytest.raises(OutcomeUnknownError):  # as a signal handler may do it, and hold its tongue
            log.append("x", 2)
        failing.clear()
        real(fd)

    faults.act("sync_data", append_and_be_silent, on=LOG)

    with pytest.raises(OutcomeUnknownError):
        log.append("x", 1)


@pytest.mark.guarantee(6)
@pytest.mark.guarantee(9)
@pytest.mark.parametrize(
    "note",
    [
        b'{"generation":"\xff","reason":"EIO"}',
        b'{"generation":"x","reason":"\xff"}',
        b'{"x":' + b"[" * 2_000 + b"]" * 2_000 + b"}",
        b'{"generation":5,"reason":"EIO"}',
        b"\0" * 9,
        b"",
    ],
)
def test_poison_that_cannot_be_decoded_refuses_appends(bench: Bench, note: bytes) -> None:
    bench.put(forged_log(b'"x",1,null'))
    inside(bench.store, "a.poison").write_bytes(note)

    assert bench.append() is PoisonedLogError
    assert bench.recover() is None
    assert bench.append() is None
    assert bench.read() == Reading([("x", 1), MARKER], None)
