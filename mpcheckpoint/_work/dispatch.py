"""Items on their way through a map: given to workers, made to wait, and settled by what the workers report."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mpcheckpoint._work.counts import Counts
from mpcheckpoint._work.halt import FailureCount
from mpcheckpoint._work.inputs import Input, LatestItems, changed_item
from mpcheckpoint._work.invalid_results import InvalidResults
from mpcheckpoint._work.item_states import ItemStates
from mpcheckpoint._work.outcomes import Outcome, Recorded, Result, is_same, recorded_in
from mpcheckpoint._work.output_queue import OutputQueue
from mpcheckpoint._work.plan import Options, Plan
from mpcheckpoint._work.report import ItemReport, Kind
from mpcheckpoint._work.retries import Death, Rests, Retry, is_told_to_end
from mpcheckpoint._work.run_item import run_item
from mpcheckpoint._work.runs import ItemState
from mpcheckpoint._work.shortage import Shortage, StartThrottle, outlast_shortage, shortage_of
from mpcheckpoint._work.status import has_moved_since

if TYPE_CHECKING:
    from collections import deque

    from mpcheckpoint._work.pool import WorkerPool

_MOST_UNFINISHED = 1000
_LOOK_EVERY_S = 0.05


class Dispatcher:
    """Holds the items of a map that are not finished, and puts what is finished into the output queue.

    Attributes:
        running: by object key, the inputs that workers have. All after the first one are its repetitions.
        waiting: by object key, the inputs that other processes have, that rest before a retry, or that wait for room.
        is_halted: so many items failed that the map starts no others.
        has_failure: items of this map failed, and that halts it.
        counts: how many inputs have an outcome.
    """

    def __init__(self, plan: Plan, pool: WorkerPool, options: Options, outputs: OutputQueue) -> None:
        self._plan = plan
        self._log = plan.log.log
        self._pool = pool
        self._options = options
        self._outputs = outputs
        self.running: dict[str, list[Input]] = {}
        self.waiting: dict[str, list[Input]] = {}
        self.is_halted = False
        self.has_failure = False
        self.counts = Counts(plan.run.joined_us)
        # Of the waiting ones, those that start first when there is room.
        self._held_back: dict[str, None] = {}
        self._left: list[list[Input]] = []  # those that a halted map has not started
        self._unfinished = 0  # inputs in ``running``, ``waiting`` and ``_left``
        self._latest = LatestItems()
        self._rests = Rests()
        self._throttle = StartThrottle(pool.most, options.on_shortage)
        self._failures = FailureCount(options.halt)
        self._invalid_results = InvalidResults(options.max_invalid_results)
        self._states = ItemStates(plan, options.again)
        self._recorded = 0  # records in the log when ``_moves`` last looked
        self._look_due_s = 0.0

    @property
    def failures(self) -> int:
        """How many items failed that ran here."""
        return self._failures.failed

    @property
    def is_busy(self) -> bool:
        """Whether there are items that are not finished."""
        return bool(self.running or self.waiting)

    # --- starting ---------------------------------------------------------------------------------------------

    def has_room(self) -> bool:
        """Return whether another input may be added."""
        return not self._held_back and self._may_start() and self._unfinished < _MOST_UNFINISHED

    def add(self, ahead: deque[Input]) -> bool:
        """Take the first of these inputs out and in: start it, unless it is done or waits. If it is done, go on with
        those after it that are done as well; all of them are judged in one look. Requires: there is room.

        Returns:
            Whether none is left, and all were done.

        Raises:
            ChangedItemError: the key of one came with another item before. That one was taken out.
        """
        if self._repeats(ahead[0].object_key):
            self._repeat(self._taken_in(ahead))
            return False
        entries: list[Input] = []
        try:
            done, state = self._states.leading(self._leading_keys(ahead))
            # Invariant: what follows an input that was not finished is judged anew, since it may be the same item
            # (held by tests/map/test_map_batches.py).
            for stamp_us, event in done:
                entries = [self._taken_in(ahead)]
                if self._options.again is None:
                    self._finish_found(entries, event, stamp_us)
                elif not self._start(entries, ItemState(event, is_taken=False, outcome_us=stamp_us)):
                    return False
        except Exception as error:
            shortage = shortage_of(error)
            if shortage is None:
                raise
            self._hold_back(entries or [self._taken_in(ahead)], shortage)
            return False
        if state is not None:
            self._start([self._taken_in(ahead)], state)
            return False
        return not ahead

    def _leading_keys(self, ahead: deque[Input]) -> list[str]:
        """Return the object keys up to the first that is on its way already."""
        running, waiting, object_keys = self.running, self.waiting, []
        for entry in ahead:
            object_key = entry.object_key
            if object_key in running or object_key in waiting:
                break
            object_keys.append(object_key)
        return object_keys

    def _taken_in(self, ahead: deque[Input]) -> Input:
        entry = ahead.popleft()
        if entry.recorded:
            self._latest.check(entry)
        self._unfinished += 1
        return entry

    def _repeats(self, object_key: str) -> bool:
        return object_key in self.running or object_key in self.waiting

    def _repeat(self, entry: Input) -> None:
        known = self.running.get(entry.object_key) or self.waiting[entry.object_key]
        if not is_same(known[0].recorded, entry.recorded):
            raise changed_item(entry)
        known.append(entry)

    def start_held_back(self) -> None:
        """Start what waits for room, as far as there is room."""
        while self._held_back and self._may_start():
            self._start(self.waiting.pop(next(iter(self._held_back))))

    def look_again(self) -> None:
        """See whether a waiting item is done, was given back, or lost its worker, or whether its rest is over.

        While other items run, only now and then: this keeps none of them waiting.
        """
        now_s = time.monotonic()
        if self.running and now_s < self._look_due_s:
            return
        self._look_due_s = now_s + _LOOK_EVERY_S
        for entry, result in self._rests.due():
            held = self.waiting.pop(entry.object_key, None)
            if held is not None:
                self._record_failure(held, entry, result)
        due = [key for key in self.waiting if key not in self._held_back and not self._rests.is_resting(key)]
        for object_key in due:
            entries = self.waiting.pop(object_key, None)
            if entries is not None:  # what an earlier one turned out to be may have halted the map
                self._start(entries)

    def needs_look(self) -> bool:
        """Return whether something may change that no worker reports."""
        return len(self.waiting) > len(self._held_back)

    def patience_s(self, pause_s: float | None) -> float | None:
        """Return how long to wait for a report: ``pause_s``, or less while the machine is short of something."""
        is_wanted = bool(self._held_back) and self._pool.has_room()
        return self._throttle.patience_s(pause_s, len(self.running), is_wanted=is_wanted)

    def _may_start(self) -> bool:
        return self._pool.has_room() and self._throttle.has_room(len(self.running))

    def _start(self, entries: list[Input], state: ItemState | None = None) -> bool:
        """Give an input to a worker, unless it is done or waits, or the machine is short of something.

        Args:
            entries: the same input, which came once or more often.
            state: of it, as it was just judged; None to judge it now.

        Returns:
            Whether it is done.
        """
        self._held_back.pop(entries[0].object_key, None)
        try:
            if state is None:
                state = self._states.now(entries[0])
            if self._states.is_void(state, entries[0]):
                entries[0] = entries[0]._replace(void_us=state.outcome_us)
                state = self._states.now(entries[0])
            if state.outcome is None:
                self._begin_or_wait(entries, state)
                return False
            self._finish_found(entries, state.outcome, state.outcome_us)
        except Exception as error:
            shortage = shortage_of(error)
            if shortage is None:
                raise
            self._hold_back(entries, shortage)
            return False
        return True

    def _begin_or_wait(self, entries: list[Input], state: ItemState) -> None:
        object_key = entries[0].object_key
        self._rests.rest_after(object_key, state.attempts)
        if self.is_halted:
            self._left.append(entries)
        elif state.is_taken or self._rests.is_resting(object_key):
            self.waiting[object_key] = entries
        elif not self._may_start():
            self._wait_for_room(entries)
        else:
            self._pool.submit(entries[0]._replace(attempts=state.attempts.failed))
            self.running[object_key] = entries

    def _wait_for_room(self, entries: list[Input]) -> None:
        self.waiting[entries[0].object_key] = entries
        self._held_back[entries[0].object_key] = None

    def _hold_back(self, entries: list[Input], shortage: Shortage) -> None:
        """Take back an item that could not be started, and have starts pause.

        Raises:
            ShortageError: it has been so for a minute, and nothing ran.
        """
        for each in [entries, *self._recalled()]:
            self._wait_for_room(each)
        self._throttle.has_failed(shortage, len(self.running), self._moves)

    def _recalled(self) -> list[list[Input]]:
        return [self.running.pop(entry.object_key) for entry in self._pool.recall()]

    def _moves(self) -> bool:
        """Return whether another process runs an item of this log, or recorded something since the last call."""
        try:
            is_moving, self._recorded = has_moved_since(self._log, self._recorded)
        except Exception as error:
            if shortage_of(error) is None:
                raise
            return False  # the same shortage keeps us from seeing it
        return is_moving

    # --- settling ---------------------------------------------------------------------------------------------

    def settle(self, entry: Input, report: ItemReport) -> None:
        """Take in what a worker reports of an item."""
        if report.kind is Kind.GIVEN_BACK:
            raise KeyboardInterrupt  # a worker was interrupted, and soon we are
        entries = self.running.pop(entry.object_key)
        if report.kind in (Kind.TAKEN, Kind.FOUND):
            self._states.met_another()
        if report.kind not in (Kind.SHORT, Kind.TAKEN):
            self._throttle.has_moved()
        if report.kind is Kind.SHORT:
            assert report.shortage is not None
            self._hold_back(entries, report.shortage)
        elif report.kind is Kind.DIED:
            self._settle_death(entries, entry, report)
        elif report.kind is Kind.KILLED:
            self._rests.rest(entry.object_key, report.pause_s)
            self._options.on_death(Death(entry.object_key, report.deaths, report.cause, report.pause_s))
            self._start(entries)
        elif report.kind in (Kind.TIMED_OUT, Kind.OVER_MEMORY):
            kind = TimeoutError if report.kind is Kind.TIMED_OUT else MemoryError
            error = kind(report.cause)
            result = Result(
                False, None, report.cause, error, duration_s=report.duration_s, worker=report.worker
            )
            self._record_failure(entries, entry, result)
        elif report.kind is Kind.TO_RETRY:
            self._options.on_retry(Retry(entry.object_key, entry.attempts + 1, report.cause, report.pause_s))
            self._start(entries)
        elif report.kind is Kind.TAKEN:
            self.waiting[entry.object_key] = entries
        elif report.kind is Kind.HALTED:
            self._left.append(entries)
            self._stand_still()
        else:
            self._settle_outcome(entries, entry, report)

    def _settle_outcome(self, entries: list[Input], entry: Input, report: ItemReport) -> None:
        is_own = report.kind is Kind.RECORDED
        if report.event is not None:
            state = ItemState(report.event, is_taken=False, outcome_us=report.stamp_us)
        else:
            state = outlast_shortage(
                lambda: self._outcome_of(entry, is_own=is_own), self._options.on_shortage
            )
        event = state.outcome
        assert event is not None
        recorded = recorded_in(event)
        if not is_own and not recorded.is_of(entry):
            raise changed_item(entry)
        if not is_own and self._states.is_void(state, entry):
            # Another start ran it meanwhile, when its file was not yet what it is for us.
            self._start(entries)
            return
        outcome = self._finish(entries, recorded, state.outcome_us, is_own=is_own, raised=report.raised.error)
        if not outcome.ok and recorded.worker == report.worker:  # ours, which ended once it had recorded that
            self.has_failure |= self._plan.permit is not None and self._plan.permit.is_for_one
        if is_own:
            self._invalid_results.check(entry.object_key, report.raised.error, is_ok=outcome.ok)

    def _outcome_of(self, entry: Input, *, is_own: bool) -> ItemState:
        """Return the outcome of an object that counts; or the one of this run, which another run may have replaced."""
        return self._states.own(entry) if is_own else self._states.now(entry)

    def _finish_found(self, entries: list[Input], event: bytes, stamp_us: int) -> None:
        """Give out an outcome that was there already."""
        recorded = recorded_in(event)
        if not recorded.is_of(entries[0]):
            raise changed_item(entries[0])
        self._finish(entries, recorded, stamp_us, is_own=False)

    def _finish(
        self,
        entries: list[Input],
        recorded: Recorded,
        stamp_us: int,
        *,
        is_own: bool,
        raised: BaseException | None = None,
    ) -> Outcome:
        """Give the outcome out for each of these inputs; only the first of them can be what ran here."""
        first, object_key = entries[0], entries[0].object_key
        self._unfinished -= len(entries)
        self._rests.forget(object_key)
        outcome = recorded.outcome(first.item, object_key, stamp_us, self._states.runs, repeated=not is_own)
        do_repeat = self._options.include_done
        self._outputs.put(first.place, outcome if is_own or do_repeat else None, raised)
        for entry in entries[1:]:
            found = recorded.outcome(entry.item, object_key, stamp_us, self._states.runs, repeated=True)
            self._outputs.put(entry.place, found if do_repeat else None)
        self.counts.take(outcome, len(entries))
        if is_own and self._failures.take(is_ok=outcome.ok):
            self._halt()
        return outcome

    def _halt(self) -> None:
        """Start nothing more. What runs finishes; failures that are held are recorded; the next start does the rest."""
        self.has_failure = True
        if self._plan.permit is not None and not self._plan.permit.is_for_one:
            self._plan.permit.revoke()
        self._stand_still()
        self.drop_left()

    def _stand_still(self) -> None:
        self.is_halted = True
        left = [object_key for object_key in self.waiting if not self._rests.is_held(object_key)]
        self._held_back.clear()
        self._left += [*self._recalled(), *map(self.waiting.pop, left)]

    def drop_left(self) -> bool:
        """Leave what was not started to the next start of the map; return whether there was anything."""
        left, self._left = self._left, []
        for entries in left:
            self._unfinished -= len(entries)
            for entry in entries:
                self._outputs.put(entry.place, None)
        return bool(left)

    def go_on(self) -> None:
        """Start items again, those first that were left: no failure had halted the map."""
        left, self._left = sorted(self._left, key=lambda entries: entries[0].place), []
        self.is_halted = False
        for entries in left:
            self._wait_for_room(entries)

    # --- failures that no worker can record -------------------------------------------------------------------

    def _settle_death(self, entries: list[Input], entry: Input, report: ItemReport) -> None:
        """Count the death of the process that ran an item; after a second, if the whole job may be told to end."""
        cause = f"the process that ran it died: {report.cause}"
        death = Result(False, None, cause, is_death=True, worker=report.worker)
        if is_told_to_end(report.exit_code):
            self._hold(entries, entry, death)
        else:
            self._record_failure(entries, entry, death)

    def _hold(self, entries: list[Input], entry: Input, result: Result) -> None:
        self._rests.hold(entry, result)
        self.waiting[entry.object_key] = entries

    def _record_failure(self, entries: list[Input], entry: Input, result: Result) -> None:
        """Record a failure in place of a worker that ended; later, if the machine is short of something."""
        report = run_item(self._plan, entry, result)
        if report.kind is Kind.SHORT:
            assert report.shortage is not None
            self._hold(entries, entry, result)
            self._throttle.has_failed(report.shortage, len(self.running), self._moves)
            return
        self.running[entry.object_key] = entries
        self.settle(entry, report._replace(worker=result.worker))
