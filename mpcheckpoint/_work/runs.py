"""Which run a start of a map works on, and what state an item is in: judged on the view, by the rule of ``reruns``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

from mpcheckpoint._format.codec import decode_event
from mpcheckpoint._format.concern import concern_of_notes
from mpcheckpoint._format.control import SALVAGED, note_payload
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._view.view import MAP
from mpcheckpoint._work.claims import is_taken
from mpcheckpoint._work.reruns import IfChanged, RecordHead, Rule, RunNote, head_of, history_of, records_of
from mpcheckpoint.errors import ChangedVersionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpcheckpoint._store.worker_protocol import Workers
    from mpcheckpoint._view.log_handle import LogHandle
    from mpcheckpoint._view.records import RawEvent
    from mpcheckpoint._view.view import LogView

_START_LIMIT = 100
_KEYS_A_LOOK = 500


class JoinedRun(NamedTuple):
    """A run of a map, as this process joined it.

    Attributes:
        note: what the log says of it, or would say once it has begun.
        joined_us: with ``retry_failed``, failures recorded before this run again. Later ones are of this very start, or
            of one beside it.
    """

    note: RunNote
    joined_us: int
    retry_failed: bool = False


class Attempts(NamedTuple):
    """What was tried since an object's last outcome: failed attempts, the last one's stamp and pause, and deaths."""

    failed: int = 0
    stamp_us: int = 0
    pause_s: float = 0.0
    deaths: int = 0


_NO_ATTEMPTS = Attempts()


class ItemState(msgspec.Struct, frozen=True, gc=False):
    """The state of an object: done, with its outcome and the stamp of that; or taken by a live worker; or neither."""

    outcome: bytes | None
    is_taken: bool
    attempts: Attempts = _NO_ATTEMPTS
    outcome_us: int = 0


class MovedError(Exception):
    """Other runs began since the view was judged."""


def join_run(
    log: LogHandle,
    version: str,
    *,
    rerun: str | None = None,
    if_changed: IfChanged = IfChanged.REFUSE,
    retry_failed: bool = False,
    is_dry_run: bool = False,
) -> JoinedRun:
    """Return the run to work on; begin it if it is new, except in a dry run. Starts at the same time agree on one run.

    Raises:
        ChangedVersionError: the log's map, or that rerun of it, has another version, and ``if_changed`` refuses it.
    """
    if not is_dry_run:
        log.append_many(())  # refuses a handle that may not write, even if nothing is left to write
    for _ in range(_START_LIMIT):
        known, note = log.query(lambda view: _joined(view, version, rerun, if_changed))
        if is_dry_run or note in known or _is_begun(log, note, known):
            return JoinedRun(note, clock.next(0), retry_failed)
    raise ChangedVersionError(
        f"other starts begin new runs of the map on the log {log.log_key!r} all the time",
        reason="many starts",
    )


def _joined(
    view: LogView, version: str, rerun: str | None, if_changed: IfChanged
) -> tuple[tuple[RunNote, ...], RunNote]:
    history = history_of(view)
    # Nothing was done as any version, as where the first item could not be filled in: no outcome is at stake.
    is_unused = not view.records.count and not view.claims
    note = history.join(view.log_key, version, rerun, if_changed, is_unused=is_unused)
    if note not in history.notes and view.note(SALVAGED) is not None:
        # A salvage may have lost the note of a run but not its outcomes, so its number must not be given again.
        note = note._replace(number=max(note.number, 1 + _highest_recorded(view)))
    return history.notes, note


def _highest_recorded(view: LogView) -> int:
    heads = (head_of(event) for key in view.records.objects for event in view.records.events_of(key))
    return max((int(head.run) for head in heads if head is not None), default=0)


def state_of(
    view: LogView,
    run: JoinedRun,
    object_key: str,
    workers: Workers,
    worker_id: str | None = None,
    *,
    void_us: int = 0,
) -> ItemState:
    """Return the state of an object in a run.

    Args:
        worker_id: its own claim does not count.
        void_us: outcomes up to this stamp do not count, either.

    Raises:
        ChangedVersionError: another start has gone on with another version.
    """
    return Judge(view, run, workers).state(object_key, worker_id, void_us)


class Judge:
    """Judges objects on one look at the view, for a run.

    Args:
        workers: those of the store.

    Raises:
        ChangedVersionError: another start has gone on with another version.
    """

    def __init__(self, view: LogView, run: JoinedRun, workers: Workers) -> None:
        history, note = history_of(view), run.note
        latest = history.latest.get(note.rerun)
        if latest is not None and latest.number > note.number:
            raise _moved_on(view.log_key, note, latest)
        self._view, self._run, self._workers = view, run, workers
        self._rule = history.rule(note.rerun, note)
        self._number = b"%d" % note.number

    def leading(self, object_keys: list[str]) -> tuple[list[tuple[int, bytes]], ItemState | None]:
        """Return the stamps and the outcomes of these objects up to the first that is not done, and the state of that.

        Of most of them the last record is an outcome that counts: nothing was tried after it.
        """
        beginnings = self._rule.beginnings
        if self._run.retry_failed:
            beginnings = tuple(each for each in beginnings if each.endswith(b"true"))
        done: list[tuple[int, bytes]] = []
        for object_key, last in zip(object_keys, self._view.records.last_of_each(object_keys), strict=True):
            if last is not None and last[1].startswith(beginnings):
                done.append(last)
                continue
            state = self.state(object_key)
            if state.outcome is None:
                return done, state
            done.append((state.outcome_us, state.outcome))
        return done, None

    def state(self, object_key: str, worker_id: str | None = None, void_us: int = 0) -> ItemState:
        """Return the state of an object; arguments as for ``state_of``."""
        records, counts = self._view.records, self._rule.counts
        later: list[tuple[int, RecordHead]] = []  # attempts and deaths of this run after its last outcome
        for number, event in records.latest_first(object_key):
            head = head_of(event)
            if head is None:
                continue
            if counts(head):
                stamp_us, attempts = records.stamp_us(number), self._attempts(later)
                if stamp_us <= void_us or self._is_old_failure(head, stamp_us):
                    return ItemState(None, self._is_taken(object_key, worker_id), attempts)
                return ItemState(event, False, attempts, stamp_us)
            if head.run == self._number and not head.is_outcome:
                later.append((number, head))
        return ItemState(None, self._is_taken(object_key, worker_id), self._attempts(later))

    def _is_taken(self, object_key: str, worker_id: str | None) -> bool:
        return is_taken(self._view, object_key, self._workers, worker_id)

    def _is_old_failure(self, head: RecordHead, stamp_us: int) -> bool:
        """Return whether it is a failure that this start is to retry."""
        return self._run.retry_failed and not head.is_ok and stamp_us < self._run.joined_us

    def _attempts(self, later: list[tuple[int, RecordHead]]) -> Attempts:
        """Return what attempts and deaths come to, the latest first."""
        failed = [number for number, head in later if not head.is_death]
        deaths = len(later) - len(failed)
        if not failed:
            return Attempts(deaths=deaths) if deaths else _NO_ATTEMPTS
        records = self._view.records
        pause_s = decode_event(records.event(failed[0])).get("pause_s")
        # Another kind of writer may have recorded anything under this name.
        is_known = isinstance(pause_s, int | float)
        return Attempts(len(failed), records.stamp_us(failed[0]), pause_s if is_known else 0.0, deaths)


def own_outcome(view: LogView, run: JoinedRun, object_key: str) -> RawEvent | None:
    """Return the last outcome of an object that this very run recorded, whether or not it still counts."""
    number = b"%d" % run.note.number
    for entry, head in records_of(view, object_key):
        if head.is_outcome and head.run == number:
            return entry
    return None


def is_done(view: LogView, object_key: str, rerun: str | None) -> bool:
    """Return whether an object is done: it has an outcome that counts; or any event, if no map ran on the log."""
    history = history_of(view)
    if not history.notes:
        return rerun is None and object_key in view.records.objects
    return last_outcome(view, object_key, rerun) is not None


def last_outcome(view: LogView, object_key: str, rerun: str | None) -> bytes | None:
    """Return an object's last outcome that counts."""
    rule = history_of(view).rule(rerun)
    return next((entry.event for entry, head in records_of(view, object_key) if rule.counts(head)), None)


def _is_begun(log: LogHandle, note: RunNote, known: tuple[RunNote, ...]) -> bool:
    """Begin a run, unless there are others than ``known``; return whether it began."""

    def unmoved(view: LogView) -> None:
        if history_of(view).notes != known:
            raise MovedError

    try:
        log.append_if([note_payload(note.note())], unmoved, relies_on=frozenset((concern_of_notes(MAP),)))
    except MovedError:
        return False
    return True


def _moved_on(log_key: str, run: RunNote, latest: RunNote) -> ChangedVersionError:
    what = "map" if run.rerun is None else f"rerun {run.rerun!r}"
    return ChangedVersionError(
        f"the {what} on the log {log_key!r} went on as {latest.version!r} while it ran here as {run.version!r}, "
        "which stops; what it recorded stays in the log",
        reason="started anew",
    )


Found = TypeVar("Found")

# An object, its last outcome that counts, the head of that, and whether attempts failed after it. Rejected: a class for
# the four, which takes a tenth of the time.
LatestOutcome = tuple[str, bytes | None, RecordHead | None, bool]


def latest_outcomes(log: LogHandle, rule: Rule) -> Iterator[LatestOutcome]:
    """Yield what there is of each object."""

    def latest(view: LogView, object_key: str) -> LatestOutcome:
        is_to_retry = False
        for _, event in view.records.latest_first(object_key):
            head = head_of(event)
            if head is None:
                continue
            if rule.counts(head):
                return object_key, event, head, is_to_retry
            is_to_retry |= rule.is_to_retry(head)
        return object_key, None, None, is_to_retry

    def plain(object_key: str, _: int, event: bytes) -> LatestOutcome:
        return object_key, event, head_of(event), False

    return _of_each_object(log, rule, plain, latest)


def dated_outcomes(log: LogHandle, rule: Rule) -> Iterator[tuple[int, str, bytes]]:
    """Yield the stamp, the object key and the event of each object's last outcome that counts."""

    def latest(view: LogView, object_key: str) -> tuple[int, str, bytes] | None:
        found = next((entry for entry, head in records_of(view, object_key) if rule.counts(head)), None)
        return None if found is None else (found.stamp_us, object_key, found.event)

    def plain(object_key: str, stamp_us: int, event: bytes) -> tuple[int, str, bytes] | None:
        return stamp_us, object_key, event

    return (each for each in _of_each_object(log, rule, plain, latest) if each is not None)


def _of_each_object(
    log: LogHandle,
    rule: Rule,
    plain: Callable[[str, int, bytes], Found],
    look: Callable[[LogView, str], Found],
) -> Iterator[Found]:
    """Yield what is found of each object, a few objects at a time: others use the view in between.

    Args:
        plain: returns it for an object whose last record is an outcome that counts, as that of most is: with the stamp
            and the event.
        look: returns it for any object.
    """

    def found(view: LogView, object_keys: list[str]) -> list[Found]:
        lasts = zip(object_keys, view.records.last_of_each(object_keys), strict=True)
        return [
            look(view, object_key)
            if last is None or not last[1].startswith(rule.beginnings)
            else plain(object_key, *last)
            for object_key, last in lasts
        ]

    object_keys = log.query(lambda view: list(view.records.objects))
    for start in range(0, len(object_keys), _KEYS_A_LOOK):
        yield from log.query(partial(found, object_keys=object_keys[start : start + _KEYS_A_LOOK]))
