"""The in-memory state: object key -> events. Pure: no I/O, no locks.

It is a function of the log's bytes alone: everything in it came out of a line, the writer's own records too (G5).
"""

from __future__ import annotations

from heapq import merge
from typing import TYPE_CHECKING, Any, NamedTuple

from mpcheckpoint._format.codec import record_id_of
from mpcheckpoint._format.frame import NO_META
from mpcheckpoint._types import Position

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mpcheckpoint._format.control import Note
    from mpcheckpoint._storage.reader import Chunk

# The note by which a worker takes an object, or gives it back.
CLAIM = "claim"


class Entry(NamedTuple):
    """One event of one object, undecoded, and its place in the log."""

    stamp_us: int
    more: int
    end: int
    event: bytes


class LogView:
    """The state of one log: object key -> its entries, in file order."""

    def __init__(self, log_key: str) -> None:
        self.log_key = log_key
        self.generation = ""
        self.records = 0
        self.applied = 0
        self._objects: dict[str, list[Entry]] = {}
        self._ids: dict[tuple[str, str], Entry] = {}
        self._claims: dict[str, str] = {}
        self._notes: dict[str, dict[str, Any]] = {}

    def apply(self, chunk: Chunk) -> None:
        """Take in what a reader found new."""
        if chunk.is_reset:
            self._objects, self._ids, self.records = {}, {}, 0
            self._claims, self._notes = {}, {}
        self.generation = chunk.generation
        objects = self._objects
        for line in chunk.lines:
            object_key = line.object_key
            assert object_key is not None  # readers leave control lines out
            entry = Entry(line.stamp_us, line.more, line.end, line.event)
            entries = objects.get(object_key)
            if entries is None:
                objects[object_key] = [entry]
            else:
                entries.append(entry)
            if line.meta != NO_META:
                record_id = record_id_of(line.meta)
                if record_id is not None:
                    self._ids.setdefault((object_key, record_id), entry)
        self.records += len(chunk.lines)
        for note in chunk.notes:
            self._apply_note(note)
        self.applied += 1

    def _apply_note(self, note: Note) -> None:
        if note.name != CLAIM:
            self._notes[note.name] = note.fields
            return
        object_key, worker = note.fields.get("object_key"), note.fields.get("worker")
        if not isinstance(object_key, str):
            return  # a claim to nothing, which no version of this library writes
        if isinstance(worker, str):
            self._claims[object_key] = worker
        else:
            self._claims.pop(object_key, None)

    def entries(self, object_key: str) -> Sequence[Entry]:
        """Return the entries of an object, in file order."""
        return self._objects.get(object_key, ())

    def object_keys(self) -> Iterable[str]:
        """Return the objects this log knows."""
        return self._objects.keys()

    def claim_of(self, object_key: str) -> str | None:
        """Return the worker that claimed an object last and has not given it back; it may be dead."""
        return self._claims.get(object_key)

    def note(self, name: str) -> dict[str, Any] | None:
        """Return what the last control line of that name says, or None."""
        return self._notes.get(name)

    def position_of(self, entry: Entry) -> Position:
        """Return the place behind an entry."""
        return Position(self.log_key, self.generation, entry.end, entry.stamp_us, entry.more)

    def position_of_id(self, object_key: str, record_id: str) -> Position | None:
        """Return the place behind the first record of that id for that object, or None."""
        entry = self._ids.get((object_key, record_id))
        return self.position_of(entry) if entry is not None else None


def merged(views: Mapping[str, LogView], object_key: str) -> list[bytes]:
    """Return the events of an object over all logs, undecoded, in the merged order.

    The order is by (stamp, log key, place in the log): equal for everyone who has read the same bytes.
    Stamps rise along a log, so within a log it is file order.
    """
    known = [(log_key, entries) for log_key, view in views.items() if (entries := view.entries(object_key))]
    if len(known) == 1:
        return [entry.event for entry in known[0][1]]
    keyed = [
        [(entry.stamp_us, log_key, index, entry.event) for index, entry in enumerate(entries)]
        for log_key, entries in known
    ]
    return [event for _, _, _, event in merge(*keyed)]


def ordered_object_keys(views: Mapping[str, LogView]) -> list[str]:
    """Return all object keys, in the merged order of each object's first event."""
    first: dict[str, tuple[int, str, int]] = {}
    for log_key, view in views.items():
        for object_key in view.object_keys():
            entry = view.entries(object_key)[0]
            # Lines of one batch share a stamp; those that have more to come stand before.
            place = (entry.stamp_us, log_key, -entry.more)
            if object_key not in first or place < first[object_key]:
                first[object_key] = place
    return sorted(first, key=first.__getitem__)
