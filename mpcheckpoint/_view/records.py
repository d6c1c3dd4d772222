"""The records of one log in memory, packed: each takes a few bytes beside its event, and none is an object of its own.

Rejected: offsets, to read events again from the file. A log may be replaced, its disk may fail, other storages have no
file, and a frozen cut would have to keep it open. Rejected, too: an object an event. That took three to four times the
log's bytes, and gave the garbage collector work at every replay.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint import _core

if TYPE_CHECKING:
    from mpcheckpoint._format.columns import Column, Lines


class RawEvent(NamedTuple):
    """One event of one object, undecoded, and its place in the log."""

    stamp_us: int
    more: int
    end: int
    event: bytes


class Records:
    """Records in the order of their log, by number, and the numbers of each object's records.

    Numbers take 32 bits: memory has no room for that many records, and one more would raise OverflowError.

    Invariant: records are only added, never changed or removed, so ``count`` describes a frozen cut
    (held by tests/read/test_view.py).
    """

    __slots__ = (
        "_ends",
        "_events",
        "_run_ends",
        "_run_mores",
        "_run_stamps",
        "_run_starts",
        "_start",
        "count",
        "objects",
    )

    def __init__(self) -> None:
        self.count = 0
        # The numbers of each object's records. A single one needs no array: most objects may have no more. The native
        # core has a sequence of its own in the place of arrays, which is read in the same way.
        self.objects: dict[str, int | array[int]] = {}
        self._events = bytearray()
        self._ends = array("Q")
        # A run is consecutive records of one batch: the number of the first, their stamp, how many lines of the batch
        # follow the first, and the offset after the last.
        self._run_starts = array("I")
        self._run_stamps = array("Q")
        self._run_mores = array("I")
        self._run_ends = array("Q")
        self._start = 0

    def add(self, lines: Lines) -> None:
        """Add the next records of the log."""
        if not self.count and lines:
            self._start = lines.offsets[0]
        self._add_ends(lines.event_ends, len(self._events))
        self._events += lines.events
        self._add_runs(lines.stamps_us, lines.mores, lines.ends)
        self._add_objects(lines.object_keys)
        self.count += len(lines)

    def _add_ends(self, ends: Column, start: int) -> None:
        if _core.native is not None and isinstance(ends, array):
            self._ends.frombytes(_core.native.shifted(ends, start))
        else:
            self._ends.extend([start + place for place in ends])

    def _add_runs(self, stamps_us: Column, mores: Column, ends: Column) -> None:
        first, count = self.count, len(mores)
        if not any(mores):
            self._run_starts.extend(range(first, first + count))
            self._run_stamps.extend(stamps_us)
            self._run_mores.extend(mores)
            self._run_ends.extend(ends)
            return
        start = 0
        while start < count:
            # ``more`` falls by one from line to line of a batch: if it has fallen by the number of lines, none is
            # missing in between.
            last = start + mores[start]
            if last >= count or mores[last] or stamps_us[last] != stamps_us[start]:
                last = start
            self._run_starts.append(first + start)
            self._run_stamps.append(stamps_us[start])
            self._run_mores.append(mores[start])
            self._run_ends.append(ends[last])
            start = last + 1

    def _add_objects(self, object_keys: list[str | None]) -> None:
        objects = self.objects
        if _core.native is not None:
            _core.native.index(objects, object_keys, self.count)
            return
        known_of = objects.get
        for number, object_key in enumerate(object_keys, self.count):
            assert object_key is not None  # readers leave control lines out
            known = known_of(object_key)
            if known is None:
                objects[object_key] = number
            elif isinstance(known, int):
                objects[object_key] = array("I", (known, number))
            else:
                known.append(number)

    def numbers_of(self, object_key: str) -> Sequence[int]:
        """Return the numbers of an object's records, in order. Do not change them."""
        known = self.objects.get(object_key)
        return () if known is None else (known,) if isinstance(known, int) else known

    def latest_first(self, object_key: str) -> Iterator[tuple[int, bytes]]:
        """Yield the number and the event, undecoded, of each of an object's records, the latest first. Few calls: a map
        asks for each item. Requires: nothing is added meanwhile."""
        events, ends = self._events, self._ends
        for number in reversed(self.numbers_of(object_key)):
            yield number, bytes(events[ends[number - 1] if number else 0 : ends[number]])

    def last_of_each(self, object_keys: list[str]) -> list[tuple[int, bytes] | None]:
        """Return the stamp and the event, undecoded, of each of these objects' last record; None if it has none."""
        if _core.native is not None:
            found: list[tuple[int, bytes] | None] = _core.native.last_records(
                self.objects, object_keys, self._ends, self._events, self._run_starts, self._run_stamps
            )
            return found
        numbers = [self.numbers_of(each)[-1:] for each in object_keys]
        return [(self.stamp_us(last[0]), self.event(last[0])) if last else None for last in numbers]

    def events_of(self, object_key: str) -> list[bytes]:
        """Return an object's events, undecoded, in order. Few calls: each read asks."""
        known = self.objects.get(object_key)
        if known is None:
            return []
        events, ends = self._events, self._ends
        if isinstance(known, int):
            return [bytes(events[ends[known - 1] if known else 0 : ends[known]])]
        return [bytes(events[ends[number - 1] if number else 0 : ends[number]]) for number in known]

    def events_from(self, object_key: str, index: int) -> list[bytes]:
        """Return an object's events from its so many-th record on, undecoded. The others cost nothing."""
        return [self.event(number) for number in self.numbers_of(object_key)[index:]]

    def last_of(self, object_key: str, n: int) -> list[bytes]:
        """Return an object's last events, undecoded. The others cost nothing."""
        numbers = self.numbers_of(object_key)
        return [self.event(number) for number in numbers[max(0, len(numbers) - n) :]]

    def first_after(self, stamp_us: int, more: int) -> int:
        """Return the number of the first record after a place: ``count`` if there is none."""
        after = bisect_right(self._run_stamps, stamp_us)
        first = self._run_starts[after] if after < len(self._run_starts) else self.count
        if more:  # inside a batch
            start = bisect_left(self._run_stamps, stamp_us, hi=after)
            batch = range(self._run_starts[start] if start < after else first, first)
            first = bisect_right(batch, -more, key=lambda number: self.place(number)[1]) + batch.start
        return first

    def cut(self) -> Cut:
        """Return what is here now, frozen: what is added later is not in it."""
        return Cut(self, dict(self.objects), self.count)

    def event(self, number: int) -> bytes:
        """Return the event of a record, undecoded."""
        start = self._ends[number - 1] if number else 0
        return bytes(self._events[start : self._ends[number]])

    def stamp_us(self, number: int) -> int:
        """Return the stamp of a record."""
        return self._run_stamps[bisect_right(self._run_starts, number) - 1]

    def place(self, number: int) -> tuple[int, int]:
        """Return the place after a record, as positions are ordered: its stamp and, negated, how many lines of its
        batch follow it."""
        run = bisect_right(self._run_starts, number) - 1
        return self._run_stamps[run], number - self._run_starts[run] - self._run_mores[run]

    def entry(self, number: int) -> RawEvent:
        """Return a record. If more of its run follows, its ``end`` is that of the run before: reading can only begin at
        whole batches."""
        run = bisect_right(self._run_starts, number) - 1
        more = self._run_mores[run] - (number - self._run_starts[run])
        before = self._run_ends[run - 1] if run else self._start
        end = before if more else self._run_ends[run]
        return RawEvent(self._run_stamps[run], more, end, self.event(number))


class Cut:
    """The first records of a log, and their objects. Shares the memory of the Records it was made of."""

    __slots__ = ("_count", "_records", "objects")

    def __init__(self, records: Records, objects: dict[str, int | array[int]], count: int) -> None:
        self._records, self.objects, self._count = records, objects, count

    def event(self, number: int) -> bytes:
        """Return the event of a record, undecoded."""
        return self._records.event(number)

    def events_of(self, object_key: str) -> list[bytes]:
        """Return an object's events, undecoded, in order."""
        return [self._records.event(number) for number in self.numbers_of(object_key)]

    def stamp_us(self, number: int) -> int:
        """Return the stamp of a record."""
        return self._records.stamp_us(number)

    def numbers_of(self, object_key: str) -> Sequence[int]:
        """Return the numbers of an object's records, in order. Do not change them."""
        known = self.objects.get(object_key)
        if known is None:
            return ()
        if isinstance(known, int):
            return (known,)
        return known if known[-1] < self._count else known[: bisect_left(known, self._count)]
