"""How far the map of a log is, counted as the log is read: by the rule by which everything judges what is done."""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint._format.codec import decode_event
from mpcheckpoint._format.columns import Lines
from mpcheckpoint._format.control import CLAIM
from mpcheckpoint._view.view import MAP
from mpcheckpoint._work.reruns import History, RunNote, head_of

if TYPE_CHECKING:
    from mpcheckpoint._format.control import Note
    from mpcheckpoint._logfile.chunk import Chunk
    from mpcheckpoint._work.reruns import RecordHead

_MOST_FAILURES = 20


class _State(Enum):
    OK = "ok"
    FAILED = "failed"
    TO_RETRY = "to retry"


class Failure(NamedTuple):
    """An item that failed: when, and the first line of why."""

    stamp_us: int
    object_key: str
    cause: str


class MapProgress:
    """What one log tells of its map.

    Attributes:
        runs: the runs that have begun, in order.
        ok, failed, to_retry: how many items.
        claims: the objects that were taken and not given back, with their workers. They may be dead.
    """

    def __init__(self) -> None:
        self.runs: list[RunNote] = []
        self.ok = 0
        self.failed = 0
        self.to_retry = 0
        self.claims: dict[str, str] = {}
        self._rule = History(()).rule(None)
        # The kinds of records of each object, the latest last. There are few different ones, which objects share.
        self._heads: dict[str, tuple[RecordHead, ...]] = {}
        self._shared: dict[tuple[RecordHead, ...], tuple[RecordHead, ...]] = {}
        self._failures: deque[tuple[int, str, bytes]] = deque(maxlen=_MOST_FAILURES)

    def take(self, chunk: Chunk) -> None:
        """Count what a reader found new."""
        begun = len(self.runs)
        for note in chunk.notes:
            self._take_note(note)
        if len(self.runs) > begun:
            self._rule = History(self.runs).rule(None)
            self._recount()
        lines = Lines.of(chunk.lines)
        forgets = deque(chunk.forgets)
        begin = 0
        for number, (stamp_us, object_key, end) in enumerate(
            zip(lines.stamps_us, lines.object_keys, lines.event_ends, strict=True)
        ):
            while forgets and forgets[0].at <= number:
                self._forget(forgets.popleft().object_key)
            event = bytes(lines.events[begin:end])
            begin = end
            head = head_of(event)
            if head is not None and object_key is not None:
                self._take_record(object_key, head)
                if head.is_outcome and not head.is_ok:
                    self._failures.append((stamp_us, object_key, event))
        for each in forgets:
            self._forget(each.object_key)

    def failures(self) -> tuple[Failure, ...]:
        """Return the last failures, the latest first."""
        return tuple(
            Failure(stamp_us, object_key, str(decode_event(event).get("error") or "").partition("\n")[0])
            for stamp_us, object_key, event in reversed(self._failures)
        )

    def _take_note(self, note: Note) -> None:
        if note.name == MAP:
            run = RunNote.of(note.fields)
            if run is not None:
                self.runs.append(run)
        elif note.name == CLAIM:
            object_key, worker = note.fields.get("object_key"), note.fields.get("worker")
            if isinstance(object_key, str) and isinstance(worker, str):
                self.claims[object_key] = worker
            elif isinstance(object_key, str):
                self.claims.pop(object_key, None)

    def _forget(self, object_key: str) -> None:
        self._count(self._state(self._heads.pop(object_key, ())), -1)
        kept = [each for each in self._failures if each[1] != object_key]
        self._failures = deque(kept, maxlen=_MOST_FAILURES)

    def _take_record(self, object_key: str, head: RecordHead) -> None:
        before = self._heads.get(object_key, ())
        if before and before[-1] == head:
            return
        after = (*(each for each in before if each != head), head)
        after = self._shared.setdefault(after, after)
        self._count(self._state(before), -1)
        self._count(self._state(after), 1)
        self._heads[object_key] = after

    def _recount(self) -> None:
        self.ok = self.failed = self.to_retry = 0
        for heads in self._heads.values():
            self._count(self._state(heads), 1)

    def _state(self, heads: tuple[RecordHead, ...]) -> _State | None:
        is_to_retry = False
        for head in reversed(heads):
            if self._rule.counts(head):
                return _State.OK if head.is_ok else _State.FAILED
            is_to_retry |= self._rule.is_to_retry(head)
        return _State.TO_RETRY if is_to_retry else None

    def _count(self, state: _State | None, by: int) -> None:
        if state is _State.OK:
            self.ok += by
        elif state is _State.FAILED:
            self.failed += by
        elif state is _State.TO_RETRY:
            self.to_retry += by
