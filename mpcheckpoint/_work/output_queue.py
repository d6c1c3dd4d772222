"""Outcomes that wait to be given out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpcheckpoint._work.outcomes import Outcome

_MOST_HELD = 1000


class OutputQueue:
    """Holds what is finished until the caller asks for it, in the order of the inputs or as it comes.

    Bounded: in order, the fastest input may be 1,000 ahead of the slowest; else it holds 1,000 outcomes.

    Attributes:
        raised: what the function raised for the outcome that was taken last; None if it is not known.
    """

    def __init__(self, *, is_ordered: bool) -> None:
        self.raised: BaseException | None = None
        self._is_ordered = is_ordered
        # By place; without an order, that is the place in which it came.
        self._ready: dict[int, Outcome | None] = {}
        self._raised: dict[int, BaseException] = {}
        self._next = 0
        self._came = 0

    def put(self, place: int, outcome: Outcome | None, raised: BaseException | None = None) -> None:
        """Take in what became of the input at ``place``; no outcome if none is to be given out."""
        if not self._is_ordered:
            if outcome is None:
                return
            place, self._came = self._came, self._came + 1
        self._ready[place] = outcome
        if raised is not None:
            self._raised[place] = raised

    def take(self) -> Outcome | None:
        """Return the next outcome; None if its input is not finished."""
        while self._next in self._ready:
            outcome = self._ready.pop(self._next)
            if self._raised or self.raised is not None:
                self.raised = self._raised.pop(self._next, None)
            self._next += 1
            if outcome is not None:
                return outcome
        return None

    def room(self, place: int) -> int:
        """Return how many inputs may be started, from the one at ``place`` on; below 1 if none may."""
        return _MOST_HELD - ((place if self._is_ordered else self._came) - self._next)
