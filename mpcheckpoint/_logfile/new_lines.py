"""Read what was appended since the last look, in one step, if nothing about it is unusual."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mpcheckpoint import _core
from mpcheckpoint import _system as system
from mpcheckpoint._format.blocks import canonical_records
from mpcheckpoint._format.columns import Lines
from mpcheckpoint._format.control import Note, note_of, note_payload
from mpcheckpoint._format.frame import (
    CLOSING_BYTES,
    MAX_BATCH_BYTES,
    PADDING,
    EndState,
    Line,
    Payload,
    closing,
    is_padding,
)
from mpcheckpoint._format.scan import scan
from mpcheckpoint._logfile.chunk import Chunk
from mpcheckpoint._logfile.replay import FIRST_READ_BYTES

if TYPE_CHECKING:
    from mpcheckpoint._format.control import Header


_MORE_BYTES = 64 * 1024


class Found(NamedTuple):
    """Records that were written after an end, the notes among them, their stamps, and what is after all of them.

    ``padded_to`` is up to where there is padding; 0 where there is none.
    """

    records: Lines
    notes: list[Note]
    note_stamps_us: list[int]
    end: EndState
    durable: int
    padded_to: int = 0

    def around_end(self) -> tuple[bytes, int]:
        """Return the closing of the last line, with the padding after it if there is any, and where that is."""
        after = PADDING if self.padded_to else b""
        return closing(self.end.stored_crc) + after, self.end.offset - CLOSING_BYTES

    def chunk(self, header: Header, durable: int, begun_us: int) -> Chunk:
        """Return it as a reader gives it out."""
        records, notes, stamps_us, *_ = self
        generation, lineage = header.generation, header.lineage
        return Chunk(records, notes, generation, durable, False, begun_us, stamps_us, lineage)


def written_after(fd: int, before: EndState, padded_to: int) -> Found | None:
    """Return the lines after an end, if all are as our writer makes them, and padding or nothing follows; else None.

    Of control lines it takes claims alone. Where the file cannot be read, it returns None, too.

    Args:
        padded_to: up to where there was padding after ``before``; 0 if there was none. Appends overwrite it from its
            first byte on: what is left of it is padding still.
    """
    for size in (FIRST_READ_BYTES, _MORE_BYTES):
        try:
            data = system.read_at(fd, CLOSING_BYTES + size, before.offset - CLOSING_BYTES)
        except OSError:
            return None
        if data[:CLOSING_BYTES] != closing(before.stored_crc):
            return None
        data = data[CLOSING_BYTES:]
        found = _found_in(data, before)
        is_whole = len(data) < size
        # Bytes among the notes are a control line of another kind.
        if found is not None and bytes not in map(type, found.notes):
            rest = data[found.end.offset - before.offset :]
            if not rest and is_whole:
                return found
            if is_whole:
                padded_to = before.offset + len(data)  # the end of the file
            if rest and is_padding(rest) and found.end.offset < padded_to:
                return found._replace(padded_to=padded_to)
        if is_whole:
            break  # else there may be more than was read
    return None


def _found_in(data: bytes, before: EndState) -> Found | None:
    """Return what the lines at the start of some bytes come to; None if there are none, or a batch is not whole."""
    if _core.native is not None:
        found = canonical_records(data, before, Note, most_batch_bytes=MAX_BATCH_BYTES)
        return None if found is None else Found(*found)
    scanned = scan(data, before)
    lines = Lines.of(scanned.lines)
    if not lines:
        return None
    controls = [line for _, line in lines.controls()]
    notes: list[Any] = [_claim_in(line) or line.event for line in controls]
    stamps_us = [line.stamp_us for line in controls]
    return Found(lines.records(), notes, stamps_us, scanned.end, max(lines.durables))


def _claim_in(line: Line) -> Note | None:
    """Return the claim that a control line is, as our writer makes it, and without escapes; else None."""
    try:
        note = note_of(line)
    except (msgspec.MsgspecError, KeyError):
        return None
    is_usual = note_payload(note) == Payload(b"null", line.event, line.meta) and b"\\" not in line.event
    if note.name != "claim" or list(note.fields) != ["object_key", "worker"] or not is_usual:
        return None
    is_claim = isinstance(note.fields["object_key"], str) and isinstance(note.fields["worker"], str | None)
    return note if is_claim else None
