"""Claims: one live worker has an object, and the moment it is dead nobody has."""

from __future__ import annotations

import errno
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint._format.control import Note, note_payload
from mpcheckpoint._store import workers
from mpcheckpoint._store.workers import WorkerFiles
from mpcheckpoint._system import workers as system_workers
from mpcheckpoint._view.log_handle import LogHandle
from mpcheckpoint._work.claims import give_back
from mpcheckpoint._work.inputs import Input
from mpcheckpoint._work.item_batch import Finish, ItemBatch, Start
from mpcheckpoint._work.outcomes import Result, attempt_payload
from mpcheckpoint._work.plan import LogRef, Plan
from mpcheckpoint._work.reruns import RunNote
from mpcheckpoint._work.run_item import FunctionCall
from mpcheckpoint._work.runs import JoinedRun
from mpcheckpoint.errors import InvalidKeyError, NotAStoreError, ReadOnlyError
from mpcheckpoint.log import handle_of
from support import tally
from support.processes import METHODS, call
from support.verbs import Faults, become_a_new_process, inside, tree

if TYPE_CHECKING:
    from mpcheckpoint._types import Position
    from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal, AcknowledgementWriter
    from support.processes import Children

EACH = 25


def is_free(store: Path, object_key: str = "x") -> bool:
    """Return whether a claim would be given to somebody who has just opened the store."""
    with Checkpoint(store) as checkpoint, checkpoint.log("a").claim(object_key) as claim:
        return claim is not None


def live_workers(store: Path) -> list[str]:
    """Return the names of worker files whose lock is held."""
    return [path.name for path in inside(store, "workers").iterdir() if system.is_locked(str(path))]


# --- what a claim is ---------------------------------------------------------------------------------------


def test_object_claimed_by_another_claim_of_the_process_is_taken(store: Path, log: Log) -> None:
    with log.claim("x") as first, log.claim("x") as second:
        assert first is not None
        assert first.object_key == "x"
        assert second is None
        assert not is_free(store)


def test_other_object_is_free(log: Log) -> None:
    with log.claim("x"), log.claim("y") as claim:
        assert claim is not None


def test_object_is_free_again_after_the_block(store: Path, log: Log) -> None:
    with log.claim("x"):
        pass

    assert is_free(store)
    assert list(inside(store, "workers").iterdir()) == []


def test_object_is_free_again_after_an_exception_in_the_block(store: Path, log: Log) -> None:
    with pytest.raises(KeyError), log.claim("x"):
        raise KeyError

    assert is_free(store)


def test_claim_that_was_refused_takes_nothing_from_its_holder(store: Path, log: Log) -> None:
    with log.claim("x"):
        with log.claim("x"):
            pass
        assert not is_free(store)


def test_claim_is_no_event_of_its_object(store: Path, log: Log) -> None:
    with log.claim("x"):
        assert log.events("x") == ()
        log.append("x", 1, expected_count=0)

    assert log.events("x") == (1,)
    assert Checkpoint(store)["x"] == (1,)


def test_claim_of_another_log_does_not_count(store: Path, log: Log) -> None:
    with log.claim("x"), Checkpoint(store).log("b").claim("x") as claim:
        assert claim is not None


@pytest.mark.parametrize("object_key", ["", "../../x", "a\0b", "k" * 5000])
def test_any_string_can_be_claimed(log: Log, object_key: str) -> None:
    with log.claim(object_key) as first, log.claim(object_key) as second:
        assert (first is None, second is None) == (False, True)


@pytest.mark.parametrize("object_key", [1, None, "\ud800"])
def test_claim_of_what_is_no_key_is_refused_and_nothing_is_written(
    store: Path, log: Log, object_key: Any
) -> None:
    before = tree(store)

    with pytest.raises(InvalidKeyError), log.claim(object_key):
        pass

    assert tree(store) == before


def test_claim_through_a_read_only_handle_is_refused_and_nothing_is_written(store: Path, log: Log) -> None:
    log.append("x", 1)
    before = tree(store)

    reader = Checkpoint(store, read_only=True).log("a")
    with pytest.raises(ReadOnlyError), reader.claim("x"):
        pass

    assert tree(store) == before


# --- one at a time -----------------------------------------------------------------------------------------


def work_alone(store: Path, marker: Path, acknowledge: AcknowledgementWriter) -> None:
    """Claim an object again and again; where it was given, be the only one in the block."""
    log = Checkpoint(store).log("a")
    given = 0
    while given < EACH:
        with log.claim("x") as claim:
            if claim is not None:
                descriptor = os.open(marker, os.O_CREAT | os.O_EXCL)  # fails if another one is in the block
                os.close(descriptor)
                os.unlink(marker)
                given += 1
    acknowledge.acknowledge(given)


def test_of_many_processes_and_threads_one_at_a_time_is_given_the_claim(
    store: Path, tmp_path: Path, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    Checkpoint(store).log("a")
    marker = tmp_path / "in the block"
    for method in METHODS:
        children.start(work_alone, store, marker, acknowledgements.writer, method=method)
    threads = [
        threading.Thread(target=work_alone, args=(store, marker, acknowledgements.writer)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    children.wait_all()

    assert acknowledgements.acknowledged() == [(EACH,)] * (len(METHODS) + 2)


# --- dead workers ------------------------------------------------------------------------------------------


def hold(store: Path, acknowledge: AcknowledgementWriter) -> None:
    """Hold a claim until killed."""
    with Checkpoint(store).log("a").claim("x") as claim:
        assert claim is not None
        acknowledge.acknowledge("held")
        signal.pause()


@pytest.mark.guarantee(8)
@pytest.mark.parametrize("method", METHODS)
def test_claim_of_a_killed_process_is_void_at_once(
    method: str, store: Path, log: Log, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    child = children.start(hold, store, acknowledgements.writer, method=method)
    acknowledgements.wait_for(1)
    with log.claim("x") as claim:
        assert claim is None

    child.kill()

    with log.claim("x") as claim:
        assert claim is not None


@pytest.mark.guarantee(8)
def test_claim_of_a_stopped_process_holds_and_nobody_waits(
    store: Path, log: Log, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    child = children.start(hold, store, acknowledgements.writer)
    acknowledgements.wait_for(1)
    child.stop()

    with log.claim("x") as claim:
        assert claim is None
    child.kill()


def hold_with_a_forked_child(store: Path, acknowledge: AcknowledgementWriter) -> None:
    """Hold a claim, fork, and wait to be killed; the child lives on."""
    with Checkpoint(store).log("a").claim("x"):
        if os.fork() == 0:
            acknowledge.acknowledge("child")
            signal.pause()
        acknowledge.acknowledge("parent")
        signal.pause()


@pytest.mark.guarantee(7)
@pytest.mark.guarantee(8)
def test_claim_of_a_killed_process_is_void_though_its_forked_child_lives(
    store: Path, log: Log, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    child = children.start(hold_with_a_forked_child, store, acknowledgements.writer)
    acknowledgements.wait_for(2)

    child.kill()

    with log.claim("x") as claim:
        assert claim is not None


def leave_the_block(context: Any) -> None:
    """End an inherited claim's block."""
    context.__exit__(None, None, None)


@pytest.mark.guarantee(7)
def test_forked_child_that_leaves_the_block_does_not_free_its_parent_s_claim(store: Path, log: Log) -> None:
    context = log.claim("x")
    with context as claim:
        assert claim is not None
        call(leave_the_block, context, method="fork")

        assert not is_free(store)
        assert len(live_workers(store)) == 1


# --- the files of workers ----------------------------------------------------------------------------------


def test_files_of_killed_workers_are_removed_by_the_next_and_those_of_live_ones_are_not(
    store: Path,
    log: Log,
    children: Children,
    acknowledgements: AcknowledgementJournal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dead = children.start(hold, store, acknowledgements.writer)
    acknowledgements.wait_for(1)
    dead.kill()
    children.start(hold, store, acknowledgements.writer)
    acknowledgements.wait_for(2)
    assert len(list(inside(store, "workers").iterdir())) == 1  # the second removed what the first left
    monkeypatch.setattr(workers, "_cleared", set())

    with log.claim("y") as claim:
        assert claim is not None
        assert len(live_workers(store)) == len(list(inside(store, "workers").iterdir())) == 2
    children.kill_all()


def test_worker_whose_new_file_is_taken_for_a_dead_one_s_makes_another(
    store: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned: list[str] = []
    real = system_workers.lock

    def lock_after_a_clean_up(fd: int, timeout_s: float | None = None) -> bool:
        if not cleaned:
            cleaned.append(os.readlink(f"/proc/self/fd/{fd}"))
            assert system.remove_unlocked(cleaned[0])
        return real(fd, timeout_s)

    monkeypatch.setattr(system_workers, "lock", lock_after_a_clean_up)
    with log.claim("x") as claim:
        assert claim is not None
        assert claim.worker != Path(cleaned[0]).name
        assert not is_free(store)


def test_file_of_a_live_worker_is_not_removed_by_a_clean_up(store: Path, log: Log) -> None:
    with log.claim("x") as claim:
        assert claim is not None
        path = inside(store, "workers") / claim.worker

        assert not system.remove_unlocked(str(path))
        handle_of(log).workers.clear()

        assert path.exists()


def test_clean_up_in_progress_does_not_make_a_dead_worker_seem_alive(store: Path, log: Log) -> None:
    with log.claim("y"):
        dead = inside(store, "workers") / ("0" * 32)
        dead.touch()
        with dead.open("rb") as file:
            assert system.locks.try_shared_lock(file.fileno())

            assert not handle_of(log).workers.is_live(dead.name)


def test_worker_named_by_a_path_in_the_log_is_never_looked_for(store: Path, log: Log, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.touch()
    with outside.open("rb+") as file:
        system.lock(file.fileno())
        name = os.path.relpath(outside, inside(store, "workers"))
        handle_of(log).append_if(
            [note_payload(Note("claim", {"object_key": "x", "worker": name}))], lambda _: None
        )

        with log.claim("x") as claim:
            assert claim is not None


def test_link_in_the_place_of_the_workers_directory_is_refused_and_nothing_is_written_outside(
    store: Path, log: Log, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    inside(store, "workers").symlink_to(outside)

    with pytest.raises(NotAStoreError, match="workers"), log.claim("x"):
        pass

    assert list(outside.iterdir()) == []


@pytest.mark.guarantee(9)
def test_disk_that_is_full_when_a_claim_is_given_back_frees_it_all_the_same(
    store: Path, log: Log, faults: Faults
) -> None:
    with log.claim("x") as claim:
        assert claim is not None
        fault = faults.fail("write_at", errno.ENOSPC, on=r"a\.jsonl$")

    assert fault.hits == 1
    become_a_new_process()
    assert is_free(store)


def kill_in_the_middle_of_claims(store: Path, acknowledge: AcknowledgementWriter) -> None:
    """Claim and give back as fast as possible until killed."""
    log = Checkpoint(store).log("a")
    while True:
        with log.claim("x") as claim:
            if claim is not None:
                acknowledge.acknowledge("given")


@pytest.mark.guarantee(8)
def test_killed_again_and_again_at_any_instant_the_object_is_free_at_once(
    store: Path, log: Log, children: Children, acknowledgements: AcknowledgementJournal, intensity: int
) -> None:
    for round_number in range(10 * intensity):
        child = children.start(kill_in_the_middle_of_claims, store, acknowledgements.writer, method="fork")
        acknowledgements.wait_for(len(acknowledgements.acknowledged()) + 1 + round_number % 3)
        child.kill()
        tally.add("kills amid claims")

        with log.claim("x") as claim:
            assert claim is not None


# --- giving back ---------------------------------------------------------------------------------------------


def test_claim_given_back_by_whoever_does_not_hold_it_stays(log: Log) -> None:
    with log.claim("x"):
        with handle_of(log).workers.begin() as another:
            give_back(handle_of(log), "x", another)

        with log.claim("x") as second:
            assert second is None


class SyncedWorkers(WorkerFiles):
    """Workers that outlive what is not synced."""

    may_outlive_records = True


@pytest.mark.parametrize("kind", [WorkerFiles, SyncedWorkers])
def test_claim_and_return_of_an_item_are_as_durable_as_workers_live(
    store: Path, log: Log, monkeypatch: pytest.MonkeyPatch, kind: type[WorkerFiles]
) -> None:
    handle = handle_of(log)
    asked: list[Any] = []
    append = LogHandle.append_if

    def noted(self: LogHandle, *arguments: Any, **options: Any) -> Position:
        asked.append(options.get("durability"))
        return append(self, *arguments, **options)

    monkeypatch.setattr(LogHandle, "append_if", noted)
    handle.workers = kind(handle.store.path)
    plan = Plan(LogRef(handle), JoinedRun(RunNote(1, "1"), 0), FunctionCall(len))
    entry = Input(0, "x", "x", {})
    attempt = attempt_payload(plan.run, entry, Result(False, None, "no"), 0.1, 0.0)
    with handle.workers.begin() as worker:
        ItemBatch(plan, None, Start(entry, worker)).append()
        ItemBatch(plan, Finish(entry, worker, attempt), None).append()
        give_back(handle, "x", worker)
    with log.claim("x") as claim:
        assert claim is not None

    assert asked == ["always" if kind is SyncedWorkers else "never"] * 5
