"""Compact a log by rules, for users."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from fnmatch import translate
from typing import TYPE_CHECKING, Any, Protocol

from mpcheckpoint import _system as system
from mpcheckpoint._compaction.rules import WEEK_S, Rules
from mpcheckpoint._compaction.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._logfile.compaction import Pace
    from mpcheckpoint._store.worker_protocol import Workers
    from mpcheckpoint._types import Record
    from mpcheckpoint._view.log_handle import LogHandle

# How long a compaction that nobody asked for just now waits for a lock.
_MOMENT_S = 0.5


@dataclass(frozen=True, slots=True)
class Compaction:
    """What a compaction did, or in a dry run would do.

    Attributes:
        log_key: the log.
        bytes_before, bytes_after: its length; in a dry run the latter is an estimate, some hundred bytes off at most.
        records_before, records_after: how many records it holds.
        objects_before, objects_after: of how many objects.
        longest_wait_s: how long, at most, it kept an append waiting.
        is_changed: whether the log was changed: there was something to drop, and this was no dry run.
        purged_bytes: how many bytes that repairs had cut off were removed with ``purge``, or would be.
    """

    log_key: str
    bytes_before: int
    bytes_after: int
    records_before: int
    records_after: int
    objects_before: int
    objects_after: int
    longest_wait_s: float
    is_changed: bool
    purged_bytes: int = 0


class _WithHandle(Protocol):
    """A Log."""

    _handle: LogHandle


def compact(  # noqa: PLR0913 - each is a choice of its own, all have a default
    self: _WithHandle,
    *,
    keep_last: int | None = None,
    newer_than_s: float | None = None,
    drop: Callable[[Record], object] | str | None = None,
    fold: Callable[[Any, Any], Any] | None = None,
    keep_ids_s: float = WEEK_S,
    purge: bool = False,
    dry_run: bool = False,
    limit_rate: float | None = None,
    on_progress: Callable[[int, int], object] | None = None,
) -> Compaction:
    """Make the log smaller: drop what is asked of what it holds now, for all processes at once, while others go on.

    Dropped without being asked: claims of workers that are gone; of each run of a map, outcomes that later ones
    superseded, and their attempts; notes of imports that later ones superseded; what was forgotten.

    Args:
        keep_last: keep so many records of each object, its last ones.
        newer_than_s: keep the records that are at most so many seconds old, by the present time, or by the newest
            stamp in the log if that is lower. With ``keep_last``: keep what either keeps.
        drop: drop the records of which this function returns true, or whose object key matches this pattern, such
            as "tmp/*", whatever the others keep.
        fold: instead of dropping what ``keep_last`` and ``newer_than_s`` do not keep, keep one record an object in
            its place, with the event that ``fold(earlier, later)`` makes of two events, called with the first two,
            then with what it returned and the third, and so on. Without these two, one record of each object is
            left. It has the stamp and the position of the last one that went into it, and says so (``folded``).
        keep_ids_s: for so many seconds record ids of dropped records are still known, so that a retry finds them,
            and so is the count of an object of which nothing is left.
        purge: leave no byte of what was forgotten (``forget``) anywhere in the store, and none of what repairs cut off
            this log: its quarantine is removed, whatever is in it.
        dry_run: change nothing, only tell. It reads as much, and calls ``drop`` and ``fold`` as often.
        limit_rate: read no more than so many bytes a second.
        on_progress: called with how many bytes are done, and of how many. What it raises ends the compaction.

    Returns:
        What was there and what is.

    ``count``, ``expected_count``, positions, cursors and followers go on as if nothing had been dropped, but that
    dropped records are not given any more.

    Raises:
        ValueError, TypeError: an argument is not what it should be.
        InvalidEventError, LimitExceededError: what ``fold`` made is no JSON value. And what ``drop``, ``fold`` and
            ``on_progress`` raise.
        CompactionError: others changed the log all the time.
        LockTimeoutError, CorruptLogError, PoisonedLogError, WriteFailedError, ReadFailedError, StoreAccessError,
        ReadOnlyError: as their names say. After any of these nothing was changed; but where the new log has its name
            and a sync of the directory fails (WriteFailedError), the log is the new one.

    Durability: what is left survives a loss of power when this returns, and before: the log is the old one or the
    new one, each whole.
    Concurrency: any number of threads and processes. One compaction of a log at a time; others wait.
    """
    rules = rules_of(keep_last, newer_than_s, drop, fold, keep_ids_s, purge)
    require_number(limit_rate, "limit_rate", "a number of bytes a second, at least 1", least=1)
    pace = paced(limit_rate, apart(_function(on_progress, "on_progress")))
    try:
        return compact_by(self._handle, rules, pace, is_dry_run=dry_run)
    except RaisedByCallerError as raised:
        error = raised.as_it_was()
    raise error


def rules_of(
    keep_last: int | None = None,
    newer_than_s: float | None = None,
    drop: Callable[[Record], object] | str | None = None,
    fold: Callable[[Any, Any], Any] | None = None,
    keep_ids_s: float = WEEK_S,
    purge: bool = False,
) -> Rules:
    """Return the rules that the arguments of ``compact`` say.

    Raises:
        ValueError, TypeError: an argument is not what it should be.
    """
    return Rules(
        require_number(keep_last, "keep_last", "a number of records, at least 1", least=1, is_whole=True),
        require_number(newer_than_s, "newer_than_s", "a number of seconds, at least 0"),
        _matching(drop) if isinstance(drop, str) else apart(_function(drop, "drop", "a function, a pattern")),
        apart(_function(fold, "fold")),
        require_number(keep_ids_s, "keep_ids_s", "a number of seconds, at least 0", is_optional=False),
        purge,
    )


def selection_by(rules: Rules, path: str, workers: Workers) -> Selection:
    """Return what tells what the rules drop of a log of the store at ``path``."""
    return Selection(path, rules, now_us=system.now_us(), is_live=workers.is_live)


def compact_by(
    log: LogHandle,
    rules: Rules,
    pace: Pace = lambda done_bytes, total_bytes: None,
    *,
    is_dry_run: bool = False,
    waits: bool = True,
) -> Compaction:
    """Compact a log by rules.

    Args:
        waits: for another compaction of the log, and for writers as the handle says; else for nobody longer than a
            moment: LockTimeoutError is raised.
    """
    stored = log.for_writing()
    purged_bytes = sum(repair.length_bytes for repair in stored.repairs()) if rules.purge else 0
    selection = selection_by(rules, log.store.path, log.workers)
    compacted = stored.compact(
        selection,
        timeout_s=log.store.settings.lock_timeout_s if waits else _MOMENT_S,
        pace=pace,
        is_dry_run=is_dry_run,
        purges=rules.purge,
        waits=waits,
    )
    return Compaction(
        log.log_key,
        compacted.bytes_before,
        compacted.bytes_after,
        selection.records,
        selection.kept_records,
        selection.objects,
        selection.kept_objects,
        compacted.longest_wait_s,
        compacted.generation is not None,
        purged_bytes,
    )


def require_number(
    value: Any,
    name: str,
    what: str,
    *,
    least: float = 0,
    most: float = float("inf"),
    is_whole: bool = False,
    is_optional: bool = True,
) -> Any:
    """Return the value of an argument, a number or perhaps None.

    Raises:
        ValueError: it is no such number.
    """
    if value is None and is_optional:
        return None
    kinds = int if is_whole else (int, float)
    if (
        isinstance(value, bool)
        or not isinstance(value, kinds)
        or not least <= value <= most
        or value == float("inf")
    ):
        raise ValueError(f"{name} is {what}{', or None' if is_optional else ''}, not {value!r}")
    return value


def _function(value: Any, name: str, what: str = "a function") -> Any:
    if value is not None and not callable(value):
        raise TypeError(f"{name} is {what}, or None, not {value!r}")
    return value


class RaisedByCallerError(Exception):
    """An error of the system that a function of the caller's raised: the log has nothing to do with it."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error

    def as_it_was(self) -> OSError:
        """Return the error as the function raised it."""
        for note in getattr(self, "__notes__", ()):
            self.error.add_note(note)
        return self.error


def apart(function: Any) -> Any:
    """Return a function whose errors are not taken for those of a log; None for None."""
    if function is None:
        return None

    def call(*args: Any) -> Any:
        try:
            return function(*args)
        except OSError as error:
            raise RaisedByCallerError(error) from error

    return call


def _matching(pattern: str) -> Callable[[Record], object]:
    """Return what tells whether the object of a record matches a pattern, as those of a shell do."""
    matches = re.compile(translate(pattern)).match
    return lambda record: matches(record.object_key)


def paced(limit_rate: float | None, on_progress: Callable[[int, int], object] | None) -> Pace:
    """Return what waits so that no more than so many bytes a second are read, and tells how far it is."""
    begun_s = time.monotonic()

    def pace(done_bytes: int, total_bytes: int) -> None:
        if on_progress is not None:
            on_progress(done_bytes, total_bytes)
        if limit_rate is not None:
            ahead_s = done_bytes / limit_rate - (time.monotonic() - begun_s)
            if ahead_s > 0:
                time.sleep(ahead_s)

    return pace
