"""Forks: beside threads, inside an append, with hooks and without, and what becomes of all that was open."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Follower, Log
from mpcheckpoint import _system as system
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._logfile.descriptors import pool
from mpcheckpoint._store.process import process
from mpcheckpoint.errors import ClosedError
from mpcheckpoint.log import handle_of
from support import tally
from support.processes import call, in_a_child
from support.verbs import (
    LOG,
    Faults,
    assert_goes_on,
    become_a_new_process,
    bounded,
    inside,
    is_locked,
    lock_file,
    seen_anew,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal, AcknowledgementWriter
    from support.processes import Children


pytestmark = pytest.mark.guarantee(7)

START_METHODS = multiprocessing.get_all_start_methods()


# --- threads and forks -------------------------------------------------------------------------------------


@pytest.mark.guarantee(8)
@pytest.mark.slow
def test_forks_while_threads_append_and_read_never_hang(log: Log, store: Path, intensity: int) -> None:
    is_over = threading.Event()
    appended = [0, 0, 0, 0]

    def append(index: int) -> None:
        while not is_over.is_set():
            log.append(f"thread {index}", appended[index])
            appended[index] += 1

    def read() -> None:
        checkpoint = Checkpoint(store)
        while not is_over.is_set():
            assert checkpoint["x"][0] == log.events("x")[0] == 0

    threads = [threading.Thread(target=append, args=(index,)) for index in range(4)]
    threads.append(threading.Thread(target=read))
    for thread in threads:
        thread.start()
    try:
        for number in range(60 * intensity):
            assert call(append_in_child, log, number, method="fork", timeout_s=20) == number
    finally:
        is_over.set()
        for thread in threads:
            thread.join(30)

    become_a_new_process()
    assert log.events("x") == (0, *range(60 * intensity))
    for index, count in enumerate(appended):
        assert log.events(f"thread {index}") == tuple(range(count))
        assert count > 0


def append_in_child(log: Log, number: int) -> int:
    log.append("x", number)
    return int(log.events("x")[-1])


def holding_the_lock(log: Log, faults: Faults) -> tuple[threading.Thread, threading.Event]:
    """Have a thread stand still inside an append; it goes on when the event is set."""
    may_go_on, is_inside = threading.Event(), threading.Event()

    def stand_still(real: Callable[..., int], *args: Any) -> int:
        is_inside.set()
        may_go_on.wait(60)
        return real(*args)

    faults.act("write_at", stand_still, on=LOG)
    thread = threading.Thread(target=log.append, args=("x", "slow"))
    thread.start()
    assert is_inside.wait(20)
    return thread, may_go_on


@pytest.mark.guarantee(8)
@pytest.mark.rule(10)
def test_child_forked_inside_an_append_neither_frees_nor_keeps_the_lock(
    log: Log, store: Path, faults: Faults, children: Children
) -> None:
    thread, may_go_on = holding_the_lock(log, faults)

    child = children.start(use_and_leave, store, method="fork")
    assert child.wait() == 0
    assert is_locked(lock_file(store))
    staying = children.start(signal.pause, method="fork")
    assert is_locked(lock_file(store))

    may_go_on.set()
    thread.join(20)
    wait_until(lambda: not is_locked(lock_file(store)), "the lock is free though a child lives", 5)
    staying.kill()
    assert log.events("x") == (0, "slow")


def use_and_leave(store: Path) -> None:
    assert Checkpoint(store)["x"] == (0,)
    Checkpoint(store, lock_timeout_s=0).log("b").append("x", 1)


@pytest.mark.guarantee(8)
@pytest.mark.rule(11)
@pytest.mark.parametrize("lock_of", ["the log", "the store"])
def test_lock_of_a_parent_that_is_killed_while_its_child_lives_is_free(
    log: Log, store: Path, children: Children, acknowledgements: AcknowledgementJournal, lock_of: str
) -> None:
    hold = hold_and_fork if lock_of == "the log" else create_and_fork
    parent = children.start(hold, store, acknowledgements.writer, method="fork")
    ((child,),) = acknowledgements.wait_for(1)

    parent.kill()
    tally.add("kills")

    assert os.path.exists(f"/proc/{child}")
    impatient = Checkpoint(store, lock_timeout_s=5)
    impatient.log("a").append("x", 1)
    impatient.log("new").append("x", 2)
    assert impatient["x"] == (0, 1, 2)


def hold_and_fork(store: Path, writer: AcknowledgementWriter) -> None:
    """Stand still inside an append, with a child; acknowledges the child."""
    with pytest.MonkeyPatch.context() as patches:
        holding_the_lock(Checkpoint(store).log("a"), Faults(patches))
        fork_and_stay(writer)


def create_and_fork(store: Path, writer: AcknowledgementWriter) -> None:
    """Stand still while creating a log, with a child; acknowledges the child."""
    is_inside = threading.Event()

    def stand_still(*_: object) -> None:
        is_inside.set()
        threading.Event().wait()

    with pytest.MonkeyPatch.context() as patches:
        Faults(patches).act("publish", stand_still)
        threading.Thread(target=Checkpoint(store).log, args=("never there",), daemon=True).start()
        assert is_inside.wait(20)
        fork_and_stay(writer)


def fork_and_stay(writer: AcknowledgementWriter) -> None:
    child = os.fork()
    if child == 0:
        writer.acknowledge(os.getpid())
    while True:
        signal.pause()


# --- forks without hooks -----------------------------------------------------------------------------------


def test_fork_that_runs_no_hooks_is_noticed(log: Log, store: Path) -> None:
    exit_code = call(fork_by_the_c_library, log, store)

    assert exit_code == 0
    assert log.events("x") == (0, "parent", "child", "parent again")


def fork_by_the_c_library(log: Log, store: Path) -> int:
    """Fork as a C extension does, use the same handles in the child, and return its exit code."""
    checkpoint = Checkpoint(store)
    follower = log.follow(idle_timeout_s=5)
    log.append("x", "parent")
    assert checkpoint["x"] == (0, "parent")
    assert next(follower).event == 0
    child = ctypes.PyDLL(None).fork()
    if child == 0:
        os._exit(_use_inherited(log, checkpoint, follower))
    _, status = os.waitpid(child, 0)
    log.append("x", "parent again")
    return os.waitstatus_to_exitcode(status)


def _use_inherited(log: Log, checkpoint: Checkpoint, follower: Follower) -> int:
    log.append("x", "child")
    is_seen = checkpoint["x"] == log.events("x") == (0, "parent", "child")
    is_followed = [next(follower).event, next(follower).event] == ["parent", "child"]
    return 0 if is_seen and is_followed else 1


# --- transactions, followers, intervals ----------------------------------------------------------------------


@pytest.mark.guarantee(2)
def test_transaction_open_at_a_fork_is_void_in_the_child_and_lands_in_the_parent(log: Log) -> None:
    with log.transaction() as transaction:
        transaction.append("x", transaction.events("x")[-1] + 1)
        assert call(try_in_child, transaction, method="fork") == ["append", "events", "end"]
        transaction.append("x", "more")

    assert log.events("x") == (0, 1, "more")


def try_in_child(transaction: Any) -> list[str]:
    refused = []
    for name, attempt in {
        "append": lambda: transaction.append("x", "child"),
        "events": lambda: transaction.events("x"),
        "end": lambda: transaction.__exit__(None, None, None),
    }.items():
        try:
            attempt()
        except ClosedError:
            refused.append(name)
    return refused


@pytest.mark.parametrize("of", ["log", "checkpoint"])
def test_follower_open_at_a_fork_goes_on_on_both_sides(log: Log, store: Path, of: str) -> None:
    log.append("x", 1)
    follower = log.follow(idle_timeout_s=5) if of == "log" else Checkpoint(store).follow(idle_timeout_s=5)
    assert next(follower).event == 0

    assert call(follow_in_child, follower, log, method="fork") == [1, "child", "child again"]
    assert [next(follower).event for _ in range(3)] == [1, "child", "child again"]


def follow_in_child(follower: Follower, log: Log) -> list[object]:
    log.append("x", "child")
    log.append("x", "child again")
    return [next(follower).event for _ in range(3)]


def test_follower_that_waits_in_another_thread_at_a_fork_waits_on(log: Log) -> None:
    follower = log.follow("end")
    seen: list[object] = []
    thread = threading.Thread(target=lambda: seen.append(next(follower).event), daemon=True)
    thread.start()

    assert call(log.append, "x", 1, method="fork") is not None

    thread.join(20)
    assert seen == [1]


def test_follower_closed_before_a_fork_is_closed_in_the_child(log: Log) -> None:
    follower = log.follow()
    follower.close()

    assert call(list, follower, method="fork", timeout_s=10) == []


def test_fork_with_a_follower_of_a_log_that_is_gone_harms_no_other_handle(log: Log, store: Path) -> None:
    other = Checkpoint(store).log("other")
    followers = [each.follow(idle_timeout_s=0) for each in (log, other) for _ in range(3)]
    assert [next(follower, None) for follower in followers[:3]]
    inside(store, "a.jsonl").unlink()

    become_a_new_process()  # runs what the fork hook runs, where an exception would only be printed
    assert call(other.append, "x", 1, method="fork") is not None
    assert [record.event for record in other.read()] == [1]


@pytest.mark.guarantee(1)
@pytest.mark.parametrize("method", START_METHODS)
def test_interval_appends_of_a_child_are_synced_when_it_exits(
    store: Path, acknowledgements: AcknowledgementJournal, children: Children, method: str
) -> None:
    with Checkpoint(store, durability="interval:600000") as checkpoint:
        log = checkpoint.log("a")
        log.append("x", "parent")
        children.start(append_and_watch_syncs, log, acknowledgements.writer, method=method)
        children.wait_all()

    assert [what for what, _ in acknowledgements.acknowledged()] == ["appended", "synced"]
    assert seen_anew(log) == ["parent", "child"]


def append_and_watch_syncs(log: Log, writer: AcknowledgementWriter) -> None:
    log.append("x", "child")
    real = system.sync_data

    def sync(fd: int) -> None:
        real(fd)
        writer.acknowledge("synced", fd)

    system.sync_data = sync
    writer.acknowledge("appended", 0)


@pytest.mark.guarantee(1)
def test_interval_thread_starts_anew_in_a_child(store: Path) -> None:
    log = Checkpoint(store, durability="interval:20").log("a")
    log.append("x", "parent")

    assert call(sync_in_background, log, method="fork", timeout_s=20) > 0


def sync_in_background(log: Log) -> int:
    before = log.append("x", "first") and log.stats()["syncs"]
    log.append("x", "child")
    wait_until(lambda: log.stats()["syncs"] != before, "the interval thread has synced", 10)
    return int(str(log.stats()["syncs"])) - int(str(before))


# --- while others hold or wait -------------------------------------------------------------------------------


@pytest.mark.guarantee(8)
def test_lock_of_a_forgotten_writer_ends_with_its_process_though_a_child_lives(
    store: Path, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    parent = children.start(hold_forgotten_and_fork, store, acknowledgements.writer, method="fork")
    ((child,),) = acknowledgements.wait_for(1)
    assert is_locked(lock_file(store, "a"))

    parent.kill()
    tally.add("kills")

    assert os.path.exists(f"/proc/{child}")
    Checkpoint(store, lock_timeout_s=2).log("a").append("x", 1)


def hold_forgotten_and_fork(store: Path, writer: AcknowledgementWriter) -> None:
    """Stand still in an append to a log that the registry then forgets, with a child; acknowledges the child."""
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr("mpcheckpoint._store.process._SHARE", system.most_open_files() // 8)  # two
        checkpoint = Checkpoint(store)
        logs = [checkpoint.log(log_key) for log_key in "abc"]
        is_inside = threading.Event()

        def stand_still(*_: object) -> None:
            is_inside.set()
            threading.Event().wait()

        Faults(patches).act("write_at", stand_still, on=LOG)
        threading.Thread(target=logs[0].append, args=("x", 0), daemon=True).start()
        assert is_inside.wait(20)
        for log in logs[1:]:
            log.append("x", 0)
        if os.fork() == 0:
            writer.acknowledge(os.getpid())
        while True:
            signal.pause()


@pytest.mark.guarantee(7)
def test_follower_waited_in_by_another_thread_at_a_fork_gives_out_and_closes_in_the_child(log: Log) -> None:
    follower = log.follow()
    assert next(follower).event == 0
    thread = threading.Thread(target=list, args=(follower,), daemon=True)
    thread.start()

    try:
        for _ in range(10):
            assert in_a_child(follow_and_close, follower, log) == ["child", []]
    finally:
        follower.close()
        thread.join(20)
    assert not thread.is_alive()


def follow_and_close(follower: Follower, log: Log) -> list[object]:
    log.append("x", "child")
    found = next(follower).event
    follower.close()
    return [found, list(follower)]


@pytest.mark.guarantee(7)
@pytest.mark.guarantee(8)
@pytest.mark.parametrize("name", ["sync_data", "write_at", "try_lock"])
def test_thread_that_stands_still_in_the_system_holds_up_neither_reads_nor_forks(
    store: Path, log: Log, faults: Faults, name: str
) -> None:
    may_go_on, is_inside = threading.Event(), threading.Event()

    def stand_still(real: Callable[..., Any], *args: Any) -> Any:
        is_inside.set()
        may_go_on.wait(60)
        return real(*args)

    faults.act(name, stand_still, on=r"a\.(jsonl|lock)$")
    thread = threading.Thread(target=log.append, args=("x", 1))
    thread.start()
    assert is_inside.wait(20)
    started = time.monotonic()

    for _ in range(3):
        assert bounded(log.count, "x") >= 1
        assert bounded(lambda: Checkpoint(store)["x"][0]) == 0
        assert call(log.count, "x", method="fork", timeout_s=20) >= 1

    assert time.monotonic() - started < 10
    may_go_on.set()
    thread.join(20)
    assert_goes_on(log, [0, 1])


@pytest.mark.guarantee(7)
@pytest.mark.guarantee(8)
def test_child_of_a_fork_without_hooks_does_not_share_its_parent_s_lock(store: Path, log: Log) -> None:
    assert in_a_child(fork_by_the_c_library_inside_an_append, store) == "LockTimeoutError"
    assert log.events("x") == (0, 1)


def fork_by_the_c_library_inside_an_append(store: Path) -> str:
    """Return how an append by such a child ends, while its parent holds the lock."""
    log = Checkpoint(store, lock_timeout_s=0.1).log("a")
    log.append("y", 1)
    endings = []

    def fork(real: Callable[..., int], *args: Any) -> int:
        receiver, sender = os.pipe()
        child = ctypes.PyDLL(None).fork()
        if child == 0:
            try:
                log.append("x", "child")
            except BaseException as error:  # noqa: BLE001 - how it ends is the question
                os.write(sender, type(error).__name__.encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(sender)
        endings.append(os.read(receiver, 100).decode())
        os.close(receiver)
        return real(*args)

    with pytest.MonkeyPatch.context() as patches:
        Faults(patches).act("write_at", fork, on=LOG)
        log.append("x", 1)
    return endings[0]


MUTEXES: dict[str, Callable[[Log], Any]] = {
    "the registry": lambda log: process._mutex,
    "the clock": lambda log: getattr(clock.highest, "_mutex", None) or nullcontext(),  # native code has none
    "the descriptor pool": lambda log: pool._mutex,
    "the interval setting": lambda log: process.interval._condition,
    "the view": lambda log: handle_of(log).store.mutex.lock,
    "the writer": lambda log: handle_of(log).for_writing()._writer().lock._mutex.lock,  # type: ignore[attr-defined]  # an engine's
}


@pytest.mark.guarantee(7)
@pytest.mark.parametrize("of", MUTEXES)
def test_forked_child_waits_for_no_mutex_that_a_thread_of_its_parent_held(log: Log, of: str) -> None:
    is_held, may_go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with MUTEXES[of](log):
            is_held.set()
            may_go_on.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    assert is_held.wait(20)
    try:
        assert in_a_child(use_everything, log) == (0, 1, 2)
    finally:
        may_go_on.set()
        holder.join(20)


def use_everything(log: Log) -> tuple[Any, ...]:
    log.append("x", 1)
    log.append("x", 2, durability="interval:1")
    assert log.events("x") == (0, 1, 2)
    return Checkpoint(handle_of(log).store.settings.path)["x"]


@pytest.mark.guarantee(1)
def test_child_forked_by_a_handler_in_a_wait_for_the_sync_of_another_thread_syncs_for_itself(
    log: Log,
) -> None:
    assert in_a_child(fork_in_a_wait_for_a_sync, log) == 0


def fork_in_a_wait_for_a_sync(log: Log) -> int:
    """Append while another thread syncs, and fork meanwhile; return how the child's append ended."""
    log.append("x", "first use")
    begun, goes_on = threading.Event(), threading.Event()
    children: list[int] = []
    real = system.sync_data

    def slowly(fd: int) -> None:
        begun.set()
        goes_on.wait(20)
        real(fd)

    def fork(*_: object) -> None:
        pid = os.fork()
        if pid:
            children.append(pid)
            goes_on.set()
        else:
            system.sync_data = real
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(5)  # ends a child that hangs

    signal.signal(signal.SIGUSR1, fork)
    system.sync_data = slowly
    threading.Thread(target=log.append, args=("x", 1)).start()
    begun.wait(20)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    log.append("x", 2)
    if not children:
        os._exit(0 if log.events("x")[-1] == 2 else 1)
    return os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1])
