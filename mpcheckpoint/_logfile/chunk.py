"""What a reader of a log gives out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint._format.control import (
    CONTROLS_OF_A_GENERATION,
    DROPPED,
    FORGET,
    Note,
    forgotten_in,
    note_of,
)
from mpcheckpoint._format.dropped import dropped_note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpcheckpoint._format.frame import Line


class Forget(NamedTuple):
    """A line from which on the log holds nothing of an object.

    Attributes:
        at: how many records of the chunk stand before it.
        object_key: the object. stamp_us: the stamp of the line.
    """

    at: int
    object_key: str
    stamp_us: int


class Origin(NamedTuple):
    """Where records were read: what their positions have in common."""

    log_key: str
    generation: str
    lineage: str


class Chunk(NamedTuple):
    """Records that are new to a reader, in file order.

    Attributes:
        lines: the records, in whole batches.
        notes: what the ignorable control lines among them say.
        generation: the generation that they are in.
        durable: the highest offset that they, or lines before them, state as durable.
        is_reset: whether the log was loaded anew, so that what was read before is void.
        begun_us: the stamp of the line that ends what was copied into the generation; 0 while none was read.
        note_stamps_us: the stamp of each of the notes; empty where the storage does not tell.
        lineage: what all generations of the log share; "" where there is none.
        forgets: what is forgotten, in the order of the log.
    """

    lines: Sequence[Line]
    notes: list[Note]
    generation: str
    durable: int
    is_reset: bool
    begun_us: int = 0
    note_stamps_us: Sequence[int] = ()
    lineage: str = ""
    forgets: Sequence[Forget] = ()

    def origin(self, log_key: str) -> Origin:
        """Return where the records were read."""
        return Origin(log_key, self.generation, self.lineage)


class Told:
    """What the control lines tell that a reader came across."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self._stamps_us: list[int] = []
        self.forgets: list[Forget] = []

    def take(self, control: str, line: Line, at: int) -> None:
        """Take note of a line of that name, before which ``at`` of the records stand."""
        if control == FORGET:
            self.forgets.append(Forget(at, forgotten_in(line), line.stamp_us))
        elif control not in CONTROLS_OF_A_GENERATION:
            self.notes.append(note_of(line) if control != DROPPED else dropped_note(line))
            self._stamps_us.append(line.stamp_us)

    def chunk(
        self,
        records: Sequence[Line],
        generation: str,
        lineage: str,
        durable: int,
        passed: int,
        *,
        is_reset: bool,
        begun_us: int,
    ) -> Chunk:
        """Return the chunk of these records; ``passed`` of those that stood before them are left out."""
        forgets = [each._replace(at=max(0, each.at - passed)) for each in self.forgets]
        stamps_us = self._stamps_us
        return Chunk(
            records, self.notes, generation, durable, is_reset, begun_us, stamps_us, lineage, forgets
        )
