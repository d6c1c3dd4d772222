"""Outcomes that wait to be given out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mpcheckpoint._work.outcomes import Outcome

_MOST_HELD = 1000


class Finished(NamedTuple):
    """An input that is finished; without an outcome if none is to be given out."""

    outcome: Outcome | None
    raised: BaseException | None = None


class OutputQueue:
    """Holds what is finished until the caller asks for it, in the order of the inputs or as it comes.

    Bounded: in order, the fastest input may be 1,000 ahead of the slowest; else it holds 1,000 outcomes.
    """

    def __init__(self, *, is_ordered: bool) -> None:
        self._is_ordered = is_ordered
        # By place; without an order, that is the place in which it came.
        self._ready: dict[int, Finished] = {}
        self._next = 0
        self._came = 0

    def put(self, place: int, finished: Finished) -> None:
        """Take in what became of the input at ``place``."""
        if not self._is_ordered:
            if finished.outcome is None:
                return
            place, self._came = self._came, self._came + 1
        self._ready[place] = finished

    def take(self) -> Finished | None:
        """Return the next one that has an outcome; None if it is not finished."""
        while self._next in self._ready:
            finished = self._ready.pop(self._next)
            self._next += 1
            if finished.outcome is not None:
                return finished
        return None

    def has_room(self, place: int) -> bool:
        """Return whether the input at ``place`` may be started."""
        return (place if self._is_ordered else self._came) - self._next < _MOST_HELD
