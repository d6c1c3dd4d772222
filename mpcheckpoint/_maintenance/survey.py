"""The state of each log of a store: its figures, what is wrong with it, and which process holds its lock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mpcheckpoint._engines import listing, place_of_log, store_at
from mpcheckpoint._view.statistics import Statistics
from mpcheckpoint.errors import CheckpointError, CorruptLogError, InvalidKeyError, LogNotFoundError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

    from mpcheckpoint._postgres.address import Address
    from mpcheckpoint._store.protocol import Store, StoredLog

_OF_STATS = (
    *("size_bytes", "repairs", "lock", "waiters"),
    *("holder_pid", "holder_command", "is_holder_stopped"),
)


@dataclass(frozen=True, slots=True)
class LogSurvey:
    """One log of a store, as it was found.

    Attributes:
        log_key: its key; None if its header cannot be read.
        path: its file; on a server, the address of its store, without its password.
        states: all that is true of it, the worst first. "whole": nothing else. "pending": bytes after the end may be a
            write in progress. "torn": a dying writer left them, and the next one cuts them off. "poisoned": a sync
            failed, so it takes no appends until ``Log.recover()``. "corrupt": bytes that were durable are damaged.
            "unreadable": of a newer version, of another key, closed to us, or on a failing disk.
        error: the error, if it is corrupt or unreadable. The figures count what precedes it.
        records, objects, first_us, last_us, batches, stated_syncs, size_bytes, repairs, lock, waiters, holder_pid,
        holder_command, is_holder_stopped: as for ``Log.stats``; 0 or None if it cannot be told.
    """

    log_key: str | None
    path: str
    states: tuple[str, ...]
    error: CheckpointError | None = None
    records: int = 0
    objects: int = 0
    first_us: int | None = None
    last_us: int | None = None
    batches: int = 0
    stated_syncs: int = 0
    size_bytes: int | None = None
    repairs: int | None = None
    lock: str = "unknown"
    waiters: int | None = None
    holder_pid: int | None = None
    holder_command: str | None = None
    is_holder_stopped: bool | None = None

    @property
    def state(self) -> str:
        """The worst of ``states``."""
        return self.states[0]


def survey(
    path: str | os.PathLike[str] | Address, *, log_keys: Iterable[str] | None = None
) -> Iterator[LogSurvey]:
    """Yield the state of each log of the store at ``path``, in the order of their file names.

    Reads each log, in memory that is bounded but for the keys of its objects. Writes nothing and takes no lock that
    another process could meet.

    Args:
        path: the directory or the address, as for ``Checkpoint``.
        log_keys: only these, in this order; None for all.

    Raises:
        StoreNotFoundError, NotAStoreError, StoreAccessError: there is no store that can be read.
        LogNotFoundError, InvalidKeyError: one of ``log_keys`` does not exist, or cannot; raised when its turn comes.
    """
    store = store_at(path)
    if log_keys is None:
        return (_surveyed(store, at, found) for at, found in listing(store))
    return (_surveyed(store, place_of_log(store, log_key), log_key) for log_key in log_keys)


def _surveyed(store: Store, path: str, found: str | CheckpointError) -> LogSurvey:
    if isinstance(found, CheckpointError):
        return LogSurvey(None, path, (_state_for(found),), found)
    try:
        stored = store.find_log(found)
    except (LogNotFoundError, InvalidKeyError):
        raise
    except CheckpointError as error:
        return LogSurvey(found, path, (_state_for(error),), error)
    return _counted(stored, path)


def _counted(stored: StoredLog, path: str) -> LogSurvey:
    """Return the state of a log whose header is sound, by reading it."""
    failure: CheckpointError | None = None
    states: tuple[str, ...] = ()
    of_process: dict[str, Any] = {}
    statistics = Statistics(stored)
    try:
        statistics.refresh()
    except CheckpointError as error:
        failure = error
    try:
        of_process = stored.stats()
        is_poisoned = bool(of_process["is_poisoned"])
        states = ("poisoned",) if failure and is_poisoned else ()
        states = states if failure else statistics.states(is_poisoned=is_poisoned)
    except CheckpointError as error:
        failure = failure or error
    finally:
        statistics.reader.release()
    if failure is not None:
        states = (_state_for(failure), *states)
    figures = statistics.figures
    return LogSurvey(
        stored.log_key,
        path,
        states,
        failure,
        records=figures.records,
        objects=len(figures.object_keys),
        first_us=figures.first_us,
        last_us=figures.last_us,
        batches=figures.batches,
        stated_syncs=figures.stated_syncs,
        **{name: of_process[name] for name in _OF_STATS if name in of_process},
    )


def _state_for(error: CheckpointError) -> str:
    return "corrupt" if isinstance(error, CorruptLogError) else "unreadable"
