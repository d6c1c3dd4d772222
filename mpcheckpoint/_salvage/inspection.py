"""What a log holds, all of it: what reads well, each damage, and what of the lines behind damage belongs to the log."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint import _system as system
from mpcheckpoint._format.control import note_of
from mpcheckpoint._format.frame import CLOSING_BYTES, stored_crc_before
from mpcheckpoint._logfile.header import known_control
from mpcheckpoint._logfile.page import vouched_durable
from mpcheckpoint._salvage.scan import Batches, Doubt, Gap, Walk
from mpcheckpoint.errors import FormatVersionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mpcheckpoint._format.columns import Lines
    from mpcheckpoint._format.control import Header, Note

# More than any log has records: what hangs on the header goes before everything else.
_CERTAIN = 1 << 60
# What certainly stands where it was written, before what may have got there.
_IN_PLACE = 1 << 20
# So many lines of a run are asked where they were written.
_MOST_ASKED = 64
_MOST_KEYS = 20
SALVAGED = "salvaged"


class Candidate(NamedTuple):
    """Batches of one run, one behind the other, that are kept or left out together.

    ``is_in_place`` tells whether they stand where they were written (what they call durable ends where a batch ends),
    or, False, further on or back; None if they do not say. ``doubt`` tells whether they are the rest of a batch of
    which lines are missing; then ``object_keys`` has some of theirs.
    """

    start: int
    stop: int
    first_us: int
    last_us: int
    records: int
    run: int
    is_in_place: bool | None
    doubt: Doubt = Doubt.NONE
    object_keys: tuple[str, ...] = ()


class Break(NamedTuple):
    """One damage: the gap, how many records follow it up to the next, and the range of stamps that surrounds it."""

    gap: Gap
    records_behind: int
    after_us: int
    before_us: int


class Inspection(NamedTuple):
    """What one pass over a log found.

    Attributes:
        header: None if it cannot be told.
        stated_version: of a log of a later version, of which nothing else is known.
        size: of the file when it was begun, in bytes; end: behind the last batch.
        records: how many a reader is given: those before the first damage.
        batches_end: the end of those.
        durable: the offset below which all was once durable, by whatever says so.
        breaks: the damages, in file order.
        candidates: what reads well.
        has_batches: whether any batch was seen of more lines than one.
        refusal: about a control line that is not known, or None.
        salvages: notes of earlier salvages.
    """

    header: Header | None
    stated_version: object
    size: int
    end: int
    records: int
    batches_end: int
    durable: int
    breaks: list[Break]
    candidates: list[Candidate]
    has_batches: bool
    refusal: FormatVersionError | None
    salvages: list[Note]

    def is_corrupt(self, each: Break) -> bool:
        """Return whether a damage hit bytes that were once durable. That of a header always did."""
        return each.gap.damage.offset < self.durable or not each.gap.damage.offset


def inspect(fd: int, path: str, page: str, on_progress: Callable[[int], None] | None = None) -> Inspection:
    """Read an open log whole.

    Args:
        path: the file, for messages; page: that of its page of hints.
        on_progress: called with the number of bytes read since the last call.

    Raises:
        OSError: the file cannot be read.
    """
    size = system.size_of(fd)
    walk = Walk(fd, size)
    found = _Findings(fd, path)
    told = 0
    for each in walk.pieces():
        if isinstance(each, Batches):
            found.take(each)
        else:
            found.take_gap(each)
        if on_progress is not None and told < min(walk.read_to, size):
            on_progress(min(walk.read_to, size) - told)
            told = min(walk.read_to, size)
    if on_progress is not None and size > told:
        on_progress(size - told)
    return found.inspection(walk, size, page)


class _Findings:
    """What was found so far."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self._path = path
        self._breaks: list[Break] = []
        self._candidates: list[Candidate] = []
        self._has_batches = False
        self._salvages: list[Note] = []
        self._refusal: FormatVersionError | None = None
        self._records = self._end = self._batches_end = self._durable = 0
        self._run = 0
        self._last_us = -1
        # The highest stamp of the runs before this one: what does not exceed it repeats them, or one of both is not in
        # its place.
        self._high_us = -1

    def take(self, piece: Batches) -> None:
        """Take note of batches."""
        lines = piece.lines
        if piece.run != self._run:
            self._run = piece.run
            self._high_us = max([self._high_us, *(each.last_us for each in self._candidates)])
        self._take_controls(lines)
        self._durable = max([self._durable, *lines.durables])
        self._has_batches = self._has_batches or any(lines.mores)
        records = _records_in(lines)
        if not self._breaks:
            self._records += records
            self._batches_end = lines.ends[-1]
        if self._breaks:
            last = self._breaks[-1]
            before_us = last.before_us if last.before_us >= 0 else lines.stamps_us[0]
            self._breaks[-1] = last._replace(
                records_behind=last.records_behind + records, before_us=before_us
            )
        self._end, self._last_us = lines.ends[-1], lines.stamps_us[-1]
        if piece.doubt is not Doubt.NONE:
            count = lines.mores[0] + 1
            self._add(lines[:count], piece.doubt)
            lines = lines[count:]
        at = bisect_right(lines.stamps_us, self._high_us)
        if at:
            self._add(lines[:at])
            lines = lines[at:]
        self._add(lines)

    def take_gap(self, gap: Gap) -> None:
        """Take note of a damage."""
        self._breaks.append(Break(gap, 0, self._last_us, -1))
        self._has_batches = self._has_batches or gap.is_in_batch

    def _add(self, lines: Lines, doubt: Doubt = Doubt.NONE) -> None:
        if not lines:
            return
        records = _records_in(lines)
        new = Candidate(
            lines.offsets[0],
            lines.ends[-1],
            lines.stamps_us[0],
            lines.stamps_us[-1],
            records,
            self._run,
            _is_in_place(self._fd, lines, self._breaks[0].gap.damage.offset) if self._run else True,
            doubt,
            tuple(key for key in lines.object_keys if key is not None)[:_MOST_KEYS]
            if doubt is not Doubt.NONE
            else (),
        )
        last = self._candidates[-1] if self._candidates else None
        is_next = last is not None and last.run == new.run and last.stop == new.start
        is_apart = last is None or {doubt, last.doubt} != {Doubt.NONE}
        if last is None or is_apart or not is_next or last.last_us <= self._high_us < new.first_us:
            self._candidates.append(new)
            return
        place = new.is_in_place if last.is_in_place is None else last.is_in_place
        self._candidates[-1] = last._replace(
            stop=new.stop, last_us=new.last_us, records=last.records + records, is_in_place=place
        )

    def _take_controls(self, lines: Lines) -> None:
        for _, line in lines.controls():
            try:
                control = known_control(line, self._path)
            except FormatVersionError as refusal:
                self._refusal = self._refusal or refusal
                continue
            if control == SALVAGED:
                self._salvages.append(note_of(line))

    def inspection(self, walk: Walk, size: int, page: str) -> Inspection:
        """Return what was found."""
        header = walk.header
        durable = self._durable
        if header is not None:
            durable = max(durable, header.end.offset, vouched_durable(page, header.generation, self._fd))
        return Inspection(
            header,
            walk.stated_version,
            size,
            max(self._end, header.end.offset if header else 0),
            self._records,
            max(self._batches_end, header.end.offset if header else 0),
            durable,
            self._breaks,
            self._candidates,
            self._has_batches,
            self._refusal,
            self._salvages,
        )


def _records_in(lines: Lines) -> int:
    return len(lines.object_keys) - lines.object_keys.count(None)


def _is_in_place(fd: int, lines: Lines, sound_below: int) -> bool | None:
    """Return whether what these lines call durable says that they stand where they were written; None if nothing does.

    What is durable ends where a batch ends: among these lines, or below an offset up to which the log is sound.
    """
    first = lines.offsets[0]
    ends = {first, *(end for end, more in zip(lines.ends, lines.mores, strict=True) if not more)}
    is_moved = False
    for durable, offset in islice(zip(lines.durables, lines.offsets, strict=True), _MOST_ASKED):
        if durable in ends and durable <= offset:
            return True
        if durable > offset or durable >= first:
            is_moved = True
        elif durable <= sound_below:
            before = system.read_at(fd, CLOSING_BYTES, max(0, durable - CLOSING_BYTES))
            is_moved = is_moved or stored_crc_before(before, len(before)) is None
    return False if is_moved else None


# --- what belongs to the log ---------------------------------------------------------------------------------


def selected(found: Inspection) -> list[Candidate]:
    """Return what is kept of a damaged log: of what reads well, the most records whose stamps rise along the file.

    A block may hold a copy of another part of this log, or a piece of another one, each line of which is proven by the
    one before. So three things decide. What hangs on the header is certain. What does not stand where it was written
    was moved by bytes that came or went before it, and then all that follows was, too: it is no part of this
    log if something that was not moved follows. And stamps rise along a log.

    The rest of a batch is left out, for a batch is there whole or not at all. So is what may be one, unless the log
    shows no batch of more lines than one anywhere: then a record behind damage is taken for what all others are.
    """
    unwanted = {Doubt.CERTAIN, Doubt.POSSIBLE} if found.has_batches else {Doubt.CERTAIN}
    candidates = [each for each in found.candidates if each.doubt not in unwanted]
    in_place = [number for number, each in enumerate(candidates) if each.is_in_place]
    last_in_place = in_place[-1] if in_place else -1
    belonging = [
        each
        for number, each in enumerate(candidates)
        if each.is_in_place is not False or number > last_in_place or not each.run
    ]
    return _heaviest_rise(belonging, certain_run=0 if found.header is not None else None)


class _Way(NamedTuple):
    last_us: int
    weight: int
    end: Candidate
    before: _Way | None


def _heaviest_rise(candidates: Iterable[Candidate], *, certain_run: int | None) -> list[Candidate]:
    """Return the candidates, in file order, whose stamps rise and that hold the most records together."""
    # Invariant: along ``ways`` both the last stamp and the weight rise.
    ways: list[_Way] = []
    for each in candidates:
        at = bisect_left(ways, each.first_us, key=lambda way: way.last_us) - 1
        before = ways[at] if at >= 0 else None
        weight = max(1, each.records) * (_IN_PLACE if each.is_in_place else 1)
        weight += _CERTAIN if each.run == certain_run else 0
        way = _Way(each.last_us, weight + (before.weight if before else 0), each, before)
        at = bisect_right(ways, way.last_us, key=lambda other: other.last_us)
        if at and ways[at - 1].weight >= way.weight:
            continue
        stop = at
        while stop < len(ways) and ways[stop].weight <= way.weight:
            stop += 1
        start = at - 1 if at and ways[at - 1].last_us == way.last_us else at
        ways[start:stop] = [way]
    kept = list(_along(ways[-1] if ways else None))
    kept.reverse()
    return kept


def _along(way: _Way | None) -> Iterator[Candidate]:
    while way is not None:
        yield way.end
        way = way.before


def removed_spans(found: Inspection, kept: list[Candidate]) -> list[tuple[int, int]]:
    """Return what of the file is not carried over, as starts and stops: all that no kept candidate holds.

    The header and padding are not among them, if they are whole.
    """
    spans = []
    at = found.header.end.offset if found.header is not None else 0
    mended = [(each.gap.damage.offset, each.gap.stop) for each in found.breaks if each.gap.is_mended]
    for each in kept:
        if each.start > at:
            spans.append((at, each.start))
        at = each.stop
    stop = found.size if found.breaks and found.breaks[-1].gap.is_last else found.end
    if stop > at:
        spans.append((at, stop))
    # What is carried over with other closing bytes than it had: those are kept, too.
    return _united(sorted([*spans, *mended]))


def _united(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    united: list[tuple[int, int]] = []
    for start, stop in spans:
        if united and start <= united[-1][1]:
            united[-1] = united[-1][0], max(stop, united[-1][1])
        else:
            united.append((start, stop))
    return united
