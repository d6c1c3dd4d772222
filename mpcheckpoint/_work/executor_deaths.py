"""Deaths in an executor of the caller's: which of its items ran when its processes died, and which have died before.

Such an executor breaks as a whole: when a process dies, it ends the others, and does not tell which one it was. So a
death is counted of each item that ran. That may be an innocent neighbour; but an item that has died runs alone from
then on, so any further death is its own, and it takes three to fail (see ``retries``).

Only the map that gave the items out counts, and only if it lives on. A signal to the whole job breaks the executor as
well, and may reach this process next: so it waits for a second.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint._work.causes import EXECUTOR_BROKE
from mpcheckpoint._work.outcomes import NOT_KNOWN, Result
from mpcheckpoint._work.report import Kind
from mpcheckpoint._work.retries import HELD_S
from mpcheckpoint._work.run_item import run_item
from mpcheckpoint._work.runs import state_of

if TYPE_CHECKING:
    from mpcheckpoint._view.view import LogView
    from mpcheckpoint._work.inputs import Input
    from mpcheckpoint._work.plan import Plan


class SentInput(NamedTuple):
    """An item as it was before it was given to an executor.

    Attributes:
        claim: the worker that its last claim named; None if there was no claim.
        deaths: how many the log counted.
    """

    entry: Input
    claim: str | None
    deaths: int


def looked_up(plan: Plan, entry: Input) -> SentInput:
    """Return what the log says of an item that is about to be given out.

    Raises:
        ChangedVersionError: another start has gone on with another version.
    """

    def look(view: LogView) -> SentInput:
        state = state_of(view, plan.run, entry.object_key, plan.log.log.workers, void_us=entry.void_us)
        return SentInput(entry, view.claim_of(entry.object_key), state.attempts.deaths)

    return plan.log.log.query(look)


def count_deaths(plan: Plan, given: list[SentInput], error: BaseException) -> list[Input]:
    """Count a death of each of these items whose process died with the executor; return those.

    Raises:
        CheckpointError: a death could not be recorded.
        KeyboardInterrupt: the whole job was interrupted. Nothing was counted.
    """
    given = [each for each in given if _has_begun(plan, each)]
    if not given:
        return []
    _hold()
    result = Result(
        False,
        None,
        f"{EXECUTOR_BROKE} ({type(error).__name__})",
        is_death=True,
        worker=NOT_KNOWN,
    )
    died = [each.entry for each in given if _has_died(plan, each)]
    counted = (Kind.KILLED, Kind.RECORDED, Kind.TO_RETRY)
    return [entry for entry in died if run_item(plan, entry, result).kind in counted]


def _hold() -> None:
    """Wait for a signal to the whole job. Meanwhile the executor ends its other processes."""
    time.sleep(HELD_S)


def _has_begun(plan: Plan, given: SentInput) -> bool:
    """Return whether an item was claimed since, and has not finished. An older claim is of a map that was killed."""
    claim = plan.log.log.query(lambda view: view.claim_of(given.entry.object_key))
    return claim is not None and claim != given.claim


def _has_died(plan: Plan, given: SentInput) -> bool:
    """Return whether what has begun an item is dead, and left no outcome."""
    workers = plan.log.log.workers

    def look(view: LogView) -> bool:
        state = state_of(view, plan.run, given.entry.object_key, workers, void_us=given.entry.void_us)
        return state.outcome is None and not state.is_taken

    return _has_begun(plan, given) and plan.log.log.query(look)
