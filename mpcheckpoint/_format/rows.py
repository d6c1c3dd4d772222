"""Many lines at once, parsed by Python: one decode for all of them, and each check made for a whole column.

This proves of thousands of lines what ``parse_line`` proves of one, in few steps of Python a line. It is here for speed
alone: ``parse_line`` takes every line that is taken here, with the same result (held by test_columns.py and
test_scan.py), and it judges those that are not.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from operator import le
from struct import unpack
from typing import TYPE_CHECKING, Annotated
from zlib import crc32

import msgspec

from mpcheckpoint._format.columns import Lines
from mpcheckpoint._format.frame import (
    CLOSING_BYTES,
    LENGTH_END,
    MAX_LINE_BYTES,
    MAX_STAMP_US,
    MIN_LINE_BYTES,
    NO_META,
    PADDING,
    SHORT_EVENT_BYTES,
    closing,
    fault_in,
    fault_in_meta,
    may_exceed_a_double,
    running_crc,
    stored_crc_before,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_Stamp = Annotated[int, msgspec.Meta(ge=0, le=MAX_STAMP_US)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class _PlainRow(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """A record without meta: what nearly every line is."""

    length: str
    stamp_us: _Stamp
    durable: _Count
    more: _Count
    object_key: str
    event: msgspec.Raw
    meta: None
    crc: str


class _Row(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """Any line."""

    length: str
    stamp_us: _Stamp
    durable: _Count
    more: _Count
    object_key: str | None
    event: msgspec.Raw
    meta: msgspec.Raw
    crc: str


_decode_plain = msgspec.json.Decoder(_PlainRow).decode_lines
_decode_any = msgspec.json.Decoder(_Row).decode_lines

# The bytes from the end of one line into the next, with x for each hexadecimal digit.
_SEAM = b'"xxxxxxxx"]\n["xxxxxxxx"'
_SEAM_BYTES = CLOSING_BYTES + LENGTH_END + 1
_DIGITS_ALIKE = bytes.maketrans(b"x0123456789abcdef", b"\0" + b"x" * 16)
_NO_DIGITS = b'"]\n['
# Parsed so few bytes at a time that the results stay in the processor's cache: twice as fast.
_SLICE_BYTES = 64 * 1024


def parse_lines(data: bytes, *, base: int, crc: int) -> Lines:
    """Return all lines of ``data``, or none if anything about them is not as it should be.

    Args:
        data: bytes that begin with a line, at file offset ``base``, and end after one.
        crc: the running CRC of every byte before them.
    """
    lines = Lines()
    lines.events = bytearray()
    start = 0
    while start < len(data):
        stop = data.find(PADDING, start + _SLICE_BYTES) + 1 or len(data)
        part = _parse_slice(data[start:stop], base=base + start, crc=crc)
        if part is None:
            return Lines()
        lines.add(part)
        crc = running_crc(part.crcs[-1])
        start = stop
    return lines


def _parse_slice(data: bytes, *, base: int, crc: int) -> Lines | None:
    rows, is_plain = _decoded(data)
    lengths = [len(line) + 1 for line in data.split(PADDING)]  # the newline of a line is its last byte
    lengths.pop()
    if not rows or len(rows) != len(lengths):
        return None
    if min(lengths) < MIN_LINE_BYTES or max(lengths) > MAX_LINE_BYTES:
        return None
    crcs = _proven_crcs(data, lengths, crc)
    if crcs is None or not _is_text(data):
        return None
    lines = Lines()
    lines.crcs, lines.is_plain = crcs, is_plain
    lines.ends = list(accumulate(lengths, initial=base))
    lines.offsets = lines.ends[:-1]
    del lines.ends[0]
    lines.durables = [row.durable for row in rows]
    if not all(map(le, lines.durables, lines.offsets)):
        return None
    events = [row.event for row in rows]
    lines.events = b"".join(events)
    if _has_faulty_event(events, lines.events, max(lengths)):
        return None
    lines.event_ends = list(accumulate(map(len, events)))
    if not is_plain:
        lines.metas = [bytes(row.meta) for row in rows]
        if any(meta != NO_META and fault_in_meta(meta) for meta in lines.metas):
            return None
    lines.stamps_us = [row.stamp_us for row in rows]
    lines.mores = [row.more for row in rows]
    lines.object_keys = [row.object_key for row in rows]
    return lines


def _decoded(data: bytes) -> tuple[Sequence[Any], bool]:
    """Return the fields of each line, and whether all are records without meta; no fields if some line is none."""
    for decode, is_plain in ((_decode_plain, True), (_decode_any, False)):
        try:
            return decode(data), is_plain
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue
    return (), True


def _proven_crcs(data: bytes, lengths: list[int], crc: int) -> list[int] | None:
    """Return the crc field of each line, or None if a crc or a length is wrong or stands in another place.

    Requires: ``lengths`` are those of the pieces between newlines, and as many JSON values were decoded.

    Invariant: each piece is then one of these values. Between two of them stand ``"]``, a newline and ``["``, outside
    of any string, since strings hold no newline: there one value ends and the next begins.
    """
    # Cut right before each closing instead of after it. A piece then reaches from one crc field to the next and begins
    # with the first, which stands for every byte before it. Only the first piece has none.
    shifted = closing(0) + data[:-CLOSING_BYTES]
    pieces = [shifted[start:stop] for start, stop in pairwise(accumulate(lengths, initial=0))]
    seams = b"".join([piece[:_SEAM_BYTES] for piece in pieces])
    last_crc = stored_crc_before(data, len(data))
    if last_crc is None or seams.translate(_DIGITS_ALIKE) != _SEAM * len(pieces):
        return None
    digits = bytes.fromhex(seams.translate(None, _NO_DIGITS).decode())
    numbers = unpack(f">{2 * len(pieces)}I", digits)
    if list(numbers[1::2]) != lengths:
        return None
    crcs_before = numbers[2::2]
    crcs = [*crcs_before, last_crc]
    first_crc = crc32(pieces.pop(0)[CLOSING_BYTES:], crc)
    return crcs if [first_crc, *map(crc32, pieces, crcs_before)] == crcs else None


def _is_text(data: bytes) -> bool:
    try:
        return data.isascii() or bool(data.decode())
    except UnicodeDecodeError:
        return False


def _has_faulty_event(events: list[msgspec.Raw], joined: bytes, longest_line_bytes: int) -> bool:
    """Return whether ``fault_in`` may find a fault in an event.

    Requires: the lines were decoded and are UTF-8. The only fault of a short event is then a number beyond a double.
    """
    # Digits of two neighbours may look like one number; only then they are looked at with a comma between them.
    if may_exceed_a_double(joined) and may_exceed_a_double(b",".join(events)):
        return any(fault_in(bytes(event)) for event in events)
    if longest_line_bytes <= SHORT_EVENT_BYTES:
        return False
    return any(fault_in(bytes(event)) for event in events if len(event) > SHORT_EVENT_BYTES)
