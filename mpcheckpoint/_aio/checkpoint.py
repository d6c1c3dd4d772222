"""A store, for tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

from mpcheckpoint._aio.jobs import Job, State, deliver_all
from mpcheckpoint._aio.log import AsyncLog
from mpcheckpoint._aio.opened import OpenedLog, Rooms
from mpcheckpoint._aio.records import AsyncFollower, AsyncTail, in_parts
from mpcheckpoint._aio.snapshot_views import SnapshotViews
from mpcheckpoint._aio.threads import Threads
from mpcheckpoint._engines import RETRY_S, shown_place
from mpcheckpoint._format.codec import encode_key
from mpcheckpoint._view.object_mapping import Snapshot
from mpcheckpoint.checkpoint import Checkpoint, log_path_in
from mpcheckpoint.errors import ClosedError

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import Path

    from mpcheckpoint._backup.backing_up import Backup
    from mpcheckpoint._compaction.retention import Retention
    from mpcheckpoint._postgres.address import Address
    from mpcheckpoint._types import Cursor, Position, Record
    from mpcheckpoint._view.moments import Moment
    from mpcheckpoint._view.object_index import ObjectSummary

T = TypeVar("T")

# Reads never wait for a lock, but for a server perhaps.
_MOST_READING = 4
_MOST_FOLLOWING = 32
# What is about the whole store, and may wait for its lock.
_MOST_ON_STORE = 4


class AsyncCheckpoint(SnapshotViews):
    """A store, for tasks of an event loop: what happened to which object, recorded durably and shared.

    An async context manager: the store is opened where its ``async with`` block begins, and closed where that ends. Its
    methods are those of ``Checkpoint``, to be awaited, with the same arguments, promises and errors; those of the older
    tool are left out. ``snapshot`` gives the mapping from object key to events, for ``in``, ``len`` and ``[...]``. No
    call blocks the event loop: what waits for a lock, the disk or a server does so in threads of the handle's own.

    Cancellation: at any ``await``, either nothing was written, or the CancelledError says that the call was under way
    (``under_way``).
    Concurrency: any number of tasks, in any number of event loops, each in a thread of its own; survives fork on both
    sides, where what was queued is the parent's.
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
        """Note what is to be opened; the arguments are those of ``Checkpoint``. Nothing is opened before the ``async
        with`` block begins, which raises what ``Checkpoint`` raises.
        """
        self._place = shown_place(str(path))
        self._open = lambda: Checkpoint(
            path,
            create=create,
            read_only=read_only,
            log_keys=log_keys,
            durability=durability,
            lock_timeout_s=lock_timeout_s,
            default=default,
            retry_s=retry_s,
        )
        self._inner: Checkpoint | None = None
        self._is_closed = False
        self._store = Threads("store", _MOST_ON_STORE, self._place)
        self._rooms = Rooms(
            Threads("reads", _MOST_READING, self._place), Threads("follows", _MOST_FOLLOWING, self._place)
        )
        self._logs: dict[str, OpenedLog] = {}

    @property
    def path(self) -> Path | None:
        """The absolute path of the directory that the store is in; None if it is on a server.

        Raises:
            ClosedError: it was never open.
        """
        if self._inner is None:
            raise self._closed()
        return self._inner.path

    # --- logs -------------------------------------------------------------------------------------------------

    def log(self, log_key: str, *, create: bool = True, retention: Retention | None = None) -> AsyncLog:
        """Return a log. It is opened, and created if need be, by its first call that is awaited; see
        ``Checkpoint.log``.

        Raises:
            InvalidKeyError: it is no key.
            ClosedError: this is not inside the ``async with`` block.
        """
        encode_key(log_key)
        inner = self._opened()
        return AsyncLog(
            lambda: self._log_opened(log_key, create, retention),
            log_key,
            lambda: log_path_in(inner, log_key),
            self._rooms,
        )

    async def _log_opened(self, log_key: str, create: bool, retention: Retention | None) -> OpenedLog:
        inner = self._opened()
        known = self._logs.get(log_key)
        if known is None or retention is not None:
            log = await self._store.run(
                lambda: inner.log(log_key, create=create, retention=retention), writes=retention is not None
            )
            self._opened()
            # Of several tasks that open it at once, the first one's threads serve all.
            known = self._logs.setdefault(log_key, OpenedLog(log))
        return known

    async def logs(self) -> list[str]:
        """Return the keys of all logs of the store, sorted."""
        return await self._reading(lambda inner: inner.logs())

    def follow(
        self, after: Cursor | Literal["start", "end"] = "start", *, idle_timeout_s: float | None = None
    ) -> AsyncFollower:
        """Return an iterator over the records of all logs, for ``async for``; see ``Checkpoint.follow``."""
        return AsyncFollower(
            lambda: self._reading(lambda inner: inner.follow(after, idle_timeout_s=idle_timeout_s)),
            self._rooms.follows,
        )

    async def tail(self, after: Cursor | Literal["start", "end"] = "start") -> AsyncTail:
        """Return what gives, at each call of ``new``, what came since the last one to any log; see
        ``Checkpoint.tail``."""
        return AsyncTail(await self._reading(lambda inner: inner.tail(after)), self._rooms.reads)

    async def forget(self, object_keys: str | Iterable[str]) -> dict[str, Position]:
        """Forget objects in every log that holds something of them; see ``Checkpoint.forget``."""
        keys = [object_keys] if isinstance(object_keys, str) else list(object_keys)
        return await self._on_store(lambda inner: inner.forget(keys))

    # --- looking inside ---------------------------------------------------------------------------------------

    async def get(self, object_key: str, default: Any = None) -> Any:
        """Return the events of an object over all logs, or ``default`` if it is unknown; see ``Checkpoint.get``."""
        return await self._reading(lambda inner: inner.get(object_key, default))

    async def snapshot(self) -> Snapshot:
        """Return the state of all logs as it is now, frozen: a mapping from object key to events, in memory."""
        return await self._reading(lambda inner: inner.snapshot())

    async def read(
        self,
        *,
        object_key: str | None = None,
        last: int | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
    ) -> AsyncIterator[Record]:
        """Yield the records of all logs, in the merged order: ``async for``; see ``Checkpoint.read``."""
        inner = self._opened()
        async for record in in_parts(
            self._rooms.reads, lambda: inner.read(object_key=object_key, last=last, since=since, until=until)
        ):
            yield record

    async def objects(
        self, *, since: Moment | None = None, until: Moment | None = None, match: str | None = None
    ) -> AsyncIterator[ObjectSummary]:
        """Yield what is recorded of each object: ``async for``; see ``Checkpoint.objects``."""
        inner = self._opened()
        async for summary in in_parts(
            self._rooms.reads, lambda: inner.objects(since=since, until=until, match=match)
        ):
            yield summary

    async def backup(self, directory: str | os.PathLike[str], **choices: Any) -> Backup:
        """Copy the store, or what is new in it; see ``Checkpoint.backup``, which has the other arguments."""
        return await self._on_store(lambda inner: inner.backup(directory, **choices))

    # --- life -------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close the handle as ``Checkpoint.close`` does; twice is fine.

        Calls of other tasks that no thread has taken yet raise ClosedError: of theirs nothing was written. What is
        under way goes on, and is not waited for.
        """
        if self._is_closed:
            return
        self._is_closed = True
        left: list[Job[Any]] = [*self._rooms.reads.close(), *self._rooms.follows.close()]
        for log in list(self._logs.values()):  # a loop in another thread may just be opening one
            left += log.close()
        self._refuse(left)
        inner = self._inner
        try:
            if inner is not None:
                await self._store.run_to_its_end(inner.close)
        finally:
            self._refuse(self._store.close())

    def _refuse(self, left: list[Job[Any]]) -> None:
        """Have calls that no thread has taken raise that the handle is closed."""
        for job in left:
            job.error, job.state = self._closed(), State.DONE
        deliver_all(left)

    async def __aenter__(self) -> AsyncCheckpoint:
        if self._is_closed:
            raise self._closed()
        if self._inner is None:
            opened = await self._store.run(self._open, undo=Checkpoint.close)
            if not self._keeps(opened):
                await self._store.run_to_its_end(opened.close)
        self._opened()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncCheckpoint {self._place}>"

    def _keeps(self, opened: Checkpoint) -> bool:
        """Keep a handle that was opened, unless another task has opened or closed this one meanwhile."""
        if self._inner is not None or self._is_closed:
            return False
        self._inner = opened
        return True

    def _opened(self) -> Checkpoint:
        if self._inner is None or self._is_closed:
            raise self._closed()
        return self._inner

    def _closed(self) -> ClosedError:
        why = "is closed" if self._is_closed else "is not open: use it inside its async with block"
        return ClosedError(f"the handle of {self._place} {why}", reason="closed")

    async def _reading(self, read: Callable[[Checkpoint], T]) -> T:
        inner = self._opened()
        return await self._rooms.reads.run(lambda: read(inner))

    async def _on_store(self, act: Callable[[Checkpoint], T]) -> T:
        inner = self._opened()
        return await self._store.run(lambda: act(inner), writes=True)
