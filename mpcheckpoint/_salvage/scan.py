"""Read a log from its first byte to its last, and after every damage go on at the next line that can be proven.

A log falls into *runs*: lines each of which fits the crc field of the one before. The first run starts at the header,
and so at the generation id; a later run proves itself, not what is missing before it. Nothing is written, no lock is
taken, and memory is bounded by the longest batch.

On a log in use, bytes that are just being written look like damage. So each damage is read again after the search for
lines after it: everything that those lines vouch for had been written whole before them.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from mpcheckpoint import _system as system
from mpcheckpoint._format.columns import Lines
from mpcheckpoint._format.control import MAX_HEADER_BYTES, Header, UnknownVersion, parse_header
from mpcheckpoint._format.count import Count, can_count, count
from mpcheckpoint._format.frame import (
    CLOSING_BYTES,
    MAX_LINE_BYTES,
    PADDING,
    EndState,
    Line,
    Mismatch,
    closing,
    parse_line,
    running_crc,
    stated_length,
    stored_crc_before,
)
from mpcheckpoint._logfile.file_bytes import CHUNK_BYTES
from mpcheckpoint._logfile.replay import LARGEST_READ_BYTES, replay
from mpcheckpoint._logfile.torn_or_corrupt import SHIFT_BYTES, Broken, provable_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint._format.scan import Scan

_OPENING = re.compile(rb'\["[0-9a-f]{8}"')
_CLOSING = re.compile(rb'"[0-9a-f]{8}"\]\n')
_OPENING_FIELDS = re.compile(rb'\["[0-9a-f]{8}",(?P<stamp>\d{1,16}),\d{1,18},(?P<more>\d{1,16}),')
_LOOK_BACK_BYTES = 64 * 1024
# What is counted at once.
COUNTED_BYTES = CHUNK_BYTES
# The ends of so many runs that broke off are remembered, to recognize where one goes on.
_MOST_ENDS = 8


class Doubt(Enum):
    """Whether lines begin with the rest of a batch that misses lines."""

    NONE = "they do not"
    POSSIBLE = "unknown"
    CERTAIN = "they do"


class Batches(NamedTuple):
    """Whole batches, one after the other.

    Attributes:
        lines: their lines, control lines included, with their offsets in the file.
        run: the number of their run; run 0 starts at the header. A run goes on where a line fits its last one.
        doubt: whether the first batch is the rest of a batch that misses lines.
    """

    lines: Lines
    run: int
    doubt: Doubt


class Counted(NamedTuple):
    """Whole batches of run 0, where they were written, counted instead of given; ``start`` is their offset."""

    start: int
    counts: Count


class Gap(NamedTuple):
    """Bytes that are no whole batch.

    Attributes:
        damage: where it starts, at a batch's first line; what was expected, and what is there.
        stop: where the next run starts; the end of the file if there is none.
        is_last: whether no line can be proven after it.
        is_in_batch: whether sound lines of its batch precede the first damaged one.
        is_mended: whether only the end of one line was hit. The bytes around it tell what that was, and the line comes
            with the next batches.
    """

    damage: Mismatch
    stop: int
    is_last: bool
    is_in_batch: bool
    is_mended: bool = False


class _End(NamedTuple):
    """Where a run broke off: the crc field of its last line, its number, and whether that line is inside a batch."""

    stored_crc: int
    run: int
    is_in_batch: bool


class _Resumption(NamedTuple):
    """Where reading goes on after a damage, what the lines from there are, and what proves them.

    ``run`` is the run that goes on, if bytes came between its lines; None for a new run.
    """

    at: int
    stored_crc: int
    doubt: Doubt
    run: int | None = None
    # The closing bytes that the line before should have, if they are the proof.
    closing: bytes = b""


class Walk:
    """One pass over an open log, from its header on.

    Attributes:
        header: what the first line says, or should say; None if it cannot be told.
        stated_version: the version that the first line states, if this release does not read that; then there are no
            pieces.
        read_to: the offset up to which everything was read.
    """

    def __init__(self, fd: int, until: int, *, counts: bool = False) -> None:
        """Walk over the log as it is now.

        Args:
            until: its size. Nothing that is appended meanwhile is read: there could always be more.
            counts: whether batches may be counted where that is all that there is to know of them.
        """
        self._fd = fd
        self._until = until
        self._counts = counts and can_count()
        self._patches: dict[int, bytes] = {}
        self._run = self._runs = 0
        self._ends: list[_End] = []
        self._shift = 0
        self._doubt = Doubt.NONE
        self._last: Scan | None = None
        self.read_to = 0
        self.stated_version: object = None
        self.header: Header | None = None
        self._end = EndState(0, 0, -1)

    def pieces(self) -> Iterator[Batches | Counted | Gap]:
        """Yield everything, in file order; a Gap at last if the log does not end in a whole batch or padding."""
        yield from self._first_line()
        if self.stated_version is not None or self._end.offset == 0:
            return
        seen = None
        resumption: _Resumption | None = None
        while True:
            yield from self._batches()
            last = self._last
            assert last is not None
            if last.damage is None:
                return
            start, broken_at = last.damage.offset - self._shift, last.broken_at - self._shift
            if seen != (start, broken_at):
                seen = start, broken_at
                resumption = self._resumption(Broken(last.damage, broken_at, last.broken_crc), start)
                continue  # and read it again
            yield self._gap(last.damage._replace(offset=start), resumption, is_in_batch=broken_at != start)
            if resumption is None:
                return
            self._note_end(broken_at, start)
            self._resume(resumption)
            seen = None

    def _note_end(self, broken_at: int, start: int) -> None:
        stored = self._crc_before(broken_at)
        if stored is not None:
            self._ends = [*self._ends[: 1 - _MOST_ENDS], _End(stored, self._run, broken_at != start)]

    # --- the first line ---------------------------------------------------------------------------------------

    def _first_line(self) -> Iterator[Gap]:
        """Read the header, or find where the lines after it begin."""
        data = system.read_at(self._fd, MAX_HEADER_BYTES, 0)
        header = parse_header(data)
        if isinstance(header, Mismatch):
            resumption = self._resumption(Broken(header, 0, 0), 0)
            if resumption is not None and resumption.closing:
                whole = data[: resumption.at - CLOSING_BYTES] + resumption.closing
                mended = parse_header(whole)
                if isinstance(mended, Header):
                    yield Gap(header, resumption.at, is_last=False, is_in_batch=False, is_mended=True)
                    self.header, self._end = mended, mended.end
                    return
                resumption = resumption._replace(closing=b"")
            yield self._gap(header, resumption, is_in_batch=False)
            if resumption is not None:
                self._resume(resumption)
        elif isinstance(header, UnknownVersion):
            self.stated_version = header.version
        else:
            self.header, self._end = header, header.end

    # --- runs ---------------------------------------------------------------------------------------------------

    def _batches(self) -> Iterator[Batches | Counted]:
        """Yield the whole batches of this run that are still to come; keep what stopped them in ``_last``."""
        is_counted = True
        while is_counted:
            yield from self._counted()
            is_counted = False
            for result in replay(self._fd, self._end, read=self._read_shifted):
                self._last = result
                if result.lines:
                    yield self._piece(result)
                # What stopped the count was a line of these: it goes on after them.
                is_counted = self._counts and result.end.offset > self._end.offset
                self._pass_to(result.end)
                if self.read_to >= self._until:
                    self._last = result._replace(damage=None)
                    return
                if is_counted:
                    break

    def _counted(self) -> Iterator[Counted]:
        """Yield whole batches of this run as long as counting them tells all that there is to know.

        After damage it does not: which lines stand where they were written is to be found out there.
        """
        size = COUNTED_BYTES
        while self._counts and not self._shift and self.read_to < self._until:
            start = self._end.offset
            found = count(self._read(size, start), self._end)
            if found is None:
                return
            if found.lines:
                yield Counted(start, found)
                self._pass_to(found.end)
            elif size < LARGEST_READ_BYTES:
                size = min(size * 8, LARGEST_READ_BYTES)  # the batch is longer
            else:
                return

    def _pass_to(self, end: EndState) -> None:
        self._end = end
        self.read_to = max(self.read_to, end.offset - self._shift)

    def _read_shifted(self, size: int, offset: int) -> bytes:
        return self._read(size, offset - self._shift)

    def _piece(self, result: Scan) -> Batches:
        lines = Lines.of(result.lines)
        if self._shift:
            lines.offsets = [offset - self._shift for offset in lines.offsets]
            lines.ends = [end - self._shift for end in lines.ends]
        doubt, self._doubt = self._doubt, Doubt.NONE
        return Batches(lines, self._run, doubt)

    def _read(self, size: int, offset: int) -> bytes:
        data = system.read_at(self._fd, size, offset)
        for at, patch in self._patches.items():
            start = at - offset
            if -CLOSING_BYTES < start < len(data):
                whole = bytearray(bytes(max(0, -start)) + data)
                place = max(0, start)
                whole[place : place + CLOSING_BYTES] = patch
                data = bytes(whole[max(0, -start) :][: len(data)])
        return data

    def _crc_before(self, offset: int) -> int | None:
        return stored_crc_before(self._read(CLOSING_BYTES, offset - CLOSING_BYTES), CLOSING_BYTES)

    # --- damage -------------------------------------------------------------------------------------------------

    def _gap(self, damage: Mismatch, resumption: _Resumption | None, *, is_in_batch: bool) -> Gap:
        if resumption is None:
            size = system.size_of(self._fd)
            self.read_to = max(self.read_to, size)
            return Gap(damage, max(damage.offset, size), is_last=True, is_in_batch=is_in_batch)
        is_mended = bool(resumption.closing)
        return Gap(damage, resumption.at, is_last=False, is_in_batch=is_in_batch, is_mended=is_mended)

    def _resume(self, resumption: _Resumption) -> None:
        if resumption.closing:
            # The same run goes on from the same place, with that line made whole.
            place = self._end.offset - self._shift
            self._patches = {at: patch for at, patch in self._patches.items() if at >= place}
            self._patches[resumption.at - CLOSING_BYTES] = resumption.closing
            return
        self._runs += resumption.run is None
        self._run = self._runs if resumption.run is None else resumption.run
        self._shift = SHIFT_BYTES
        self._doubt = resumption.doubt
        self._patches = {}
        self._end = EndState(resumption.at + self._shift, resumption.stored_crc, -1)

    def _resumption(self, broken: Broken, start: int) -> _Resumption | None:
        """Return where lines that can be proven begin after a damage, or None."""
        line = next(provable_lines(self._fd, broken), None)
        at = None if line is None else line.offset - SHIFT_BYTES
        rejoining = self._rejoining(broken, start, at)
        if rejoining is not None:
            return rejoining
        if line is None or at is None:
            return None
        stored = self._crc_before(at)
        if stored is not None and self._fits(line, at, stored):
            return _Resumption(at, stored, self._doubt_of(line, broken, start, at))
        damaged = system.read_at(self._fd, at - broken.at, broken.at)
        computed = crc32(memoryview(damaged)[:-CLOSING_BYTES], broken.crc)
        patched = damaged[:-CLOSING_BYTES] + closing(computed)
        proven = parse_line(patched, 0, len(patched), base=broken.at + SHIFT_BYTES, crc=broken.crc)
        if isinstance(proven, Line):
            return _Resumption(at, computed, Doubt.NONE, closing=closing(computed))
        return _Resumption(at, computed, Doubt.POSSIBLE)

    def _fits(self, line: Line, at: int, stored_crc: int) -> bool:
        data = system.read_at(self._fd, line.end - line.offset, at)
        parsed = parse_line(data, 0, len(data), base=line.offset, crc=running_crc(stored_crc))
        return isinstance(parsed, Line)

    def _rejoining(self, broken: Broken, start: int, before: int | None) -> _Resumption | None:
        """Return where the line is that follows the last line of a run, if bytes came between the two.

        It ends where other proven lines begin, or, if there are none, after any closed crc field.
        """
        if not broken.at:
            return None
        here = self._crc_before(broken.at)
        ends = self._ends if here is None else [*self._ends, _End(here, self._run, broken.at != start)]
        base = broken.at if before is None else max(broken.at, before - MAX_LINE_BYTES)
        data = system.read_at(self._fd, CHUNK_BYTES if before is None else before - base, base)
        stops = [match.end() for match in _CLOSING.finditer(data)] if before is None else [len(data)]
        for stop in stops:
            line_start = data.rfind(PADDING, 0, stop - 1) + 1
            for match in _OPENING.finditer(data, line_start, stop):
                place = match.start()
                if stated_length(data, place) != stop - place:
                    continue
                for end in ends:
                    crc = running_crc(end.stored_crc)
                    line = parse_line(data, place, stop, base=base + SHIFT_BYTES, crc=crc)
                    if isinstance(line, Line):
                        doubt = Doubt.CERTAIN if end.is_in_batch else Doubt.NONE
                        return _Resumption(base + place, end.stored_crc, doubt, end.run)
        return None

    def _doubt_of(self, line: Line, broken: Broken, start: int, at: int) -> Doubt:
        """Return whether the line belongs to a batch that misses lines before it.

        It does if lines before the damage, or the line right before it, have its stamp. It begins a batch if

        - it calls everything before itself durable, since a durable offset is the end of a whole batch;
        - the only line before it is the header, or was written where the damage begins, and the line calls some of that
          durable;
        - the line before it, though damaged, still reads as the last of another batch: to say so wrongly, two of its
          fields would have to be hit.
        """
        look_back = max(broken.at, at - _LOOK_BACK_BYTES)
        data = system.read_at(self._fd, at - look_back, look_back)
        line_start = data.rfind(PADDING, 0, len(data) - 1) + 1
        is_one_line = not line_start and look_back == broken.at
        before = _OPENING_FIELDS.match(data, line_start) if line_start or is_one_line else None
        opened = _OPENING_FIELDS.match(self._read(_LOOK_BACK_BYTES, start)) if start != broken.at else None
        if any(each is not None and _is_followed_by(each, line) for each in (opened, before)):
            return Doubt.CERTAIN
        if line.durable == at or (before is not None and int(before["more"]) == 0):
            return Doubt.NONE
        if is_one_line and (not broken.at or (not self._run and line.durable > broken.at)):
            return Doubt.NONE
        return Doubt.POSSIBLE


def _is_followed_by(opening: re.Match[bytes], line: Line) -> bool:
    """Return whether a line is of the same batch as an earlier one with these opening fields."""
    return int(opening["stamp"]) == line.stamp_us and int(opening["more"]) > line.more
