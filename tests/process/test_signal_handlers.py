"""Signal handlers that come back in at the worst instant: what they do works, or raises, and harms nothing.

What would hang runs in a forked child, so that it costs its test and no other.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log, Retention
from mpcheckpoint._logfile.clock import PureHighestStamp, clock
from mpcheckpoint._logfile.descriptors import pool
from mpcheckpoint._store.process import process
from mpcheckpoint._view.view import LogView
from mpcheckpoint._work.flag import Flag
from mpcheckpoint.errors import ReentrancyError
from support.interrupts import interrupted_everywhere
from support.processes import in_a_child
from support.verbs import (
    LOG,
    Faults,
    assert_goes_on,
    bounded,
    is_locked,
    lock_file,
    seen_anew,
    store_of,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import FrameType


# Asked for in the test: another clock is the process's then. That of native code has no mutex.
_CLOCK = {"clock": lambda: clock.highest} if isinstance(clock.highest, PureHighestStamp) else {}
SHARED_BY_ALL_LOGS: dict[str, Callable[[], object]] = {
    **_CLOCK,
    "pool": lambda: pool,
    "registry": lambda: process,
}


# --- a Ctrl-C anywhere ---------------------------------------------------------------------------------------


def commit(log: Log) -> None:
    with log.transaction() as transaction:
        transaction.events("z")
        transaction.append("x", 1)


CALLS: dict[str, Callable[[Log], object]] = {
    "append": lambda log: log.append("x", 1),
    "append with a condition": lambda log: log.append("y", 1, expected_count=log.count("y")),
    "transaction": commit,
    "events": lambda log: log.events("z"),
    "count": lambda log: log.count("z"),
    "stats": lambda log: log.stats(),
}


@pytest.mark.guarantee(8)
@pytest.mark.parametrize("call", CALLS)
def test_call_interrupted_at_any_place_locks_out_nobody_though_the_interrupt_is_kept(
    log: Log, call: str
) -> None:
    log.append("x", 0)
    kept = []
    with ThreadPoolExecutor(1) as other_thread, Checkpoint(store_of(log)) as other:
        for interrupt in interrupted_everywhere(lambda: CALLS[call](log)):
            kept.append(interrupt)
            other_thread.submit(bounded, log.append, "x", "of another thread").result()
            other_thread.submit(bounded, log.count, "x").result()
            bounded(other.log(LOG).append, "x", "of another handle")
            log.append("x", "of this thread")
    assert kept
    assert_goes_on(log, list(log.events("x")))


@pytest.mark.guarantee(8)
@pytest.mark.guarantee(1)
def test_append_of_the_interval_setting_interrupted_at_any_place_keeps_nobody_from_being_synced(
    store: Path,
) -> None:
    assert in_a_child(synced_after_interrupts, store)


def synced_after_interrupts(store: Path) -> bool:
    log = Checkpoint(store, durability="interval:10").log("a")
    log.append("x", 0)
    kept = []
    for interrupt in interrupted_everywhere(lambda: scheduled_anew(log)):
        kept.append(interrupt)
        bounded(log.append, "x", "of another thread")
    with pytest.MonkeyPatch.context() as patches:
        syncs = Faults(patches).watch("sync_data", on=LOG)
        bounded(log.append, "x", "of another thread")
        wait_until(lambda: syncs.seen, "the background thread has synced it")
    return bool(kept)


def scheduled_anew(log: Log) -> None:
    """Append as the first one that needs the background thread."""
    process.interval.reset_after_fork()
    log.append("x", 1)


@pytest.mark.guarantee(8)
def test_opening_interrupted_at_any_place_keeps_nobody_from_having_a_log_looked_after(store: Path) -> None:
    assert in_a_child(looked_after_after_interrupts, store)


def looked_after_after_interrupts(store: Path) -> bool:
    retention = Retention(keep_last=5)
    checkpoint = Checkpoint(store)
    checkpoint.log("a", retention=retention).append("x", 0)
    kept = []
    for interrupt in interrupted_everywhere(lambda: checkpoint.log("a", retention=retention)):
        kept.append(interrupt)
        bounded(partial(checkpoint.log, "a", retention=retention))
    bounded(checkpoint.close)
    return bool(kept)


@pytest.mark.guarantee(7)
def test_fork_interrupted_at_any_place_locks_out_nobody(store: Path) -> None:
    assert in_a_child(appended_to_after_interrupted_forks, store)


def appended_to_after_interrupted_forks(store: Path) -> bool:
    log = Checkpoint(store).log("a")
    log.append("x", 0)
    (writer,) = process._writers.values()
    parent, forks = os.getpid(), 0

    def fork() -> None:
        nonlocal forks
        writer.lock.is_held = writer.commit.is_leading = True  # as if other threads were giving both back
        pid = None
        try:
            pid = os.fork()
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)  # no more places
            if pid == 0:
                os._exit(0)
            writer.lock.is_held = writer.commit.is_leading = False
        os.wait()
        forks += 1
        bounded(log.append, "x", "of another thread")

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr("sys.unraisablehook", lambda _: None)  # the interpreter goes on with the fork
        for _ in interrupted_everywhere(fork, lambda: interrupt_in(parent)):
            pass
    assert not process._resumes
    return forks > 20


def interrupt_in(pid: int) -> None:
    if os.getpid() == pid:
        raise KeyboardInterrupt


@pytest.mark.guarantee(7)
def test_child_that_was_interrupted_while_it_let_go_of_what_it_inherited_does_that_anew(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append("x", 0)
    (writer,) = process._writers.values()
    reset, calls = pool.reset_after_fork, []

    def interrupted_once() -> None:
        calls.append(None)
        if len(calls) == 1:
            raise KeyboardInterrupt
        reset()

    monkeypatch.setattr("sys.unraisablehook", lambda _: None)
    with monkeypatch.context() as patched:
        patched.setattr(pool, "reset_after_fork", interrupted_once)
        pid = os.fork()
        if pid == 0:
            os._exit(writer.log is not None)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.guarantee(11)
def test_flag_that_is_set_or_waited_for_is_sound_wherever_that_is_interrupted() -> None:
    for act in (Flag.set, lambda flag: flag.wait(0.001)):
        flags: list[Flag] = []

        def acted(act: Callable[[Flag], object] = act, flags: list[Flag] = flags) -> None:
            flags.append(Flag())
            act(flags[-1])

        for _ in interrupted_everywhere(acted):
            if not flags:
                continue
            bounded(flags[-1].set)
            assert bounded(flags[-1].wait, 60)
            assert bounded(flags[-1].wait, 60)
        assert len(flags) > 1
    assert not Flag().wait(0.001)


# --- a view in mid-refresh -----------------------------------------------------------------------------------


def on_signal(act: Callable[[], object]) -> None:
    signal.signal(signal.SIGUSR1, lambda *_: act())


@pytest.mark.guarantee(4)
@pytest.mark.parametrize("is_applied", [False, True])
def test_reentry_in_mid_refresh_leaves_no_view_behind(log: Log, is_applied: bool) -> None:
    log.append("x", 1, record_id="id")

    assert in_a_child(read_reentered, log, is_applied) == [(0, 1), (0, 1), 2]


def read_reentered(log: Log, is_applied: bool) -> list[object]:
    """Return what is read after a handler raised in a refresh, here and anew, and the count after a retry."""
    fresh = Checkpoint(store_of(log)).log("a")
    on_signal(lambda: fresh.events("x"))
    with pytest.MonkeyPatch.context() as patches:
        apply = LogView.apply

        def interrupted(view: LogView, chunk: Any) -> None:
            if is_applied:
                apply(view, chunk)
            signal.raise_signal(signal.SIGUSR1)

        patches.setattr(LogView, "apply", interrupted)
        with pytest.raises(ReentrancyError):
            fresh.events("x")
    events = fresh.events("x")
    fresh.append("x", 1, record_id="id")
    return [events, tuple(seen_anew(fresh)), fresh.count("x")]


# --- a sync --------------------------------------------------------------------------------------------------


@pytest.mark.guarantee(8)
def test_append_from_a_signal_handler_inside_a_sync_is_written(log: Log) -> None:
    in_a_child(append_in_a_sync, log)

    assert_goes_on(log, [0, "work", "handler"])


def append_in_a_sync(log: Log) -> None:
    on_signal(lambda: log.append("x", "handler"))

    def interrupted(real: Callable[..., None], fd: int) -> None:
        signal.raise_signal(signal.SIGUSR1)
        real(fd)

    with pytest.MonkeyPatch.context() as patches:
        log.append("y", "first use, which syncs too")
        Faults(patches).act("sync_data", interrupted, on=LOG)
        log.append("x", "work")


# --- what all logs of a process share ------------------------------------------------------------------------


class Interrupted:
    """A mutex in whose holder a signal arrives, once, right behind taking it."""

    def __init__(self, mutex: Any) -> None:
        self._mutex = mutex
        self.is_due = True

    def __enter__(self) -> None:
        self._mutex.__enter__()
        if self.is_due:
            self.is_due = False
            signal.raise_signal(signal.SIGUSR1)

    def __exit__(self, *error: object) -> None:
        self._mutex.__exit__(*error)


@pytest.mark.guarantee(8)
@pytest.mark.parametrize("shared", SHARED_BY_ALL_LOGS)
def test_append_to_another_log_from_a_signal_handler_never_waits_for_its_own_thread(
    store: Path, log: Log, shared: str
) -> None:
    assert in_a_child(write_two_logs, store, shared) is True

    assert not is_locked(lock_file(store))
    assert_goes_on(log, [0, 1])
    assert Checkpoint(store).log("b").events("x") == (0, "handler")


def write_two_logs(store: Path, shared: str) -> bool:
    """Append to a log while a handler appends to another; return whether the handler ran in the mutex."""
    log, other = (Checkpoint(store).log(log_key) for log_key in "ab")
    other.append("x", 0)

    def handle() -> None:
        other.append("x", "handler")
        other.events("x")

    on_signal(handle)
    owner: Any = SHARED_BY_ALL_LOGS[shared]()
    with pytest.MonkeyPatch.context() as patches:
        mutex = Interrupted(owner._mutex)
        patches.setattr(owner, "_mutex", mutex)
        log.append("x", 1)
        log.events("x")
    return not mutex.is_due


# --- a follower ----------------------------------------------------------------------------------------------


@pytest.mark.guarantee(8)
def test_follower_closed_by_a_signal_handler_at_any_line_of_its_waiting_ends(log: Log) -> None:
    closed = in_a_child(close_at_each_line, log, 150)

    assert closed == 150


def close_at_each_line(log: Log, lines: int) -> int:
    """Follow, closed from a handler at the first line of Python, the second, and so on; return how often it ended."""
    for line in range(1, lines + 1):
        follower = log.follow("end")
        on_signal(follower.close)
        left = line

        def trace(_: FrameType, event: str, __: object) -> Any:
            nonlocal left
            left -= event == "line"
            if left > 0:
                return trace
            sys.settrace(None)
            signal.raise_signal(signal.SIGUSR1)
            return None

        sys.settrace(trace)
        try:
            assert list(follower) == []
        finally:
            sys.settrace(None)
    return lines


@pytest.mark.guarantee(4)
def test_follower_interrupted_anywhere_in_a_look_gives_out_every_record(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append_many([("x", 1), ("x", 2)])
    log.append("x", 3)
    for number in itertools.count(1):
        follower = log.follow(idle_timeout_s=0)
        found = []
        with monkeypatch.context() as patches:
            calls = interrupt_at_call(patches, number)
            try:
                found += follower
            except KeyboardInterrupt:
                found += follower
        assert [record.event for record in found] == [0, 1, 2, 3]
        if len(calls) < number:
            break
    assert number > 1


def interrupt_at_call(patches: pytest.MonkeyPatch, number: int) -> list[int]:
    """Raise KeyboardInterrupt at the so-many-th note that the clock takes: readers are in mid-step then."""
    real, calls = clock.observe, list[int]()

    def observe(stamp_us: int) -> None:
        calls.append(stamp_us)
        if len(calls) == number:
            raise KeyboardInterrupt
        real(stamp_us)

    patches.setattr(clock, "observe", observe)
    return calls
