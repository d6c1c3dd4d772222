"""What a condition may be judged of without a look, where a storage finds out by itself what came since.

A look at a log on a server is a message. The end of such a log is a ``LastingEnd``: an append that is given it writes
nothing if anything came since that its condition relies on, and the condition is judged anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpcheckpoint._logfile.judged import LastingEnd

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._logfile.judged import Seen
    from mpcheckpoint._logfile.mutex import Mutex
    from mpcheckpoint._view.log_states import LogState
    from mpcheckpoint._view.view import LogView

# The storage looks through what came since the view was made, while others wait.
_LASTING_S = 0.25


@dataclass(slots=True)
class Earlier:
    """What the next condition may be judged of.

    Attributes:
        is_met: judges the view as it was a moment ago.
        appended: set by an append to what the log held right after it, if the storage tells. The condition of the next
            one has to be met by what that batch says, and has to rely on nothing else.
    """

    is_met: Callable[[LogView], bool]
    appended: Seen | None = None

    def seen(self, known: Callable[[], LogState | None], mutex: Mutex, age_s: float) -> Seen | None:
        """Return what the condition was found to be met by; None if it has to be judged of a look.

        Args:
            known: returns the log as it was last read. Called under ``mutex``.
            age_s: how long ago that was, at most.
        """
        if self.appended is not None or age_s > _LASTING_S:
            return self.appended
        with mutex.guard():
            state = known()
            # Not equal: a signal handler has interrupted a refresh.
            if state is None or state.reader.given != state.view.applied:
                return None
            seen = state.reader.seen()
            is_lasting = seen is not None and isinstance(seen.end, LastingEnd)
            return seen if is_lasting and self.is_met(state.view) else None
