"""Records that are known to be durable: what readers who want no others give out."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpcheckpoint._format.frame import Line
    from mpcheckpoint._logfile.chunk import Chunk
    from mpcheckpoint._store.protocol import StoredLog

# What makes, for a log, what chooses the lines of each chunk.
Only: TypeAlias = "Callable[[StoredLog], Callable[[Chunk], Sequence[Line]]]"


class StatedDurable:
    """Hold records back until a later line states them durable. A read-only handle cannot know more."""

    def __init__(self) -> None:
        self._held: list[Line] = []
        self._generation = ""

    def __call__(self, chunk: Chunk) -> list[Line]:
        """Return the lines that are now known to be durable, in order. Requires: the chunk supersedes nothing held."""
        self._generation = chunk.generation
        self._held += chunk.lines
        count = bisect_right(self._held, chunk.durable, key=lambda line: line.end)  # ends rise
        released = self._held[:count]
        del self._held[:count]
        return released

    def is_superseded_by(self, generation: str) -> bool:
        """Return whether records are held back that are in another generation of the log."""
        return bool(self._held) and generation != self._generation
