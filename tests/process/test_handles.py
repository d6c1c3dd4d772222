"""A handle crosses to every kind of process, inherited or pickled, and is used on both sides."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint, Log
from support.processes import METHODS, call
from support.verbs import become_a_new_process

if TYPE_CHECKING:
    from pathlib import Path

    from support.processes import Children

pytestmark = pytest.mark.guarantee(7)

START_METHODS = multiprocessing.get_all_start_methods()
EACH = 20


def append_each(handle: Log | Checkpoint, name: str) -> None:
    """Append EACH events through a handle that came from elsewhere, and see each of them."""
    log = handle.log("a") if isinstance(handle, Checkpoint) else handle
    for number in range(EACH):
        log.append(name, number)
        assert log.count(name) == number + 1


def append_in_pool(log: Log, number: int) -> int:
    log.append("pool", number)
    return os.getpid()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [Log, Checkpoint])
def test_handle_used_on_both_sides_loses_nothing(
    log: Log, store: Path, children: Children, method: str, kind: type
) -> None:
    checkpoint = Checkpoint(store)
    handle = log if kind is Log else checkpoint
    if kind is Checkpoint:
        assert checkpoint["x"] == (0,)

    for number in range(2):
        children.start(append_each, handle, f"child {number}", method=method)
    append_each(handle, "parent")
    children.wait_all()

    expected = {
        "x": (0,),
        **{f"child {number}": tuple(range(EACH)) for number in range(2)},
        "parent": tuple(range(EACH)),
    }
    assert dict(checkpoint.items()) == expected
    assert dict(Checkpoint(store, read_only=True).items()) == expected


def test_pickled_checkpoint_keeps_its_settings_and_open_logs(store: Path) -> None:
    checkpoint = Checkpoint(store, log_keys=["a"], durability="never", lock_timeout_s=3)
    checkpoint.createCheckpointLog("b")

    copy = pickle.loads(pickle.dumps(checkpoint))

    assert copy.getCheckpointLogKeys() == ["a", "b"]
    assert repr(copy) == repr(checkpoint)
    copy.writeCheckpoint("b", "x", 1)
    assert checkpoint["x"] == (1,)


def test_pickled_checkpoint_that_released_a_log_does_not_open_it_again(store: Path) -> None:
    checkpoint = Checkpoint(store, log_keys=["a", "b"])
    checkpoint.writeCheckpoint("b", "x", 1)
    checkpoint.releaseCheckpointLog("b")

    copy = pickle.loads(pickle.dumps(checkpoint))

    assert copy.getCheckpointLogKeys() == ["a"]
    assert copy.getCheckpoints("x") == [1]


def test_forked_checkpoint_keeps_its_open_logs(store: Path) -> None:
    checkpoint = Checkpoint(store)
    checkpoint.createCheckpointLog("b")
    checkpoint.createCheckpointLog("a")

    assert call(checkpoint.getCheckpointLogKeys, method="fork") == ["b", "a"]


@pytest.mark.parametrize("create", [True, False])
def test_pickled_log_is_a_handle_on_that_log_alone(log: Log, store: Path, create: bool) -> None:
    Checkpoint(store).log("other").append("x", "other")
    log = Checkpoint(store, create=create).log("a")

    copy = pickle.loads(pickle.dumps(log))

    assert copy.log_key == "a"
    assert copy.events("x") == (0,)
    copy.append("x", 1)
    assert log.events("x") == (0, 1)


@pytest.mark.parametrize("method", START_METHODS)
def test_pool_of_any_kind_appends_through_one_handle(log: Log, method: str) -> None:
    with multiprocessing.get_context(method).Pool(3) as pool:
        pids = set(pool.starmap(append_in_pool, [(log, number) for number in range(30)], chunksize=1))
        pool.close()
        pool.join()

    assert sorted(log.events("pool")) == list(range(30))
    assert os.getpid() not in pids


@pytest.mark.parametrize("method", START_METHODS)
def test_executor_of_any_kind_appends_through_one_handle(log: Log, method: str) -> None:
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(3, mp_context=context) as executor:
        # A bound method pickles with its log.
        futures = [executor.submit(log.append, "pool", number) for number in range(30)]
        positions = [future.result(60) for future in futures]

    assert sorted(log.events("pool")) == list(range(30))
    assert sorted(positions) == [record.position for record in log.read() if record.object_key == "pool"]


def test_forks_of_forks_append_through_one_handle(log: Log) -> None:
    call(append_and_fork, log, 5, method="fork")

    assert log.events("x") == (0, 5, 4, 3, 2, 1)


def append_and_fork(log: Log, generations: int) -> None:
    log.append("x", generations)
    if generations > 1:
        call(append_and_fork, log, generations - 1, method="fork")
    assert log.events("x")[1] == 5


# --- several handles in one process --------------------------------------------------------------------------


@pytest.mark.guarantee(7)
@pytest.mark.rule(23)
def test_threads_with_several_handles_append_each_record_once(store: Path) -> None:
    def work(name: str) -> None:
        log = Checkpoint(store).log("a")
        for number in range(30):
            log.append(name, number)
            assert log.count(name) == number + 1

    threads = [threading.Thread(target=work, args=(f"{index}",)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    become_a_new_process()
    assert dict(Checkpoint(store).items()) == {f"{index}": tuple(range(30)) for index in range(6)}
