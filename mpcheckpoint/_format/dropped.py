"""What a compaction left out: how many records of each object, and which record ids are still known.

The lines stand right after the header, before all records.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import msgspec

from mpcheckpoint._format.control import DROPPED, Note, control_payload, note_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mpcheckpoint._format.frame import Line, Payload

_LINE_BYTES = 512 * 1024
_ENTRY_BYTES, _ID_BYTES = 40, 48


# A record id of a record that was dropped, and its place: its stamp, and how many lines of its batch follow it.
RememberedId = tuple[str, int, int]


class DroppedRecords(msgspec.Struct, array_like=True, gc=False):
    """What was dropped of one object.

    Attributes:
        count: how many of its records. A record that others were folded into counts as one that is there.
        last_us: the stamp of its last record, dropped or not. 0 where it is needed for nothing: a record of it is left,
            and the log holds no line that forgets an object. Above the stamp of such a line it tells that all this was
            dropped of what came after it.
        ids: the record ids that are still known.
    """

    object_key: str
    count: int
    last_us: int
    ids: tuple[RememberedId, ...] = ()

    def add(self, other: DroppedRecords) -> None:
        """Add what another line says of the same object."""
        self.count += other.count
        self.last_us = max(self.last_us, other.last_us)
        self.ids = (*self.ids, *other.ids)


class Dropped(msgspec.Struct):
    """What one line says.

    Attributes:
        objects: what was dropped of them.
        forgotten_us: the highest stamp of lines that forgot an object and are gone. So what was read of any object
            before that may be of one that was forgotten since.
        ended_us: the stamp of the last record that the log had when it was compacted, where that may have been dropped.
    """

    objects: list[DroppedRecords]
    forgotten_us: int = 0
    ended_us: int = 0


dropped_in = msgspec.json.Decoder(Dropped).decode


def dropped_payloads(
    dropped: Iterable[DroppedRecords], forgotten_us: int = 0, ended_us: int = 0
) -> Iterator[Payload]:
    """Yield the lines that say what was dropped, each far shorter than a line may be."""
    told = {"forgotten_us": forgotten_us, "ended_us": ended_us}
    if forgotten_us or ended_us:
        yield control_payload(
            DROPPED, objects=[], **{name: stamp_us for name, stamp_us in told.items() if stamp_us}
        )
    pieces = list(_pieces(dropped))
    sums = list(
        accumulate(
            _ENTRY_BYTES + 6 * len(each.object_key) + (_bytes_bound(each.ids) if each.ids else 0)
            for each in pieces
        )
    )
    start = before = 0
    while start < len(pieces):
        stop = min(bisect_right(sums, before + _LINE_BYTES, start) + 1, len(pieces))
        yield control_payload(DROPPED, objects=pieces[start:stop])
        start, before = stop, sums[stop - 1]


def _pieces(dropped: Iterable[DroppedRecords]) -> Iterator[DroppedRecords]:
    """Yield the same, an object with many ids in several parts."""
    for each in dropped:
        if not each.ids:
            yield each
            continue
        ids, count = each.ids, each.count
        while _bytes_bound(ids) > _LINE_BYTES and len(ids) > 1:
            head, ids = ids[: len(ids) // 2], ids[len(ids) // 2 :]
            yield from _pieces([DroppedRecords(each.object_key, count, each.last_us, head)])
            count = 0
        yield DroppedRecords(each.object_key, count, each.last_us, ids)


def _bytes_bound(ids: Sequence[RememberedId]) -> int:
    return sum(_ID_BYTES + 6 * len(each[0]) for each in ids)


def dropped_note(line: Line) -> Note:
    """Return the note that such a line is, decoded once: it may speak of thousands of objects."""
    try:
        dropped = dropped_in(line.event)
    except msgspec.MsgspecError:
        return note_of(line)  # none that this library writes: whoever needs what it says, finds out
    return Note(DROPPED, msgspec.structs.asdict(dropped))


def dropped_of(fields: Mapping[str, Any]) -> Dropped:
    """Return what a note of the line says, decoded so, or as any other."""
    return msgspec.convert(fields, Dropped)
