"""Many lines at once, as columns: one decode for all of them, and each check made for a whole column.

This proves of thousands of lines what ``parse_line`` proves of one, in few steps of Python a line, or in none where the
native core does it. It is here for speed alone: ``parse_line`` takes every line that is taken here, with the same
result (held by tests/format/test_columns.py, test_scan.py and test_native_scan.py), and it judges those that are not.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate, compress, pairwise
from operator import itemgetter, le, sub
from struct import unpack
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, overload
from zlib import crc32

import msgspec

from mpcheckpoint import _core
from mpcheckpoint._format.frame import (
    CLOSING_BYTES,
    LENGTH_END,
    MAX_LINE_BYTES,
    MAX_STAMP_US,
    MIN_LINE_BYTES,
    NO_META,
    PADDING,
    SHORT_EVENT_BYTES,
    EndState,
    Line,
    closing,
    fault_in,
    fault_in_meta,
    may_exceed_a_double,
    running_crc,
    stored_crc_before,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

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
# What has one item a line.
_COLUMNS = ("offsets", "ends", "stamps_us", "durables", "mores", "object_keys", "crcs")


# Packed where the native core made them.
Column: TypeAlias = "list[int] | array[int]"


class Lines(Sequence[Line]):
    """Proven lines as columns, one for each field. A Line is made where one is asked for.

    Attributes:
        offsets, ends, stamps_us, durables, mores, object_keys, crcs: of each line. The key of a control line is None.
        events: the events of all lines, one after the other.
        event_ends: where each ends in ``events``.
        metas: of each line; None if all are null.
        is_plain: whether there is surely neither a control line nor a meta among them.
    """

    __slots__ = (*_COLUMNS, "event_ends", "events", "is_plain", "metas")

    def __init__(self) -> None:
        self.offsets: Column = []
        self.ends: Column = []
        self.stamps_us: Column = []
        self.durables: Column = []
        self.mores: Column = []
        self.object_keys: list[str | None] = []
        self.events: bytes | bytearray = b""
        self.event_ends: Column = []
        self.metas: list[bytes] | None = None
        self.crcs: Column = []
        self.is_plain = True

    @classmethod
    def of(cls, lines: Iterable[Line]) -> Lines:
        """Return any lines as columns."""
        if isinstance(lines, cls):
            return lines
        made = cls()
        made.is_plain = False
        columns = [list(column) for column in zip(*lines, strict=True)] or [[] for _ in Line._fields]
        made.offsets, made.ends, made.stamps_us, made.durables, made.mores = columns[:5]
        made.object_keys, events, made.metas, made.crcs = columns[5:]
        made.events = b"".join(events)
        made.event_ends = list(accumulate(map(len, events)))
        return made

    @classmethod
    def joined(cls, parts: Iterable[Lines]) -> Lines:
        """Return the lines of some parts, which follow each other."""
        made = cls()
        made.events = bytearray()
        for part in parts:
            made._add(part)
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

    def end_after(self, number: int) -> EndState:
        """Return the end of a log whose last line this is."""
        return EndState(self.ends[number], self.crcs[number], self.stamps_us[number])

    def _sliced(self, where: slice) -> Lines:
        start, stop, step = where.indices(len(self))
        if step != 1:
            return Lines.of([self[index] for index in range(start, stop, step)])
        if (start, stop) == (0, len(self)):
            return self
        part = self._taking(itemgetter(where))
        part.is_plain = self.is_plain
        first = self.event_ends[start - 1] if start else 0
        part.event_ends = self.event_ends[where]
        last = part.event_ends[-1] if part.event_ends else first
        part.events = self.events[first:last]
        if first:
            part.event_ends = [place - first for place in part.event_ends]
        return part

    def _taking(self, take: Callable[[list[Any]], list[Any]]) -> Lines:
        """Return some of the lines, without their events: ``take`` chooses the same ones of each column."""
        part = Lines()
        for name in _COLUMNS:
            setattr(part, name, take(getattr(self, name)))
        part.metas = None if self.metas is None else take(self.metas)
        return part

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as a list's

    def records(self) -> Lines:
        """Return all lines but the control lines."""
        if self.is_plain or None not in self.object_keys:
            return self
        kept = [object_key is not None for object_key in self.object_keys]
        part = self._taking(lambda column: list(compress(column, kept)))
        part.is_plain = False
        starts = [0, *self.event_ends[:-1]]
        part.event_ends = list(accumulate(compress(map(sub, self.event_ends, starts), kept)))
        # Control lines are few: the events between two of them are copied at once.
        pieces, after = [], 0
        for index in [index for index, is_kept in enumerate(kept) if not is_kept]:
            pieces.append(self.events[after : starts[index]])
            after = self.event_ends[index]
        part.events = b"".join([*pieces, self.events[after:]])
        return part

    def controls(self) -> Iterator[tuple[int, Line]]:
        """Yield the control lines, each with its index."""
        if not self.is_plain:
            for index, object_key in enumerate(self.object_keys):
                if object_key is None:
                    yield index, self[index]

    def _add(self, other: Lines) -> None:
        """Add the lines that follow."""
        if self.metas is None and other.metas is not None:
            self.metas = [NO_META] * len(self)
        if self.metas is not None:
            self.metas += [NO_META] * len(other) if other.metas is None else other.metas
        before = len(self.events)
        self.event_ends.extend([place + before for place in other.event_ends] if before else other.event_ends)
        self.events += other.events
        for name in _COLUMNS:
            getattr(self, name).extend(getattr(other, name))
        self.is_plain = self.is_plain and other.is_plain


def canonical_lines(data: bytes, end: EndState, *, most_batch_bytes: int) -> tuple[Lines, int] | None:
    """Return the lines that follow ``end`` at the start of ``data``, as far as they are exactly as our writer makes
    them and stand in their place, and how many of them make whole batches; None if there is none, or no native core.

    It may stop anywhere: whatever is not taken here is to be judged by ``parse_lines`` and ``parse_line``.
    """
    native = _core.native
    found = native.scan(data, *end, most_batch_bytes) if native is not None else None
    if found is None:
        return None
    return _lines_in(found), found[0]


def canonical_records(
    data: bytes, end: EndState, note_type: type, *, most_batch_bytes: int
) -> tuple[Lines, list[Any], list[int], EndState, int] | None:
    """Return the records among the lines that ``canonical_lines`` would return, if these are whole batches; else None.

    And what the control lines say, ``note_type`` made of usual claims and the bytes of others; their stamps; the end
    after the last line; and the highest offset that a line calls durable.
    """
    native = _core.native
    found = native.records(data, *end, most_batch_bytes, note_type) if native is not None else None
    if found is None:
        return None
    columns, (notes, stamps_us), after, durable = found
    return _lines_in(columns), notes, stamps_us, EndState(*after), durable


def _lines_in(found: tuple[Any, ...]) -> Lines:
    lines = Lines()
    _, offsets, ends, stamps_us, durables, event_ends, mores, crcs, *texts, lines.is_plain = found
    lines.object_keys, lines.events, lines.metas = texts
    lines.offsets, lines.ends = array("Q", offsets), array("Q", ends)
    lines.stamps_us, lines.durables = array("Q", stamps_us), array("Q", durables)
    lines.event_ends = array("Q", event_ends)
    lines.mores, lines.crcs = array("I", mores), array("I", crcs)
    return lines


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
