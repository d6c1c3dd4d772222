"""What a compaction drops: decided by rules, of lines that are looked at once and copied at a second pass.

Memory: one entry an object, a few dozen bytes for each record that is dropped out of turn (by the caller's ``drop``, or
since a later outcome of a map superseded it), and some 350 for each that has a record id that is to be remembered.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from itertools import chain, repeat
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint._compaction.folds import Folds
from mpcheckpoint._compaction.rules import LONGEST_S
from mpcheckpoint._compaction.superseded import Superseded
from mpcheckpoint._compaction.tally import keys_and_stamps, last_record_in, new_tally
from mpcheckpoint._format.codec import record_id_of
from mpcheckpoint._format.control import (
    CLAIM,
    CONTROLS_OF_A_GENERATION,
    DROPPED,
    FORGET,
    GONE,
    forgotten_in,
    note_of,
)
from mpcheckpoint._format.dropped import DroppedRecords, dropped_in, dropped_payloads
from mpcheckpoint._format.recode import DROP, KEEP, REPLACED, keep_places
from mpcheckpoint._logfile.header import known_control
from mpcheckpoint._view.merged_read import ALL, records_in
from mpcheckpoint._view.view import MAP

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mpcheckpoint._compaction.rules import Rules
    from mpcheckpoint._format.columns import Lines
    from mpcheckpoint._format.frame import Line, Payload
    from mpcheckpoint._logfile.chunk import Origin
    from mpcheckpoint._types import Record

_US = 1_000_000
# What a copy has of its own, or has where it is needed.
_REMADE = CONTROLS_OF_A_GENERATION | {DROPPED, GONE}
IMPORT = "import"
RETENTION = "retention"
_LAST_ONE_COUNTS = frozenset({CLAIM, IMPORT, FORGET, RETENTION})


class _Id(NamedTuple):
    object_key: str
    record_id: str
    stamp_us: int
    more: int
    number: int
    rank: int  # among all records of the object


class Selection:
    """What one compaction drops of one log. See ``_logfile.selected.Selection`` for how it is used.

    A record is dropped out of turn, by its number, or as one of the first so many of its object.

    Attributes:
        records, objects, kept_records, kept_objects: how many there were, and are.
        most_kept: drop nothing where more than this part of the log would be kept, in bytes.
    """

    def __init__(self, path: str, rules: Rules, *, now_us: int, is_live: Callable[[str], bool]) -> None:
        self._path = path
        self._rules = rules
        self.most_kept = rules.most_kept
        self._now_us = now_us
        self._is_live = is_live

    # --- the first pass ---------------------------------------------------------------------------------------

    def begin(self, newest_us: int, origin: Origin) -> None:
        """Begin, or begin anew."""
        rules = self._rules
        # A wall clock that is ahead must not make everything old.
        now_us = min(self._now_us, newest_us)
        self._origin = origin
        self._has_old = rules.newer_than_s is not None
        self._old_below_us = (
            now_us - int(min(rules.newer_than_s or 0, LONGEST_S) * _US) if self._has_old else 0
        )
        self._ids_from_us = now_us - int(min(rules.keep_ids_s, LONGEST_S) * _US)
        self._lines = 0
        # What is counted by object, and, once it is decided, how many records there are, how many of them are old, and
        # when the last one was made.
        self._tally = new_tally()
        self._counts: dict[str, int] = {}
        self._old: dict[str, int] = {}
        self._last_us: dict[str, int] = {}
        # Whether rules may leave nothing of an object.
        self._may_empty = rules.newer_than_s is not None or rules.drop is not None
        self._superseded = Superseded()
        # Of the first line that is not old, and of the last record.
        self._first_new = self._last_record = 0
        # The numbers of what is dropped out of turn, by object, and, once it is decided, of all of them.
        self._less: dict[str, list[int]] = {}
        self._out_of_turn = array("Q")
        self._ids: list[_Id] = []
        # Of control lines: those that may go, unless the last of their kind is kept.
        self._notes_that_may_go = 0
        self._last_claims: dict[str, tuple[int, str]] = {}
        self._last_imports: dict[str, int] = {}
        self._last_retention: tuple[int, ...] = ()
        # Of objects that were forgotten: by which line last, whether that line is kept, and how many of their records
        # stand before it. All else that is counted of them is of after it.
        self._forgets: dict[str, tuple[int, bool]] = {}
        self._forgotten: Counter[str] = Counter()
        # The highest stamp of lines that forget an object and are gone, now or since earlier.
        self._forgotten_us = 0
        # The stamp of the last record that there was at an earlier compaction, where that may have been dropped.
        self._ended_us = 0
        self._earlier: dict[str, DroppedRecords] = {}
        # Objects whose count ends here, since nothing is left of them and their time is over.
        self._uncounted: set[str] = set()
        self._kept_notes: frozenset[int] = frozenset()
        self._leading: dict[str, int] = {}
        # What is still to be dropped.
        self._left = self._left_forgotten = self._tally
        self._left_to_fold: dict[str, int] = {}
        self._folds = None if rules.fold is None else Folds(rules.fold)
        self.records = self.objects = self.kept_records = self.kept_objects = 0

    def look(self, lines: Lines) -> None:
        """Look at the next lines."""
        done = 0
        for index, line in lines.controls():
            if known_control(line, self._path) == FORGET:
                self._look_at(lines[done:index])
                self._forget(forgotten_in(line), line.stamp_us)
                done = index
        self._look_at(lines[done:] if done else lines)

    def _forget(self, object_key: str, stamp_us: int) -> None:
        """Take note that all that was looked at of an object is forgotten by the next line."""
        self._notes_that_may_go += 1
        is_kept = stamp_us >= self._ids_from_us and not self._rules.purge
        if not is_kept:
            self._forgotten_us = stamp_us
        self._forgets[object_key] = self._lines, is_kept
        self._forgotten[object_key] += self._tally.pop(object_key)
        self._less.pop(object_key, None)
        earlier = self._earlier.get(object_key)
        if earlier is not None and earlier.last_us < stamp_us:  # else it is of after this line
            del self._earlier[object_key]
        self._superseded.forget(object_key)
        if self._rules.purge:
            self._last_claims.pop(object_key, None)

    def _look_at(self, lines: Lines) -> None:
        first = self._lines
        self._lines += len(lines)
        for index, line in lines.controls():
            self._look_at_control(first + index, line)
        if (last := last_record_in(lines)) is not None:
            self._last_record = first + last
        self._count(lines)
        if self._rules.drop is not None:
            self._ask(lines, first, self._rules.drop)
        if self._superseded.is_needed:
            self._find_superseded(lines, first)

    def _count(self, lines: Lines) -> None:
        if lines.has_metas:
            self._take_ids(lines, self._lines - len(lines))
        old = self._tally.add(*keys_and_stamps(lines), max(0, self._old_below_us))
        if old:
            self._first_new = self._lines - len(lines) + old

    def _take_ids(self, lines: Lines, first: int) -> None:
        """Note the record ids that are to be remembered, should their records be dropped."""
        if lines.metas is None:
            return
        seen: Counter[str] = Counter()
        for index, (object_key, meta) in enumerate(zip(lines.object_keys, lines.metas, strict=True)):
            if object_key is None:
                continue
            record_id = record_id_of(meta)
            stamp_us = lines.stamps_us[index]
            if record_id is not None and stamp_us >= self._ids_from_us:
                rank = self._tally.get(object_key) + seen[object_key]
                self._ids.append(
                    _Id(object_key, record_id, stamp_us, lines.mores[index], first + index, rank)
                )
            seen[object_key] += 1

    def _ask(self, lines: Lines, first: int, drop: Callable[[Record], object]) -> None:
        """Ask the caller's function about each record."""
        places = [index for index, each in enumerate(lines.object_keys) if each is not None]
        records = records_in(lines.records(), ALL, self._origin)
        for index, record in zip(places, records, strict=True):
            if drop(record):
                self._less.setdefault(record.object_key, []).append(first + index)

    def _find_superseded(self, lines: Lines, first: int) -> None:
        for index, object_key in enumerate(lines.object_keys):
            if object_key is None:
                continue
            superseded = list(self._superseded.look(first + index, object_key, lines[index].event))
            if superseded:
                self._less.setdefault(object_key, []).extend(superseded)

    def _look_at_control(self, number: int, line: Line) -> None:
        control = known_control(line, self._path)
        if control == DROPPED:
            dropped = dropped_in(line.event)
            self._forgotten_us = max(self._forgotten_us, dropped.forgotten_us)
            told_us = max((each.last_us for each in dropped.objects), default=0)
            self._ended_us = max(self._ended_us, dropped.ended_us, told_us)
            for each in dropped.objects:
                known = self._earlier.get(each.object_key)
                if known is None:
                    self._earlier[each.object_key] = each
                else:
                    known.add(each)
        elif control == MAP:
            self._superseded.note(note_of(line).fields)
        elif control == CLAIM:
            self._notes_that_may_go += 1
            fields = note_of(line).fields
            object_key, worker = fields.get("object_key"), fields.get("worker")
            if isinstance(object_key, str):
                self._last_claims.pop(object_key, None)
                if isinstance(worker, str):
                    self._last_claims[object_key] = number, worker
        elif control == IMPORT:
            self._notes_that_may_go += 1
            self._last_imports[str(note_of(line).fields.get("source"))] = number
        elif control == RETENTION:
            self._notes_that_may_go += 1
            self._last_retention = (number,)

    # --- the decision -----------------------------------------------------------------------------------------

    def decide(self) -> bool:
        """Decide what is dropped; return whether that is anything."""
        self._at = 0
        live = {worker for _, worker in self._last_claims.values()}
        live = {worker for worker in live if self._is_live(worker)}
        claims = [number for number, worker in self._last_claims.values() if worker in live]
        forgets = [number for number, is_kept in self._forgets.values() if is_kept]
        last_ones = [*self._last_imports.values(), *self._last_retention]
        self._kept_notes = frozenset([*claims, *last_ones, *forgets])
        self._less = {object_key: sorted(set(numbers)) for object_key, numbers in self._less.items()}
        self._out_of_turn = array("Q", sorted(chain.from_iterable(self._less.values())))
        self._counts = self._tally.counts()
        self._old = self._tally.olds() if self._has_old else {}
        # Also where it tells whether that was after the object was forgotten.
        self._last_us = self._tally.lasts_us() if self._may_empty or self._forgets else {}
        self._leading = self._first_ones()
        self._left, self._left_forgotten = new_tally(), new_tally()
        self._left_forgotten.set(+self._forgotten)
        if self._folds is None:
            self._left.set(self._leading)
        else:
            self._left_to_fold = dict(self._leading)
        self.records = sum(self._counts.values()) + self._forgotten.total()
        self.objects = len(self._counts) + sum(each not in self._counts for each in +self._forgotten)
        dropped = len(self._out_of_turn) + sum(self._leading.values()) + self._forgotten.total()
        self.kept_records = self.records - dropped + (len(self._leading) if self._rules.fold else 0)
        self.kept_objects = len(self._counts)
        if self._less or self._may_empty:
            self.kept_objects = sum(1 for each in self._counts if self._kept_of(each))
        return dropped > 0 or self._notes_that_may_go > len(self._kept_notes)

    def _first_ones(self) -> dict[str, int]:
        """Return how many of the first records of each object go, of those that are not dropped out of turn."""
        keep_last, is_folded = self._rules.keep_last, self._rules.fold is not None
        if keep_last is None and not self._has_old and not is_folded:
            return {}
        if keep_last is not None and not self._has_old and not self._less and not is_folded:
            return {each: count - keep_last for each, count in self._counts.items() if count > keep_last}
        found = {}
        for object_key, count in self._counts.items():
            less = self._less.get(object_key, ())
            left = count - len(less)
            if self._has_old:
                old = self._old.get(object_key, 0) - bisect_left(less, self._first_new)
                left = old if keep_last is None else min(old, left - keep_last)
            elif keep_last is not None:
                left -= keep_last
            if left > (1 if is_folded else 0):  # one alone is folded already
                found[object_key] = left
        return found

    def _kept_of(self, object_key: str) -> int:
        folded = 1 if self._rules.fold and object_key in self._leading else 0
        less = len(self._less.get(object_key, ())) + self._leading.get(object_key, 0)
        return self._counts.get(object_key, 0) - less + folded

    def leading(self) -> list[Payload]:
        """Return the lines that say what was dropped."""
        ids: dict[str, list[tuple[str, int, int]]] = {}
        for each in self._ids:
            is_forgotten = each.number < self._forgets.get(each.object_key, (-1, False))[0]
            if not is_forgotten and self._is_dropped(each):
                ids.setdefault(each.object_key, []).append((each.record_id, each.stamp_us, each.more))
        is_usual = not (
            ids or self._earlier or self._less or self._may_empty or self._folds or self._ended_us
        )
        if is_usual and not (self._forgets or self._forgotten_us):  # the same, in fewer steps
            return list(
                dropped_payloads(map(DroppedRecords, self._leading, self._leading.values(), repeat(0)))
            )
        object_keys = dict.fromkeys([*self._earlier, *self._less, *self._leading])
        dropped = list(filter(None, (self._dropped(each, ids) for each in object_keys)))
        return list(dropped_payloads(dropped, self._forgotten_us, self._ended_after(dropped)))

    def _ended_after(self, dropped: list[DroppedRecords]) -> int:
        """Return the stamp of the last record, if that may be left out and none of these tells it; else 0."""
        last_us = max(self._last_us.values(), default=0)
        is_dropped = list(self._out_of_turn[-1:]) == [self._last_record]  # or it is too old, or it stays
        ended_us = max(self._ended_us, last_us if is_dropped or last_us < self._old_below_us else 0)
        return ended_us if ended_us > max((each.last_us for each in dropped), default=0) else 0

    def _is_dropped(self, each: _Id) -> bool:
        less = self._less.get(each.object_key, ())
        before = bisect_left(less, each.number)
        is_out_of_turn = before < len(less) and less[before] == each.number
        return is_out_of_turn or each.rank - before < self._leading.get(each.object_key, 0)

    def _dropped(self, object_key: str, ids: dict[str, list[tuple[str, int, int]]]) -> DroppedRecords | None:
        """Return what was dropped of an object, now and earlier; None if that is nothing, or forgotten."""
        count, last_us = self._leading.get(object_key, 0), self._last_us.get(object_key, 0)
        if count and self._folds is not None:
            count -= 1
        if object_key in self._less:
            count += len(self._less[object_key])
        known = ids.get(object_key, [])
        earlier = self._earlier.get(object_key)
        if earlier is not None:
            count, last_us = count + earlier.count, max(last_us, earlier.last_us)
            known = [*(each for each in earlier.ids if each[1] >= self._ids_from_us), *known]
        may_be_empty = self._may_empty or object_key not in self._counts
        if not count:
            return None
        if may_be_empty and last_us < self._ids_from_us and not self._kept_of(object_key):
            self._uncounted.add(object_key)
            return None
        return DroppedRecords(object_key, count, last_us, tuple(known))

    def is_out_of_date(self, lines: Lines) -> bool:
        """Return whether lines that were appended meanwhile hold records of an object whose count would end here."""
        return not self._uncounted.isdisjoint(lines.object_keys)

    # --- the second pass --------------------------------------------------------------------------------------

    def fates(self, lines: Lines) -> tuple[bytearray, Mapping[int, Payload]]:
        """Return what becomes of the next lines."""
        first = self._at
        self._at += len(lines)
        fates = bytearray([KEEP]) * len(lines)
        payloads: dict[int, Payload] = {}
        for place in range(bisect_left(self._out_of_turn, first), bisect_left(self._out_of_turn, self._at)):
            fates[self._out_of_turn[place] - first] = DROP
        object_keys, _ = keys_and_stamps(lines)
        if self._forgotten:
            self._left_forgotten.drop(object_keys, fates)
        if self._folds is None:
            self._left.drop(object_keys, fates)
        elif self._left_to_fold:
            self._fold_first_ones(lines, fates, payloads, self._folds)
        for index, line in lines.controls():
            control = known_control(line, self._path)
            is_noted = control in _LAST_ONE_COUNTS and first + index not in self._kept_notes
            if is_noted or control in _REMADE:
                fates[index] = DROP
        if lines.has_batches:
            keep_places(lines, fates)
        return fates, payloads

    def _fold_first_ones(
        self, lines: Lines, fates: bytearray, payloads: dict[int, Payload], folds: Folds
    ) -> None:
        """Drop what is the first so many records of its object; keep the last of them with what they fold into."""
        left = self._left_to_fold
        for index, object_key in enumerate(lines.object_keys):
            if object_key not in left or not fates[index]:
                continue
            folds.add(lines[index])
            left[object_key] -= 1
            fates[index] = DROP
            if not left[object_key]:
                del left[object_key]
                payloads[index] = folds.snapshot(object_key)
                fates[index] = REPLACED
