"""Read several logs, or some of one: chosen records, in the merged order, in bounded memory."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint._format.codec import decode_event, folded_of, record_id_of
from mpcheckpoint._format.columns import Lines
from mpcheckpoint._format.frame import MAX_STAMP_US, Line
from mpcheckpoint._types import Cursor, Position, Record
from mpcheckpoint._view.durable import StatedDurable
from mpcheckpoint.errors import CheckpointError

if TYPE_CHECKING:
    from mpcheckpoint._logfile.chunk import Forget, Origin
    from mpcheckpoint._store.protocol import Reader, StoredLog
    from mpcheckpoint._view.durable import Only

# How much of a log is read at a time: worth a turn, and little enough to hold of many logs at once.
_PART_BYTES = 64 * 1024
_NEAR_END_BYTES = 64 * 1024
_CLOSE_TO_END_BYTES = 4096
_USUAL_RECORD_BYTES = 256
_FARTHER = 8


class Choice(NamedTuple):
    """Which records are wanted: of one object or of all, and from when to when, both included."""

    object_key: str | None = None
    since_us: int = 0
    until_us: int = MAX_STAMP_US

    def numbers_in(self, lines: Lines) -> list[int] | range:
        """Return the numbers of the wanted lines. By columns: no Line is made of the others, and nothing is decoded."""
        stamps_us = lines.stamps_us
        numbers: list[int] | range = range(len(lines))
        if self.object_key is not None:
            wanted = self.object_key
            numbers = [number for number, object_key in enumerate(lines.object_keys) if object_key == wanted]
        if numbers and (stamps_us[0] < self.since_us or stamps_us[-1] > self.until_us):
            return [number for number in numbers if self.since_us <= stamps_us[number] <= self.until_us]
        return numbers


ALL = Choice()

# Called with the key of each log that cannot be read to its end, after all that can be read was given out. Without it
# the first of these failures is raised.
OnFailure = Callable[[str, CheckpointError], object]


class RawRecord(NamedTuple):
    """A wanted record that is not decoded yet, and the offset from which to read on after it."""

    line: Line
    origin: Origin
    offset: int

    @property
    def order(self) -> tuple[int, str]:
        """How records of different logs are merged; those of one log are in order already."""
        return self.line.stamp_us, self.origin.log_key

    def is_after(self, position: Position) -> bool:
        """Return whether it comes after a position in the same log."""
        return (self.line.stamp_us, -self.line.more) > (position.stamp_us, -position.more)

    def record(self) -> Record:
        """Return the record."""
        line = self.line
        log_key, generation, lineage = self.origin
        assert line.object_key is not None
        return Record(
            log_key,
            line.object_key,
            decode_event(line.event),
            line.stamp_us,
            record_id_of(line.meta),
            Position(log_key, generation, self.offset, line.stamp_us, line.more, lineage),
            folded_of(line.meta),
        )


def raw_record_at(lines: Lines, number: int, origin: Origin) -> RawRecord:
    """Return one of these lines."""
    line = lines[number]
    return RawRecord(line, origin, _place_after(lines, number))


def records_in(lines: Lines, choice: Choice, origin: Origin) -> Iterator[Record]:
    """Yield the wanted ones of these lines as records. From the columns: no Line is made."""
    log_key, generation, lineage = origin
    events, event_ends, metas = lines.events, lines.event_ends, lines.metas
    for number in choice.numbers_in(lines):
        object_key = lines.object_keys[number]
        assert object_key is not None  # readers leave control lines out
        start = event_ends[number - 1] if number else 0
        stamp_us, more = lines.stamps_us[number], lines.mores[number]
        yield Record(
            log_key,
            object_key,
            decode_event(bytes(events[start : event_ends[number]])),
            stamp_us,
            None if metas is None else record_id_of(metas[number]),
            Position(log_key, generation, _place_after(lines, number), stamp_us, more, lineage),
            None if metas is None else folded_of(metas[number]),
        )


def _place_after(lines: Lines, number: int) -> int:
    """Return the offset from which to read on after a line: inside a batch, the batch's start."""
    if not lines.mores[number]:
        return lines.ends[number]
    return lines.offsets[bisect_left(lines.stamps_us, lines.stamps_us[number])]


class Part(NamedTuple):
    """Some lines of a log, where they were read, and what is forgotten among them."""

    lines: Lines
    origin: Origin
    forgets: Sequence[Forget]


class Tap:
    """One log, read a part at a time. Between two parts no file is in use: there may be many logs."""

    def __init__(self, stored: StoredLog, choice: Choice, only: Only | None = None) -> None:
        """Read what ``stored`` holds now: writers may be faster than the caller. Of that, what ``only`` chooses."""
        self.log_key = stored.log_key
        self.failure: CheckpointError | None
        # The place after all that the log holds now; None if its end cannot be read.
        self.end = _end_of(stored)
        self._stored = stored
        until_us = choice.until_us if self.end is None else min(choice.until_us, self.end.stamp_us)
        self._choice = choice._replace(until_us=until_us)
        self._only = only
        self._open()

    def _open(self) -> None:
        self.reader: Reader = self._stored.reader(resumes=True)
        self._chosen = None if self._only is None else self._only(self._stored)
        self._held = self._chosen if isinstance(self._chosen, StatedDurable) else None
        self.is_at_end, self.failure = False, None

    def begin(self) -> None:
        """Skip what is too old, as far as that is possible without reading it."""
        try:
            skip_older(self.reader, self._choice.since_us)
        except CheckpointError as error:
            self.failure, self.is_at_end = error, True

    def lines(self) -> Iterator[Part]:
        """Yield what the log holds, a part at a time. Keep what ends it too early as ``failure``."""
        while not self.is_at_end:
            yield from self._part()

    def _part(self) -> list[Part]:
        part: list[Part] = []
        taken_bytes = 0
        try:
            for chunk in self.reader.poll():  # what is left of them comes at the next call
                if self._held is not None and self._held.is_superseded_by(chunk.generation):
                    break  # what is held back has other offsets there
                lines = Lines.of(chunk.lines if self._chosen is None else self._chosen(chunk))
                if not lines:
                    if chunk.forgets:
                        part.append(Part(lines, chunk.origin(self.log_key), chunk.forgets))
                    continue
                part.append(Part(lines, chunk.origin(self.log_key), chunk.forgets))
                taken_bytes += lines.ends[-1] - lines.offsets[0]
                self.is_at_end = lines.stamps_us[-1] >= self._choice.until_us
                if taken_bytes >= _PART_BYTES or self.is_at_end:
                    return part
        except CheckpointError as error:
            self.failure = error
        self.is_at_end = True
        return part

    def records(self) -> Iterator[Record]:
        """Yield the wanted records."""
        for lines, origin, _ in self.lines():
            yield from records_in(lines, self._choice, origin)
        self.reader.release()

    def last(self, count: int) -> list[RawRecord]:
        """Return the last ``count`` wanted records, reading no more of the log than it takes."""
        length = max(_NEAR_END_BYTES, count * _USUAL_RECORD_BYTES)
        while count:
            passed_us = self._begin_near_end(length)
            kept: list[RawRecord] = []
            for lines, origin, _ in self.lines():
                numbers = self._choice.numbers_in(lines)[-count:]
                kept += [raw_record_at(lines, number, origin) for number in numbers]
                del kept[:-count]
            self.reader.release()
            if passed_us is None or len(kept) >= count or passed_us < self._choice.since_us:
                return kept[-count:]
            length *= _FARTHER
            self._open()
        return []

    def _begin_near_end(self, length: int) -> int | None:
        try:
            return self.reader.begin_near_end(length)
        except CheckpointError as error:
            self.failure, self.is_at_end = error, True
            return None


def skip_older(reader: Reader, since_us: int) -> None:
    """Skip what is older than that, as far as that is possible without reading it."""
    length = _NEAR_END_BYTES
    while since_us and (passed_us := reader.begin_near_end(length)) is not None and passed_us >= since_us:
        length *= _FARTHER


def skip_to_end(reader: Reader) -> Position:
    """Skip what a log holds now, reading only its end; return the place after it."""
    reader.begin_near_end(_CLOSE_TO_END_BYTES)
    for _ in reader.poll():
        pass
    return reader.position()


def _end_of(stored: StoredLog) -> Position | None:
    reader = stored.reader()
    try:
        return skip_to_end(reader)
    except CheckpointError:
        return None  # reading the log meets the same, and says so
    finally:
        reader.release()


class Reading:
    """Iterate over records of several logs, in the merged order, in bounded memory: a few megabytes a log.

    Get it from ``Checkpoint.read``. Of each log comes what it held at that call.

    Raises:
        CorruptLogError, ReadFailedError, LogNotFoundError, FormatVersionError: a log cannot be read to its end. Raised
            after all else was given out, and of that log what is before the damage.

    Concurrency: for one thread at a time.
    """

    def __init__(
        self,
        logs: Iterable[StoredLog],
        choice: Choice,
        last: int | None,
        *,
        on_failure: OnFailure | None = None,
    ) -> None:
        self._on_failure = on_failure
        self._positions: dict[str, Position] = {}
        self._taps = [Tap(stored, choice) for stored in logs]
        self._records = self._merged() if last is None else self._last(last)

    @property
    def cursor(self) -> Cursor:
        """The place after what was given out: hand it to ``Checkpoint.follow`` to go on from there.

        When the iteration has ended, it is after all that was read, wanted or not.
        """
        return Cursor.of(self._positions)

    def __iter__(self) -> Reading:
        return self

    def __next__(self) -> Record:
        """Return the next record.

        Raises:
            StopIteration: there are no more. If some log could not be read to its end, its error instead.
        """
        record = next(self._records)
        self._positions[record.log_key] = record.position
        return record

    def _merged(self) -> Iterator[Record]:
        for tap in self._taps:
            tap.begin()
        if len(self._taps) == 1:
            yield from self._taps[0].records()
        else:
            yield from merge(
                *(tap.records() for tap in self._taps), key=lambda each: (each.stamp_us, each.log_key)
            )
        self._end()

    def _last(self, count: int) -> Iterator[Record]:
        kept: list[RawRecord] = []
        for tap in self._taps:
            kept = sorted(kept + tap.last(count), key=lambda found: found.order)[-count:]
        for found in kept:
            yield found.record()
        self._end()

    def _end(self) -> None:
        for tap in self._taps:
            if tap.end is not None and tap.failure is None:
                self._positions[tap.log_key] = tap.end
        for tap in self._taps:
            if tap.failure is None:
                continue
            if self._on_failure is None:
                raise tap.failure
            self._on_failure(tap.log_key, tap.failure)
