"""Which map runs on a log, and what is done of it: judgements on the log's view, and the note that starts a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint._format.codec import decode_event
from mpcheckpoint._format.control import Note, note_payload
from mpcheckpoint._storage.clock import clock
from mpcheckpoint._work.claims import is_taken
from mpcheckpoint._work.outcomes import prefix_of_attempts, prefix_of_outcomes
from mpcheckpoint.errors import ChangedVersionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint._log.record_log import RecordLog
    from mpcheckpoint._log.records import Entry
    from mpcheckpoint._log.view import LogView

MAP = "map"
_START_LIMIT = 100
_KEYS_A_LOOK = 500


class Run(NamedTuple):
    """One run of a map: its number in the log, what is mapped, and when this process joined it.

    Failures recorded before ``joined_us`` are run again if ``retry_failed``; later ones were made by this very start,
    or beside it.
    """

    number: int
    version: str
    joined_us: int
    retry_failed: bool = False


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


def current_run(view: LogView) -> tuple[int, str] | None:
    """Return number and version of the run that a log is at; None if no map ever ran on it."""
    fields = view.note(MAP) or {}
    number, version = fields.get("run"), fields.get("version")
    # What a writer of another kind noted under that name is no run.
    return (number, version) if type(number) is int and isinstance(version, str) else None


def join_run(log: RecordLog, version: str, *, rerun: bool, retry_failed: bool) -> Run:
    """Return the run to work on, starting it if need be. All who start at once agree on one.

    Raises:
        ChangedVersionError: the log's map is another one.
    """
    log.append_many(())  # refuses a handle that may not write, also where nothing is left to be written
    for _ in range(_START_LIMIT):
        current = log.look(current_run)
        if current is None or rerun:
            current = _started(log, current, version)
            rerun = False  # somebody else may have started it anew at the same moment: that one will do
        if current is not None:
            run = Run(*current, joined_us=clock.next(0), retry_failed=retry_failed)
            _require_version(log, run, version)
            return run
    raise ChangedVersionError(
        f"the map on the log {log.log_key!r} is started anew again and again", reason="many starts"
    )


def peek_run(log: RecordLog, version: str, *, rerun: bool, retry_failed: bool) -> Run:
    """Return the run that ``join_run`` would work on, without starting anything."""
    number, known = log.look(current_run) or (0, version)
    run = Run(number + 1 if rerun else number, known, clock.next(0), retry_failed)
    if not rerun:
        _require_version(log, run, version)
    return run


def state_of(view: LogView, run: Run, object_key: str, directory: str) -> State:
    """Return how it stands with an object.

    Raises:
        ChangedVersionError: the map was started anew.
    """
    _require_current(view, run)
    found, attempts = _latest(view, run.number, object_key)
    if found is not None and not (run.retry_failed and _is_old_failure(found, run)):
        return State(found.event, is_taken=False)
    return State(None, is_taken(view, object_key, directory), attempts)


def last_outcome(view: LogView, run: int, object_key: str) -> Entry | None:
    """Return the last outcome of an object in that run."""
    prefix = prefix_of_outcomes(run)
    for entry in reversed(view.entries(object_key)):
        if entry.event.startswith(prefix):
            return entry
    return None


def _latest(view: LogView, run: int, object_key: str) -> tuple[Entry | None, Attempts]:
    """Return an object's last outcome, and the attempts behind it."""
    outcomes, tries = prefix_of_outcomes(run), prefix_of_attempts(run)
    count, newest = 0, None
    for entry in reversed(view.entries(object_key)):
        if entry.event.startswith(outcomes):
            return entry, _attempts(count, newest)
        if entry.event.startswith(tries):
            count, newest = count + 1, newest or entry
    return None, _attempts(count, newest)


def _attempts(count: int, newest: Entry | None) -> Attempts:
    if newest is None:
        return Attempts()
    pause_s = decode_event(newest.event).get("pause_s")
    # What a writer of another kind recorded under these names may be anything.
    return Attempts(count, newest.stamp_us, pause_s if isinstance(pause_s, int | float) else 0.0)


def is_done(view: LogView, object_key: str) -> bool:
    """Return whether nothing is left to do for an object: its map has an outcome, or, where no map ran, any event."""
    current = current_run(view)
    if current is None:
        return bool(view.entries(object_key))
    return last_outcome(view, current[0], object_key) is not None


def _started(log: RecordLog, current: tuple[int, str] | None, version: str) -> tuple[int, str] | None:
    """Start the run after ``current``; None if another process was quicker."""
    number = 1 if current is None else current[0] + 1

    def unmoved(view: LogView) -> None:
        if current_run(view) != current:
            raise MovedError

    try:
        log.append_if([note_payload(Note(MAP, {"version": version, "run": number}))], unmoved)
    except MovedError:
        return None
    return number, version


def _is_old_failure(entry: Entry, run: Run) -> bool:
    has_failed = entry.event.startswith(prefix_of_outcomes(run.number) + b"false")
    return has_failed and entry.stamp_us < run.joined_us


def _require_version(log: RecordLog, run: Run, version: str) -> None:
    if run.version != version:
        raise ChangedVersionError(
            f"the map on the log {log.log_key!r} was started as {run.version!r}, not as {version!r}. Nothing was run",
            reason="changed version",
            advice="use another key for another map, or start this one anew with rerun=True",
            shell_advice="use another key for another map, or start this one anew with --rerun",
        )


def _require_current(view: LogView, run: Run) -> None:
    current = current_run(view)
    if current is not None and current[0] > run.number:
        raise ChangedVersionError(
            f"the map on the log {view.log_key!r} was started anew (run {current[0]}, {current[1]!r}) while run "
            f"{run.number} was under way, which stops here; what it recorded stays in the log",
            reason="started anew",
        )


def is_ok(outcome: bytes, run: int) -> bool:
    """Return whether an outcome of that run is no failure, without decoding it."""
    return outcome.startswith(prefix_of_outcomes(run) + b"true")


def outcomes_of_run(log: RecordLog) -> Iterator[tuple[str, bytes]]:
    """Yield object key and outcome of what the current run has done."""
    current = log.look(current_run)
    if current is not None:
        for object_key, outcome, _ in standings(log, current[0]):
            if outcome is not None:
                yield object_key, outcome


def standings(log: RecordLog, run: int) -> Iterator[tuple[str, bytes | None, bool]]:
    """Yield every object with its last outcome in that run, and whether attempts have failed since; a few at a look."""
    outcomes, tries = prefix_of_outcomes(run), prefix_of_attempts(run)

    def standing(events: list[bytes]) -> tuple[bytes | None, bool]:
        has_failed = False
        for event in reversed(events):
            if event.startswith(outcomes):
                return event, has_failed
            has_failed |= event.startswith(tries)
        return None, has_failed

    object_keys = log.look(lambda view: list(view.object_keys()))
    for start in range(0, len(object_keys), _KEYS_A_LOOK):
        some = object_keys[start : start + _KEYS_A_LOOK]
        found = log.look(lambda view, some=some: [standing(view.held.events_of(each)) for each in some])  # type: ignore[misc]
        for object_key, (outcome, has_failed) in zip(some, found, strict=True):
            yield object_key, outcome, has_failed
