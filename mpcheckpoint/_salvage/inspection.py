"""All that a log holds: what reads well, each damage, and which lines after damage belong to the log."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint import _system as system
from mpcheckpoint._format.control import SALVAGED, Header, Note, note_of
from mpcheckpoint._format.frame import CLOSING_BYTES, stored_crc_before
from mpcheckpoint._logfile.header import known_control
from mpcheckpoint._logfile.page import vouched_durable
from mpcheckpoint._salvage.scan import Batches, Counted, Doubt, Gap, Walk
from mpcheckpoint.errors import FormatVersionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mpcheckpoint._format.columns import Lines
    from mpcheckpoint._format.frame import Line

# Weights. More than any log has records: the run that starts at the header comes before everything else.
_CERTAIN = 1 << 60
# Batches that surely stand where they were written come before those that may have been moved there.
_IN_PLACE = 1 << 20
# So many lines of a run are checked for where they were written.
_MOST_ASKED = 64
_MOST_KEYS = 20


class Candidate(NamedTuple):
    """Adjoining batches of one run, which are kept or left out together.

    ``is_in_place`` tells whether they stand where they were written (the offsets that they call durable are ends of
    batches), or, if False, further on or back; None if they do not tell. ``doubt`` tells whether they are the rest of a
    batch that misses lines; then ``object_keys`` has some of theirs.
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


@dataclass(slots=True)
class Inspection:
    """What one pass over a log found.

    Attributes:
        size: of the file when the pass began, in bytes.
        header: None if it cannot be told.
        stated_version: the version of a log of a later format, of which nothing else is known.
        end: of the last batch.
        records: how many a reader is given: those before the first damage.
        batches_end: the end of those.
        durable: the offset below which everything was durable once, by the highest statement found.
        breaks: the damages, in file order.
        candidates: what reads well.
        has_batches: whether any batch was seen of more lines than one.
        refusal: the error about a control line that is not known, or None.
        salvages: the notes of earlier salvages.
    """

    size: int
    header: Header | None = None
    stated_version: object = None
    end: int = 0
    records: int = 0
    batches_end: int = 0
    durable: int = 0
    breaks: list[Break] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    has_batches: bool = False
    refusal: FormatVersionError | None = None
    salvages: list[Note] = field(default_factory=list)

    def is_corrupt(self, each: Break) -> bool:
        """Return whether a damage hit bytes that were durable once. Damage of a header always did."""
        return each.gap.damage.offset < self.durable or not each.gap.damage.offset


def inspect(fd: int, path: str, page: str, on_progress: Callable[[int], None] | None = None) -> Inspection:
    """Read an open log whole.

    Args:
        path: the file, for messages.
        page: the file of its page of hints.
        on_progress: called with the number of bytes read since the last call.

    Raises:
        OSError: the file cannot be read.
    """
    found = Inspection(system.size_of(fd))
    walk = Walk(fd, found.size, counts=True)
    inspector = _Inspector(fd, path, found)
    told = 0
    for each in walk.pieces():
        if isinstance(each, Batches):
            inspector.take(each)
        elif isinstance(each, Counted):
            inspector.take_counted(each)
        else:
            inspector.take_gap(each)
        read_to = min(walk.read_to, found.size)
        if on_progress is not None and told < read_to:
            on_progress(read_to - told)
            told = read_to
    if on_progress is not None and found.size > told:
        on_progress(found.size - told)
    found.header, found.stated_version = walk.header, walk.stated_version
    if walk.header is not None:
        first = walk.header.end.offset
        found.end, found.batches_end = max(found.end, first), max(found.batches_end, first)
        found.durable = max(found.durable, first, vouched_durable(page, walk.header.generation, fd))
    return found


class _Inspector:
    """Puts what a walk meets into an `Inspection`."""

    def __init__(self, fd: int, path: str, found: Inspection) -> None:
        self._fd = fd
        self._path = path
        self._found = found
        self._run = 0
        self._last_us = -1
        # The highest stamp of the runs before this one. Lines that do not exceed it repeat those runs, or one of the
        # two is not in its place.
        self._high_us = -1

    def take(self, piece: Batches) -> None:
        """Take note of batches."""
        found, lines = self._found, piece.lines
        if piece.run != self._run:
            self._run = piece.run
            self._high_us = max([self._high_us, *(each.last_us for each in found.candidates)])
        self._take_controls(line for _, line in lines.controls())
        found.durable = max(found.durable, max(lines.durables, default=0))
        found.has_batches = found.has_batches or any(lines.mores)
        self._take_records(_records_in(lines), lines.stamps_us[0], lines.ends[-1], lines.stamps_us[-1])
        if piece.doubt is not Doubt.NONE:
            count = lines.mores[0] + 1
            self._add(lines[:count], piece.doubt)
            lines = lines[count:]
        at = bisect_right(lines.stamps_us, self._high_us)
        self._add(lines[:at])
        self._add(lines[at:])

    def take_counted(self, piece: Counted) -> None:
        """Take note of batches that were counted. No other run precedes them."""
        found, counts = self._found, piece.counts
        self._take_controls(counts.controls)
        found.durable = max(found.durable, counts.durable)
        found.has_batches = found.has_batches or counts.has_batches
        offset, _, last_us = counts.end
        self._take_records(counts.records, counts.first_us, offset, last_us)
        self._add_candidate(
            Candidate(piece.start, offset, counts.first_us, last_us, counts.records, 0, is_in_place=True)
        )

    def _take_records(self, records: int, first_us: int, end: int, last_us: int) -> None:
        found = self._found
        if found.breaks:
            last = found.breaks[-1]
            before_us = last.before_us if last.before_us >= 0 else first_us
            found.breaks[-1] = last._replace(
                records_behind=last.records_behind + records, before_us=before_us
            )
        else:
            found.records += records
            found.batches_end = end
        found.end, self._last_us = end, last_us

    def take_gap(self, gap: Gap) -> None:
        """Take note of a damage."""
        self._found.breaks.append(Break(gap, 0, self._last_us, -1))
        self._found.has_batches = self._found.has_batches or gap.is_in_batch

    def _add(self, lines: Lines, doubt: Doubt = Doubt.NONE) -> None:
        if not lines:
            return
        object_keys: tuple[str, ...] = ()
        if doubt is not Doubt.NONE:
            object_keys = tuple(key for key in lines.object_keys if key is not None)[:_MOST_KEYS]
        new = Candidate(
            lines.offsets[0],
            lines.ends[-1],
            lines.stamps_us[0],
            lines.stamps_us[-1],
            _records_in(lines),
            self._run,
            self._is_in_place(lines) if self._run else True,
            doubt,
            object_keys,
        )
        self._add_candidate(new)

    def _add_candidate(self, new: Candidate) -> None:
        candidates = self._found.candidates
        last = candidates[-1] if candidates else None
        if last is None or not self._belong_together(last, new):
            candidates.append(new)
            return
        candidates[-1] = last._replace(
            stop=new.stop,
            last_us=new.last_us,
            records=last.records + new.records,
            is_in_place=new.is_in_place if last.is_in_place is None else last.is_in_place,
        )

    def _belong_together(self, last: Candidate, new: Candidate) -> bool:
        if last.doubt is not Doubt.NONE or new.doubt is not Doubt.NONE:
            return False
        is_next = last.run == new.run and last.stop == new.start
        return is_next and not last.last_us <= self._high_us < new.first_us

    def _is_in_place(self, lines: Lines) -> bool | None:
        """Return whether what these lines call durable shows that they stand where they were written; None if unknown.

        A durable offset is the end of a batch: of one of these lines, or below the first damage, where the log is
        sound.
        """
        first = lines.offsets[0]
        ends = {first, *(end for end, more in zip(lines.ends, lines.mores, strict=True) if not more)}
        sound_below = self._found.breaks[0].gap.damage.offset
        is_moved = False
        for durable, offset in islice(zip(lines.durables, lines.offsets, strict=True), _MOST_ASKED):
            if durable in ends and durable <= offset:
                return True
            if durable > offset or durable >= first:
                is_moved = True
            elif durable <= sound_below:
                before = system.read_at(self._fd, CLOSING_BYTES, max(0, durable - CLOSING_BYTES))
                is_moved = is_moved or stored_crc_before(before, len(before)) is None
        return False if is_moved else None

    def _take_controls(self, controls: Iterable[Line]) -> None:
        for line in controls:
            try:
                control = known_control(line, self._path)
            except FormatVersionError as refusal:
                self._found.refusal = self._found.refusal or refusal
                continue
            if control == SALVAGED:
                self._found.salvages.append(note_of(line))


def _records_in(lines: Lines) -> int:
    return len(lines) if lines.is_plain else len(lines) - lines.object_keys.count(None)


# --- what belongs to the log ---------------------------------------------------------------------------------


def selected(found: Inspection) -> list[Candidate]:
    """Return what is kept of a damaged log: of what reads well, the most records whose stamps rise along the file.

    A block of the disk may hold a copy of another part of this log, or a part of another log, in which each line is
    proven by the one before. So three things decide. The run that starts at the header is certain. Batches that do not
    stand where they were written were moved by bytes that came or went before them, and that moves all that follows
    too: if something that was not moved follows, they are no part of this log. And stamps rise along a log.

    The rest of a batch is left out, for a batch is there whole or not at all. So is what may be such a rest, unless the
    log shows no batch of more lines than one anywhere: then a record after damage counts as a batch of its own.
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
    kept: list[Candidate] = []
    last = ways[-1] if ways else None
    while last is not None:
        kept.append(last.end)
        last = last.before
    return kept[::-1]


def removed_spans(found: Inspection, kept: list[Candidate]) -> list[tuple[int, int]]:
    """Return what of the file is not copied, as starts and stops: all that no kept candidate holds.

    A whole header and padding are not among them.
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
    united: list[tuple[int, int]] = []
    # Lines that are copied with other closing bytes than they had: the old bytes are kept as well.
    for start, stop in sorted([*spans, *mended]):
        if united and start <= united[-1][1]:
            united[-1] = united[-1][0], max(stop, united[-1][1])
        else:
            united.append((start, stop))
    return united
