"""Which run a start works on, and how it stands with an object: judgements on the log's view, by the rule of
``reruns``."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint._format.codec import decode_event
from mpcheckpoint._format.control import note_payload
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._salvage.inspection import SALVAGED
from mpcheckpoint._work.claims import is_taken
from mpcheckpoint._work.reruns import IfChanged, Keeps, RunNote, Told, history_of, tell
from mpcheckpoint.errors import ChangedVersionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint._view.log_handle import LogHandle
    from mpcheckpoint._view.records import RawEvent
    from mpcheckpoint._view.view import LogView
    from mpcheckpoint._work.reruns import Rule

_START_LIMIT = 100
_KEYS_A_LOOK = 500


class Run(NamedTuple):
    """One run of a map: its number in the log, what is mapped, under which name, and when this process joined it.

    Failures recorded before ``joined_us`` are run again if ``retry_failed``; later ones were made by this very start,
    or beside it.
    """

    number: int
    version: str
    joined_us: int
    retry_failed: bool = False
    rerun: str | None = None
    keeps: Keeps = Keeps.NOTHING

    @property
    def note(self) -> RunNote:
        """What the log says of it, or would, were it begun."""
        return RunNote(self.number, self.version, self.rerun, self.keeps)


class Attempts(NamedTuple):
    """How many attempts at an object have failed since it last had an outcome, and how long it is to rest now."""

    failed: int = 0
    stamp_us: int = 0
    pause_s: float = 0.0


class State(NamedTuple):
    """How it stands with an object: done, with its outcome; or taken by a live worker; or neither."""

    outcome: bytes | None
    is_taken: bool
    attempts: Attempts = Attempts()


class MovedError(Exception):
    """The run that a judgement was based on is not the current one any more."""


def join_run(
    log: LogHandle,
    version: str,
    *,
    rerun: str | None = None,
    if_changed: IfChanged = IfChanged.REFUSE,
    retry_failed: bool = False,
) -> Run:
    """Return the run to work on, beginning it if need be. All who start at once agree on one.

    Raises:
        ChangedVersionError: the log's map, or that rerun of it, is another one, and it was not said what to keep.
    """
    log.append_many(())  # refuses a handle that may not write, also where nothing is left to be written
    for _ in range(_START_LIMIT):
        known, note = log.query(lambda view: _joined(view, version, rerun, if_changed))
        if note in known or _is_begun(log, note, known):
            return _run_of(note, retry_failed=retry_failed)
    raise ChangedVersionError(
        f"the map on the log {log.log_key!r} is started anew again and again", reason="many starts"
    )


def peek_run(
    log: LogHandle,
    version: str,
    *,
    rerun: str | None = None,
    if_changed: IfChanged = IfChanged.REFUSE,
    retry_failed: bool = False,
) -> Run:
    """Return the run that ``join_run`` would work on, without starting anything."""
    _, note = log.query(lambda view: _joined(view, version, rerun, if_changed))
    return _run_of(note, retry_failed=retry_failed)


def _joined(
    view: LogView, version: str, rerun: str | None, if_changed: IfChanged
) -> tuple[tuple[RunNote, ...], RunNote]:
    history = history_of(view)
    note = history.join(view.log_key, version, rerun, if_changed)
    if note not in history.notes and view.note(SALVAGED) is not None:
        # The note of a run may be lost, and its outcomes there: its number must not be given to another.
        note = note._replace(number=max(note.number, 1 + _highest_recorded(view)))
    return history.notes, note


def _highest_recorded(view: LogView) -> int:
    told = (tell(event) for key in view.object_keys() for event in view.held.events_of(key))
    return max((int(each.run) for each in told if each is not None), default=0)


def _run_of(note: RunNote, *, retry_failed: bool) -> Run:
    return Run(note.number, note.version, clock.next(0), retry_failed, note.rerun, note.keeps)


def state_of(view: LogView, run: Run, object_key: str, directory: str, worker_id: str | None = None) -> State:
    """Return how it stands with an object: whether it has an outcome that counts for this run, and else who has it.

    To ``worker_id`` it is not taken by that worker itself.

    Raises:
        ChangedVersionError: another start has gone on with another version.
    """
    history = history_of(view)
    latest = history.latest.get(run.rerun)
    if latest is not None and latest.number > run.number:
        raise _moved_on(view.log_key, run, latest)
    found, attempts = _latest(view, history.rule(run.rerun, run.note), run, object_key)
    if found is not None and not (run.retry_failed and _is_old_failure(found, run)):
        return State(found.event, is_taken=False)
    return State(None, is_taken(view, object_key, directory, worker_id), attempts)


def own_outcome(view: LogView, run: Run, object_key: str) -> RawEvent | None:
    """Return the last outcome of an object that this very run recorded, whether it counts still or not."""
    number = b"%d" % run.number
    for entry in reversed(view.entries(object_key)):
        told = tell(entry.event)
        if told is not None and told.is_outcome and told.run == number:
            return entry
    return None


def _latest(view: LogView, rule: Rule, run: Run, object_key: str) -> tuple[RawEvent | None, Attempts]:
    """Return an object's last outcome that counts, and the attempts of this run after it."""
    number, count, newest = b"%d" % run.number, 0, None
    for entry in reversed(view.entries(object_key)):
        told = tell(entry.event)
        if told is None:
            continue
        if rule.counts(told):
            return entry, _attempts(count, newest)
        if not (told.is_outcome or told.is_death) and told.run == number:
            count, newest = count + 1, newest or entry
    return None, _attempts(count, newest)


def _attempts(count: int, newest: RawEvent | None) -> Attempts:
    if newest is None:
        return Attempts()
    pause_s = decode_event(newest.event).get("pause_s")
    # What a writer of another kind recorded under these names may be anything.
    return Attempts(count, newest.stamp_us, pause_s if isinstance(pause_s, int | float) else 0.0)


def is_done(view: LogView, object_key: str, rerun: str | None) -> bool:
    """Return whether nothing is left to do for an object: it has an outcome that counts; or, where no map ran, any
    event."""
    history = history_of(view)
    if not history.notes:
        return rerun is None and bool(view.entries(object_key))
    rule = history.rule(rerun)
    told = map(tell, view.held.events_of(object_key))
    return any(each is not None and rule.counts(each) for each in told)


def _is_begun(log: LogHandle, note: RunNote, known: tuple[RunNote, ...]) -> bool:
    """Begin a run, unless others were begun since these were known; return whether it was."""

    def unmoved(view: LogView) -> None:
        if history_of(view).notes != known:
            raise MovedError

    try:
        log.append_if([note_payload(note.note())], unmoved)
    except MovedError:
        return False
    return True


def _is_old_failure(entry: RawEvent, run: Run) -> bool:
    told = tell(entry.event)
    has_failed = told is not None and not told.is_ok
    return has_failed and entry.stamp_us < run.joined_us


def _moved_on(log_key: str, run: Run, latest: RunNote) -> ChangedVersionError:
    what = "map" if run.rerun is None else f"rerun {run.rerun!r}"
    return ChangedVersionError(
        f"the {what} on the log {log_key!r} went on as {latest.version!r} while it was under way here as "
        f"{run.version!r}, which stops; what it recorded stays in the log",
        reason="started anew",
    )


def standings(log: LogHandle, rule: Rule) -> Iterator[tuple[str, bytes | None, Told | None, bool]]:
    """Yield every object, its last outcome that counts, what that one tells, and whether attempts have failed after it.

    A few at a look. Rejected: a class for the four, which takes a tenth of the pass.
    """

    def standing(object_key: str, events: list[bytes]) -> tuple[str, bytes | None, Told | None, bool]:
        is_to_retry = False
        for event in reversed(events):
            told = tell(event)
            if told is None:
                continue
            if rule.counts(told):
                return object_key, event, told, is_to_retry
            is_to_retry |= rule.is_to_retry(told)
        return object_key, None, None, is_to_retry

    object_keys = log.query(lambda view: list(view.object_keys()))
    for start in range(0, len(object_keys), _KEYS_A_LOOK):
        some = object_keys[start : start + _KEYS_A_LOOK]

        def look(view: LogView, some: list[str] = some) -> list[tuple[str, bytes | None, Told | None, bool]]:
            events_of = view.held.events_of
            return [standing(object_key, events_of(object_key)) for object_key in some]

        yield from log.query(look)
