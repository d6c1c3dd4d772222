"""Worker pools: they take items and report what became of them. Here: one on an executor of the caller's."""

from __future__ import annotations

import os
import time
from collections import deque
from concurrent.futures import BrokenExecutor, CancelledError, Executor
from contextlib import nullcontext
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from mpcheckpoint._work.executor_deaths import SentInput, count_deaths, looked_up
from mpcheckpoint._work.held_signals import HeldSignals
from mpcheckpoint._work.refusals import refused_item, sends
from mpcheckpoint._work.report import ItemReport, Kind
from mpcheckpoint._work.shortage import shortage_of
from mpcheckpoint._work.ticket import Ticket
from mpcheckpoint.errors import CheckpointError, WorkerDiedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._format.made_json import Default
    from mpcheckpoint._work.inputs import Input
    from mpcheckpoint._work.plan import Plan

T = TypeVar("T")

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


def arrived(
    queue: SimpleQueue[T], deadline: float | None, look: Callable[[], object] = lambda: None
) -> list[T]:
    """Return what a queue holds, as soon as that is anything; [] at the deadline. ``look`` is called now and then."""
    while True:
        left_s = _LOOK_S if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            # Rejected: to wait for ever. A signal that arrives in another thread wakes nobody here.
            found = [queue.get(timeout=min(_LOOK_S, left_s))]
        except Empty:
            look()
            if left_s == 0.0:
                return []
            continue
        while not queue.empty():
            found.append(queue.get())
        return found


class PoolExecutor(Executor):
    """An executor that has a pool of its own for the items of a map."""

    def require_function(self, fn: object) -> None:
        """Refuse what it cannot run, before anything is run or recorded.

        Raises:
            InvalidFunctionError: ``fn`` is of another kind.
        """
        raise NotImplementedError

    def worker_pool(
        self,
        plan: Plan,
        fn: Callable[..., Any],
        default: Default | None,
        jobs: int | None,
        timeout_s: float | None,
    ) -> WorkerPool:
        """Return a pool for a map of ``fn``; ``default`` makes JSON of what that returns."""
        raise NotImplementedError


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
    """Runs items in an executor, of threads or processes, that the caller shuts down. See ``WorkerPool``.

    Gives out a few more items than the executor has workers, so that no worker waits for us. An item is claimed when it
    starts. A thread that is done with one goes on with the next that waits, and claims it with the outcome of the
    first; what the executor was given for that one then does nothing.

    Where the executor sends items to processes, one that has died before runs alone: see ``executor_deaths``.
    """

    def __init__(self, plan: Plan, executor: Executor, jobs: int) -> None:
        """Give out nothing yet."""
        self._plan = plan
        self._executor = executor
        self.most = 2 * jobs
        self._tickets: set[Ticket] = set()
        self._waiting: deque[Ticket] = deque()
        self._done: SimpleQueue[Ticket] = SimpleQueue()
        self._sends = sends(executor)
        # The ``submit`` of Python's own executors waits for nothing. That of others may, and a Ctrl-C is to end it.
        self._is_quick = type(executor).submit.__module__.startswith("concurrent.futures.")
        self._next_alone: SentInput | None = None  # it waits until nothing else runs
        self._runs_alone = False

    def has_room(self) -> bool:
        if self._next_alone is not None or (self._runs_alone and self._tickets):
            return False
        return len(self._tickets) < self.most

    def submit(self, entry: Input) -> None:
        """Give out an item.

        Raises:
            WorkerDiedError: the executor is broken, or was shut down.
        """
        given = looked_up(self._plan, entry) if self._sends else SentInput(entry, None, 0)
        self._runs_alone = given.deaths > 0
        if self._runs_alone and self._tickets:
            self._next_alone = given
        else:
            self._submit(given)

    def _submit(self, given: SentInput) -> None:
        ticket = Ticket(self._plan, given, self._waiting, self._done)
        if self._is_quick:
            with HeldSignals():
                self._send(ticket)
        else:
            self._send(ticket)

    def _send(self, ticket: Ticket) -> None:
        try:
            call = self._executor.submit(ticket)
        except BaseException as error:
            is_ours = ticket.recall()
            if not is_ours and not ticket.is_sent:
                self._tickets.add(ticket)  # a thread has taken it up, and ``stop`` waits for that
            is_shut_down = isinstance(error, RuntimeError) and str(error).startswith(_SHUT_DOWN)
            if isinstance(error, BrokenExecutor) or is_shut_down:
                raise self._broken(error) from error
            if not isinstance(error, Exception) or shortage_of(error) is None or is_ours:
                raise
            # No new thread could start, but one of the old ones has taken up the item.
            self._tickets.add(ticket)
        else:
            with nullcontext() if self._is_quick else HeldSignals():  # not twice: it costs 40 us
                self._tickets.add(ticket)
                ticket.follow(call)

    def collect(self, timeout_s: float | None) -> list[tuple[Input, ItemReport]]:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            if self._next_alone is not None and not self._tickets:
                given, self._next_alone = self._next_alone, None
                try:
                    self._submit(given)
                except Exception as error:
                    shortage = shortage_of(error)
                    if shortage is None:
                        raise
                    return [(given.entry, ItemReport(Kind.SHORT, shortage=shortage))]
            found = arrived(self._done, deadline)
            reports = [(ticket.entry, self._report(ticket)) for ticket in found if ticket in self._tickets]
            if reports or not found:
                return reports  # none if all of them were recalled

    def recall(self) -> list[Input]:
        with HeldSignals():
            recalled = [ticket for ticket in self._tickets if ticket.recall()]
            self._tickets.difference_update(recalled)
        entries = [ticket.entry for ticket in recalled]
        if self._next_alone is not None:
            entries.append(self._next_alone.entry)
            self._next_alone = None
        return entries

    def _report(self, ticket: Ticket) -> ItemReport:
        self._tickets.discard(ticket)
        try:
            return ticket.result()
        except (BrokenExecutor, CancelledError) as error:
            raise self._broken(error, ticket) from error
        except CheckpointError:
            raise
        except Exception as error:
            shortage = shortage_of(error)
            if shortage is not None:  # it kept the item, or its report, from being sent
                return ItemReport(Kind.SHORT, shortage=shortage)
            refused = refused_item(ticket.entry, self._executor)
            if refused is None:
                raise
            raise refused from error

    def stop(self, *, is_interrupted: bool) -> None:
        """Drop what has not started, and wait for what runs: it cannot be interrupted from here."""
        del is_interrupted
        self._next_alone = None
        with HeldSignals():
            self._tickets.difference_update([ticket for ticket in self._tickets if ticket.recall()])
        while not all(ticket.is_told for ticket in self._tickets):
            arrived(self._done, time.monotonic() + _LOOK_S)
        self._tickets = set()

    def _broken(self, error: BaseException, ticket: Ticket | None = None) -> WorkerDiedError:
        """Return the error for an executor that is broken, when deaths were counted of what ran in it.

        Args:
            ticket: that was just taken out.
        """
        died: list[Input] = []
        if self._sends and isinstance(error, BrokenExecutor):
            tickets = self._tickets if ticket is None else {*self._tickets, ticket}
            by_place = sorted((each.given for each in tickets), key=lambda given: given.entry.place)
            died = count_deaths(self._plan, by_place, error)
        names = ", ".join(repr(entry.object_key) for entry in died)
        return WorkerDiedError(
            f"the executor is broken or was shut down ({type(error).__name__}: {error}). What was recorded stays; "
            "start the map again, in another executor, to carry on"
            + (
                f". A death was counted of what ran in it, {names:.500}: that runs alone from now on"
                if died
                else ""
            ),
            reason="broken executor",
        )
