"""What one log of the engine in memory holds."""

from __future__ import annotations

import threading
import uuid
from bisect import bisect_right
from copy import copy
from typing import TYPE_CHECKING, Any

from mpcheckpoint._format.columns import Lines
from mpcheckpoint._format.concern import concern_of
from mpcheckpoint._format.control import Header, Restored, encode_header
from mpcheckpoint._format.frame import EndState, encode_batch
from mpcheckpoint._format.recode import recoded
from mpcheckpoint._format.scan import scan
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._logfile.mutex import Mutex
from mpcheckpoint._store.moving import batches_of, came_from, content_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._logfile.judged import Seen
    from mpcheckpoint._store.moving import LogCut


class Content:
    """What one log holds, whoever looks at it.

    Locking: appends hold ``mutex``. Readers take none.

    Invariant: ``data`` is never changed below ``end``, and ``end`` lies behind a whole batch.
    """

    def __init__(self, log_key: str) -> None:
        self.log_key = log_key
        self.generation = uuid.uuid4().hex
        self.previous: tuple[str, ...] = ()
        self.restored: tuple[Restored, ...] = ()
        self.lineage = uuid.uuid4().hex
        self.mutex = Mutex(f"the log {log_key!r}")
        self.compaction = threading.Lock()
        # Held while another generation becomes this one, and while one of them is looked at.
        self.swap = threading.Lock()
        self.appends = 0
        self.highest_us = 0  # of what was lost
        created_us = clock.next(0)
        header, self.header_end = encode_header(log_key, self.generation, created_us, stamp_us=created_us)
        self.data = bytearray(header)
        self.end = self.durable = self.header_end
        # Each crash that took records: how many generations there were, and the stamp of the last record that was left.
        self.losses: list[tuple[int, int]] = []
        # What was appended to this generation, batch by batch: where each ends, and what it concerns.
        self.concerns: list[tuple[int, frozenset[bytes]]] = []

    def publish(self, data: bytes, end: EndState, concerns: frozenset[bytes] = frozenset()) -> None:
        """Add a batch. Requires: ``mutex``."""
        self.concerns.append((end.offset, concerns))
        self.data += data
        self.end = end
        self.appends += 1

    def header(self) -> Header:
        """Return what the log says of its generations."""
        names = self.generation, 0, self.previous, self.header_end, self.lineage, self.restored
        return Header(self.log_key, *names)

    @classmethod
    def made_of(cls, log: LogCut, pace: Callable[[int], None]) -> Content:
        """Return what a log of another storage holds, as a log of this one."""
        made, (leading, begun_us, rest) = cls(log.header.log_key), content_of(log, pace)
        old = came_from(log)
        made.previous, made.restored = (*old.previous, old.generation), old.restored
        made.lineage = old.lineage or made.lineage
        stamp_us = begun_us - len(leading)
        data, made.header_end = encode_header(made.log_key, made.generation, stamp_us, stamp_us=stamp_us)
        made.data, made.end = bytearray(data), made.header_end
        for batch in leading:
            made.take(batch, made.end.stamp_us + 1)
        for lines in rest:
            stamps_us = [line.stamp_us for line in lines if not line.more]
            for batch, stamp_us in zip(batches_of(lines), stamps_us, strict=True):
                made.take(batch, stamp_us)
        made.end = made.durable = made.end._replace(stamp_us=max(made.end.stamp_us, log.last_us))
        return made

    def take(self, batch: list[Payload], stamp_us: int) -> None:
        """Add a batch of that stamp. Requires: nobody else has this."""
        data, end = encode_batch(batch, end=self.end, stamp_us=stamp_us, durable=self.end.offset)
        self.publish(data, end, frozenset(map(concern_of, batch)))

    def begun(self, leading: Sequence[Payload]) -> Content:
        """Return the next generation, with these lines after its header."""
        next_one = copy(self)
        next_one.generation, next_one.previous = uuid.uuid4().hex, (*self.previous, self.generation)
        stamp_us = self.header_end.stamp_us - 1
        header, next_one.header_end = encode_header(
            self.log_key, next_one.generation, stamp_us, stamp_us=stamp_us, previous=next_one.previous
        )
        next_one.data, next_one.end, next_one.concerns = bytearray(header), next_one.header_end, []
        if leading:
            end = next_one.end
            next_one.publish(*encode_batch(list(leading), end=end, stamp_us=stamp_us + 1, durable=end.offset))
        return next_one

    def add(self, source: Content, lines: Lines, *how: Any) -> None:
        """Copy lines of another generation."""
        data = bytes(source.data)
        made, self.end = recoded(data, 0, lines, how[0] if how else b"\1" * len(lines), self.end, *how[1:])
        self.data += made

    def become(self, other: Content) -> None:
        """Become the next generation. Requires: ``mutex``."""
        with self.swap:
            self.previous, self.header_end = other.previous, other.header_end
            self.generation, self.data, self.end = other.generation, other.data, other.end
            self.concerns, self.durable, self.lineage = other.concerns, other.end, other.lineage

    def lose_end(self) -> None:
        """Lose what is not durable, as by a crash of a server; what was read of it is in no later generation."""
        with self.mutex.guard():
            left = self.begun(())
            data = bytes(self.data[self.header_end.offset : self.durable.offset])
            left.add(self, Lines.of(scan(data, self.header_end).lines))
            self.losses.append((len(left.previous), self.durable.stamp_us))
            self.highest_us = max(self.highest_us, self.end.stamp_us)
            self.become(left)

    def is_lost(self, generation: str, stamp_us: int) -> bool:
        """Return whether what stood there in a generation was lost by a crash after that."""
        names = [*self.previous, self.generation]
        number = names.index(generation) if generation in names else 0
        return any(number < after and stamp_us > left_us for after, left_us in self.losses)

    def frozen(self) -> Content:
        """Return what the log holds now. What is appended later does not show in it."""
        with self.swap:
            return copy(self)

    def has_changed(self, seen: Seen, relies_on: frozenset[bytes] | None) -> bool:
        """Return whether anything was appended since that could change what a condition comes to."""
        if seen.generation != self.generation:
            return True
        assert isinstance(seen.end, EndState)
        later = self.concerns[bisect_right(self.concerns, seen.end.offset, key=lambda batch: batch[0]) :]
        return bool(later) if relies_on is None else any(relies_on & concerns for _, concerns in later)

    def lines(self, begun: EndState) -> Lines:
        """Return the lines after a place."""
        return Lines.of(scan(self.since(begun.offset), begun).lines)

    def since(self, offset: int) -> bytes:
        """Return the whole batches behind ``offset``."""
        return bytes(self.data[offset : self.end.offset])
