"""Retries of failed items: how many, and after which pause."""

from __future__ import annotations

import random
from typing import NamedTuple

DEFAULT_DELAY_S = 1.0
# The pause doubles with each failure, but not beyond this.
LONGEST_PAUSE_S = 60.0
_MOST_DOUBLINGS = 30
_JITTER = 0.25


class Retries(NamedTuple):
    """How often an item that failed is tried again, and after how long.

    ``limit`` counts the attempts after the first that are in the log. So a map that was killed and started again, or
    several that share the items, try no more often than one that runs to its end.
    """

    limit: int = 0
    delay_s: float = DEFAULT_DELAY_S

    def pause_s(self, attempts: int) -> float:
        """Return how long an item rests after that many failed attempts.

        Doubles, up to a minute, or the first pause if that is longer. Shortened by up to a quarter at random, so that
        items that failed together do not come back together.
        """
        longest_s = max(self.delay_s, LONGEST_PAUSE_S)
        pause_s = min(self.delay_s * 2.0 ** min(attempts - 1, _MOST_DOUBLINGS), longest_s)
        return pause_s * (1 - random.uniform(0, _JITTER))


class Retry(NamedTuple):
    """An attempt that failed, and that another one follows."""

    object_key: str
    attempts: int
    error: str
    pause_s: float
