"""How many items a second are done."""

from __future__ import annotations

from collections import deque

_OVER_US = 30_000_000
_LEAST_US = 1_000_000
_MOST_RECENT = 100_000


class Pace:
    """The rate since a map was started here, of the last half minute; what was done before does not count.

    Counts what other processes record meanwhile, too: it is the same work, and less is left.
    """

    def __init__(self, began_us: int) -> None:
        self._began_us = began_us
        self._ended_us: deque[int] = deque(maxlen=_MOST_RECENT)

    def take(self, ended_us: int) -> bool:
        """Note when an item was recorded, in microseconds since 1970; return whether it counts."""
        is_new = ended_us >= self._began_us
        if is_new:
            self._ended_us.append(ended_us)
        return is_new

    def per_second(self, now_us: int) -> float:
        """Return how many items a second were done lately; 0 if none was."""
        from_us = max(self._began_us, now_us - _OVER_US)
        while self._ended_us and self._ended_us[0] < from_us:
            self._ended_us.popleft()
        if len(self._ended_us) == _MOST_RECENT:  # there were more than are kept
            from_us = self._ended_us[0]
        return len(self._ended_us) * 1e6 / max(_LEAST_US, now_us - from_us)
