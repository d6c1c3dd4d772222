"""Items that run again, after a failed attempt or a death: how often, after which pause, and which of them rest now.

A death: the process of an item was killed from elsewhere. SIGKILL seldom comes from the item itself. The kernel sends
it when memory runs out, or a batch system, or an administrator. So the item runs again, but only three times: it may be
what eats the memory. The map that saw a death records it beside the attempts. If the map was killed too, nothing is
counted: a map may be killed any number of times. Where an executor of the caller's dies as a whole, see
``executor_deaths``.

Rejected: to have the next start count the claims that dead workers left. It cannot tell an item that killed its map
from one that was killed with it, and three kills of a map would fail whatever ran.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint import _system as system
from mpcheckpoint._work.shortage import jittered

if TYPE_CHECKING:
    from mpcheckpoint._work.inputs import Input
    from mpcheckpoint._work.outcomes import Result
    from mpcheckpoint._work.runs import Attempts

DEFAULT_DELAY_S = 1.0
# The pause doubles with each failure, but not beyond this.
LONGEST_PAUSE_S = 60.0
_MOST_DOUBLINGS = 30
MOST_DEATHS = 3
# A kernel short of memory kills again at once, so the item rests for a moment; longer the second time.
_REST_S = 1.0
# A signal to a whole job reaches its processes one after the other. A death by such a signal counts only if the map
# itself was not told to end within this time.
HELD_S = 1.0
_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Retries(NamedTuple):
    """How often an item that failed is tried again, and after how long.

    ``limit`` counts the attempts after the first that are in the log. So a map that was killed and started again, or
    several that share the items, try no more often than one that runs to its end.
    """

    limit: int = 0
    delay_s: float = DEFAULT_DELAY_S

    def pause_s(self, attempts: int) -> float:
        """Return how long an item rests after that many failed attempts.

        Doubles, up to a minute, or the first pause if that is longer; jittered, so that items that failed together do
        not come back together.
        """
        longest_s = max(self.delay_s, LONGEST_PAUSE_S)
        pause_s = min(self.delay_s * 2.0 ** min(attempts - 1, _MOST_DOUBLINGS), longest_s)
        return jittered(pause_s)


class Retry(NamedTuple):
    """An attempt that failed, and that another one follows."""

    object_key: str
    attempts: int
    error: str
    pause_s: float


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


class Rests:
    """What a map leaves alone for a moment, by a clock that does not jump.

    Items rest after a failed attempt or a death, and some failures must not be recorded yet.
    """

    def __init__(self) -> None:
        self._due_s: dict[str, float] = {}
        self._attempts: dict[str, int] = {}  # how many had failed when the pause was counted
        self._held: dict[str, tuple[Input, Result]] = {}

    def rest(self, object_key: str, pause_s: float) -> None:
        """Leave an item alone for that long."""
        self._due_s[object_key] = time.monotonic() + pause_s

    def rest_after(self, object_key: str, attempts: Attempts) -> None:
        """Leave an item alone as its failed attempts want it.

        The pause counts from the record of the failure, so that it also holds for other starts of the map; but at the
        latest from when we learned of it, in case the wall clock was set back.
        """
        if self._attempts.get(object_key, 0) != attempts.failed:
            self._attempts[object_key] = attempts.failed
            rested_s = (system.now_us() - attempts.stamp_us) / 1e6
            self.rest(object_key, min(attempts.pause_s, max(0.0, attempts.pause_s - rested_s)))

    def hold(self, entry: Input, failure: Result) -> None:
        """Hold back the failure of an item for a second.

        A death does not count if the map is told to end meanwhile, and a shortage that keeps a failure from being
        recorded may be over by then.
        """
        self.rest(entry.object_key, HELD_S)
        self._held[entry.object_key] = entry, failure

    def is_held(self, object_key: str) -> bool:
        """Return whether a failure of the item is held back."""
        return object_key in self._held

    def is_resting(self, object_key: str) -> bool:
        """Return whether the item is still to be left alone."""
        return object_key in self._held or time.monotonic() < self._due_s.get(object_key, 0.0)

    def due(self) -> list[tuple[Input, Result]]:
        """Return the failures that were held for long enough, with their items."""
        now_s = time.monotonic()
        due = [object_key for object_key in self._held if self._due_s[object_key] <= now_s]
        return [self._held.pop(object_key) for object_key in due]

    def forget(self, object_key: str) -> None:
        """Take note that an item is done."""
        if object_key in self._due_s:  # all that have attempts are there, too
            del self._due_s[object_key]
            self._attempts.pop(object_key, None)
