"""The state in memory: object key -> events. Pure: no I/O, no locks.

It is a function of the log's bytes alone: all of it came out of lines, the writer's own records too (G5).
"""

from __future__ import annotations

from heapq import merge
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from mpcheckpoint._format.codec import record_id_of
from mpcheckpoint._format.columns import Lines
from mpcheckpoint._format.control import CLAIM, DROPPED
from mpcheckpoint._format.dropped import dropped_of
from mpcheckpoint._format.frame import NO_META
from mpcheckpoint._types import Position
from mpcheckpoint._view.records import Cut, Records

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mpcheckpoint._format.control import Note
    from mpcheckpoint._format.dropped import DroppedRecords
    from mpcheckpoint._logfile.chunk import Chunk

# The note that begins a run of a map. All of them are kept: outcomes name theirs.
MAP = "map"


class MovedError(Exception):
    """A log got another generation: to read it takes too long for a caller that holds an append lock."""


class ObjectState(NamedTuple):
    """What differs if anything happened to an object.

    Attributes:
        forgotten_us: when it was last forgotten, or may have been.
        events: how many were appended for it.
        last_us: the stamp of the last one: records that a crash took may be followed by as many others. None where a
            compaction has left that one out.
    """

    forgotten_us: int
    events: int
    last_us: int | None

    def is_same(self, later: ObjectState) -> bool:
        """Return whether nothing has happened since; ``later`` may be from after a compaction."""
        is_known = self.last_us is not None and later.last_us is not None
        return self[:2] == later[:2] and (not is_known or self.last_us == later.last_us)


class LogView:
    """The state of one log: its records, by object, and what its notes say."""

    def __init__(self, log_key: str) -> None:
        self.log_key = log_key
        self.generation = self.lineage = ""
        self.records = Records()
        self.applied = 0
        self._ids: dict[tuple[str, str], int] = {}
        # Of records that a compaction left out: how many of each object, the stamp of its last record where that is
        # told, and the places of ids that are still known.
        self._dropped: dict[str, int] = {}
        self._dropped_us: dict[str, int] = {}
        self._dropped_ids: dict[str, dict[str, tuple[int, int]]] = {}
        # Of each object that was forgotten: when last, and how many records the log had then.
        self._forgets: dict[str, tuple[int, int]] = {}
        # When an object was last forgotten of which not even that is left: it may be any.
        self._forgotten_us = 0
        # The stamp of the last line that says that something was forgotten, or that of a record that may be left out.
        self._ended_us = 0
        # Those not given back, object key to worker. The workers may be dead.
        self.claims: dict[str, str] = {}
        self._notes: dict[str, dict[str, Any]] = {}
        self.map_notes: list[dict[str, Any]] = []
        # What others derived from ``map_notes``, until a further one comes.
        self.memo: dict[object, Any] = {}

    def apply(self, chunk: Chunk) -> None:
        """Add what a reader found new."""
        if chunk.is_reset:
            # A new one: a snapshot may share the old one.
            self.records, self._ids = Records(), {}
            self._dropped, self._dropped_us, self._dropped_ids, self._forgets = {}, {}, {}, {}
            self._forgotten_us = self._ended_us = 0
            self.claims, self._notes = {}, {}
            self.map_notes, self.memo = [], {}
        self.generation, self.lineage = chunk.generation, chunk.lineage
        if not self.records.count:
            # Those lines stand before all records.
            told = [dropped_of(note.fields) for note in chunk.notes if note.name == DROPPED]
            self._forgotten_us = max([self._forgotten_us, *(each.forgotten_us for each in told)])
            self._ended_us = max([self._forgotten_us, self._ended_us, *(each.ended_us for each in told)])
            self._apply_dropped([*chain.from_iterable(each.objects for each in told)])
        lines, done = Lines.of(chunk.lines), 0
        for at, forgotten, stamp_us in chunk.forgets:
            self._add(lines[done:at])
            self._forget(forgotten, stamp_us)
            done = at
        self._add(lines[done:] if done else lines)
        claims = self.claims
        for note in chunk.notes:
            if note.name != CLAIM:
                self._apply_note(note)
                continue
            # In here: beside many workers this is most of what there is to do.
            object_key, worker = note.fields.get("object_key"), note.fields.get("worker")
            if not isinstance(object_key, str):
                continue  # a claim to nothing, which no version of this library writes
            if isinstance(worker, str):
                claims[object_key] = worker
            else:
                claims.pop(object_key, None)
        self.applied += 1

    def _add(self, lines: Lines) -> None:
        if lines.metas is not None:
            self._apply_ids(lines.object_keys, lines.metas, self.records.count)
        self.records.add(lines)

    def _forget(self, object_key: str, stamp_us: int) -> None:
        """Have the object as if nothing had been recorded of it. What shares the records goes on seeing them."""
        # Else nothing stands before this line but what was dropped since.
        if self._dropped_us.get(object_key, 0) < stamp_us:
            self.records.objects.pop(object_key, None)
            for dropped in (self._dropped, self._dropped_us, self._dropped_ids):
                dropped.pop(object_key, None)
        self._forgets[object_key] = stamp_us, self.records.count
        self._ended_us = max(self._ended_us, stamp_us)  # what was dropped may be younger

    def _apply_ids(self, object_keys: list[str | None], metas: list[bytes], first: int) -> None:
        for number, (object_key, meta) in enumerate(zip(object_keys, metas, strict=True), first):
            record_id = record_id_of(meta) if meta != NO_META else None
            if record_id is None or object_key is None:
                continue
            known = self._ids.setdefault((object_key, record_id), number)
            if known < self._first_of(object_key):
                self._ids[object_key, record_id] = number

    def _first_of(self, object_key: str) -> int:
        """Return the number of the first record that may be one of an object's, since it was last forgotten."""
        return self._forgets[object_key][1] if object_key in self._forgets else 0

    def _apply_note(self, note: Note) -> None:
        if note.name == MAP:
            self.map_notes.append(note.fields)
            self.memo = {}
        if note.name != DROPPED:
            self._notes[note.name] = note.fields

    def _apply_dropped(self, dropped: list[DroppedRecords]) -> None:
        counts = {each.object_key: each.count for each in dropped}
        if len(counts) == len(dropped) and not self._dropped:
            self._dropped = counts
        else:  # an object with many ids is told of in parts
            for each in dropped:
                self._dropped[each.object_key] = self._dropped.get(each.object_key, 0) + each.count
        for each in dropped:
            if each.last_us:
                self._dropped_us[each.object_key] = max(
                    each.last_us, self._dropped_us.get(each.object_key, 0)
                )
            for record_id, stamp_us, more in each.ids:
                self._dropped_ids.setdefault(each.object_key, {}).setdefault(record_id, (stamp_us, more))
        self._ended_us = max([self._ended_us, *self._dropped_us.values()])

    def count_of(self, object_key: str) -> int:
        """Return how many events were appended for an object, those included that a compaction left out."""
        return self._dropped.get(object_key, 0) + len(self.records.numbers_of(object_key))

    def events_from(self, object_key: str, start: int) -> list[bytes]:
        """Return the events of an object from that number on, undecoded; what was left out counts as the first ones."""
        return self.records.events_from(object_key, max(0, start - self.dropped_of(object_key)))

    @property
    def last(self) -> tuple[int, int]:
        """The place after the last record, or the last forgotten object, that the log ever had (``Records.place``)."""
        last, ended = self.records.count - 1, (self._ended_us, 0)
        return ended if last < 0 else max(self.records.place(last), ended)

    def state_of(self, object_key: str) -> ObjectState:
        """Return what differs if anything happened to an object."""
        forgotten_us = self._forgets.get(object_key, (self._forgotten_us, 0))[0]
        numbers = self.records.numbers_of(object_key)
        last_us = self.records.stamp_us(numbers[-1]) if numbers else None
        return ObjectState(forgotten_us, self._dropped.get(object_key, 0) + len(numbers), last_us)

    def dropped_of(self, object_key: str) -> int:
        """Return how many events of an object a compaction left out."""
        return self._dropped.get(object_key, 0)

    def claim_of(self, object_key: str) -> str | None:
        """Return the worker that last claimed an object and has not given it back; it may be dead."""
        return self.claims.get(object_key)

    def note(self, name: str) -> dict[str, Any] | None:
        """Return what the last control line of that name says, or None."""
        return self._notes.get(name)

    def position_of(self, number: int) -> Position:
        """Return the place after a record."""
        entry = self.records.entry(number)
        return Position(self.log_key, self.generation, entry.end, entry.stamp_us, entry.more, self.lineage)

    def position_of_id(self, object_key: str, record_id: str) -> Position | None:
        """Return the place after the first record of that id for that object, or None. It may be left out by now."""
        place = self._dropped_ids.get(object_key, {}).get(record_id)
        if place is not None:
            return Position(self.log_key, self.generation, 0, *place, self.lineage)
        number = self._ids.get((object_key, record_id))
        if number is None or number < self._first_of(object_key):
            return None
        return self.position_of(number)


def merged(logs: Mapping[str, Records] | Mapping[str, Cut], object_key: str) -> list[bytes]:
    """Return the events of an object over all logs, undecoded, in the merged order.

    The order is by (stamp, log key, place in the log): equal in all processes that have read the same bytes. Stamps
    rise along a log, so within a log it is file order.
    """
    known = [(log_key, log) for log_key, log in logs.items() if object_key in log.objects]
    if len(known) < 2:
        return known[0][1].events_of(object_key) if known else []
    places = [
        [(log.stamp_us(number), log_key, number, log) for number in log.numbers_of(object_key)]
        for log_key, log in known
    ]
    return [log.event(number) for _, _, number, log in merge(*places)]


def object_count(logs: Mapping[str, Records]) -> int:
    """Return how many objects the logs hold records of."""
    if len(logs) == 1:
        return sum(len(log.objects) for log in logs.values())
    return len(set().union(*(log.objects for log in logs.values())))


def ordered_object_keys(logs: Mapping[str, Records] | Mapping[str, Cut]) -> list[str]:
    """Return all object keys, in the merged order of each object's first event."""
    if len(logs) == 1:
        return [object_key for log in logs.values() for object_key in log.objects]
    places = [
        [
            (log.stamp_us(number if isinstance(number, int) else number[0]), log_key, index, object_key)
            for index, (object_key, number) in enumerate(log.objects.items())
        ]
        for log_key, log in logs.items()
    ]
    return list(dict.fromkeys(object_key for _, _, _, object_key in merge(*places)))
