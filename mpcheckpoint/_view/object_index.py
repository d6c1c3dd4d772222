"""The index of objects: which there are, how many records of each, and its last record. Memory is bounded, apart from
one entry an object."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fnmatch import translate
from typing import TYPE_CHECKING

from mpcheckpoint._view.merged_read import Choice, OnFailure, RawRecord, Tap, raw_record_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mpcheckpoint._format.columns import Lines
    from mpcheckpoint._logfile.chunk import Origin
    from mpcheckpoint._store.protocol import StoredLog
    from mpcheckpoint._types import Record
    from mpcheckpoint.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class ObjectSummary:
    """What is recorded of one object, over all logs.

    Attributes:
        object_key: the object.
        count: how many records there are of it.
        first_us: when the first of them was made, in microseconds since 1970.
        last: the last of them, in the merged order.
    """

    object_key: str
    count: int
    first_us: int
    last: Record


@dataclass(slots=True)
class _Seen:
    """An object, as far as the logs were read.

    Attributes:
        first: the place of the first record in the merged order: its stamp, its log's key and its number in that log.
        last: the last record.
        count: how many records there are.
    """

    first: tuple[int, str, int]
    last: RawRecord
    count: int = 0


class _ObjectIndex:
    """All objects of a log that were seen so far."""

    def __init__(self, choice: Choice, match: str | None) -> None:
        self.seen: dict[str, _Seen] = {}
        self._choice = choice
        self._matches = None if match is None else re.compile(translate(match)).match

    def add(self, lines: Lines, origin: Origin, before: int) -> None:
        """Add a part of a log. ``before``: number of preceding records."""
        numbers = self._choice.numbers_in(lines)
        object_keys = [lines.object_keys[number] for number in numbers]
        counts = Counter(object_keys)
        firsts = dict(zip(reversed(object_keys), reversed(numbers), strict=True))
        lasts = dict(zip(object_keys, numbers, strict=True))
        for object_key, number in lasts.items():
            assert object_key is not None  # readers leave control lines out
            if self._matches is not None and not self._matches(object_key):
                continue
            at = firsts[object_key]
            first = (lines.stamps_us[at], origin.log_key, before + at)
            found = raw_record_at(lines, number, origin)
            known = self.seen.get(object_key)
            if known is None:
                known = self.seen[object_key] = _Seen(first, found)
            known.count += counts[object_key]
            known.last = found

    def forget(self, object_key: str) -> None:
        """Have an object as if it had not been seen."""
        self.seen.pop(object_key, None)


def _merge(objects: dict[str, _Seen], found: dict[str, _Seen]) -> None:
    """Add the objects of another log."""
    for object_key, seen in found.items():
        known = objects.setdefault(object_key, seen)
        if known is not seen:
            known.count += seen.count
            known.first = min(known.first, seen.first)
            known.last = max(known.last, seen.last, key=lambda each: each.order)


def list_objects(
    logs: Iterable[StoredLog], choice: Choice, match: str | None, *, on_failure: OnFailure | None = None
) -> Iterator[ObjectSummary]:
    """Yield the objects that have chosen records; with ``on_failure`` raise nothing. See ``Checkpoint.objects``."""
    all_seen: dict[str, _Seen] = {}
    failures: dict[str, CheckpointError] = {}
    for stored in logs:
        tap = Tap(stored, choice)
        tap.begin()
        objects, before = _ObjectIndex(choice, match), 0
        for lines, origin, forgets in tap.lines():
            done = 0
            for at, object_key, _ in forgets:
                objects.add(lines[done:at], origin, before + done)
                objects.forget(object_key)
                done = at
            objects.add(lines[done:] if done else lines, origin, before + done)
            before += len(lines)
        _merge(all_seen, objects.seen)
        tap.reader.release()
        if tap.failure is not None:
            failures[stored.log_key] = tap.failure
    for object_key, seen in sorted(all_seen.items(), key=lambda item: item[1].first):
        yield ObjectSummary(object_key, seen.count, seen.first[0], seen.last.record())
    for log_key, failure in failures.items():
        if on_failure is None:
            raise failure
        on_failure(log_key, failure)
