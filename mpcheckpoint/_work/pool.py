"""Worker pools: they take items and report what became of them. Here: one on an executor of the caller's."""

from __future__ import annotations

import os
import time
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from mpcheckpoint._work.refusals import refused_item
from mpcheckpoint._work.report import ItemReport, Kind
from mpcheckpoint._work.run_item import run_item
from mpcheckpoint._work.shortage import shortage_of
from mpcheckpoint.errors import CheckpointError, WorkerDiedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._work.inputs import Input
    from mpcheckpoint._work.plan import Plan

_LOOK_S = 0.1
# The message of an executor's RuntimeError after it was shut down.
_SHUT_DOWN = "cannot schedule new futures after"


class WorkerPool(Protocol):
    """Workers, for one thread that gives them items and collects their reports.

    Attributes:
        most: how many items they take at a time.
    """

    most: int

    def has_room(self) -> bool:
        """Return whether another item can be given out now."""

    def submit(self, entry: Input) -> None:
        """Give out an item. Requires: there is room.

        Raises: among others a shortage that keeps a worker from starting (see ``shortage_of``). Then the item was not
        given out.
        """

    def collect(self, timeout_s: float | None) -> list[tuple[Input, ItemReport]]:
        """Return reports as soon as there are any; none after ``timeout_s``.

        Raises:
            WorkerDiedError: worker processes cannot be started, or the executor is broken.
            InvalidItemError: an item could not be sent to a process.
            CheckpointError: an outcome could not be recorded.
        """

    def recall(self) -> list[Input]:
        """Take back the items that were given out and have not started; return them."""

    def stop(self, *, is_interrupted: bool) -> None:
        """End: what has not started is dropped, what runs is given back or finishes. Stopping twice is fine."""


def default_jobs() -> int:
    """Return how many workers to use: one for each processor that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def jobs_of(executor: Executor) -> int:
    """Return how many workers an executor has; ``default_jobs`` if it does not say."""
    jobs = getattr(executor, "_max_workers", None)
    return jobs if isinstance(jobs, int) else default_jobs()


class ExecutorPool:
    """Runs items in an executor, of threads or processes, that the caller shuts down.

    Gives out a few more items than the executor has workers, so that no worker waits for us. An item is claimed when it
    starts.
    """

    def __init__(
        self, plan: Plan, executor: Executor, jobs: int, *, on_stop: Callable[[], None] = lambda: None
    ) -> None:
        self._plan = plan
        self._executor = executor
        self.most = 2 * jobs
        self._on_stop = on_stop
        self._futures: dict[Future[ItemReport], Input] = {}
        self._done: SimpleQueue[tuple[Input, Future[ItemReport]]] = SimpleQueue()

    def has_room(self) -> bool:
        """Return whether another item can be given out now."""
        return len(self._futures) < self.most

    def submit(self, entry: Input) -> None:
        """Give out an item.

        Raises:
            WorkerDiedError: the executor is broken, or was shut down.
        """
        ticket = _Ticket(self._plan, entry)
        try:
            future = self._executor.submit(ticket)
        except BrokenExecutor as error:
            raise _broken(error) from error
        except Exception as error:
            if isinstance(error, RuntimeError) and str(error).startswith(_SHUT_DOWN):
                raise _broken(error) from error
            if shortage_of(error) is None or ticket.future.cancel():
                raise
            # No new thread could start, but one of the old ones has taken up the item.
            future = ticket.future
        self._futures[future] = entry
        future.add_done_callback(lambda done: self._done.put((entry, done)))

    def collect(self, timeout_s: float | None) -> list[tuple[Input, ItemReport]]:
        """Return reports as soon as there are any."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = _LOOK_S if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                # Rejected: to wait for ever. A signal that arrives in another thread wakes nobody here.
                found = [self._done.get(timeout=min(_LOOK_S, left_s))]
            except Empty:
                if left_s == 0.0:
                    return []
                continue
            while not self._done.empty():
                found.append(self._done.get())
            reports = [(entry, self._report(future)) for entry, future in found if future in self._futures]
            if reports:
                return reports  # none if all of them were recalled

    def recall(self) -> list[Input]:
        """Take back what has not started."""
        recalled = [future for future in self._futures if future.cancel()]
        return [self._futures.pop(future) for future in recalled]

    def _report(self, future: Future[ItemReport]) -> ItemReport:
        entry = self._futures.pop(future)
        try:
            return future.result()
        except (BrokenExecutor, CancelledError) as error:
            raise _broken(error) from error
        except CheckpointError:
            raise
        except Exception as error:
            shortage = shortage_of(error)
            if shortage is not None:  # it kept the item, or its report, from being sent
                return ItemReport(Kind.SHORT, shortage=shortage)
            refused = refused_item(entry, self._executor)
            if refused is None:
                raise
            raise refused from error

    def stop(self, *, is_interrupted: bool) -> None:
        """Drop what has not started, and wait for what runs: it cannot be interrupted from here."""
        del is_interrupted
        for future in self._futures:
            future.cancel()
        self._on_stop()
        for future in self._futures:
            if not future.cancelled():
                future.exception()
        self._futures = {}


class _Ticket:
    """An item on its way into an executor, which can be recalled.

    An executor queues what it is given before it starts a thread or process for it. If none can start, ``submit``
    raises but the item stays in the queue. Once a thread or process started later, the item would run unasked.
    """

    def __init__(self, plan: Plan, entry: Input) -> None:
        self._plan = plan
        self._entry = entry
        self.future: Future[ItemReport] = Future()

    def __call__(self) -> ItemReport:
        if not self.future.set_running_or_notify_cancel():
            return ItemReport(Kind.TAKEN)
        try:
            report = run_item(self._plan, self._entry)
        except BaseException as error:
            self.future.set_exception(error)
            raise
        self.future.set_result(report)
        return report

    def __reduce__(self) -> tuple[Any, ...]:
        if self.future.cancelled():
            return partial, (ItemReport, Kind.TAKEN)
        return partial, (run_item, self._plan, self._entry)


def _broken(error: BaseException) -> WorkerDiedError:
    return WorkerDiedError(
        f"the executor is broken or was shut down ({type(error).__name__}: {error}). What was recorded stays; "
        "start the map again, in another executor, to carry on",
        reason="broken executor",
    )
