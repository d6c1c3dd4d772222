"""The items of a map as the log's view shows them: done or not, by the rule of ``reruns`` and what this start chose."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mpcheckpoint._view.log_handle import RECENT_S
from mpcheckpoint._work.reruns import RunNote, history_of
from mpcheckpoint._work.runs import ItemState, Judge, own_outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mpcheckpoint._view.view import LogView
    from mpcheckpoint._work.inputs import Input
    from mpcheckpoint._work.plan import Plan
    from mpcheckpoint._work.run_again import RunAgain

# A map that for so long met no item of another one looks at the log so much more seldom: most of what it would find it
# recorded itself.
_ALONE_S = 1.0
_ALONE_FACTOR = 10


class ItemStates:
    """Judges items. Its methods raise ChangedVersionError once another start has gone on with another version.

    Attributes:
        runs: the runs that the view had when it was last looked at, and this one. An outcome may be of one that began
            later.
    """

    def __init__(self, plan: Plan, again: RunAgain | None) -> None:
        self._log = plan.log.log
        self._run = plan.run
        self._again = again
        self._met_s = -_ALONE_S
        self.runs: Mapping[int, RunNote] = {plan.run.note.number: plan.run.note}

    def now(self, entry: Input) -> ItemState:
        """Return the state of an input as it is now."""
        return self._log.query(lambda view: self._judge(view).state(entry.object_key, void_us=entry.void_us))

    def met_another(self) -> None:
        """Note that a worker has met an item that another map had or did."""
        self._met_s = time.monotonic()

    def leading(self, object_keys: list[str]) -> tuple[list[tuple[int, bytes]], ItemState | None]:
        """Return the stamps and the outcomes of these objects up to the first that is not done, and the state of that;
        all in one look.

        It may be at a view that is a little old: the worker of an item judges it again, under the append lock.
        """
        is_alone = time.monotonic() - self._met_s > _ALONE_S
        max_age_s = RECENT_S * (_ALONE_FACTOR if is_alone else 1)
        return self._log.query(lambda view: self._judge(view).leading(object_keys), max_age_s=max_age_s)

    def own(self, entry: Input) -> ItemState:
        """Return the outcome that this very run recorded of an input, which another run may have replaced."""

        def judged(view: LogView) -> ItemState:
            self._note_runs(view)
            found = own_outcome(view, self._run, entry.object_key)
            if found is None:
                return ItemState(None, is_taken=False)
            return ItemState(found.event, is_taken=False, outcome_us=found.stamp_us)

        return self._log.query(judged)

    def is_void(self, state: ItemState, entry: Input) -> bool:
        """Return whether an item has an outcome that does not count for this start of the map."""
        return self._again is not None and self._again.voids(state, entry, self.runs)

    def _judge(self, view: LogView) -> Judge:
        self._note_runs(view)
        return Judge(view, self._run, self._log.workers)

    def _note_runs(self, view: LogView) -> None:
        runs, own = history_of(view).by_number, self._run.note
        self.runs = runs if own.number in runs else {**runs, own.number: own}  # a view of before ours began
