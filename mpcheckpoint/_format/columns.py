"""Many lines at once: one decode for all of them, and each check made for a whole column at a time.

What ``parse_line`` proves of a line is proven here of thousands, by few operations of Python a line. It is for speed
and nothing else: what is taken here, ``parse_line`` takes too, with the same result (held by
tests/format/test_columns.py and tests/format/test_scan.py). What is not taken is for ``parse_line`` to judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, compress, pairwise
from operator import le, sub
from struct import unpack
from typing import TYPE_CHECKING, Annotated, Any, overload
from zlib import crc32

import msgspec

from mpcheckpoint._format.frame import (
    CLOSING_BYTES,
    LENGTH_END,
    MAX_LINE_BYTES,
    MAX_STAMP_US,
    MIN_LINE_BYTES,
    NO_META,
    PADDING,
    SHORT_EVENT_BYTES,
    Line,
    closing,
    fault_in,
    fault_in_meta,
    may_exceed_a_double,
    running_crc,
    stored_crc_before,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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

# What stands around the place where one line ends and the next begins, its hexadecimal digits all alike.
_SEAM = b'"xxxxxxxx"]\n["xxxxxxxx"'
_SEAM_BYTES = CLOSING_BYTES + LENGTH_END + 1
_DIGITS_ALIKE = bytes.maketrans(b"x0123456789abcdef", b"\0" + b"x" * 16)
_NO_DIGITS = b'"]\n['
# So few bytes are taken apart at a time that what is made of them stays in a processor's cache: twice as fast.
_SLICE_BYTES = 64 * 1024


class Lines(Sequence[Line]):
    """Lines that were proven in bulk, a column a field. A Line is made where one is asked for.

    Attributes:
        offsets, ends, stamps_us, durables, mores, object_keys, crcs: of each line. None is the key of a control line.
        events: the events of all lines, one behind the other.
        event_ends: where each ends in ``events``.
        metas: of each line; None if all are null.
        is_plain: whether there is certainly neither a control line nor a meta among them.
    """

    __slots__ = (
        "crcs",
        "durables",
        "ends",
        "event_ends",
        "events",
        "is_plain",
        "metas",
        "mores",
        "object_keys",
        "offsets",
        "stamps_us",
    )

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.ends: list[int] = []
        self.stamps_us: list[int] = []
        self.durables: list[int] = []
        self.mores: list[int] = []
        self.object_keys: list[str | None] = []
        self.events: bytes | bytearray = b""
        self.event_ends: list[int] = []
        self.metas: list[bytes] | None = None
        self.crcs: list[int] = []
        self.is_plain = True

    @classmethod
    def of(cls, lines: Iterable[Line]) -> Lines:
        """Return lines of whatever kind as columns."""
        if isinstance(lines, cls):
            return lines
        made = cls()
        all_lines = list(lines)
        made.offsets = [line.offset for line in all_lines]
        made.ends = [line.end for line in all_lines]
        made.stamps_us = [line.stamp_us for line in all_lines]
        made.durables = [line.durable for line in all_lines]
        made.mores = [line.more for line in all_lines]
        made.object_keys = [line.object_key for line in all_lines]
        made.events = b"".join([line.event for line in all_lines])
        made.event_ends = list(accumulate([len(line.event) for line in all_lines]))
        made.metas = [line.meta for line in all_lines]
        made.crcs = [line.stored_crc for line in all_lines]
        made.is_plain = False
        return made

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> Line: ...
    @overload
    def __getitem__(self, index: slice) -> Lines: ...
    def __getitem__(self, index: int | slice) -> Line | Lines:
        if isinstance(index, slice):
            return self._sliced(index)
        stop = self.event_ends[index]
        start = self.event_ends[index - 1] if index % len(self) else 0
        return Line(
            self.offsets[index],
            self.ends[index],
            self.stamps_us[index],
            self.durables[index],
            self.mores[index],
            self.object_keys[index],
            bytes(self.events[start:stop]),
            NO_META if self.metas is None else self.metas[index],
            self.crcs[index],
        )

    def _sliced(self, where: slice) -> Lines:
        start, stop, step = where.indices(len(self))
        if step != 1:
            return Lines.of([self[index] for index in range(start, stop, step)])
        if (start, stop) == (0, len(self)):
            return self
        part = Lines()
        part.offsets, part.ends = self.offsets[where], self.ends[where]
        part.stamps_us, part.durables = self.stamps_us[where], self.durables[where]
        part.mores, part.object_keys = self.mores[where], self.object_keys[where]
        part.metas = None if self.metas is None else self.metas[where]
        part.crcs, part.is_plain = self.crcs[where], self.is_plain
        first = self.event_ends[start - 1] if start else 0
        part.event_ends = self.event_ends[where]
        last = part.event_ends[-1] if part.event_ends else first
        part.events = self.events[first:last]
        if first:
            part.event_ends = [place - first for place in part.event_ends]
        return part

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as a list's

    def records(self) -> Lines:
        """Return the lines that are no control lines."""
        if self.is_plain or None not in self.object_keys:
            return self
        kept = [object_key is not None for object_key in self.object_keys]
        part = Lines()
        part.offsets, part.ends = list(compress(self.offsets, kept)), list(compress(self.ends, kept))
        part.stamps_us, part.mores = list(compress(self.stamps_us, kept)), list(compress(self.mores, kept))
        part.durables, part.crcs = list(compress(self.durables, kept)), list(compress(self.crcs, kept))
        part.object_keys = list(compress(self.object_keys, kept))
        part.metas = None if self.metas is None else list(compress(self.metas, kept))
        starts = [0, *self.event_ends[:-1]]
        part.event_ends = list(accumulate(compress(map(sub, self.event_ends, starts), kept)))
        # Control lines are few: what stands between them is copied at once.
        pieces, behind = [], 0
        for index in [index for index, is_kept in enumerate(kept) if not is_kept]:
            pieces.append(self.events[behind : starts[index]])
            behind = self.event_ends[index]
        part.events = b"".join([*pieces, self.events[behind:]])
        part.is_plain = False
        return part

    def controls(self) -> Iterator[tuple[int, Line]]:
        """Yield the control lines, each with its index."""
        if not self.is_plain:
            for index, object_key in enumerate(self.object_keys):
                if object_key is None:
                    yield index, self[index]

    def _add(self, other: Lines) -> None:
        """Take in lines that follow."""
        if self.metas is None and other.metas is not None:
            self.metas = [NO_META] * len(self)
        if self.metas is not None:
            self.metas += [NO_META] * len(other) if other.metas is None else other.metas
        behind = len(self.events)
        self.event_ends += [place + behind for place in other.event_ends] if behind else other.event_ends
        self.events += other.events
        self.offsets += other.offsets
        self.ends += other.ends
        self.stamps_us += other.stamps_us
        self.durables += other.durables
        self.mores += other.mores
        self.object_keys += other.object_keys
        self.crcs += other.crcs
        self.is_plain = self.is_plain and other.is_plain


def parse_lines(data: bytes, *, base: int, crc: int) -> Lines:
    """Return all lines of ``data``, or none if anything about them is not as it should be.

    Args:
        data: bytes that begin with a line, at file offset ``base``, and end behind one.
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
        lines._add(part)
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
    """Return the fields of each line, and whether no line is a control line or has a meta; nothing if some line is
    no line."""
    for decode, is_plain in ((_decode_plain, True), (_decode_any, False)):
        try:
            return decode(data), is_plain
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue
    return (), True


def _proven_crcs(data: bytes, lengths: list[int], crc: int) -> list[int] | None:
    """Return the crc field of each line, or None if one is wrong, or a length is, or stands in another place.

    Requires: ``lengths`` are those of the pieces between newlines, and as many JSON values were decoded.

    Invariant: each piece is then one of these values. Where two meet stands ``"]``, a newline and ``["`` outside of any
    string (in one there is no newline): there a value ends and another begins.
    """
    # Cut right before each closing instead of behind it: a piece is all that lies between two crc fields, and begins
    # with the first of them, which stands for every byte before. Only the first piece has none.
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
    """Return whether an event may be one that ``fault_in`` finds a fault in.

    Requires: the lines were decoded and are UTF-8. A short event can then only hold a number beyond a double.
    """
    # Digits of two neighbours may look like one number; only then is it worth to keep them apart.
    if may_exceed_a_double(joined) and may_exceed_a_double(b",".join(events)):
        return any(fault_in(bytes(event)) for event in events)
    if longest_line_bytes <= SHORT_EVENT_BYTES:
        return False
    return any(fault_in(bytes(event)) for event in events if len(event) > SHORT_EVENT_BYTES)
