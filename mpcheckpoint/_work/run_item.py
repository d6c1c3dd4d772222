"""Items in a worker: each is claimed, run, and recorded in the batch that claims the next one."""

from __future__ import annotations

import time
from subprocess import CalledProcessError
from typing import TYPE_CHECKING, Any, NamedTuple

from mpcheckpoint._work.claims import give_back
from mpcheckpoint._work.ctrl_c import raise_ctrl_c
from mpcheckpoint._work.forked_child import end_forked_child
from mpcheckpoint._work.item_batch import Finish, ItemBatch, Start
from mpcheckpoint._work.outcomes import Result, attempt_payload, death_payload, made_result, outcome_payload
from mpcheckpoint._work.report import ItemReport, Kind, SentError
from mpcheckpoint._work.retries import HELD_S, MOST_DEATHS, is_kill, is_told_to_end, last_death, rest_s
from mpcheckpoint._work.runs import state_of
from mpcheckpoint._work.shortage import retry_while_short, shortage_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpcheckpoint._format.made_json import Default
    from mpcheckpoint._store.worker_protocol import Worker
    from mpcheckpoint._work.inputs import Input
    from mpcheckpoint._work.plan import Plan

# How long a result is kept that a shortage keeps from being recorded. Then its item is given back, and runs again.
RECORD_S = 5.0
# A longer outcome is read from the log by the process that gives it out, and not sent there as well.
_MOST_TOLD_BYTES = 64 * 1024


class FunctionCall:
    """Calls a user's function, and has ``default`` make JSON of what it returns and is none."""

    def __init__(self, function: Callable[..., object], default: Default | None = None) -> None:
        self._function = function
        self._default = default
        self._state: tuple[Any, ...] = ()

    def with_state(self, state: Any) -> FunctionCall:
        """Return a call that hands the state to the function, after the item; None is no state."""
        call = FunctionCall(self._function, self._default)
        call._state = () if state is None else (state,)
        return call

    def __call__(self, item: Any, worker: Worker) -> Result:
        """Return what the function returned; what it raised is a failure. Never returns in a forked child.

        Raises:
            KeyboardInterrupt: a Ctrl-C came.
        """
        try:
            # Both may run for long, or be interrupted: here the time is limited and signals come.
            result = made_result(self._function(item, *self._state), self._default)
        except BaseException as error:  # noqa: BLE001 - what the function raises is its outcome
            if not worker.is_mine:
                end_forked_child(error)
            raise_ctrl_c(error)
            return _failure(error)
        if not worker.is_mine:
            end_forked_child()
        return result


def _failure(error: BaseException) -> Result:
    """Return the failure that an exception is.

    A command that the function ran counts as one of ``mpcheckpoint map``: if it was killed, the item runs again; if it
    was told to end, that is believed only after a second.
    """
    result = Result.of_exception(error)
    if isinstance(error, CalledProcessError):
        if is_told_to_end(error.returncode):
            time.sleep(HELD_S)  # the signal may reach this process next
        return result._replace(is_death=is_kill(error.returncode))
    return result


class Turn(NamedTuple):
    """An item whose turn it is.

    Attributes:
        worker: that has claimed it; None if it is not claimed yet.
        refusal: why it could not be claimed.
    """

    entry: Input
    worker: Worker | None = None
    refusal: Kind | None = None


class ItemRunner:
    """Runs items one after the other. The batch that records what became of one claims the next.

    With ``keeps_file`` it has one worker file for its life, as a process that runs functions has. Commands inherit the
    file, so each of them gets its own.

    Invariant: a worker is used again only after a batch recorded what became of its item, or refused it. After anything
    else its file is removed, which frees the item (held by tests/map/test_item_batch.py).
    """

    def __init__(
        self,
        plan: Plan,
        *,
        keeps_file: bool = False,
        unpacked: Callable[[Input], Input] = lambda entry: entry,
    ) -> None:
        """Begin without a worker file.

        Args:
            unpacked: returns an item as it was handed in. What this raises is raised with the item given back.
        """
        self._plan = plan
        self._keeps_file = keeps_file
        self._unpacked = unpacked
        self._workers: list[Worker] = []
        self._upcoming: Input | None = None

    def run(
        self,
        entry: Input,
        following: Callable[[], Input | None] = lambda: None,
        failure: Result | None = None,
    ) -> Iterator[ItemReport]:
        """Run an item, and those that follow. Yield what became of each; the next one runs after that.

        An outcome is durable before its report is yielded. Whoever takes no more reports closes the iterator: the next
        item may be claimed already, and is free again then.

        Args:
            following: returns the next item if there is one now. It is asked when an item has run.
            failure: nothing is run: it is the result of a call that was cut short.

        Raises:
            CheckpointError: the outcome could not be recorded; the item may run again.
            KeyboardInterrupt: and other interrupts; the item was given back.
        """
        turn: Turn | None = Turn(entry)
        try:
            while turn is not None:
                report, turn = self.step(turn, following, failure)
                if report is not None:
                    yield report
        except BaseException:
            self.retire()
            raise

    def retire(self) -> None:
        """Remove the worker files; what they have claimed is free. Twice is fine."""
        while self._workers:
            self._workers[-1].retire()
            self._workers.pop()

    def step(
        self, turn: Turn, following: Callable[[], Input | None], result: Result | None
    ) -> tuple[ItemReport | None, Turn | None]:
        """Claim an item; or run one that is claimed, unless this is its ``result``, and record what came of it.

        Return its report, if it has come to one, and whose turn it is next. For one who runs items elsewhere: see
        ``run``, which does these steps, for what is raised.
        """
        try:
            return self._step(turn, following, result)
        except Exception as error:
            shortage = shortage_of(error)
            if shortage is None:
                raise
            self.retire()
            return ItemReport(Kind.SHORT, shortage=shortage), self._taken()

    def _step(
        self, turn: Turn, following: Callable[[], Input | None], failure: Result | None
    ) -> tuple[ItemReport | None, Turn | None]:
        """Claim an item, or run one that is claimed; return its report, if it has come to one, and what is next."""
        if turn.refusal is not None:
            self._upcoming = following()
            return ItemReport(turn.refusal), self._taken()
        if turn.worker is None:
            return None, self._claimed(turn.entry, is_over=failure is not None)
        return self._ran(turn.entry, turn.worker, following, failure)

    def _claimed(self, entry: Input, *, is_over: bool) -> Turn:
        worker = self._worker_for_next(self._workers[-1] if self._workers else None)
        batch = ItemBatch(self._plan, None, Start(entry, worker, is_over))
        batch.append()
        return self._turn_after(batch, entry, worker)

    def _ran(
        self, entry: Input, worker: Worker, following: Callable[[], Input | None], failure: Result | None
    ) -> tuple[ItemReport, Turn | None]:
        """Run an item that ``worker`` has claimed, record the result, and claim the next item."""
        log, object_key = self._plan.log.log, entry.object_key
        try:
            entry = self._unpacked(entry) if failure is None else entry
            started_s = time.monotonic()
            result = self._plan.call(entry.item, worker) if failure is None else failure
        except BaseException:
            give_back(log, object_key, worker)
            raise
        if result is None:
            give_back(log, object_key, worker)
            self.retire()
            return ItemReport(Kind.GIVEN_BACK), None
        duration_s = time.monotonic() - started_s if result.duration_s is None else result.duration_s
        upcoming = self._upcoming = following()
        next_worker = None if upcoming is None else self._next_worker(worker)
        start = None if upcoming is None or next_worker is None else Start(upcoming, next_worker)

        def record() -> tuple[ItemReport, ItemBatch]:
            finish, report = _finish(self._plan, entry, result, duration_s, worker)
            batch = ItemBatch(self._plan, finish, start)
            batch.append()
            return report, batch

        report, batch = retry_while_short(record, RECORD_S)
        if not self._keeps_file:
            self._end(worker)
        if batch.finish_refusal is not None:
            report = ItemReport(batch.finish_refusal)
        elif report.event is not None:
            report = report._replace(stamp_us=batch.stamp_us)
        if start is None:
            return report._replace(is_idle=upcoming is None), self._taken()
        self._upcoming = None
        return report, self._turn_after(batch, start.entry, start.worker)

    def _turn_after(self, batch: ItemBatch, entry: Input, worker: Worker) -> Turn:
        if batch.start_refusal is None:
            return Turn(entry, worker)
        if not self._keeps_file:
            self._end(worker)
        return Turn(entry, refusal=batch.start_refusal)

    def _taken(self) -> Turn | None:
        entry, self._upcoming = self._upcoming, None
        return None if entry is None else Turn(entry)

    # --- worker files -----------------------------------------------------------------------------------------

    def _next_worker(self, worker: Worker) -> Worker | None:
        """Return the worker for the next item; None if the machine is short of something: it is claimed later."""
        try:
            return self._worker_for_next(worker)
        except Exception as error:
            if shortage_of(error) is None:
                raise
            return None

    def _worker_for_next(self, worker: Worker | None) -> Worker:
        """Return a worker: the one that is kept, unless somebody has removed its file, or a new one."""
        if worker is not None and self._keeps_file and worker.begin_again():
            return worker
        new = self._plan.log.log.workers.begin()
        self._workers.append(new)
        return new

    def _end(self, worker: Worker) -> None:
        worker.retire()
        self._workers.remove(worker)


def run_item(plan: Plan, entry: Input, failure: Result | None = None) -> ItemReport:
    """Claim an item, run it, and return when its outcome is durable, or report why it did not start.

    See ``ItemRunner.run``.
    """
    [report] = ItemRunner(plan).run(entry, failure=failure)
    return report


def _finish(
    plan: Plan, entry: Input, result: Result, duration_s: float, worker: Worker
) -> tuple[Finish, ItemReport]:
    """Return what is to be recorded of an item that ran, and the report if that is not refused."""
    if result.is_death:
        deaths = _deaths(plan, entry, worker) + 1
        if deaths < MOST_DEATHS:
            death = death_payload(plan.run, entry, deaths, result, duration_s)
            report = ItemReport(Kind.KILLED, cause=result.cause, pause_s=rest_s(deaths), deaths=deaths)
            return Finish(entry, worker, death), report
        result = last_death(result)  # that many are a failure
    outcome, result = outcome_payload(plan.run, entry, result, duration_s)
    if not (result.ok or result.is_final) and entry.attempts < plan.retries.limit:
        pause_s = plan.retries.pause_s(entry.attempts + 1)
        attempt = attempt_payload(plan.run, entry, result, duration_s, pause_s)
        return Finish(entry, worker, attempt), ItemReport(Kind.TO_RETRY, cause=result.cause, pause_s=pause_s)
    event = outcome.event if len(outcome.event) <= _MOST_TOLD_BYTES else None
    report = ItemReport(Kind.RECORDED, SentError(result.exception), event=event)
    return Finish(entry, worker, outcome, is_outcome=True, is_failure=not result.ok), report


def _deaths(plan: Plan, entry: Input, worker: Worker) -> int:
    """Return how many deaths of an item the log counts."""
    log, key = plan.log.log, entry.object_key
    state = log.query(lambda view: state_of(view, plan.run, key, log.workers, worker.id))
    return state.attempts.deaths
