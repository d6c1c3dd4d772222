"""One item, in a worker: take it, run it, record what became of it."""

from __future__ import annotations

import pickle
import time
from collections import OrderedDict
from enum import Enum
from subprocess import CalledProcessError
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mpcheckpoint._work.claims import TakenError, claim_payload, give_back, take
from mpcheckpoint._work.deaths import (
    HELD_S,
    MOST_DEATHS,
    death_payload,
    deaths_of,
    is_kill,
    is_told_to_end,
    last_death,
    rest_s,
)
from mpcheckpoint._work.forked import end_forked_child
from mpcheckpoint._work.outcomes import Result, attempt_payload, outcome_payload
from mpcheckpoint._work.retries import Retries
from mpcheckpoint._work.runs import state_of
from mpcheckpoint._work.shortage import patiently, shortage_of
from mpcheckpoint._work.workers import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._view.log_handle import LogHandle
    from mpcheckpoint._view.view import LogView
    from mpcheckpoint._work.inputs import Input
    from mpcheckpoint._work.permit import Permit
    from mpcheckpoint._work.runs import Run
    from mpcheckpoint._work.shortage import Shortage

_MOST_LOGS = 8
# A result that a shortage keeps from being recorded is kept for so long; then its item is given back, and runs again.
_RECORD_S = 5.0


class Call(Protocol):
    """What is done with an item."""

    def __call__(self, item: Any, worker: Worker) -> Result | None:
        """Return the result; None if the item was given up and is to be given back.

        Raises nothing but interrupts, and, where a shortage kept it from being begun, that: see ``shortage_of``.
        """


class CallFunction:
    """Call a function of the user's."""

    def __init__(self, function: Callable[[Any], object]) -> None:
        self._function = function

    def __call__(self, item: Any, worker: Worker) -> Result:
        """Return what the function returned; an exception is a failure. In a forked child it does not return."""
        try:
            value = self._function(item)
        except BaseException as error:
            if not worker.is_mine:
                end_forked_child(error)
            if isinstance(error, Exception | SystemExit):
                return _judged(error)  # whatever the user's function raises is its outcome
            raise
        if not worker.is_mine:
            end_forked_child()
        return Result(True, value)


def _judged(error: BaseException) -> Result:
    """Return the failure that an exception is; the end of a command that the function ran is judged as that of one of
    ``mpcheckpoint map``: killed, it runs again, and told to end, it is not believed before a second has passed."""
    result = Result.of_exception(error)
    if isinstance(error, CalledProcessError):
        if is_told_to_end(error.returncode):
            time.sleep(HELD_S)  # this process may be the next that the signal reaches
        return result._replace(is_death=is_kill(error.returncode))
    return result


class Failed:
    """Stands for a call that was cut short: it has failed, with that result."""

    def __init__(self, result: Result) -> None:
        self._result = result

    def __call__(self, item: object, worker: Worker) -> Result:
        """Return the result."""
        del item, worker
        return self._result


class Kind(Enum):
    """What a worker says of an item it was given."""

    RECORDED = "its outcome is in the log"
    FOUND = "somebody else's outcome is in the log"
    TAKEN = "another live worker has it"
    HALTED = "it was not begun: an item of this map has failed, and that ends it"
    GIVEN_BACK = "it was given up"
    TO_RETRY = "an attempt at it failed, and is to be followed by another"
    DIED = "the process that ran it has died"
    KILLED = "what ran it was killed from elsewhere, which is in the log, and it is to run again"
    SHORT = "it could not be begun, for the machine is short of something"
    TIMED_OUT = "it ran for too long, and the process that ran it was ended"


class Carried:
    """An exception on its way to whom it concerns: None there if it could not be sent to another process."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            return _unpacked, (pickle.dumps(self.error),)
        except Exception:  # noqa: BLE001 - a class without a name, an open file in an attribute, anything
            return _unpacked, (pickle.dumps(None),)


def _unpacked(data: bytes) -> Carried:
    try:
        error = pickle.loads(data)
    except Exception:  # noqa: BLE001 - a class that is not found here, a constructor that wants more, anything
        error = None
    return Carried(error if isinstance(error, BaseException) else None)


class Report(NamedTuple):
    """What a worker tells those who gave it an item; the outcome itself is in the log.

    ``raised`` is what the item's function raised; ``cause`` is how the process that ran it has died, or why the attempt
    failed; ``pause_s`` is how long the item rests before the next one; ``duration_s`` is how long it ran before it was
    ended; ``exit_code`` is that of the process that died; ``deaths`` counts them; ``shortage`` is what was lacking.
    """

    kind: Kind
    raised: Carried = Carried(None)
    cause: str = ""
    pause_s: float = 0.0
    duration_s: float = 0.0
    exit_code: int = 0
    deaths: int = 0
    shortage: Shortage | None = None


class Plan(NamedTuple):
    """All that a worker needs to know of a map. Pickles, if what it holds does."""

    log: LogRef
    run: Run
    call: Call
    retries: Retries = Retries()
    permit: Permit | None = None  # where the first failure ends the map


class LogRef:
    """A log that is opened once in each process that it is sent to, however often it is sent."""

    def __init__(self, log: LogHandle) -> None:
        self.log = log

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, tuple(self.log.__reduce__()[:2])


_logs: OrderedDict[Any, LogRef] = OrderedDict()


def _opened(reopen: Callable[..., LogHandle], arguments: tuple[Any, ...]) -> LogRef:
    known = (reopen, arguments)
    if known not in _logs:
        _logs[known] = LogRef(reopen(*arguments))
        if len(_logs) > _MOST_LOGS:
            _logs.popitem(last=False)
    _logs.move_to_end(known)
    return _logs[known]


class DoneError(Exception):
    """The object has an outcome already."""


class HaltedError(Exception):
    """The map begins no more items."""


def perform(plan: Plan, entry: Input) -> Report:
    """Take an item, run it, and return when its outcome is durable; or say that it could not be begun.

    Raises: as ``_performed``, but no shortage.
    """
    try:
        return _performed(plan, entry)
    except Exception as error:
        shortage = shortage_of(error)
        if shortage is None:
            raise
        return Report(Kind.SHORT, shortage=shortage)


def _performed(plan: Plan, entry: Input) -> Report:
    """Take an item, run it, and return when its outcome is durable.

    Claims and outcomes are decided under the append lock of the one log that holds both, so of all who try at once
    one runs the item. Outcome and giving back are one batch.

    Raises:
        CheckpointError: the outcome could not be recorded; the item may run again.
        KeyboardInterrupt: and other interrupts; the item was given back.
    """
    log = plan.log.log
    directory = log.workers_directory

    def judge(view: LogView) -> None:
        state = state_of(view, plan.run, entry.object_key, directory)
        if state.outcome is not None:
            raise DoneError
        if state.attempts.failed != entry.attempts:
            raise TakenError  # somebody has tried it since, and it rests now
        # What has failed in a process that died is recorded, whatever else has failed.
        if plan.permit is not None and not isinstance(plan.call, Failed) and not plan.permit.is_valid():
            raise HaltedError

    with Worker(directory) as worker:
        try:
            take(log, entry.object_key, worker, judge)
        except DoneError:
            return Report(Kind.FOUND)
        except TakenError:
            return Report(Kind.TAKEN)
        except HaltedError:
            return Report(Kind.HALTED)
        try:
            started_s = time.monotonic()
            result = plan.call(entry.item, worker)
            duration_s = time.monotonic() - started_s
        except BaseException:
            give_back(log, entry.object_key, worker)
            raise
        if result is None:
            give_back(log, entry.object_key, worker)
            return Report(Kind.GIVEN_BACK)
        record = _record_death if result.is_death else _record
        try:
            return patiently(lambda: record(plan, entry, result, duration_s, worker), patience_s=_RECORD_S)
        except DoneError:
            return Report(Kind.FOUND)
        except TakenError:
            return Report(Kind.TAKEN)


def _record(plan: Plan, entry: Input, result: Result, duration_s: float, worker: Worker) -> Report:
    if result.duration_s is not None:
        duration_s = result.duration_s
    outcome, result = outcome_payload(plan.run, entry, result, duration_s)
    if not (result.ok or result.is_final) and entry.attempts < plan.retries.limit:
        return _record_attempt(plan, entry, result, duration_s, worker)
    fence = _fence(plan, entry.object_key, worker, halts=not result.ok)
    plan.log.log.append_if([outcome, claim_payload(entry.object_key, None)], fence, durability="always")
    return Report(Kind.RECORDED, Carried(result.exception))


def _record_attempt(plan: Plan, entry: Input, result: Result, duration_s: float, worker: Worker) -> Report:
    pause_s = plan.retries.pause_s(entry.attempts + 1)
    attempt = attempt_payload(plan.run, entry, result, duration_s, pause_s)
    # Not synced: a loss of power costs no more than an attempt that is made once more.
    fence = _fence(plan, entry.object_key, worker, halts=False)
    plan.log.log.append_if([attempt, claim_payload(entry.object_key, None)], fence, durability="never")
    cause = (result.error or "").partition("\n")[0]
    return Report(Kind.TO_RETRY, cause=cause, pause_s=pause_s)


def _record_death(plan: Plan, entry: Input, result: Result, duration_s: float, worker: Worker) -> Report:
    """Count a death in the log; the last one is a failure."""
    log = plan.log.log
    deaths = 1 + log.query(lambda view: deaths_of(view, plan.run, entry.object_key))
    if deaths >= MOST_DEATHS:
        return _record(plan, entry, last_death(result), duration_s, worker)
    death = death_payload(plan.run, entry, deaths, result, duration_s)
    fence = _fence(plan, entry.object_key, worker, halts=False)
    # Not synced: a loss of power costs no more than a count.
    log.append_if([death, claim_payload(entry.object_key, None)], fence, durability="never")
    cause = (result.error or "").partition("\n")[0]
    return Report(Kind.KILLED, cause=cause, pause_s=rest_s(deaths), deaths=deaths)


def _fence(plan: Plan, object_key: str, worker: Worker, *, halts: bool) -> Callable[[LogView], None]:
    """Return the judgement, made under the append lock, of whether ``worker`` may still say what became of an item.

    Its file may have been removed, or its lock lost, while it was stopped or worked: others then took the item for
    free. It has no say once another live worker has the item, or an outcome is there, or the map was started anew. A
    claim that merely vanished refuses nothing: the item was run, and nobody else runs it.

    A forked child has its parent's worker, but was given nothing. With ``halts`` the map begins no more items from
    then on, if it is one that the first failure ends.
    """
    directory = plan.log.log.workers_directory

    def judge(view: LogView) -> None:
        if not worker.is_mine:
            raise TakenError
        state = state_of(view, plan.run, object_key, directory, worker.id)
        if state.outcome is not None:
            raise DoneError
        if state.is_taken:
            raise TakenError
        if halts and plan.permit is not None:
            plan.permit.revoke()

    return judge
