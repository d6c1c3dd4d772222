"""The loop of a parallel map: inputs in, outcomes out, and a bounded number of them in between."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Generic

from mpcheckpoint._work.counts import ProgressMeter, running_of
from mpcheckpoint._work.dispatch import Dispatcher
from mpcheckpoint._work.held_items import HeldItemNotices
from mpcheckpoint._work.input_thread import InputThread
from mpcheckpoint._work.look_ahead import LookAhead
from mpcheckpoint._work.outcomes import R_co, T_co
from mpcheckpoint._work.output_queue import OutputQueue
from mpcheckpoint._work.plan import OnError, Options, Plan
from mpcheckpoint._work.presence import Presence
from mpcheckpoint._work.shortage import outlast_shortage
from mpcheckpoint.errors import ClosedError, ItemFailedError, ReentrancyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint._work.inputs import Input, NotYet
    from mpcheckpoint._work.outcomes import Outcome
    from mpcheckpoint._work.pool import WorkerPool

_FIRST_SOURCE_PAUSE_S = 0.001
_LONGEST_SOURCE_PAUSE_S = 0.02
_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.5
# So many inputs at most are taken at a time while others are not finished.
_MOST_BESIDE = 32


class MapRun(Generic[T_co, R_co]):
    """A parallel map under way: iterate over it to get its outcomes. Get it from ``Log.map``.

    Each outcome is durable before it is given out. While nobody iterates, the items that workers have are run and
    recorded, and no more are taken: memory is bounded however many there are.

    Use it in a ``with`` statement, or call ``close``, to end it before all is done: what runs then is given back, and
    the next start of the map carries on. An exception closes it, and so does a Ctrl-C. If another Ctrl-C interrupts
    the close, that ends what runs at once, and the next ``close`` does the rest.

    Processes and threads that the function leaves behind keep a worker process from ending. The map waits 5 s for it:
    at its end, after which it kills the worker process; and before it replaces one after ``tasks_per_worker`` items,
    after which that is left to itself. What a function starts it should end, or make daemonic; a program that was
    started by ``subprocess`` keeps nobody waiting, and lives on.

    Concurrency: for one thread. Any number of processes may run the same map on the same log; they share the work. A
    forked child has no part in the map: there, iterating raises ClosedError, and ``close`` does nothing.
    """

    def __init__(
        self, plan: Plan, source: Iterator[Input | NotYet], pool: WorkerPool, options: Options
    ) -> None:
        self._plan = plan
        self._log = plan.log.log
        self._source = source
        self._ahead = LookAhead(source)
        self._pool = pool
        self._options = options
        self._outputs = OutputQueue(is_ordered=options.ordered)
        self._dispatcher = Dispatcher(plan, pool, options, self._outputs)
        self._meter = ProgressMeter(options.progress, self._log, self._dispatcher.counts)
        self._notices = HeldItemNotices(self._log, options.on_wait)
        self._error: Exception | None = None  # of an input, to be raised when what is ready was given out
        self._source_pause_s = _FIRST_SOURCE_PAUSE_S
        self._pause_s = _FIRST_PAUSE_S
        self._pid = os.getpid()
        self._is_closing = False
        # Invariant: true only once everything has ended, so that the next close makes up for one that was interrupted
        # (held by tests/map/test_map_endings.py).
        self._is_closed = False
        self._presence = self._shown()
        self._begin()

    # --- for the caller ---------------------------------------------------------------------------------------

    def __iter__(self) -> MapRun[T_co, R_co]:
        return self

    def __next__(self) -> Outcome[T_co, R_co]:
        """Return the next outcome; wait for it.

        Raises:
            StopIteration: all items are done, or the map was closed.
            ChangedItemError, ChangedVersionError, TypeError, InvalidKeyError: an item cannot be run.
            WorkerDiedError: worker processes cannot be started, or the executor is broken or was shut down.
            InvalidItemError: an item cannot be sent to a worker process.
            InvalidResultError: the function returned something that is no JSON value, ``max_invalid_results`` times
                in a row.
            ClosedError: this is a forked child of the process that the map belongs to.
            ReentrancyError: the iterable that the items come from called this; the map goes on.
            ShortageError: the machine is short of something, and for a minute nothing ran.
            CheckpointError: an outcome could not be recorded; or the file was removed by which the workers of a map
                with ``on_error`` "halt" or "raise" know that they may start items.
            And with ``on_error="raise"`` what a failed item raised; ItemFailedError if it had failed before.
        """
        if isinstance(self._source, InputThread) and self._source.is_current:
            raise ReentrancyError(
                "the items of a map cannot come from iterating over that very map; have the loop that takes its "
                "outcomes put them into a queue, and the items come from there",
                reason="reentered",
            )
        try:
            self._require_own_process()
            while not self._is_closing:
                if self._options.progress is not None:
                    self._meter.show(self._items(), self._dispatcher.running)
                outcome = self._outputs.take()
                if outcome is not None:
                    return outcome if outcome.ok else self._failure(outcome)
                if self._error is not None:
                    raise self._error
                if not self._advance():
                    self.close()
        except BaseException as error:
            self._close(is_interrupted=isinstance(error, KeyboardInterrupt))
            raise
        self.close()
        raise StopIteration

    def __len__(self) -> int:
        """Return how many items this map was given, those included that were done before.

        Raises:
            TypeError: that is not known: what they come from has no length, and has not ended yet.
        """
        items = self._items()
        if items is None:
            raise TypeError(
                "how many items there are is not known before the last one was taken: what they come from has no "
                "length"
            )
        return items

    def __bool__(self) -> bool:
        """Return True: that a map has no items, or that nobody knows how many, makes it no less of a map."""
        return True

    @property
    def done(self) -> int:
        """How many items have an outcome, those included that were done before, and those that others did."""
        return self._dispatcher.counts.done

    @property
    def failed(self) -> int:
        """How many of the items that are done failed, now or before. What was done before counts once it was met."""
        return self._dispatcher.counts.failed

    @property
    def running(self) -> int:
        """How many items the workers of this map run now. Looks into the log."""
        return len(running_of(self._log, self._dispatcher.running))

    @property
    def left(self) -> int | None:
        """How many items have no outcome yet, those that run included; None if ``len`` is not known."""
        items = self._items()
        return None if items is None else items - self.done

    @property
    def failures(self) -> int:
        """How many of the items that ran in this map have failed so far."""
        return self._dispatcher.failures

    @property
    def is_halted(self) -> bool:
        """Whether so many items failed that ``halt``, or ``on_error="halt"``, keeps the others from being started."""
        return self._dispatcher.is_halted

    def close(self) -> None:
        """End the map: what was not started is dropped, what runs is given back. Closing twice is fine.

        Items in an executor of the caller's cannot be interrupted: this waits for them, and they are recorded.
        """
        self._close(is_interrupted=False)

    def __enter__(self) -> MapRun[T_co, R_co]:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._close(is_interrupted=isinstance(error, KeyboardInterrupt))

    def _close(self, *, is_interrupted: bool) -> None:
        if self._is_closed or self._pid != os.getpid():
            return
        self._is_closing = True
        if isinstance(self._source, InputThread):
            self._source.stop()
        try:
            self._pool.stop(is_interrupted=is_interrupted)
        finally:
            self._presence.retire()
            if self._plan.permit is not None:
                self._plan.permit.retire()
            self._meter.close(self._items())
        self._log.workers.clear()
        self._is_closed = True

    def _require_own_process(self) -> None:
        if self._pid != os.getpid():
            raise ClosedError(
                "this process was forked from the one that the map belongs to, and has no part in it. Start a map of "
                "its own here to share the items",
                reason="forked",
            )

    def _failure(self, outcome: Outcome) -> Outcome:
        if self._options.on_error is not OnError.RAISE:
            return outcome
        if self._outputs.raised is not None:
            raise self._outputs.raised
        raise ItemFailedError(outcome.object_key, outcome.error or "for an unknown reason")

    def _shown(self) -> Presence:
        workers, log_key, run = self._log.workers, self._log.log_key, self._plan.run.note
        try:
            return outlast_shortage(
                lambda: Presence(workers, log_key, run.number, run.rerun), self._options.on_shortage
            )
        except BaseException:
            if self._plan.permit is not None:
                self._plan.permit.retire()
            raise

    # --- the loop ---------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Start the first items, so that work begins before anybody iterates."""
        try:
            while self._can_take() and not self._ahead.is_idle:
                self._take()
        except BaseException as error:
            self._close(is_interrupted=isinstance(error, KeyboardInterrupt))
            raise

    def _advance(self) -> bool:
        """Wait for something to happen; return False when nothing is left to happen."""
        dispatcher = self._dispatcher
        if self._is_over() and not dispatcher.running and not dispatcher.waiting:
            if dispatcher.is_halted and not dispatcher.has_failure and self._plan.permit is not None:
                # All has come in that ran, and none of it failed: the permit was not revoked, it was lost.
                self._plan.permit.renew()
                dispatcher.go_on()
                return True
            return dispatcher.drop_left()
        self._presence.stay()
        reports = self._pool.collect(_shorter(self._patience_s(), self._meter.patience_s))
        for entry, report in reports:
            dispatcher.settle(entry, report)
        if reports:
            self._pause_s = _FIRST_PAUSE_S
            # Before what is ready is given out, so that no worker waits for the caller. Not from an iterable that may
            # wait for what is ready.
            if not isinstance(self._source, InputThread):
                self._take_some(1 + len(reports))
        else:
            # Only now that all ready outcomes were given out: the iterable may wait for one.
            self._take_some(1)
        dispatcher.start_held_back()
        if dispatcher.waiting:
            dispatcher.look_again()
        if dispatcher.waiting and not dispatcher.running:
            self._notices.look(dispatcher.waiting.keys())
        else:
            self._notices.end()
        return True

    def _take_some(self, most: int) -> None:
        """Take inputs, so many times at most, while there is room and the source has some."""
        try:
            while most and self._can_take():
                self._take()
                most = 0 if self._ahead.is_idle else most - 1
        except Exception as error:  # noqa: BLE001 - raised once what is ready was given out
            self._require_own_process()
            self._error = error

    def _is_over(self) -> bool:
        return self._ahead.is_at_end or self._dispatcher.is_halted

    def _patience_s(self) -> float | None:
        """Return how long to wait for a report: for ever, unless something else may happen."""
        if self._can_take():
            return self._source_pause_s if self._ahead.is_idle else 0.0
        pause_s: float | None = None
        if self._dispatcher.needs_look():
            pause_s, self._pause_s = self._pause_s, min(self._pause_s * 1.5, _LONGEST_PAUSE_S)
        return self._dispatcher.patience_s(pause_s)

    def _items(self) -> int | None:
        """Return how many inputs there are, if that is known."""
        return self._ahead.next_place if self._ahead.is_exhausted else self._options.total()

    def _can_take(self) -> bool:
        return not self._is_over() and self._dispatcher.has_room() and self._room() > 0

    def _room(self) -> int:
        return self._outputs.room(self._ahead.place)

    def _take(self) -> None:
        """Take the next inputs, if the source has some now, and add them up to the first that is not done.

        Requires: ``_can_take``.
        """
        ahead, room = self._ahead, self._room()
        # What is ready is given out before the next look at what workers report.
        ahead.read(min(room, _MOST_BESIDE) if self._dispatcher.is_busy else room)
        self._require_own_process()  # the iterable may fork, and return in both processes
        longer_s = min(self._source_pause_s * 1.5, _LONGEST_SOURCE_PAUSE_S)
        self._source_pause_s = longer_s if ahead.is_idle else _FIRST_SOURCE_PAUSE_S
        self._presence.has_items(self._items())
        if ahead.entries:
            ahead.note(were_all_done=self._dispatcher.add(ahead.entries))


def _shorter(first_s: float | None, second_s: float | None) -> float | None:
    """Return the shorter one of two times; None is for ever."""
    return min((each_s for each_s in (first_s, second_s) if each_s is not None), default=None)
