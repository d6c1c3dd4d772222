"""One item in a worker: claim it, run it, record what became of it."""

from __future__ import annotations

import time
from subprocess import CalledProcessError
from typing import TYPE_CHECKING, Any

from mpcheckpoint._work.claims import TakenError, claim_payload, give_back, take
from mpcheckpoint._work.forked_child import end_forked_child
from mpcheckpoint._work.outcomes import Result, attempt_payload, death_payload, outcome_payload
from mpcheckpoint._work.report import ItemReport, Kind, SentError
from mpcheckpoint._work.retries import HELD_S, MOST_DEATHS, is_kill, is_told_to_end, last_death, rest_s
from mpcheckpoint._work.runs import state_of
from mpcheckpoint._work.shortage import retry_while_short, shortage_of
from mpcheckpoint._work.workers import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._view.view import LogView
    from mpcheckpoint._work.inputs import Input
    from mpcheckpoint._work.plan import Plan

# How long a result is kept that a shortage keeps from being recorded. Then its item is given back, and runs again.
_RECORD_S = 5.0


class FunctionCall:
    """Calls a user's function."""

    def __init__(self, function: Callable[[Any], object]) -> None:
        self._function = function

    def __call__(self, item: Any, worker: Worker) -> Result:
        """Return what the function returned; an exception is a failure. Never returns in a forked child."""
        try:
            value = self._function(item)
        except BaseException as error:
            if not worker.is_mine:
                end_forked_child(error)
            if isinstance(error, Exception | SystemExit):
                return _failure(error)  # whatever the function raises is its outcome
            raise
        if not worker.is_mine:
            end_forked_child()
        return Result(True, value)


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


class DoneError(Exception):
    """The object has an outcome already."""


class HaltedError(Exception):
    """The map starts no more items."""


_REFUSALS = {DoneError: Kind.FOUND, TakenError: Kind.TAKEN, HaltedError: Kind.HALTED}


def run_item(plan: Plan, entry: Input, failure: Result | None = None) -> ItemReport:
    """Claim an item, run it, and return when its outcome is durable, or report why it did not start.

    With ``failure`` nothing is run: it is the result of a call that was cut short.

    Claims and outcomes are judged under the append lock of the one log that holds both. So one worker runs the item,
    however many try at once.

    Raises:
        CheckpointError: the outcome could not be recorded; the item may run again.
        KeyboardInterrupt: and other interrupts; the item was given back.
    """
    try:
        with Worker(plan.log.log.workers_directory) as worker:
            take(plan.log.log, entry.object_key, worker, _start_judge(plan, entry, failure))
            return _run_claimed(plan, entry, failure, worker)
    except (DoneError, TakenError, HaltedError) as refusal:
        return ItemReport(_REFUSALS[type(refusal)])
    except Exception as error:
        shortage = shortage_of(error)
        if shortage is None:
            raise
        return ItemReport(Kind.SHORT, shortage=shortage)


def _start_judge(plan: Plan, entry: Input, failure: Result | None) -> Callable[[LogView], None]:
    """Return the judge of whether an item may start."""
    directory = plan.log.log.workers_directory

    def judge(view: LogView) -> None:
        state = state_of(view, plan.run, entry.object_key, directory)
        if state.outcome is not None:
            raise DoneError
        if state.attempts.failed != entry.attempts:
            raise TakenError  # another worker tried it since, and it rests now
        # The failure of a process that died is recorded even if the map halts.
        if failure is None and plan.permit is not None and not plan.permit.is_valid():
            raise HaltedError

    return judge


def _run_claimed(plan: Plan, entry: Input, failure: Result | None, worker: Worker) -> ItemReport:
    """Run an item that ``worker`` has claimed, and record the result. One batch records it and frees the item.

    Raises:
        DoneError, TakenError: the worker lost the item meanwhile; nothing was recorded.
    """
    log = plan.log.log
    started_s = time.monotonic()
    try:
        result = plan.call(entry.item, worker) if failure is None else failure
    except BaseException:
        give_back(log, entry.object_key, worker)
        raise
    if result is None:
        give_back(log, entry.object_key, worker)
        return ItemReport(Kind.GIVEN_BACK)
    duration_s = time.monotonic() - started_s if result.duration_s is None else result.duration_s
    record = _record_death if result.is_death else _record
    return retry_while_short(lambda: record(plan, entry, result, duration_s, worker), _RECORD_S)


def _record(plan: Plan, entry: Input, result: Result, duration_s: float, worker: Worker) -> ItemReport:
    outcome, result = outcome_payload(plan.run, entry, result, duration_s)
    if not (result.ok or result.is_final) and entry.attempts < plan.retries.limit:
        pause_s = plan.retries.pause_s(entry.attempts + 1)
        attempt = attempt_payload(plan.run, entry, result, duration_s, pause_s)
        _append(plan, entry, attempt, worker)  # not synced: a loss of power costs one more attempt
        return ItemReport(Kind.TO_RETRY, cause=result.cause, pause_s=pause_s)
    _append(plan, entry, outcome, worker, halts=not result.ok, durability="always")
    return ItemReport(Kind.RECORDED, SentError(result.exception))


def _record_death(plan: Plan, entry: Input, result: Result, duration_s: float, worker: Worker) -> ItemReport:
    """Count a death in the log; the last one is a failure."""
    log, key = plan.log.log, entry.object_key
    state = log.query(lambda view: state_of(view, plan.run, key, log.workers_directory, worker.id))
    deaths = state.attempts.deaths + 1
    if deaths >= MOST_DEATHS:
        return _record(plan, entry, last_death(result), duration_s, worker)
    death = death_payload(plan.run, entry, deaths, result, duration_s)
    _append(plan, entry, death, worker)  # not synced: a loss of power costs one count
    return ItemReport(Kind.KILLED, cause=result.cause, pause_s=rest_s(deaths), deaths=deaths)


def _append(
    plan: Plan,
    entry: Input,
    record: Payload,
    worker: Worker,
    *,
    halts: bool = False,
    durability: str = "never",
) -> None:
    """Append a record of an item, and give the item back, unless ``worker`` has no say any more.

    A worker's file may be removed, or its lock lost, while it is stopped or at work; others then take the item for
    free. It has no say once another live worker has the item, or an outcome is there, or the map went on as another
    run. A claim that merely vanished refuses nothing: the item ran, and nobody else runs it. A forked child has its
    parent's worker, but was given nothing.

    With ``halts``, a map that the first failure ends starts no more items from then on.

    Raises:
        DoneError, TakenError: it has none.
    """
    log = plan.log.log
    directory = log.workers_directory

    def judge(view: LogView) -> None:
        if not worker.is_mine:
            raise TakenError
        state = state_of(view, plan.run, entry.object_key, directory, worker.id)
        if state.outcome is not None:
            raise DoneError
        if state.is_taken:
            raise TakenError
        if halts and plan.permit is not None:
            plan.permit.revoke()

    log.append_if([record, claim_payload(entry.object_key, None)], judge, durability=durability)
