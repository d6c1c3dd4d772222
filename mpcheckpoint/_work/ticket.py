"""An item on its way into an executor of the caller's."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import CancelledError
from functools import partial
from typing import TYPE_CHECKING, Any

from mpcheckpoint._work.report import ItemReport, Kind
from mpcheckpoint._work.run_item import ItemRunner, run_item

if TYPE_CHECKING:
    from concurrent.futures import Future
    from queue import SimpleQueue

    from mpcheckpoint._work.executor_deaths import SentInput
    from mpcheckpoint._work.inputs import Input
    from mpcheckpoint._work.plan import Plan

# A thread goes on with further items for so long; then what else the executor was given gets its turn.
_STINT_S = 0.1
_NOBODY = object()


class Ticket:
    """An item on its way into an executor, which can be recalled.

    An executor queues what it is given before it starts a thread or process for it. If none can start, ``submit``
    raises but the item stays in the queue. Once a thread or process started later, the item would run unasked.

    Rejected: a Future of our own for what becomes of the item. Its methods are code of Python that takes a lock: a
    Ctrl-C in the thread of the map may leave it taken, and the thread that runs the item hangs. Here each decision is
    one call into C, and the first one counts.

    Invariant: of the threads one takes a ticket out of ``waiting``, and that one runs it unless it was recalled (held
    by tests/map/test_item_batch.py).

    Attributes:
        given: the item, as it was before.
        is_sent: it was sent to a process.
    """

    def __init__(
        self, plan: Plan, given: SentInput, waiting: deque[Ticket], done: SimpleQueue[Ticket]
    ) -> None:
        """Wait in ``waiting``; go into ``done`` once it is known what became of the item."""
        self._plan = plan
        self.given = given
        self.entry = given.entry
        self._waiting = waiting
        self._done = done
        self._user: dict[str, object] = {}
        self._told: dict[str, ItemReport | BaseException] = {}
        self._call: Future[Any] | None = None  # the executor's: an ItemReport, or None if it ran here
        self.is_sent = False
        waiting.append(self)

    @property
    def is_told(self) -> bool:
        """Whether it is known what became of the item."""
        return bool(self._told)

    def result(self) -> ItemReport:
        """Return what became of the item, or raise it. Requires: it is told."""
        told = self._told["is"]
        if isinstance(told, BaseException):
            raise told
        return told

    def __call__(self) -> None:
        """Run the item in this thread, and those that follow; nothing if it was recalled, or another thread has it."""
        if not self._leave() or not self._begin():
            return
        until_s = time.monotonic() + _STINT_S
        taken = deque([self])

        def following() -> Input | None:
            while self._waiting and time.monotonic() < until_s:
                try:
                    ticket = self._waiting.popleft()
                except IndexError:
                    break  # another thread was quicker
                if ticket._begin():
                    taken.append(ticket)
                    return ticket.entry
            return None

        try:
            for report in ItemRunner(self._plan).run(self.entry, following):
                taken.popleft()._tell(report)
        except BaseException as error:  # noqa: BLE001 - the map raises it
            for ticket in taken:  # the second one did not begin
                ticket._tell(error)

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.is_sent:
            if not self._leave() or not self._begin():
                return partial, (ItemReport, Kind.TAKEN)
            self.is_sent = True
        return partial, (run_item, self._plan, self.entry)

    def follow(self, call: Future[Any]) -> None:
        """Take the report from the executor's call, if that runs the item elsewhere, or cannot run it at all."""
        self._call = call
        call.add_done_callback(self._take)

    def recall(self) -> bool:
        """Take the item back; return False if it has started, or was sent. Recalling twice is fine."""
        if self._user.setdefault("is", _NOBODY) is not _NOBODY:
            return False
        self._leave()
        if self._call is not None:
            self._call.cancel()  # it would do nothing
        return True

    def _begin(self) -> bool:
        """Return whether the item is to begin: it neither has, nor was it recalled."""
        this = object()
        return self._user.setdefault("is", this) is this

    def _tell(self, told: ItemReport | BaseException) -> None:
        """Tell what became of the item; nothing if that was told."""
        if self._told.setdefault("is", told) is told:
            self._done.put(self)

    def _leave(self) -> bool:
        try:
            self._waiting.remove(self)
        except ValueError:
            return False
        return True

    def _take(self, call: Future[Any]) -> None:
        if call.cancelled():
            if self.recall():  # by the executor's owner; else another thread runs the item
                self._tell(CancelledError())
            return
        error = call.exception()
        if error is not None:
            self._tell(error)
        elif (report := call.result()) is not None:
            self._tell(report)
