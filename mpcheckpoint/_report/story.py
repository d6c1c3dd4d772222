"""What a log tells of its maps: each attempt, when it was made and by which worker, and what became of each item.

A log that is damaged is told up to the damage. Rejected: a view, which is strict, and holds all outputs in memory.
"""

from __future__ import annotations

from enum import Enum
from heapq import heappush, heapreplace
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from mpcheckpoint import _system as system
from mpcheckpoint._format.codec import decode_event
from mpcheckpoint._format.columns import Lines
from mpcheckpoint._format.control import CLAIM
from mpcheckpoint._view.view import MAP
from mpcheckpoint._work.reruns import History, RunNote, head_of
from mpcheckpoint.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._format.control import Note
    from mpcheckpoint._logfile.chunk import Chunk
    from mpcheckpoint._store.protocol import StoredLog
    from mpcheckpoint._store.worker_protocol import Workers
    from mpcheckpoint._work.reruns import RecordHead, Rule

_US = 1_000_000
_LONGEST_S = 1e9
# More failures are kept than are shown: some were retried, and do not count.
_MOST_FAILED, _MOST_SLOWEST = 2000, 40
_MOST_CHARS = 2000


class Kind(Enum):
    """How an attempt ended, and what an item is."""

    OK = "ok"
    FAILED = "failed"
    RETRIED = "to retry"
    DIED = "died"
    LOST = "killed"
    RUNNING = "running"


class Attempt(NamedTuple):
    """One run of an item. Of what was killed with its worker only the beginning is known."""

    began_us: int
    ended_us: int
    kind: Kind
    object_key: str
    worker: str | None


class Item(NamedTuple):
    """What became of an item last. ``stamp_us`` is that of its record; 0 if it has none."""

    kind: Kind
    began_us: int
    duration_us: int
    attempts: int
    run: int
    worker: str | None
    cause: str
    stamp_us: int


class Begun(NamedTuple):
    """A run of a map, and when it began: 0 if the storage does not tell."""

    note: RunNote
    stamp_us: int


class Detail(NamedTuple):
    """The error and the output of an item, cut to what a page has room for."""

    error: str
    output: str


class Story(NamedTuple):
    """All that a log tells of its maps.

    Attributes:
        items: by object key, in the order in which they were first recorded or begun.
        details: by stamp and object key, of the records that failed last and of those that took longest.
        others: how many records no map made.
        damage: why the rest could not be read.
    """

    log_key: str
    runs: list[Begun]
    attempts: list[Attempt]
    items: dict[str, Item]
    details: dict[tuple[int, str], Detail]
    others: int
    damage: CheckpointError | None


class _Recorded(msgspec.Struct):
    """What a report needs of a map's record. The value is passed over."""

    run: int
    duration_s: float = 0.0
    attempts: int = 1
    error: str | None = None


_decode = msgspec.json.Decoder(_Recorded).decode


def story_of(stored: StoredLog, workers: Workers) -> Story:
    """Return what a log tells, by reading it once."""
    telling, damage = _Telling(), None
    reader = stored.reader()
    try:
        for chunk in reader.poll():
            if chunk.is_reset:
                telling = _Telling()
            telling.take(chunk)
    except CheckpointError as error:
        damage = error
    finally:
        reader.release()
    items = telling.items(workers.is_live, system.now_us())
    return Story(
        stored.log_key, telling.runs, telling.attempts, items, telling.details.found, telling.others, damage
    )


def _dated(chunk: Chunk) -> list[tuple[Note, int]]:
    stamps_us = chunk.note_stamps_us or [0] * len(chunk.notes)
    return list(zip(chunk.notes, stamps_us, strict=True))


class _Details:
    """The details of the records that failed last, and of those that took longest, whether or not they will count."""

    def __init__(self) -> None:
        self._failed: dict[tuple[int, str], Detail] = {}
        self._slowest: list[tuple[int, tuple[int, str], Detail]] = []

    @property
    def found(self) -> dict[tuple[int, str], Detail]:
        """Return them."""
        return self._failed | {place: detail for _, place, detail in self._slowest}

    def keep_only(self, is_kept: Callable[[tuple[int, str]], bool]) -> None:
        """Drop the details of the other records. Nothing may be taken after it."""
        self._failed = {place: detail for place, detail in self._failed.items() if is_kept(place)}
        self._slowest = [each for each in self._slowest if is_kept(each[1])]

    def take(self, place: tuple[int, str], item: Item, event: bytes) -> None:
        """Keep the details of an outcome, if they may be shown."""
        if item.kind is Kind.FAILED:
            self._failed[place] = _detail(event)
            if len(self._failed) > _MOST_FAILED:
                del self._failed[next(iter(self._failed))]
        if len(self._slowest) < _MOST_SLOWEST:
            heappush(self._slowest, (item.duration_us, place, _detail(event)))
        elif item.duration_us > self._slowest[0][0]:
            heapreplace(self._slowest, (item.duration_us, place, _detail(event)))


def _detail(event: bytes) -> Detail:
    fields = decode_event(event)
    value = fields.get("value")
    output = ""
    if isinstance(value, dict) and "exit_code" in value:
        output = str(value.get("output", ""))
        if "left_out_bytes" in value:
            output += f"\n[{value['left_out_bytes']} bytes were not kept]\n{value.get('output_end', '')}"
    elif "value" in fields:
        output = msgspec.json.encode(value).decode()
    return Detail(_cut(str(fields.get("error") or "")), _cut(output))


def _cut(text: str) -> str:
    """Return a text, without its middle if it is long: the beginning and the end tell most."""
    if len(text) <= _MOST_CHARS:
        return text
    half = _MOST_CHARS // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters left out ...]\n{text[-half:]}"


class _Candidates:
    """The last outcome of one object in each run, ok or not, the latest last; and the last attempt in each run.

    Which of them count is known at the end only: a run that begins later says what it keeps.
    """

    __slots__ = ("claim", "records")

    def __init__(self) -> None:
        self.records: dict[RecordHead, Item] = {}
        self.claim: Item | None = None

    def take(self, head: RecordHead, item: Item) -> None:
        """Add a record."""
        self.records.pop(head, None)
        self.records[head] = item

    def item(self, rule: Rule) -> Item | None:
        """Return the last outcome that counts; else what is to be retried, or has begun."""
        rested: Item | None = None
        for head, item in reversed(self.records.items()):
            if rule.counts(head):
                return item
            if rule.is_to_retry(head):
                rested = rested or item._replace(kind=Kind.RETRIED)
        return self.claim or rested


class _Telling:
    """What was told so far, line by line."""

    def __init__(self) -> None:
        self.runs: list[Begun] = []
        self.attempts: list[Attempt] = []
        self.details = _Details()
        self.others = 0
        self._objects: dict[str, _Candidates] = {}
        self._claims: dict[
            str, tuple[str, int]
        ] = {}  # object key to worker and stamp, until its record comes
        # When objects were last forgotten.
        self._forgotten: dict[str, int] = {}

    def take(self, chunk: Chunk) -> None:
        """Take what a reader found new, in the order of the log: records come before the notes of their batch."""
        lines = Lines.of(chunk.lines)
        notes = iter(_dated(chunk))
        note = next(notes, None)
        begin = 0
        for forget in chunk.forgets:
            self._forgotten[forget.object_key] = forget.stamp_us
            self._objects.pop(forget.object_key, None)
        for stamp_us, object_key, end in zip(
            lines.stamps_us, lines.object_keys, lines.event_ends, strict=True
        ):
            while note is not None and note[1] < stamp_us:
                self._take_note(*note)
                note = next(notes, None)
            if object_key is not None and stamp_us < self._forgotten.get(object_key, 0):
                self._claims.pop(object_key, None)
            elif object_key is not None:
                self._take_record(stamp_us, object_key, bytes(lines.events[begin:end]))
            begin = end
        while note is not None:
            self._take_note(*note)
            note = next(notes, None)

    def _take_note(self, note: Note, stamp_us: int) -> None:
        if note.name == MAP:
            told = RunNote.of(note.fields)
            if told is not None:
                self.runs.append(Begun(told, stamp_us))
        if note.name != CLAIM:
            return
        object_key, worker = note.fields.get("object_key"), note.fields.get("worker")
        if not isinstance(object_key, str):
            return
        before = self._claims.pop(object_key, None)
        if isinstance(worker, str):
            if before is not None:
                self._lose(object_key, *before)
            self._claims[object_key] = worker, stamp_us

    def _lose(self, object_key: str, worker: str, began_us: int) -> None:
        self.attempts.append(Attempt(began_us, began_us, Kind.LOST, object_key, worker))

    def _take_record(self, stamp_us: int, object_key: str, event: bytes) -> None:
        head = head_of(event)
        told = None if head is None else _told(event)
        if head is None or told is None:
            self.others += 1
            return
        worker, _ = self._claims.pop(object_key, (None, 0))
        duration_us = round(min(max(told.duration_s, 0.0), _LONGEST_S) * _US)
        began_us = max(0, stamp_us - duration_us)
        kind = _kind(head)
        self.attempts.append(Attempt(began_us, stamp_us, kind, object_key, worker))
        item = Item(
            kind, began_us, duration_us, told.attempts, told.run, worker, _first_line(told.error), stamp_us
        )
        self._objects.setdefault(object_key, _Candidates()).take(head, item)
        if head.is_outcome:
            self.details.take((stamp_us, object_key), item, event)

    def items(self, is_worker_live: Callable[[str], bool], now_us: int) -> dict[str, Item]:
        """Return what became of each item. What has begun and has no record yet runs, or was killed."""
        forgotten = self._forgotten.get
        self.attempts = [each for each in self.attempts if each.ended_us > forgotten(each.object_key, 0)]
        self.details.keep_only(lambda place: place[0] > forgotten(place[1], 0))
        for object_key, (worker, began_us) in self._claims.items():
            is_live = is_worker_live(worker)
            kind, ended_us = (Kind.RUNNING, max(now_us, began_us)) if is_live else (Kind.LOST, began_us)
            self.attempts.append(Attempt(began_us, ended_us, kind, object_key, worker))
            claim = Item(kind, began_us, ended_us - began_us, 0, 0, worker, "", 0)
            self._objects.setdefault(object_key, _Candidates()).claim = claim
        rule = History(run.note for run in self.runs).rule(None)
        found = ((object_key, each.item(rule)) for object_key, each in self._objects.items())
        return {object_key: item for object_key, item in found if item is not None}


def _told(event: bytes) -> _Recorded | None:
    try:
        return _decode(event)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None  # another kind of writer recorded something like it


def _kind(head: RecordHead) -> Kind:
    if head.is_outcome:
        return Kind.OK if head.is_ok else Kind.FAILED
    return Kind.DIED if head.is_death else Kind.RETRIED


def _first_line(error: str | None) -> str:
    return (error or "").partition("\n")[0]
