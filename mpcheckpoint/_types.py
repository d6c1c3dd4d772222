"""The values that cross the API: positions, cursors, records, repairs."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import msgspec

from mpcheckpoint._root_error import InvalidPositionError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_POSITION = re.compile(
    r"(?P<log>[^@;]*)@(?P<gen>[0-9a-f]{32}):(?P<offset>[0-9]{1,18}):(?P<stamp>[0-9]{1,16}):(?P<more>[0-9]{1,16})"
    r"(?::(?P<lineage>[0-9a-f]{32}))?"
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def time_of(stamp_us: int) -> datetime:
    """Return the time of a stamp (microseconds since 1970) in UTC, exactly: a float has no room for microseconds."""
    return _EPOCH + timedelta(microseconds=stamp_us)


# Structs, not frozen dataclasses: made in a tenth of the time; an append makes one, and each record that is read two.
class Position(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Name a place in one log: right after one record.

    Opaque: take it from an append or a record, keep it, hand it back; ``str()`` and ``parse()`` carry it through
    files and command lines. Positions of the same log are ordered as its records are, also across generations;
    comparing positions of different logs raises TypeError.
    """

    log_key: str
    generation: str
    offset: int
    # The stamp of the record and the lines of its batch that follow it. They name the place in every later
    # generation of the log too, where offsets differ.
    stamp_us: int
    more: int = 0
    # All generations of a log share it; "" in those made before logs had one.
    lineage: str = ""

    def _order(self) -> tuple[int, int]:
        return self.stamp_us, -self.more

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Position):
            return NotImplemented
        return self.log_key == other.log_key and self._order() == other._order()

    def __ne__(self, other: object) -> bool:
        return not self == other  # a Struct has one of its own, which compares identities

    def __hash__(self) -> int:
        return hash((self.log_key, self.stamp_us, self.more))

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Position) or other.log_key != self.log_key:
            return NotImplemented
        return self._order() < other._order()

    def __le__(self, other: object) -> bool:
        if not isinstance(other, Position) or other.log_key != self.log_key:
            return NotImplemented
        return self._order() <= other._order()

    def __str__(self) -> str:
        log_key = quote(self.log_key, safe="")
        text = f"{log_key}@{self.generation}:{self.offset}:{self.stamp_us}:{self.more}"
        return f"{text}:{self.lineage}" if self.lineage else text

    @classmethod
    def parse(cls, text: str) -> Position:
        """Return the position that ``str()`` wrote as ``text``.

        Raises:
            InvalidPositionError: if ``text`` is not the text of a position.
        """
        match = _POSITION.fullmatch(text)
        if match is None:
            raise InvalidPositionError(f"not a position: {text!r}", reason="not a position")
        return cls(
            unquote(match["log"]),
            match["gen"],
            int(match["offset"]),
            int(match["stamp"]),
            int(match["more"]),
            match["lineage"] or "",
        )


class Cursor(msgspec.Struct, frozen=True):
    """Name a place in a whole store: one position a log; logs not named are followed from their start.

    Opaque, like Position: take it from ``Follower.cursor``, keep it, hand it to ``Checkpoint.follow``.
    """

    positions: tuple[Position, ...] = ()

    def __str__(self) -> str:
        return ";".join(str(position) for position in self.positions)

    def __iter__(self) -> Iterator[Position]:
        return iter(self.positions)

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Return the cursor that ``str()`` wrote as ``text``.

        Raises:
            InvalidPositionError: if ``text`` is not the text of a cursor.
        """
        return cls(tuple(Position.parse(part) for part in text.split(";") if part))

    @classmethod
    def of(cls, positions: Mapping[str, Position]) -> Cursor:
        """Return the cursor at these positions, one a log key."""
        return cls(tuple(positions[log_key] for log_key in sorted(positions)))


class Folded(msgspec.Struct, frozen=True):
    """What a record stands for that a compaction folded others into.

    Attributes:
        count: how many records were folded into it, itself included.
        first_us: the stamp of the first of them.
    """

    count: int
    first_us: int


class Record(msgspec.Struct, frozen=True):
    """One event that was recorded for one object.

    Attributes:
        log_key: the log that it is in.
        object_key: the object it happened to.
        event: the JSON value that was written.
        stamp_us: its logical time, in microseconds since 1970 (a hybrid logical clock).
        record_id: the caller's id, or None.
        position: the place right after it.
        folded: what it stands for, if a compaction folded earlier records into it; else None.
    """

    log_key: str
    object_key: str
    event: Any
    stamp_us: int
    record_id: str | None
    position: Position
    folded: Folded | None = None

    @property
    def time(self) -> datetime:
        """Its logical time as a datetime in UTC: that of ``stamp_us``, to the microsecond."""
        return time_of(self.stamp_us)


class Repair(msgspec.Struct, frozen=True):
    """Bytes that the repair of a torn end cut off a log, and where they are kept.

    Attributes:
        log_key: the log; generation: its generation then; offset: where the bytes were; length_bytes: how many.
        path: the quarantine file that holds them.
    """

    log_key: str
    generation: str
    offset: int
    length_bytes: int
    path: str
