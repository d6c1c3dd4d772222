"""Which outcomes do not count for a start of a map, so that their items run again: judged outside of any lock.

What was judged goes with the item to its worker: the stamp of the outcome that does not count. The worker looks again,
under the append lock, and runs the item only if no later outcome is there. So no code of the user's runs under a lock,
and two starts that judge the same outcome run the item once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint._format.codec import decode_event
from mpcheckpoint._work.file_marks import is_changed

if TYPE_CHECKING:
    from mpcheckpoint._work.inputs import Input


class RunAgain(NamedTuple):
    """Which outcomes do not count."""

    def voids(self, outcome: bytes, entry: Input) -> bool:
        """Return whether an outcome that was found for an input does not count."""
        return entry.file is not None and is_changed(decode_event(outcome).get("file"), entry.file)
