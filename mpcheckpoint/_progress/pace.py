"""How many items a second are done."""

from __future__ import annotations

from collections import deque

_OVER_S = 30.0
_LEAST_S = 1.0
_MOST_RECENT = 100_000


class Pace:
    """The rate of the last half minute, by a clock that never jumps.

    Args:
        began_s: when the map began here, by that clock.
    """

    def __init__(self, began_s: float) -> None:
        self._began_s = began_s
        self._ended_s: deque[float] = deque(maxlen=_MOST_RECENT)

    def take(self, now_s: float) -> None:
        """Note that an item is done now."""
        self._ended_s.append(now_s)

    def per_second(self, now_s: float) -> float:
        """Return how many items a second were done lately; 0 if none was."""
        from_s = max(self._began_s, now_s - _OVER_S)
        while self._ended_s and self._ended_s[0] < from_s:
            self._ended_s.popleft()
        if len(self._ended_s) == _MOST_RECENT:  # there were more than are kept
            from_s = self._ended_s[0]
        return len(self._ended_s) / max(_LEAST_S, now_s - from_s)
