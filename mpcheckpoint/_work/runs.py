"""Which run a start of a map works on, and what state an item is in: judged on the view, by the rule of ``reruns``."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

from mpcheckpoint._format.codec import decode_event
from mpcheckpoint._format.control import SALVAGED, note_payload
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._work.claims import is_taken
from mpcheckpoint._work.reruns import IfChanged, RecordHead, Rule, RunNote, head_of, history_of, records_of
from mpcheckpoint.errors import ChangedVersionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


class ItemState(NamedTuple):
    """The state of an object: done, with its outcome and the stamp of that; or taken by a live worker; or neither."""

    outcome: bytes | None
    is_taken: bool
    attempts: Attempts = Attempts()
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
    note = history.join(view.log_key, version, rerun, if_changed)
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
    directory: str,
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
    history = history_of(view)
    latest = history.latest.get(run.note.rerun)
    if latest is not None and latest.number > run.note.number:
        raise _moved_on(view.log_key, run.note, latest)
    found, attempts = _latest(view, history.rule(run.note.rerun, run.note), run, object_key)
    is_void = found is not None and (
        found.stamp_us <= void_us or (run.retry_failed and _is_old_failure(found, run))
    )
    if found is not None and not is_void:
        return ItemState(found.event, is_taken=False, attempts=attempts, outcome_us=found.stamp_us)
    return ItemState(None, is_taken(view, object_key, directory, worker_id), attempts)


def own_outcome(view: LogView, run: JoinedRun, object_key: str) -> RawEvent | None:
    """Return the last outcome of an object that this very run recorded, whether or not it still counts."""
    number = b"%d" % run.note.number
    for entry, head in records_of(view, object_key):
        if head.is_outcome and head.run == number:
            return entry
    return None


def _latest(view: LogView, rule: Rule, run: JoinedRun, object_key: str) -> tuple[RawEvent | None, Attempts]:
    """Return an object's last outcome that counts, and the attempts of this run after it."""
    number, failed, deaths = b"%d" % run.note.number, 0, 0
    found: RawEvent | None = None
    last: RawEvent | None = None
    for entry, head in records_of(view, object_key):
        if rule.counts(head):
            found = entry
            break
        if head.run == number and head.is_death:
            deaths += 1
        elif head.run == number and not head.is_outcome:
            failed, last = failed + 1, last or entry
    if last is None:
        return found, Attempts(deaths=deaths)
    pause_s = decode_event(last.event).get("pause_s")
    # Another kind of writer may have recorded anything under this name.
    return found, Attempts(
        failed, last.stamp_us, pause_s if isinstance(pause_s, int | float) else 0.0, deaths
    )


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
        log.append_if([note_payload(note.note())], unmoved)
    except MovedError:
        return False
    return True


def _is_old_failure(entry: RawEvent, run: JoinedRun) -> bool:
    head = head_of(entry.event)
    has_failed = head is not None and not head.is_ok
    return has_failed and entry.stamp_us < run.joined_us


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
        for event in reversed(view.records.events_of(object_key)):
            head = head_of(event)
            if head is None:
                continue
            if rule.counts(head):
                return object_key, event, head, is_to_retry
            is_to_retry |= rule.is_to_retry(head)
        return object_key, None, None, is_to_retry

    return _of_each_object(log, latest)


def dated_outcomes(log: LogHandle, rule: Rule) -> Iterator[tuple[int, str, bytes]]:
    """Yield the stamp, the object key and the event of each object's last outcome that counts."""

    def latest(view: LogView, object_key: str) -> tuple[int, str, bytes] | None:
        found = next((entry for entry, head in records_of(view, object_key) if rule.counts(head)), None)
        return None if found is None else (found.stamp_us, object_key, found.event)

    return (each for each in _of_each_object(log, latest) if each is not None)


def _of_each_object(log: LogHandle, look: Callable[[LogView, str], Found]) -> Iterator[Found]:
    """Yield what ``look`` returns for each object, a few objects at a time: others use the view in between."""
    object_keys = log.query(lambda view: list(view.records.objects))
    for start in range(0, len(object_keys), _KEYS_A_LOOK):
        some = object_keys[start : start + _KEYS_A_LOOK]
        yield from log.query(lambda view, some=some: [look(view, each) for each in some])  # type: ignore[misc]
