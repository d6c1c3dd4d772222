"""Logs that are read on from where they were left: what followers and tails are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from mpcheckpoint._format.columns import Lines
from mpcheckpoint._types import Cursor, Position, Record
from mpcheckpoint._view.durable import StatedDurable
from mpcheckpoint._view.merged_read import ALL, Choice, records_in, skip_to_end
from mpcheckpoint.errors import InvalidPositionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from mpcheckpoint._logfile.chunk import Chunk
    from mpcheckpoint._store.protocol import Reader, StoredLog
    from mpcheckpoint._view.durable import Only

# Has the next poll of each of these readers give what one look at all of them finds, where the storage can. Returns
# whether that is one moment, and which logs there are then.
Look: TypeAlias = "Callable[[Sequence[Reader]], tuple[bool, Iterable[StoredLog]]]"


class FollowedLog:
    """One log that is followed."""

    def __init__(self, stored: StoredLog, only: Only | None = None, after: Position | None = None) -> None:
        """Follow ``stored``, from after that position. Of each chunk, give out what ``only`` makes of it."""
        self.stored = stored
        self.reader: Reader = stored.reader(resumes=True)
        self._only = None if only is None else only(stored)
        self._held = self._only if isinstance(self._only, StatedDurable) else None
        self._after = after

    def begin(self) -> None:
        """Find the place to begin at.

        Raises:
            InvalidPositionError: it is no position of this log.
        """
        if self._after is not None:
            self.reader.seek(self._after)
            self._after = None

    def records(self, choice: Choice = ALL, polled: Iterable[Chunk] | None = None) -> Iterator[Record]:
        """Yield what is new and wanted; ``polled`` is what the reader has returned, if it was asked already."""
        if polled is None:
            self.begin()
            polled = self.reader.poll()
        for chunk in polled:
            if self._held is not None and self._held.is_superseded_by(chunk.generation):
                return
            lines = Lines.of(chunk.lines if self._only is None else self._only(chunk))
            yield from records_in(lines, choice, chunk.origin(self.stored.log_key))
            if lines and lines.stamps_us[-1] > choice.until_us:
                return

    def is_superseded(self) -> bool:
        """Return whether the log got another generation while records were held back.

        The new generation was synced whole before it took the log's place, so those of them that are in it are durable.
        They are to be read again, from after the last one that was given out. Requires: ``records`` was exhausted.
        """
        held = self._held
        return held is not None and held.is_superseded_by(self.reader.position().generation)


class FollowedLogs:
    """One log that is followed, or all of a store with those that are added.

    Attributes:
        positions: by log key, the place after the last record that was taken. Whoever takes records keeps it so, before
            the next one of the same log.
        logs: by log key.
        is_one: whether it is one log for ever. To a store with one log others may be added.
        alone: the log, if only one is followed and it was read before: its reader can be polled at once.
    """

    def __init__(
        self, look: Look, after: Cursor | Position | str, only: Only | None = None, *, is_one: bool = False
    ) -> None:
        """Follow the logs that ``look`` finds, from after that place; ``is_one``: it finds the same one for ever.

        Raises:
            ValueError: ``after`` is neither a position or cursor nor "start" or "end".
            InvalidPositionError: a position is not one of its log.
        """
        if not isinstance(after, Position | Cursor) and after not in ("start", "end"):
            raise ValueError(f"after is a position, a cursor, 'start' or 'end', not {after!r}")
        self._look = look
        self.is_one = is_one
        self._only = only
        self.positions: dict[str, Position] = {}
        self.logs: dict[str, FollowedLog] = {}
        self.alone: FollowedLog | None = None
        if isinstance(after, Position):
            after = Cursor((after,))
        if isinstance(after, Cursor):
            self.positions = {position.log_key: position for position in after}
        self.look()
        for log_key in self.positions.keys() - self.logs.keys():
            raise InvalidPositionError(
                f"{self.positions[log_key]} is a position in the log {log_key!r}, which is not among those followed",
                reason="of another log",
            )
        for log_key, followed in self.logs.items():
            followed.begin()
            if after == "end":
                self.positions[log_key] = skip_to_end(followed.reader)

    def look(self) -> bool:
        """Look at all logs at once, where the storage can, and add those that were added to the store.

        Returns:
            Whether what ``news_of`` gives next is what all of them held at one moment.
        """
        is_moment, found = self._look([followed.reader for followed in self.logs.values()])
        for stored in found:
            if stored.log_key not in self.logs:
                self._add(stored)
                is_moment = False
        return is_moment

    def _add(self, stored: StoredLog) -> FollowedLog:
        followed = FollowedLog(stored, self._only, self.positions.get(stored.log_key))
        self.logs[stored.log_key] = followed
        return followed

    def news_of(self, log_key: str, polled: Iterable[Chunk] | None = None) -> Iterator[Record]:
        """Yield what is new in one log; ``polled``: see ``FollowedLog.records``."""
        followed = self.logs[log_key]
        yield from followed.records(polled=polled)
        if followed.is_superseded():
            followed.reader.release()
            followed = self._add(followed.stored)  # which begins after the last record that was taken
            yield from followed.records()
        self.alone = followed if self.is_one else None

    def drop(self, log_key: str) -> None:
        """Have a log read anew, from after the last record that was taken."""
        self.alone = None
        self.logs.pop(log_key).reader.release()

    def start_over(self, positions: Mapping[str, Position]) -> None:
        """Have all logs read anew, from after these positions.

        A Ctrl-C may have come when a reader had moved on and its records were not given out yet.
        """
        self.alone = None
        logs, self.logs = self.logs, {}
        self.positions = dict(positions)
        for followed in logs.values():
            followed.reader.release()
