"""Lines written anew in another place: what they say stays, byte by byte; where they stand is told anew."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING
from zlib import crc32

from mpcheckpoint import _core
from mpcheckpoint._format.control import GONE, control_payload
from mpcheckpoint._format.frame import CLOSING_BYTES, LENGTH_END, EndState, Payload, closing, running_crc

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mpcheckpoint._format.columns import Column, Lines

# What becomes of a line: it is left out, copied, stands for one that left its batch, or has another payload.
DROP, KEEP, LEFT, REPLACED = range(4)
_PLACEHOLDER = b"%b,%b,%b," % control_payload(GONE, ignorable=True)


def recoded(
    data: bytes,
    base: int,
    lines: Lines,
    fates: bytes | bytearray,
    end: EndState,
    payloads: Mapping[int, Payload] | None = None,
) -> tuple[bytes, EndState]:
    """Return lines as they are to stand after ``end`` in another file, and the end after them.

    Each line states its batch's own offset as durable.

    Args:
        data: the bytes of the file that the lines are in, from offset ``base`` on.
        lines: whole batches.
        fates: what becomes of each of them. A batch is dropped whole, or none of its lines is.
        payloads: of the lines that are replaced, by index.
    """
    native = _core.native
    if native is not None and not payloads:
        if lines.block is not None:
            found = native.recode_block(lines.block.lines, fates, _PLACEHOLDER, *end)
        else:
            columns = [packed(column) for column in (lines.offsets, lines.ends, lines.stamps_us)]
            found = native.recode(data, base, *columns, packed(lines.mores, "I"), fates, _PLACEHOLDER, *end)
        if found is not None:
            made, crc, stamp_us = found
            return made, EndState(end.offset + len(made), crc, stamp_us)
    return _recoded(data, base, lines, fates, end, payloads or {})


def packed(column: Column, code: str = "Q") -> array[int]:
    """Return a column as the native core takes it."""
    return column if isinstance(column, array) else array(code, column)


def _recoded(
    data: bytes,
    base: int,
    lines: Lines,
    fates: bytes | bytearray,
    end: EndState,
    payloads: Mapping[int, Payload],
) -> tuple[bytes, EndState]:
    made: list[bytes] = []
    offset, stored_crc, last_us = end
    batch_offset, crc = offset, running_crc(stored_crc)
    columns = zip(lines.offsets, lines.ends, lines.stamps_us, lines.mores, fates, strict=True)
    for index, (start, stop, stamp_us, more, fate) in enumerate(columns):
        if fate:
            if fate == KEEP:  # key, event and meta follow the fourth comma
                says = data[start - base : stop - base - CLOSING_BYTES].split(b",", 4)[4]
            else:
                says = _PLACEHOLDER if fate == LEFT else b"%b,%b,%b," % payloads[index]
            numbers = b'",%d,%d,%d,' % (stamp_us, batch_offset, more)
            length = LENGTH_END + len(numbers) + len(says) + CLOSING_BYTES
            body = b'["%08x%b%b' % (length, numbers, says)
            stored_crc, last_us = crc32(body, crc), stamp_us
            closed = closing(stored_crc)
            crc = crc32(closed, stored_crc)
            made += (body, closed)
            offset += length
        if not more:
            batch_offset = offset
    return b"".join(made), EndState(offset, stored_crc, last_us)


def keep_places(lines: Lines, fates: bytearray) -> None:
    """Have placeholders stand for what leaves a batch of which other lines stay: its lines count down."""
    if lines.block is not None:
        lines.block.lines.keep_places(fates)
        return
    mores, start = lines.mores, 0
    while start < len(fates):
        stop = start + mores[start] + 1
        if stop - start > 1:
            batch = fates[start:stop]
            if DROP in batch and any(batch):
                fates[start:stop] = bytes(LEFT if fate == DROP else fate for fate in batch)
        start = stop
