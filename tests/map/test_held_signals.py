"""A Ctrl-C at any place where a map hands out items: no thread hangs, and there is no process that nobody knows of."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint._work import process_pool, ticket
from mpcheckpoint._work.held_signals import HeldSignals
from mpcheckpoint._work.input_thread import InputThread
from mpcheckpoint._work.inputs import Input
from mpcheckpoint._work.plan import LogRef, Plan
from mpcheckpoint._work.pool import ExecutorPool
from mpcheckpoint._work.process_pool import ProcessPool
from mpcheckpoint._work.report import ItemReport, Kind
from mpcheckpoint._work.run_item import FunctionCall
from mpcheckpoint._work.runs import join_run
from mpcheckpoint._work.worker_options import WorkerOptions
from mpcheckpoint.log import handle_of
from support.interrupts import interrupted_everywhere
from support.verbs import bounded, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpcheckpoint import Log

pytestmark = pytest.mark.guarantee(11)

CTRL_C = partial(signal.raise_signal, signal.SIGINT)
ENTRIES = [Input(place, name, name, {}) for place, name in enumerate("ab")]


class NoRunner:
    """Runs nothing, and says so at once."""

    def __init__(self, plan: Plan) -> None:
        del plan

    def run(self, entry: Input, following: Callable[[], Input | None]) -> Iterator[ItemReport]:
        next_entry: Input | None = entry
        while next_entry is not None:
            next_entry = following()
            yield ItemReport(Kind.TAKEN)


class Waiting(ThreadPoolExecutor):
    """An executor whose ``submit`` waits until a Ctrl-C comes."""

    def submit(self, *arguments: Any, **options: Any) -> Future[Any]:
        signal.raise_signal(signal.SIGINT)
        return super().submit(*arguments, **options)


def plan_of(log: Log) -> Plan:
    handle = handle_of(log)
    return Plan(LogRef(handle), join_run(handle, ""), FunctionCall(str))


def test_executor_whose_items_were_interrupted_at_any_place_ends(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ticket, "ItemRunner", NoRunner)
    plan = plan_of(log)
    begun: list[tuple[ThreadPoolExecutor, ExecutorPool]] = []
    ended = 0

    def hand_over() -> None:
        executor = ThreadPoolExecutor(2)
        pool = ExecutorPool(plan, executor, 2)
        begun.append((executor, pool))
        for entry in ENTRIES:
            pool.submit(entry)
        pool.collect(0)
        pool.recall()
        pool.stop(is_interrupted=False)

    for _ in interrupted_everywhere(hand_over, CTRL_C):
        while begun:
            executor, pool = begun.pop()
            bounded(partial(pool.stop, is_interrupted=True))
            bounded(executor.shutdown)
            ended += 1
    assert ended > 50


def test_ctrl_c_ends_the_wait_of_another_executor_and_its_item_does_not_run(log: Log) -> None:
    with Waiting(1) as executor:
        pool = ExecutorPool(plan_of(log), executor, 1)
        with pytest.raises(KeyboardInterrupt):
            pool.submit(ENTRIES[0])
        assert not pool._waiting
        pool.stop(is_interrupted=True)


def test_thread_of_an_iterable_ends_wherever_its_start_was_interrupted() -> None:
    def start() -> None:
        InputThread(iter(()))

    interrupted = sum(1 for _ in interrupted_everywhere(start, CTRL_C))  # which keeps no exception

    assert interrupted > 20
    wait_until(lambda: "mpcheckpoint-items" not in [each.name for each in threading.enumerate()], "all end")


def is_reaped(pid: int) -> bool:
    """Return whether a child has ended and somebody has reaped it."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return True
    return False


def test_worker_process_whose_start_was_interrupted_is_reaped(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork, pids = os.fork, []

    def interrupted_fork() -> int:
        pid = fork()
        if pid:
            pids.append(pid)
            CTRL_C()
        return pid

    monkeypatch.setattr(process_pool, "_UNWIND_S", 0.01)
    monkeypatch.setattr(os, "fork", interrupted_fork)
    workers = ProcessPool(plan_of(log), 1, multiprocessing.get_context("fork"), WorkerOptions())
    with pytest.raises(KeyboardInterrupt):
        workers.submit(ENTRIES[0])

    workers.stop(is_interrupted=True)

    assert list(map(is_reaped, pids)) == [True]


def test_dead_worker_process_whose_end_was_interrupted_at_any_place_is_reaped(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_pool, "_UNWIND_S", 0.01)
    plan, context = plan_of(log), multiprocessing.get_context("fork")
    begun: list[tuple[ProcessPool, int]] = []
    ended = 0

    def end() -> None:
        interrupt = sys.getprofile()
        sys.setprofile(None)
        workers = ProcessPool(plan, 1, context, WorkerOptions())
        member = workers._start()
        begun.append((workers, member.process.pid))
        member.process.kill()
        sys.setprofile(interrupt)
        workers._bury(member)

    for _ in interrupted_everywhere(end, CTRL_C):
        while begun:
            workers, pid = begun.pop()
            workers.stop(is_interrupted=True)
            assert is_reaped(pid)
            ended += 1
    assert ended > 30


# --- holding signals ---------------------------------------------------------------------------------------


class Handled:
    """Handlers of a program for Ctrl-C and SIGTERM, which count and raise."""

    def __init__(self) -> None:
        self.counts = {signal.SIGINT: 0, signal.SIGTERM: 0}
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Handled:
        self._before = {number: signal.signal(number, self._take) for number in self.counts}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: object) -> None:
        del frame
        self.counts[signal.Signals(number)] += 1
        raise KeyboardInterrupt

    def assert_in_place(self) -> None:
        """What comes now is handled at once, and once."""
        for number, count in list(self.counts.items()):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
            assert self.counts[number] == count + 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_block_that_holds_signals_is_never_cut_in_two_and_each_signal_is_handled_once(
    number: signal.Signals,
) -> None:
    halves = [0, 0]
    come = 0

    def raise_it() -> None:
        nonlocal come
        come += 1
        signal.raise_signal(number)

    def act() -> None:
        with HeldSignals():
            halves[0] += 1
            os.getpid()  # a place
            halves[1] += 1

    with Handled() as handled:
        for _ in interrupted_everywhere(act, raise_it):
            assert handled.counts[number] == come
            assert halves[0] == halves[1]
            handled.assert_in_place()
            handled.counts[number] = come
    assert come > 5


def test_second_signal_of_a_kind_is_not_held_and_all_others_are_handled_in_the_end() -> None:
    def act() -> None:
        with HeldSignals():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            assert handled.counts == {signal.SIGINT: 0, signal.SIGTERM: 0}
            signal.raise_signal(signal.SIGINT)

    with Handled() as handled:
        with pytest.raises(KeyboardInterrupt):
            act()
        assert handled.counts == {signal.SIGINT: 2, signal.SIGTERM: 1}
        handled.assert_in_place()


def test_forked_child_holds_nothing() -> None:
    def act() -> None:
        with HeldSignals():
            signal.raise_signal(signal.SIGINT)
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    handled.assert_in_place()
                    code = 0 if handled.counts[signal.SIGINT] == 1 else 2
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert handled.counts[signal.SIGINT] == 0

    with Handled() as handled:
        with pytest.raises(KeyboardInterrupt):
            act()
        assert handled.counts[signal.SIGINT] == 1


def test_another_thread_holds_nothing_of_the_main_one() -> None:
    with Handled() as handled:

        def hold() -> None:
            with HeldSignals():
                assert signal.getsignal(signal.SIGINT) == handled._take

        bounded(hold)
        handled.assert_in_place()
    assert threading.current_thread() is threading.main_thread()
