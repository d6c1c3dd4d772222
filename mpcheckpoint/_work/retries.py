"""Attempts that failed are followed by others: how many, after which pause, and whose pause is over."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint import _system as system

if TYPE_CHECKING:
    from mpcheckpoint._work.runs import Attempts

DEFAULT_DELAY_S = 1.0
# What has failed so often that it would rest for longer is looked at once a minute.
LONGEST_PAUSE_S = 60.0
_MOST_DOUBLINGS = 30
_JITTER = 0.25


class Retries(NamedTuple):
    """How often an item that failed is tried again, and after how long.

    ``limit`` counts the attempts after the first that are in the log: a map that was killed and started again, or
    several that share the items, try no more often than one that runs through.
    """

    limit: int = 0
    delay_s: float = DEFAULT_DELAY_S

    def pause_s(self, attempts: int) -> float:
        """Return how long an item rests after so many failed attempts.

        Doubling, to a minute or the first pause if that is longer; each shorter by up to a quarter at random, so that
        what failed together does not come back together.
        """
        longest_s = max(self.delay_s, LONGEST_PAUSE_S)
        pause_s = min(self.delay_s * 2.0 ** min(attempts - 1, _MOST_DOUBLINGS), longest_s)
        return pause_s * (1 - random.uniform(0, _JITTER))


class Retry(NamedTuple):
    """An attempt that failed, and is to be followed by another."""

    object_key: str
    attempts: int
    error: str
    pause_s: float


class Pauses:
    """Until when items rest, by a clock that does not jump.

    A pause is counted from the record of the failure, so that it also holds for whoever starts anew or shares the
    items; and from when we learned of it at the latest, should the wall clock have been set back.
    """

    def __init__(self) -> None:
        self._due_s: dict[str, tuple[int, float]] = {}

    def is_over(self, object_key: str, attempts: Attempts) -> bool:
        """Return whether an item that failed so far may be tried again. Nothing to wait for if it never failed."""
        if not attempts.failed:
            self._due_s.pop(object_key, None)
            return True
        count, due_s = self._due_s.get(object_key, (0, 0.0))
        if count != attempts.failed:
            rested_s = (system.now_us() - attempts.stamp_us) / 1e6
            due_s = time.monotonic() + min(attempts.pause_s, max(0.0, attempts.pause_s - rested_s))
            self._due_s[object_key] = attempts.failed, due_s
        return time.monotonic() >= due_s

    def is_resting(self, object_key: str) -> bool:
        """Return whether an item is known to rest still, without a look at the log."""
        return time.monotonic() < self._due_s.get(object_key, (0, 0.0))[1]

    def forget(self, object_key: str) -> None:
        """Take note that an item is done."""
        self._due_s.pop(object_key, None)
