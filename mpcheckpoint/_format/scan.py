"""Bytes to whole batches: read lines forward from a known end state until they stop being lines."""

from __future__ import annotations

from enum import Enum
from itertools import islice
from operator import lt
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint._format.columns import Lines, canonical_lines
from mpcheckpoint._format.frame import (
    MAX_BATCH_BYTES,
    PADDING,
    EndState,
    Line,
    Mismatch,
    is_padding,
    parse_line,
    running_crc,
    stated_length,
)
from mpcheckpoint._format.rows import parse_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

# For fewer bytes, parsing line by line costs no more, than columns made by the native core as well.
_WORTH_COLUMNS_BYTES = 512


class Stop(Enum):
    """Why a scan went no further."""

    END = "the bytes end after a whole batch"
    PADDING = "only newlines follow"
    INCOMPLETE = "the bytes end inside a line or batch"
    DAMAGED = "the bytes that follow are no line"


class Scan(NamedTuple):
    """The whole batches found, where they end, and what stopped the scan.

    Invariant: ``lines`` holds whole batches only, and ``end`` follows the last of them.

    ``broken_at`` and ``broken_crc`` are the place after the last valid line and the running CRC there. If damage hit
    the inside of a batch, that place is after ``end``: a search for lines after the damage has to begin there.
    """

    lines: Sequence[Line]
    end: EndState
    stop: Stop
    damage: Mismatch | None
    broken_at: int
    broken_crc: int


def scan(data: bytes, end: EndState) -> Scan:
    """Return the whole batches in ``data``, which must begin at ``end.offset``.

    Damage inside a batch is said to be at its first line: a batch is there whole or not at all.
    """
    state = _State(end)
    state.take_canonical(data)
    if not state.batch:
        state.take_columns(data)
    size = len(data)
    while state.position < size:
        found = _next_line(data, state.position, base=end.offset, crc=state.crc)
        obstacle = state.take(found) if isinstance(found, Line) else found
        if obstacle is not None:
            return state.result(*_stopped(state.batch, state.end, obstacle))
    return state.result(Stop.INCOMPLETE if state.batch else Stop.END, None)


class _State:
    """How far a scan has come.

    Invariant: ``columns`` and then ``applied`` are the whole batches up to ``end``; ``batch`` are the lines from there
    to ``position``, all of one batch that is not whole yet.
    """

    __slots__ = ("applied", "base", "batch", "columns", "crc", "end", "position", "stamp_us")

    def __init__(self, end: EndState) -> None:
        self.base = end.offset
        self.end = end
        self.columns: list[Lines] = []
        self.applied: list[Line] = []
        self.batch: Sequence[Line] = []
        self.position = 0
        self.crc = running_crc(end.stored_crc)
        self.stamp_us = end.stamp_us

    def take_canonical(self, data: bytes) -> None:
        """Take the lines at the start of ``data`` that the native core proves, if there is one.

        Invariant: this takes what taking line by line would have taken (held by tests/format/test_native_scan.py).
        """
        if len(data) < _WORTH_COLUMNS_BYTES:
            return
        found = canonical_lines(data, self.end, most_batch_bytes=MAX_BATCH_BYTES)
        if found is not None:
            self._take(*found)

    def take_columns(self, data: bytes) -> None:
        """Take all whole lines that are left of ``data`` as columns, if nothing is wrong with any; else none.

        Requires: no batch has begun.

        Invariant: this takes what taking line by line would have taken (held by tests/format/test_scan.py).
        """
        if len(data) - self.position < _WORTH_COLUMNS_BYTES or data.startswith(PADDING, self.position):
            return
        data = data[self.position :]
        lines_end = len(data.rstrip(PADDING)) + 1  # padding would be no line
        cut = lines_end if lines_end <= len(data) else data.rfind(PADDING) + 1
        if cut < _WORTH_COLUMNS_BYTES:
            return
        lines = parse_lines(data[:cut], base=self.base + self.position, crc=self.crc)
        whole = _whole_batches(lines, self.stamp_us) if lines else None
        if whole is not None:
            self._take(lines, whole)

    def _take(self, lines: Lines, whole: int) -> None:
        if whole:
            self.columns.append(lines[:whole])
            self.end = lines.end_after(whole - 1)
        self.batch = lines[whole:] if whole < len(lines) else []
        last = lines.end_after(len(lines) - 1)
        self.position = last.offset - self.base
        self.crc, self.stamp_us = running_crc(last.stored_crc), last.stamp_us

    def take(self, line: Line) -> Mismatch | None:
        """Take ``line``, or return why it cannot stand here."""
        damage = _out_of_order(line, self.batch, self.stamp_us)
        if damage is not None:
            return damage
        if not isinstance(self.batch, list):
            self.batch = list(self.batch)  # the native core stopped inside of it
        self.batch.append(line)
        self.position = line.end - self.base
        self.crc, self.stamp_us = running_crc(line.stored_crc), line.stamp_us
        if line.more == 0:
            self.applied += self.batch
            self.end = EndState(line.end, line.stored_crc, line.stamp_us)
            self.batch = []
        return None

    def result(self, stop: Stop, damage: Mismatch | None) -> Scan:
        """Return what was found."""
        return Scan(self._lines(), self.end, stop, damage, self.base + self.position, self.crc)

    def _lines(self) -> Sequence[Line]:
        if not self.columns:
            return self.applied
        parts = [*self.columns, Lines.of(self.applied)] if self.applied else self.columns
        return parts[0] if len(parts) == 1 else Lines.joined(parts)


def _whole_batches(lines: Lines, stamp_us: int) -> int | None:
    """Return how many lines, from the first, make whole batches; None if one cannot stand where it does.

    Requires: there are lines.
    """
    stamps, mores = lines.stamps_us, lines.mores
    if not any(mores):
        rises = stamps[0] > stamp_us and all(map(lt, stamps, islice(stamps, 1, None)))
        return len(lines) if rises else None
    start = 0
    while start < len(lines):
        more, stop = mores[start], start + mores[start] + 1
        batch = mores[start:stop]
        if stamps[start] <= stamp_us or stamps[start:stop].count(stamps[start]) != len(batch):
            return None
        if batch != list(range(more, more - len(batch), -1)):
            return None
        if len(batch) > 1 and lines.ends[start + len(batch) - 1] - lines.offsets[start] > MAX_BATCH_BYTES:
            return None
        if stop > len(lines):
            return start
        start, stamp_us = stop, stamps[start]
    return start


def batches_before(scan: Scan, index: int, before: EndState) -> Scan:
    """Return the whole batches before the one that the line at ``index`` of a scan belongs to.

    Args:
        before: where the scan began.
    """
    while index and scan.lines[index - 1].more:
        index -= 1
    lines = scan.lines[:index]
    end = EndState(lines[-1].end, lines[-1].stored_crc, lines[-1].stamp_us) if lines else before
    return scan._replace(lines=lines, end=end)


def _next_line(data: bytes, start: int, *, base: int, crc: int) -> Line | Mismatch | Stop:
    length = stated_length(data, start)
    if length is None:
        return _no_line_starts(data, start, base)
    stop = start + length
    newline = data.find(b"\n", start, stop)
    if newline < 0:
        if stop > len(data):
            return Stop.INCOMPLETE
        return Mismatch(base + start, f"a newline after {length} bytes", "none")
    if newline != stop - 1:
        return Mismatch(base + start, f"a line of {length} bytes", f"a newline after {newline - start + 1}")
    line = parse_line(data, start, stop, base=base, crc=crc)
    return Mismatch(base + start, "a line that its crc vouches for", line) if isinstance(line, str) else line


def _no_line_starts(data: bytes, start: int, base: int) -> Mismatch | Stop:
    rest = data[start : start + 10]
    if rest[:1] == PADDING:
        if is_padding(data[start:]):
            return Stop.PADDING
        return Mismatch(
            base + start, "a line, or padding to the end of the file", "newlines, then other bytes"
        )
    if len(rest) < 10 and _may_open_line(rest):
        return Stop.INCOMPLETE
    return Mismatch(base + start, "the start of a line", repr(rest))


def _may_open_line(rest: bytes) -> bool:
    return b'["'.startswith(rest[:2]) and all(byte in b"0123456789abcdef" for byte in rest[2:])


def _out_of_order(line: Line, batch: Sequence[Line], stamp_us: int) -> Mismatch | None:
    if batch:
        first, before = batch[0], batch[-1]
        if line.more != before.more - 1 or line.stamp_us != before.stamp_us:
            return Mismatch(
                line.offset,
                f"the next line of its batch, more {before.more - 1} at stamp {before.stamp_us}",
                f"more {line.more} at stamp {line.stamp_us}",
            )
        if line.end - first.offset > MAX_BATCH_BYTES:
            return Mismatch(line.offset, f"a batch of at most {MAX_BATCH_BYTES} bytes", "a longer one")
    elif line.stamp_us <= stamp_us:
        return Mismatch(line.offset, f"a stamp above {stamp_us}", f"stamp {line.stamp_us}")
    return None


def _stopped(batch: Sequence[Line], end: EndState, why: Mismatch | Stop) -> tuple[Stop, Mismatch | None]:
    if isinstance(why, Mismatch):
        return Stop.DAMAGED, why._replace(offset=end.offset)
    if why is Stop.PADDING and batch:
        found = f"padding where {batch[-1].more} lines of a batch are missing"
        return Stop.DAMAGED, Mismatch(end.offset, "a whole batch", found)
    return why, None
