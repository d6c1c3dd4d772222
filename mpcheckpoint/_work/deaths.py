"""Deaths: an item whose process was killed from elsewhere runs again, up to three times, counted in the log.

SIGKILL seldom comes from the item itself. The kernel sends it when memory runs out, or a batch system, or an
administrator. So the item runs again, but only three times: it may be what eats the memory. The map that saw a death
records it beside the attempts. If the map was killed too, nothing is counted: a map may be killed any number of times.

Rejected: to have the next start count the claims that dead workers left. It cannot tell an item that killed its map
from one that was killed with it, and three kills of a map would fail whatever ran.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mpcheckpoint._work.outcomes import Result

MOST_DEATHS = 3
# A kernel short of memory kills again at once, so the item rests for a moment; longer the second time.
_REST_S = 1.0
# A signal to a whole job reaches its processes one after the other. A death by such a signal counts only if the map
# itself was not told to end within this time.
HELD_S = 1.0
_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Death(NamedTuple):
    """The process of an item was killed, for the ``number``-th time; the item runs again after ``pause_s``."""

    object_key: str
    number: int
    cause: str
    pause_s: float


def is_kill(code: int) -> bool:
    """Return whether an exit code (negative: a signal) means SIGKILL, of the process or of what its shell ran."""
    return code in (-signal.SIGKILL, 128 + signal.SIGKILL)


def is_told_to_end(code: int) -> bool:
    """Return whether an exit code means a signal that asks to end, which a whole job may have been sent."""
    return -code in _ENDING or code - 128 in _ENDING


def last_death(result: Result) -> Result:
    """Return the failure that an item's last death is; it is not retried."""
    cause, newline, where = (result.error or "").partition("\n")
    error = f"{cause}, {MOST_DEATHS} times{newline}{where}"
    return result._replace(error=error, is_final=True, is_death=False)


def rest_s(deaths: int) -> float:
    """Return how long an item rests after that many deaths."""
    return _REST_S * deaths
