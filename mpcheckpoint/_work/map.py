"""The loop of a parallel map: inputs in, outcomes out, and in between a bounded number of them."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from mpcheckpoint._work.asking import AskedApart
from mpcheckpoint._work.deaths import Death, Resting, is_told_to_end
from mpcheckpoint._work.inputs import NOT_YET, LatestItems, NotYet, changed_item
from mpcheckpoint._work.outcomes import Result, is_same, is_same_input, outcome_of
from mpcheckpoint._work.outlet import AsTheyCome, Finished, InOrder, OnError
from mpcheckpoint._work.perform import Failed, Kind, perform
from mpcheckpoint._work.presence import Presence
from mpcheckpoint._work.refusals import InvalidResults
from mpcheckpoint._work.reruns import history_of, tell
from mpcheckpoint._work.retries import Pauses, Retry
from mpcheckpoint._work.runs import own_outcome, state_of
from mpcheckpoint._work.shortage import Starts, begun, shortage_of
from mpcheckpoint._work.status import has_moved_since
from mpcheckpoint._work.waiting import Waits
from mpcheckpoint._work.workers import remove_dead_workers
from mpcheckpoint.errors import ClosedError, ItemFailedError, ReentrancyError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from mpcheckpoint._view.view import LogView
    from mpcheckpoint._work.crew import Crew
    from mpcheckpoint._work.inputs import Input
    from mpcheckpoint._work.outcomes import Outcome
    from mpcheckpoint._work.outlet import Options, Outlet
    from mpcheckpoint._work.perform import Plan, Report
    from mpcheckpoint._work.reruns import RunNote
    from mpcheckpoint._work.runs import State
    from mpcheckpoint._work.shortage import Shortage

_MOST_UNFINISHED = 1000
_FIRST_SOURCE_PAUSE_S = 0.001
_LONGEST_SOURCE_PAUSE_S = 0.02
_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.5


class MapRun:
    """A parallel map under way: iterate over it to have its outcomes. Get it from ``Log.map``.

    Each outcome was durable before it is given out. While nobody iterates, the items given out are worked on and
    recorded, and no more are taken: memory is bounded however many there are.

    Use it in a ``with`` statement, or call ``close``, to end it before all is done: what runs then is given back, and
    whoever starts the map again carries on. An exception, a Ctrl-C too, closes it. If another Ctrl-C interrupts that,
    it ends what runs at once, and the next ``close`` does what is left to do.

    Concurrency: for one thread; any number of processes may run the same map on the same log, and share the work. A
    forked child has no part in the map: there, iterating raises ClosedError, and ``close`` does nothing.
    """

    def __init__(self, plan: Plan, source: Iterator[Input | NotYet], crew: Crew, options: Options) -> None:
        self._plan = plan
        self._log = plan.log.log
        self._source = source
        self._crew = crew
        self._options = options
        self._outlet: Outlet = InOrder() if options.ordered else AsTheyCome()
        # By object key: inputs given out, or taken by others, or at rest before they are retried; those behind the
        # first are its repetitions.
        self._running: dict[str, list[Input]] = {}
        self._waiting: dict[str, list[Input]] = {}
        self._unfinished = 0  # inputs in these two
        self._latest = LatestItems()
        self._invalid_results = InvalidResults(options.max_invalid_results)
        self._pauses = Pauses()
        self._waits = Waits(self._log, options.on_wait)
        self._resting = Resting()
        self._starts = Starts(crew.most, options.on_shortage)
        self._held_back: dict[str, None] = {}  # of those that wait: what comes first when starts go on
        self._recorded = 0  # in the log, when last asked whether others get on
        self._runs: Mapping[int, RunNote] = {plan.run.number: plan.run.note}
        self._next_place = 0
        self._is_exhausted = False
        self._is_source_idle = False
        self._source_pause_s = _FIRST_SOURCE_PAUSE_S
        self._pause_s = _FIRST_PAUSE_S
        self._look_due_s = 0.0
        self._pid = os.getpid()
        self._is_closing = False
        # Invariant: true only once everything was ended, so that a close which was interrupted is made up for by the
        # next (held by tests/map/test_map_endings.py).
        self._is_closed = False
        self._is_halted = False
        self._has_failure = False  # of those that were given out here
        self._presence = self._shown()
        self._begin()

    # --- for the caller ---------------------------------------------------------------------------------------

    def __iter__(self) -> MapRun:
        return self

    def __next__(self) -> Outcome:
        """Return the next outcome, waiting for it.

        Raises:
            StopIteration: all items are done, or the map was closed.
            ChangedItemError, ChangedVersionError, TypeError, InvalidKeyError: an item cannot be run.
            WorkerDiedError: worker processes cannot be started, or the executor is broken or was shut down.
            InvalidItemError: an item cannot be sent to a worker process.
            InvalidResultError: no JSON can hold what the function returned, ``max_invalid_results`` times in a row.
            ClosedError: this is a forked child of the process that the map belongs to.
            ReentrancyError: this was called by the iterable that the items come from; the map goes on.
            ShortageError: the machine is short of something, and for a minute nothing ran.
            CheckpointError: an outcome could not be recorded; or a file was removed by which a map that halts knows
                that it may go on.
            And with ``on_error="raise"`` what a failed item raised; ItemFailedError if it had failed before.
        """
        if isinstance(self._source, AskedApart) and self._source.is_asked_here:
            raise ReentrancyError(
                "the items of a map cannot come from iterating over that very map; have the loop that takes its "
                "outcomes put them into a queue, and the items come from there",
                reason="reentered",
            )
        try:
            self._require_own_process()
            while not self._is_closing:
                finished = self._outlet.take()
                if finished is not None:
                    return self._given_out(finished)
                if not self._advance():
                    self.close()
        except BaseException as error:
            self._close(is_interrupted=isinstance(error, KeyboardInterrupt))
            raise
        self.close()
        raise StopIteration

    @property
    def is_halted(self) -> bool:
        """Whether an item has failed and ``on_error="halt"`` keeps the others from being started."""
        return self._is_halted

    def close(self) -> None:
        """End the map: what was not started is dropped, what runs is given back. Closing twice is fine.

        Items that run in an executor of the caller's cannot be interrupted: this waits for them, and they are recorded.
        """
        self._close(is_interrupted=False)

    def __enter__(self) -> MapRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close(is_interrupted=isinstance(error, KeyboardInterrupt))

    def _close(self, *, is_interrupted: bool) -> None:
        if self._is_closed or self._pid != os.getpid():
            return
        self._is_closing = True
        if isinstance(self._source, AskedApart):
            self._source.stop()
        try:
            self._crew.stop(is_interrupted=is_interrupted)
        finally:
            self._presence.retire()
            if self._plan.permit is not None:
                self._plan.permit.retire()
        remove_dead_workers(self._log.workers_directory)
        self._is_closed = True

    def _require_own_process(self) -> None:
        if self._pid != os.getpid():
            raise ClosedError(
                "this process was forked from the one that the map belongs to, and has no part in it. Start a map of "
                "its own here to share the items",
                reason="forked",
            )

    def _given_out(self, finished: Finished) -> Outcome:
        outcome = finished.outcome
        assert outcome is not None
        if outcome.ok or self._options.on_error is not OnError.RAISE:
            return outcome
        if finished.raised is not None:
            raise finished.raised
        raise ItemFailedError(outcome.object_key, outcome.error or "for an unknown reason")

    def _shown(self) -> Presence:
        directory, log_key, run = self._log.workers_directory, self._log.log_key, self._plan.run
        try:
            return begun(
                lambda: Presence(directory, log_key, run.number, run.rerun), self._options.on_shortage
            )
        except BaseException:
            if self._plan.permit is not None:
                self._plan.permit.retire()
            raise

    # --- the loop ---------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Give out the first items, so that work starts before anybody iterates."""
        try:
            while self._can_take() and not self._is_source_idle:
                self._take()
        except BaseException as error:
            self._close(is_interrupted=isinstance(error, KeyboardInterrupt))
            raise

    def _advance(self) -> bool:
        """Wait for something to happen; return False when nothing is left to happen."""
        if self._is_exhausted and not self._running and not self._waiting:
            if self._is_halted and not self._has_failure and self._plan.permit is not None:
                raise self._plan.permit.loss  # to end as if all were done would hide what was left out
            return False
        reports = self._crew.collect(self._patience_s())
        for entry, report in reports:
            self._settle(entry, report)
        if reports:
            self._pause_s = _FIRST_PAUSE_S
        elif self._can_take():
            # After all that was ready was given out: the iterable may wait for it.
            self._take()
        while self._held_back and self._may_start():
            self._give_out(self._waiting.pop(next(iter(self._held_back))))
        if self._waiting:
            self._look_again()
        if self._waiting and not self._running:
            self._waits.look(self._waiting.keys())
        else:
            self._waits.end()
        return True

    def _patience_s(self) -> float | None:
        """Return how long to wait for a report: for ever, unless something else may come."""
        if self._can_take():
            return self._source_pause_s if self._is_source_idle else 0.0
        pause_s: float | None = None
        if len(self._waiting) > len(self._held_back):
            pause_s, self._pause_s = self._pause_s, min(self._pause_s * 1.5, _LONGEST_PAUSE_S)
        return self._starts.patience_s(pause_s, len(self._running))

    def _can_take(self) -> bool:
        return (
            not (self._is_exhausted or self._held_back)
            and self._may_start()
            and self._unfinished < _MOST_UNFINISHED
            and self._outlet.has_room(self._next_place)
        )

    def _may_start(self) -> bool:
        return self._crew.has_room() and self._starts.has_room(len(self._running))

    def _take(self) -> None:
        """Take the next input: it is done, or somebody else's, or given out. Requires: ``_can_take``."""
        entry = next(self._source, None)
        self._require_own_process()  # an iterable may fork, and return in both
        self._is_exhausted = entry is None
        self._is_source_idle = entry is NOT_YET
        longer_s = min(self._source_pause_s * 1.5, _LONGEST_SOURCE_PAUSE_S)
        self._source_pause_s = longer_s if self._is_source_idle else _FIRST_SOURCE_PAUSE_S
        self._presence.has_items(self._next_place if entry is None else self._options.total())
        if entry is None or isinstance(entry, NotYet):
            return
        self._next_place = entry.place + 1
        self._latest.check(entry)
        self._unfinished += 1
        for pending in (self._running, self._waiting):
            if entry.object_key in pending:
                self._repeat(pending[entry.object_key], entry)
                return
        self._give_out([entry])

    @staticmethod
    def _repeat(known: list[Input], entry: Input) -> None:
        if not is_same(known[0].recorded, entry.recorded):
            raise changed_item(entry)
        known.append(entry)

    def _give_out(self, entries: list[Input]) -> None:
        """Have an input run, unless it is done or taken, or the machine is short of what it takes to start it.

        ``entries`` are the same input, come once or more often.
        """
        try:
            self._start_or_wait(entries)
        except Exception as error:
            shortage = shortage_of(error)
            if shortage is None:
                raise
            self._hold_back(entries, shortage)

    def _start_or_wait(self, entries: list[Input]) -> None:
        object_key = entries[0].object_key
        self._held_back.pop(object_key, None)
        state = self._state(object_key)
        if state.outcome is not None:
            if not is_same_input(state.outcome, entries[0]):
                raise changed_item(entries[0])
            self._finish(entries, state.outcome, is_own=False)
        elif self._is_halted:
            self._drop(entries)
        elif (
            state.is_taken
            or self._resting.is_resting(object_key)
            or not self._pauses.is_over(object_key, state.attempts)
        ):
            self._waiting[object_key] = entries
        elif not self._may_start():
            self._wait_for_room(entries)
        else:
            self._crew.submit(entries[0]._replace(attempts=state.attempts.failed))
            self._running[object_key] = entries

    def _wait_for_room(self, entries: list[Input]) -> None:
        self._waiting[entries[0].object_key] = entries
        self._held_back[entries[0].object_key] = None

    def _hold_back(self, entries: list[Input], shortage: Shortage) -> None:
        """Take back an item that could not be started, and have starts pause.

        Raises:
            ShortageError: this has been so for a minute, and nothing ran.
        """
        for each in [entries, *(self._running.pop(entry.object_key) for entry in self._crew.recall())]:
            self._wait_for_room(each)
        self._starts.has_failed(shortage, len(self._running), self._moves)

    def _moves(self) -> bool:
        """Return whether others who share the log run anything, or have recorded something since this was asked."""
        try:
            is_moving, self._recorded = has_moved_since(self._log, self._recorded)
        except Exception as error:
            if shortage_of(error) is None:
                raise
            return False  # it cannot be seen, for want of the same
        return is_moving

    def _settle(self, entry: Input, report: Report) -> None:
        """Take note of what a worker says of an item."""
        if report.kind is Kind.GIVEN_BACK:
            raise KeyboardInterrupt  # a worker was interrupted, and we are about to be
        entries = self._running.pop(entry.object_key)
        if report.kind not in (Kind.SHORT, Kind.TAKEN):
            self._starts.has_moved()
        if report.kind is Kind.SHORT:
            assert report.shortage is not None
            self._hold_back(entries, report.shortage)
        elif report.kind is Kind.DIED:
            self._bury(entries, entry, report)
        elif report.kind is Kind.KILLED:
            self._resting.rest(entry.object_key, report.pause_s)
            self._options.on_death(Death(entry.object_key, report.deaths, report.cause, report.pause_s))
            self._give_out(entries)
        elif report.kind is Kind.TIMED_OUT:
            error = TimeoutError(report.cause)
            self._fail(entries, entry, Result(False, None, report.cause, error, duration_s=report.duration_s))
        elif report.kind is Kind.TO_RETRY:
            self._options.on_retry(Retry(entry.object_key, entry.attempts + 1, report.cause, report.pause_s))
            self._give_out(entries)
        elif report.kind is Kind.TAKEN:
            self._waiting[entry.object_key] = entries
        elif report.kind is Kind.HALTED:
            self._drop(entries)
            self._halt()
        else:
            is_own = report.kind is Kind.RECORDED
            event = begun(lambda: self._event_of(entry.object_key, is_own=is_own), self._options.on_shortage)
            assert event is not None
            if not is_own and not is_same_input(event, entry):
                raise changed_item(entry)
            told = tell(event)
            is_ok = told is not None and told.is_ok
            self._has_failure |= not is_ok
            self._finish(entries, event, is_own=is_own, raised=report.raised.error)
            if is_own:
                self._invalid_results.check(entry.object_key, report.raised.error, is_ok=is_ok)

    def _state(self, object_key: str) -> State:
        directory = self._log.workers_directory

        def judged(view: LogView) -> State:
            self._runs = history_of(view).by_number  # what is found may be of a run begun after ours
            return state_of(view, self._plan.run, object_key, directory)

        return self._log.query(judged)

    def _event_of(self, object_key: str, *, is_own: bool) -> bytes | None:
        """Return the outcome that counts of an object, or what this run recorded of it: other runs may have recorded it
        anew meanwhile."""
        if not is_own:
            return self._state(object_key).outcome
        found = self._log.query(lambda view: own_outcome(view, self._plan.run, object_key))
        return None if found is None else found.event

    def _finish(
        self, entries: list[Input], event: bytes, *, is_own: bool, raised: BaseException | None = None
    ) -> None:
        self._unfinished -= len(entries)
        self._pauses.forget(entries[0].object_key)
        outcome = outcome_of(event, entries[0].object_key, repeated=not is_own, runs=self._runs)
        for entry in entries:
            is_given_out = is_own or self._options.include_done
            own = replace(outcome, item=entry.item, repeated=not is_own)
            self._outlet.put(entry.place, Finished(own if is_given_out else None, raised))
            if is_own and not outcome.ok and self._options.on_error is not OnError.RECORD:
                self._halt()
            is_own, raised = False, None

    def _halt(self) -> None:
        """Start nothing more: what runs finishes, and failures that are held are recorded; everything else is left to
        the next start."""
        self._is_halted = self._is_exhausted = True
        recalled = [self._running.pop(entry.object_key) for entry in self._crew.recall()]
        left = [object_key for object_key in self._waiting if not self._resting.is_held(object_key)]
        self._held_back.clear()
        for entries in [*recalled, *map(self._waiting.pop, left)]:
            self._drop(entries)

    def _drop(self, entries: list[Input]) -> None:
        self._unfinished -= len(entries)
        for entry in entries:
            self._outlet.put(entry.place, Finished(None))

    def _bury(self, entries: list[Input], given_out: Input, report: Report) -> None:
        """Count the death of the process that ran an item; hold it first, where the whole job may be told to end."""
        death = Result(False, None, f"the process that ran it died: {report.cause}", is_death=True)
        if is_told_to_end(report.exit_code):
            self._hold(entries, given_out, death)
        else:
            self._fail(entries, given_out, death)

    def _hold(self, entries: list[Input], given_out: Input, result: Result) -> None:
        self._resting.hold(given_out, result)
        self._waiting[given_out.object_key] = entries

    def _fail(self, entries: list[Input], given_out: Input, result: Result) -> None:
        """Record a failure for a worker that cannot do it any more; later, where the machine is short of something."""
        report = perform(self._plan._replace(call=Failed(result)), given_out)
        if report.kind is Kind.SHORT:
            assert report.shortage is not None
            self._hold(entries, given_out, result)
            self._starts.has_failed(report.shortage, len(self._running), self._moves)
            return
        self._running[given_out.object_key] = entries
        self._settle(given_out, report)

    def _look_again(self) -> None:
        """See whether what others have taken is done, or was given back, or lost its worker.

        While there is other work, only now and then: nobody is kept waiting by it.
        """
        now_s = time.monotonic()
        if self._running and now_s < self._look_due_s:
            return
        self._look_due_s = now_s + _LONGEST_PAUSE_S / 10
        for entry, result in self._resting.due():
            held = self._waiting.pop(entry.object_key, None)
            if held is not None:
                self._fail(held, entry, result)
        due = [object_key for object_key in self._waiting if not self._is_resting(object_key)]
        for object_key in due:
            entries = self._waiting.pop(object_key, None)
            if entries is not None:  # what was found may have halted the map
                self._give_out(entries)

    def _is_resting(self, object_key: str) -> bool:
        is_resting = self._resting.is_resting(object_key) or self._pauses.is_resting(object_key)
        return is_resting or object_key in self._held_back
