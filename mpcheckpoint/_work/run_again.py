"""Which outcomes do not count for a start of a map, so that their items run again: judged outside of any lock.

What was judged goes with the item to its worker: the stamp of the outcome that does not count. The worker looks again,
under the append lock, and runs the item only if no later outcome is there. So no code of the user's runs under a lock,
and two starts that judge the same outcome run the item once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint._format.codec import decode_event
from mpcheckpoint._work.file_marks import is_changed
from mpcheckpoint._work.outcomes import outcome_of
from mpcheckpoint._work.reruns import head_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mpcheckpoint._work.causes import Choice
    from mpcheckpoint._work.inputs import Input
    from mpcheckpoint._work.reruns import RunNote
    from mpcheckpoint._work.runs import ItemState


class RunAgain(NamedTuple):
    """Which outcomes do not count.

    Attributes:
        failures: chooses failures that run again; None: none does.
        joined_us: only failures from before this stamp. Later ones are of this very start, or of one beside it.
    """

    failures: Choice | None = None
    joined_us: int = 0

    def voids(self, state: ItemState, entry: Input, runs: Mapping[int, RunNote]) -> bool:
        """Return whether the outcome that was found for an input does not count.

        Raises:
            Whatever the choice of the caller's raises.
        """
        if state.outcome is None:
            return False
        if entry.file is not None and is_changed(decode_event(state.outcome).get("file"), entry.file):
            return True
        if self.failures is None or state.outcome_us >= self.joined_us:
            return False
        head = head_of(state.outcome)
        if head is None or head.is_ok:
            return False
        outcome = outcome_of(state.outcome, entry.object_key, state.outcome_us, runs)
        return bool(self.failures(replace(outcome, item=entry.item)))
