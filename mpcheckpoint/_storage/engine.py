"""What a handle asks of whatever stands behind it: append, read from a position, list keys.

Another engine can stand where the directory stands if it keeps these few promises; tests/test_engine.py states them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._storage.durability import Durability
    from mpcheckpoint._storage.reader import Chunk
    from mpcheckpoint._types import Position, Repair


class Reader(Protocol):
    """One log, read by one thread at a time. Never writes, never waits for a lock."""

    given: int

    def news(self) -> Iterator[Chunk]:
        """Yield what is new since the last call; at first the whole log."""

    def seek(self, position: Position) -> None:
        """Go on behind ``position``."""

    def position(self) -> Position:
        """Return the place behind what was read so far."""

    def release(self) -> None:
        """Give back the file; the next look takes it again."""


class StoredLog(Protocol):
    """One log, for any number of threads."""

    log_key: str

    def append(
        self,
        payloads: list[Payload],
        *,
        durability: Durability,
        timeout_s: float | None,
        guard: Callable[[], Position | None] | None = None,
    ) -> Position:
        """Append one batch, atomically, on the condition that ``guard`` neither raises nor returns a position."""

    def reader(self, *, resumes: bool = False) -> Reader:
        """Return a reader at the start of the log."""

    def flush(self, timeout_s: float | None) -> None:
        """Return when all that the log holds now is durable."""

    def finish(self) -> None:
        """Sync what the ``interval`` setting has not synced yet."""

    def recover(self, timeout_s: float | None) -> None:
        """Make the log take appends again after a failed sync."""

    def repairs(self) -> list[Repair]:
        """Return what repairs have cut off."""

    def stats(self) -> dict[str, object]:
        """Return counts and sizes."""


class Store(Protocol):
    """A set of logs."""

    def log_keys(self) -> list[str]:
        """Return the keys of all logs, sorted."""

    def change_token(self) -> object | None:
        """Return a value that changes when a log is added; None if that cannot be told without listing."""

    def find_log(self, log_key: str) -> StoredLog:
        """Return a log for reading, without waiting for anybody."""

    def open_log(self, log_key: str, *, create: bool, timeout_s: float | None) -> StoredLog:
        """Return a log for writing, creating it if it may."""
