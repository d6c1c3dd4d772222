"""A store, for users."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from mpcheckpoint._compaction.compacted_backup import backup
from mpcheckpoint._compaction.retention import Retention, keeper, record
from mpcheckpoint._engines import RETRY_S
from mpcheckpoint._format.codec import decode_event
from mpcheckpoint._view.follow import Follower
from mpcheckpoint._view.followed import FollowedLogs
from mpcheckpoint._view.log_handle import LogHandle
from mpcheckpoint._view.log_path import log_path
from mpcheckpoint._view.merged_read import Reading
from mpcheckpoint._view.moments import choice_of, require_last
from mpcheckpoint._view.object_mapping import ObjectMapping
from mpcheckpoint._view.settings import Settings, open_settings, sendable
from mpcheckpoint._view.store_handle import StoreHandle
from mpcheckpoint._view.tail import Tail
from mpcheckpoint._view.view import ordered_object_keys
from mpcheckpoint.log import Log

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from mpcheckpoint._postgres.address import Address
    from mpcheckpoint._store.protocol import Store, StoredLog
    from mpcheckpoint._types import Cursor, Position
    from mpcheckpoint._view.moments import Moment
    from mpcheckpoint._view.records import Records

T = TypeVar("T")

__all__ = ["Checkpoint", "checkpoint_on"]


class Checkpoint(ObjectMapping):
    """A store: what happened to which object, recorded durably and shared by any number of processes.

    A context manager, and a read-only mapping from object key to the tuple of its events over all logs, in the merged
    order. Every read sees every append that returned before, in any process. It is always true, and equal
    only to itself.

    Concurrency: any number of threads; survives fork on both sides; pickles, to an equal handle with the
    same open logs.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Address,
        *,
        create: bool = True,
        read_only: bool = False,
        log_keys: Iterable[str] | None = None,
        durability: Literal["always", "interval", "never"] | str = "always",
        lock_timeout_s: float | None = None,
        default: Callable[[Any], Any] | None = None,
        retry_s: float = RETRY_S,
    ) -> None:
        """Open the store in the directory ``path`` (its files are in ``path/.checkpoint``), or at that address.

        Args:
            path: the directory; created with its parents if it does not exist. Or the address of a store on a server,
                ``postgresql://user@host/database#store``: see `Address`.
            create: whether to create what is missing, the store or a log. False never creates anything.
            read_only: never write anything, not even a lock; works on a read-only file system.
            log_keys: open these logs, and read only these and those opened later. None reads every log of the store.
            durability: "always": an append survives loss of power when it returns. "interval" or "interval:<ms>": it
                does so at most about so many milliseconds later (default 100) while this process lives, and after
                ``close`` or exit. "never": the kernel decides; it survives kill -9 at once, loss of power some day.
            lock_timeout_s: how long to wait for other writers before LockTimeoutError; None waits for ever.
            default: makes JSON of values that are none, in all that is appended through this handle; see
                ``Log.append``. It is pickled with the handle.
            retry_s: how long calls go on trying to reach a store that another machine keeps, in seconds, before they
                raise StoreUnavailableError or NoAnswerError. Without meaning for a directory.

        Raises:
            UnknownSchemeError: ``path`` is another URL (``redis://...``, ``file:///...``). Nothing was made.
            InvalidAddressError: it begins as an address, and is none. Nothing was made.
            MissingExtraError: the library for this address is not installed.
            StoreNotFoundError, NotAStoreError, StoreAccessError, LockUnsupportedError, NetworkFileSystemError
        """
        asked = Settings("", create, read_only, log_keys, durability, lock_timeout_s, None, default, retry_s)
        self._handle = StoreHandle(open_settings(path, asked))

    @property
    def path(self) -> Path | None:
        """The absolute path of the directory that the store is in; None if it is on a server."""
        return None if self._handle.base is None else Path(self._handle.base)

    # --- logs -------------------------------------------------------------------------------------------------

    def logs(self) -> list[str]:
        """Return the keys of all logs of the store, sorted."""
        return self._handle.log_keys()

    def log(self, log_key: str, *, create: bool = True, retention: Retention | None = None) -> Log:
        """Return a log, open in this handle, creating it if need be.

        Args:
            retention: what the log keeps by itself, from now on. It is recorded in the log, if that says otherwise,
                and this process sees to it in the background until the handle is closed. None leaves it as it is.

        Raises:
            InvalidKeyError: it is no key.
            LogNotFoundError: there is none, and ``create`` (of this call or of the handle) is False.
            TypeError: ``retention`` is none. With one, also what an append raises.
            CorruptLogError, FormatVersionError, WrongLogError: its header says so; nothing was changed.
            LockTimeoutError, WriteFailedError, StoreAccessError, ReadOnlyError: it could not be made.

        Durability: a log that was made is on disk with its first durable append.
        """
        self._handle.open(log_key, create=create)
        handle = LogHandle(self._handle, log_key)
        if retention is not None:
            record(handle, retention)
        return Log(handle)

    def follow(
        self, after: Cursor | Literal["start", "end"] = "start", *, idle_timeout_s: float | None = None
    ) -> Follower:
        """Return an iterator over the records of all logs, new logs included, that waits for more.

        Args:
            after: a cursor of an earlier follower, the "start", or the "end" as it is now.
            idle_timeout_s: end quietly when nothing came for so many seconds; None waits for ever.

        Raises:
            ValueError, InvalidPositionError: ``after`` is none of these, or not of these logs.
        """
        self._handle.discovered()
        return Follower(FollowedLogs(self._handle.look, after), idle_timeout_s)

    def tail(self, after: Cursor | Literal["start", "end"] = "start") -> Tail:
        """Return what gives, at each call of ``new``, what came since the last one to any log, new logs included.

        Args:
            after: a cursor, of a tail or another one; the "start", or the "end" as it is now.
        """
        self._handle.discovered()
        handle = self._handle
        return Tail(FollowedLogs(handle.look, after), handle.require_open, self.tail, handle.path)

    def forget(self, object_keys: str | Iterable[str]) -> dict[str, Position]:
        """Forget objects in every log that holds something of them, one log after the other; see ``Log.forget``.

        Returns:
            By log key, the position of this in the log. If one log fails, those before it have forgotten.

        Raises:
            As ``Log.forget``.
        """
        keys = [object_keys] if isinstance(object_keys, str) else list(object_keys)
        positions = {}
        for log_key in self.logs():
            is_open = log_key in self._handle.open_keys()
            log = self.log(log_key, create=False)
            try:
                position = log.forget(each for each in keys if log.count(each))
            finally:
                if not is_open:
                    self._handle.release(log_key)
            if position is not None:
                positions[log_key] = position
        return positions

    # --- looking inside ---------------------------------------------------------------------------------------

    def read(
        self,
        *,
        object_key: str | None = None,
        last: int | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
    ) -> Reading:
        """Return an iterator over the records of all logs, in the merged order, in bounded memory.

        If only the end of the logs is wanted, only that is read.

        Args:
            object_key: only those of this object; None for all.
            last: only the last so many of these; they are held in memory.
            since, until: only those made from then to then, both included: an aware datetime, a timedelta (so long
                ago), or microseconds since 1970.

        Returns:
            A Reading: its ``cursor`` tells where ``follow`` may go on.

        Raises:
            InvalidKeyError: ``object_key`` is no key.
            TypeError, ValueError: ``last``, ``since`` or ``until`` is not what it should be: a naive datetime, say.
            CorruptLogError, ReadFailedError, LogNotFoundError, FormatVersionError: in the iteration, after all that
                can be read was given out; here, if the logs cannot be listed.
        """
        choice, last = choice_of(object_key, since, until), require_last(last)
        return Reading(self._handle.discovered(), choice, last)

    # Defined, with its documentation, where its arguments are checked.
    backup = backup

    # What a mapping asks for.
    def _events_of(self, object_key: str) -> list[bytes]:
        return self._handle.events(object_key)

    def _ask(self, judge: Callable[[dict[str, Records]], T]) -> T:
        return self._handle.query_all(judge)

    def _logs(self) -> Iterable[StoredLog]:
        return self._handle.discovered()

    # --- the names of the tool this one replaces ---------------------------------------------------------------

    def createCheckpointLog(self, log_key: str) -> None:  # noqa: N802 - the name of the older tool
        """Open a log for writing through this handle, creating it if need be. It raises what ``log`` raises."""
        self._handle.open(log_key)

    def writeCheckpoint(self, log_key: str, object_key: str, event: object) -> None:  # noqa: N802
        """Append an event for an object to a log that is open in this handle.

        Raises:
            LogNotOpenError: a KeyError; call createCheckpointLog first.
            And what ``Log.append`` raises.
        """
        self._handle.opened(log_key)
        LogHandle(self._handle, log_key).append(object_key, event, None, None, None)

    def getCheckpoints(self, object_key: str) -> list[Any]:  # noqa: N802
        """Return the events of an object over all logs, in the merged order; [] if it is unknown."""
        return list(map(decode_event, self._handle.events(object_key)))

    def getCheckpointKeys(self) -> list[str]:  # noqa: N802
        """Return the keys of all objects, in the order in which they were first recorded."""
        return self._handle.query_all(ordered_object_keys)

    def getCheckpointLogKeys(self) -> list[str]:  # noqa: N802
        """Return the keys of the logs open in this handle, in the order they were opened."""
        self._handle.require_open()
        return self._handle.open_keys()

    def releaseCheckpointLog(self, log_key: str) -> None:  # noqa: N802
        """Close a log for writing through this handle. The file stays, and what was read of it.

        Raises:
            LogNotOpenError: a KeyError; it is not open.
        """
        self._handle.release(log_key)

    # --- life -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Sync what the "interval" setting has left unsynced and give back files and memory. Closing twice is fine.

        Handles of one process share the files of a store: they are given back with the last that is closed. A log of
        which a sync has failed keeps its files, and what is iterated over, as a follower, those that it reads.

        A log that is known to keep a part only (``Retention``) is made smaller first, if that is worth it.

        Raises:
            OutcomeUnknownError: a sync failed; what was appended is written, and may be lost with the power.

        Durability: all that was appended through this handle with "always" or "interval" is on disk when it returns.
        """
        if not self._handle.is_closed and not self._handle.settings.read_only:
            keeper.finish(self._handle)
        self._handle.close()

    def __enter__(self) -> Checkpoint:
        self._handle.require_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Checkpoint {self._handle.settings.path}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (sendable(self._handle.settings), tuple(self._handle.open_keys()))


def log_path_in(checkpoint: Checkpoint, log_key: str) -> Path | None:
    """Return the path that a log has or would have, without opening it; see ``Log.path``."""
    return log_path(checkpoint._handle, log_key)


def checkpoint_on(
    store: Store,
    *,
    create: bool = True,
    read_only: bool = False,
    log_keys: Iterable[str] | None = None,
    durability: Literal["always", "interval", "never"] | str = "always",
    lock_timeout_s: float | None = None,
    default: Callable[[Any], Any] | None = None,
) -> Checkpoint:
    """Return a handle on another storage: one that keeps what ``_store.protocol`` promises.

    The other arguments are as for `Checkpoint` (``create`` is about logs: the store is there). The handle, its logs,
    claims and maps work as on a directory. It pickles if the store does.

    Raises:
        TypeError, ValueError: an argument is not what it should be.
    """
    asked = Settings("", create, read_only, log_keys, durability, lock_timeout_s, store, default)
    return _with(open_settings(store.path, asked))


def _with(settings: Settings) -> Checkpoint:
    checkpoint = Checkpoint.__new__(Checkpoint)
    checkpoint._handle = StoreHandle(settings)
    return checkpoint


def _reopen(settings: Settings, open_keys: tuple[str, ...]) -> Checkpoint:
    checkpoint = _with(settings)
    for log_key in checkpoint.getCheckpointLogKeys():
        if log_key not in open_keys:  # released before it was pickled; its state stays in the view
            checkpoint.releaseCheckpointLog(log_key)
    for log_key in open_keys:
        checkpoint.createCheckpointLog(log_key)
    return checkpoint
