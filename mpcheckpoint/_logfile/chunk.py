"""What a reader of a log gives out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpcheckpoint._format.control import Note
    from mpcheckpoint._format.frame import Line


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
    """

    lines: Sequence[Line]
    notes: list[Note]
    generation: str
    durable: int
    is_reset: bool
    begun_us: int = 0
    note_stamps_us: Sequence[int] = ()
