"""One log of a store, for tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

from mpcheckpoint._aio.claim import AsyncClaim
from mpcheckpoint._aio.map import AsyncMapRun, begin_map
from mpcheckpoint._aio.records import AsyncFollower, AsyncTail, in_parts
from mpcheckpoint._aio.snapshot_views import SnapshotViews
from mpcheckpoint._aio.transaction import AsyncTransaction, update
from mpcheckpoint._format.codec import encode_payload, encode_payloads
from mpcheckpoint._store.durability import Durability
from mpcheckpoint._work.invalid_results import DEFAULT_MAX_INVALID_RESULTS
from mpcheckpoint._work.results import Results
from mpcheckpoint._work.retries import DEFAULT_DELAY_S

if TYPE_CHECKING:
    import os
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Iterable,
        Iterator,
        Mapping,
    )
    from pathlib import Path

    from mpcheckpoint._aio.opened import OpenedLog, Rooms
    from mpcheckpoint._compaction.compacting import Compaction
    from mpcheckpoint._types import Cursor, Position, Record, Repair
    from mpcheckpoint._view.log_handle import LogHandle
    from mpcheckpoint._view.moments import Moment
    from mpcheckpoint._view.object_index import ObjectSummary
    from mpcheckpoint._view.object_mapping import Snapshot
    from mpcheckpoint._work.outcomes import Outcome
    from mpcheckpoint._work.status import MapStatus
    from mpcheckpoint.log import Log

T = TypeVar("T")
R = TypeVar("R")


class AsyncLog(SnapshotViews):
    """One append-only log of a store, for tasks; get it from ``AsyncCheckpoint.log``.

    Its methods are those of ``Log``, to be awaited, with the same arguments, promises and errors. The log is opened by
    the first of them, which raises what opening raises. ``snapshot`` gives the mapping from object key to events, for
    ``in``, ``len`` and ``[...]``.

    Cancellation: at any ``await``, either nothing was written, or the CancelledError says that the call was under way
    (``under_way``).
    Concurrency: any number of tasks, in any number of event loops.
    """

    def __init__(
        self,
        open_log: Callable[[], Awaitable[OpenedLog]],
        log_key: str,
        find_path: Callable[[], Path | None],
        rooms: Rooms,
    ) -> None:
        self._open_log = open_log
        self._log_key = log_key
        self._find_path = find_path
        self._rooms = rooms
        self._opened: OpenedLog | None = None

    @property
    def log_key(self) -> str:
        """The key of this log."""
        return self._log_key

    @property
    def path(self) -> Path | None:
        """The absolute path of the log's file; None if the store is on a server. It opens nothing."""
        return self._find_path()

    # --- write ------------------------------------------------------------------------------------------------

    async def append(
        self,
        object_key: str,
        event: object,
        *,
        expected_count: int | None = None,
        record_id: str | None = None,
        durability: Literal["always", "interval", "never"] | str | None = None,
        default: Callable[[Any], Any] | None = None,
    ) -> Position:
        """Record that ``event`` happened to ``object_key``; see ``Log.append``.

        What many tasks append at the same time shares write and sync, each record for itself: its own position, and
        its own error if there was no room for it. Those with ``expected_count`` or ``record_id`` share the sync only.
        """
        opened = self._opened or await self._open()
        handle = opened.handle
        if expected_count is not None or record_id is not None:
            return await opened.writes.run(
                lambda: handle.append(object_key, event, expected_count, record_id, durability, default),
                writes=True,
            )
        payloads = [encode_payload(object_key, event, None, default or handle.default)]
        return await opened.appends.append(payloads, _parsed(handle, durability))

    async def append_many(
        self,
        records: Iterable[tuple[str, object]],
        *,
        durability: Literal["always", "interval", "never"] | str | None = None,
        default: Callable[[Any], Any] | None = None,
        expected_counts: Mapping[str, int] | None = None,
        expected_end: Position | Literal["start"] | None = None,
    ) -> Position | None:
        """Append records as one batch: after a crash all of them are there or none; see ``Log.append_many``."""
        opened = self._opened or await self._open()
        handle = opened.handle
        if expected_counts is not None or expected_end is not None:
            return await opened.writes.run(
                lambda: handle.append_many(records, durability, default, expected_counts, expected_end),
                writes=True,
            )
        payloads = encode_payloads(records, default or handle.default)
        if not payloads:
            handle.for_writing()  # refuses what may not write
            return None
        handle.require_fitting(payloads)
        return await opened.appends.append(payloads, _parsed(handle, durability))

    def transaction(self) -> AsyncTransaction:
        """Return a transaction: read, decide, append, all or nothing. Use it in an ``async with`` statement."""
        return AsyncTransaction(self._open, self._rooms.reads)

    async def update(self, fn: Callable[[AsyncTransaction], Awaitable[T]]) -> T:
        """Run ``await fn(transaction)`` until its batch lands; return what it returned then. See ``Log.update``."""
        return await update(self.transaction, fn)

    async def forget(self, object_keys: str | Iterable[str]) -> Position | None:
        """Forget objects; see ``Log.forget``."""
        keys = [object_keys] if isinstance(object_keys, str) else list(object_keys)
        return await self._writing(lambda log: log.forget(keys))

    async def flush(self) -> None:
        """Make all durable that the log holds now, written by any process; see ``Log.flush``."""
        await self._writing(lambda log: log.flush())

    async def recover(self) -> None:
        """Make the log take appends again after a failed sync; see ``Log.recover``."""
        await self._writing(lambda log: log.recover())

    async def compact(self, **choices: Any) -> Compaction:
        """Make the log smaller; see ``Log.compact``, which has the arguments. Functions among them are called in a
        thread."""
        return await self._writing(lambda log: log.compact(**choices))

    # --- read -------------------------------------------------------------------------------------------------

    async def events(self, object_key: str, *, start: int = 0) -> tuple[Any, ...]:
        """Return the events of an object in this log; see ``Log.events``. Sees every append that returned before."""
        return await self._reading(lambda log: log.events(object_key, start=start))

    async def last(self, object_key: str, n: int = 1) -> tuple[Any, ...]:
        """Return the last ``n`` events of an object in this log; see ``Log.last``."""
        return await self._reading(lambda log: log.last(object_key, n))

    async def count(self, object_key: str) -> int:
        """Return how many events were ever appended for an object to this log; see ``Log.count``."""
        return await self._reading(lambda log: log.count(object_key))

    async def get(self, object_key: str, default: Any = None) -> Any:
        """Return the events of an object in this log, or ``default`` if it is unknown; see ``Log.get``."""
        return await self._reading(lambda log: log.get(object_key, default))

    async def snapshot(self) -> Snapshot:
        """Return the state of this log as it is now, frozen: a mapping from object key to events, in memory."""
        return await self._reading(lambda log: log.snapshot())

    async def objects(
        self, *, since: Moment | None = None, until: Moment | None = None, match: str | None = None
    ) -> AsyncIterator[ObjectSummary]:
        """Yield what is recorded of each object of this log: ``async for``; see ``Log.objects``."""
        log = (await self._open()).log
        async for summary in in_parts(
            self._rooms.reads, lambda: log.objects(since=since, until=until, match=match)
        ):
            yield summary

    async def read(
        self,
        after: Position | None = None,
        *,
        object_key: str | None = None,
        last: int | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        durable: bool = False,
    ) -> AsyncIterator[Record]:
        """Yield the records of this log, in order, in bounded memory: ``async for``. See ``Log.read``."""
        log = (await self._open()).log

        def begin() -> Iterator[Record]:
            return log.read(
                after, object_key=object_key, last=last, since=since, until=until, durable=durable
            )

        async for record in in_parts(self._rooms.reads, begin):
            yield record

    def follow(
        self,
        after: Cursor | Position | Literal["start", "end"] = "start",
        *,
        idle_timeout_s: float | None = None,
        durable: bool = False,
    ) -> AsyncFollower:
        """Return an iterator over the log's records, for ``async for``, that waits for more; see ``Log.follow``."""
        return AsyncFollower(
            lambda: self._reading(
                lambda log: log.follow(after, idle_timeout_s=idle_timeout_s, durable=durable)
            ),
            self._rooms.follows,
        )

    async def tail(
        self, after: Cursor | Position | Literal["start", "end"] = "start", *, durable: bool = False
    ) -> AsyncTail:
        """Return what gives, at each call of ``new``, the records that came since the last one; see ``Log.tail``."""
        return AsyncTail(await self._reading(lambda log: log.tail(after, durable=durable)), self._rooms.reads)

    # --- look after -------------------------------------------------------------------------------------------

    async def repairs(self) -> list[Repair]:
        """Return what repairs of torn ends have cut off this log so far; see ``Log.repairs``."""
        return await self._reading(lambda log: log.repairs())

    async def stats(self) -> dict[str, object]:
        """Return figures of this log, by name; see ``Log.stats``."""
        return await self._reading(lambda log: log.stats())

    # --- work -------------------------------------------------------------------------------------------------

    def claim(self, object_key: str) -> AsyncClaim:
        """Take the sole right to work on an object, for an ``async with`` block; see ``Log.claim``.

        The block gets a claim, or None if another live worker has the object: another process, or another task. It is
        given back however the block ends, a cancellation included.
        """
        return AsyncClaim(self._open, object_key)

    async def map(  # noqa: PLR0913 - each is a choice of its own, all but two have a default
        self,
        fn: Callable[[T], Awaitable[R]],
        items: Iterable[T],
        *,
        key: Callable[[T], str] | None = None,
        version: str = "",
        jobs: int | None = None,
        ordered: bool = False,
        on_error: Literal["record", "halt", "raise"] = "record",
        include_done: bool = True,
        retry_failed: bool | str | Iterable[str] | Callable[[Outcome[Any, Any]], object] = False,
        rerun: str | None = None,
        if_changed: Literal["refuse", "keep", "keep-ok"] = "refuse",
        retries: int = 0,
        retry_delay_s: float = DEFAULT_DELAY_S,
        timeout_s: float | None = None,
        max_invalid_results: int | None = DEFAULT_MAX_INVALID_RESULTS,
        default: Callable[[Any], Any] | None = None,
        changed_files: bool | Literal["stat", "hash"] = False,
        file: Callable[[T], str | bytes | os.PathLike[Any]] | None = None,
        halt: int | str | None = None,
        progress: Any = False,
    ) -> AsyncMapRun[T, R]:
        """Run ``await fn(item)`` for every item that has no outcome in this log yet, so many at a time, and record each
        outcome. ``async for`` over what is returned gives the outcomes.

        As ``Log.map``, which describes the arguments: killed at any instant and called again, it runs only what is
        missing; any number of processes share the items, and no item runs twice while nobody dies. The records are the
        same, so either map carries on what the other began.

        Args:
            fn: a coroutine function that takes an item and returns a JSON value. It runs in this event loop: what
                blocks that blocks everything.
            items: any iterable. It is iterated over in a thread, as the functions among the arguments are called in
                one.
            jobs: how many coroutines run at a time; None for 100. Each has a file open meanwhile, which says that it
                lives.
            timeout_s: how long ``fn`` may run for an item, in seconds. Then it is cancelled, and the attempt has
                failed, "timed out"; one that catches the cancellation and returns has its result recorded.

        Returns:
            An AsyncMapRun. Use it in an ``async with`` statement, so that it ends where you do.

        Raises:
            InvalidFunctionError: ``fn`` is no coroutine function. Nothing was run or recorded.
            And what ``Log.map`` raises.

        Cancellation: cancels nothing but the wait; once ``close`` is called, or the ``async with`` block ends, what
            runs is cancelled and given back, and runs at the next start. What has returned by then, or returns though
            it is cancelled, is recorded.
        """
        opened = await self._open()
        return await begin_map(
            opened.log,
            opened.writes,
            fn,
            items,
            key=key,
            version=version,
            jobs=jobs,
            ordered=ordered,
            on_error=on_error,
            include_done=include_done,
            retry_failed=retry_failed,
            rerun=rerun,
            if_changed=if_changed,
            retries=retries,
            retry_delay_s=retry_delay_s,
            timeout_s=timeout_s,
            max_invalid_results=max_invalid_results,
            default=default,
            changed_files=changed_files,
            file=file,
            halt=halt,
            progress=progress,
        )

    async def results(
        self,
        *,
        rerun: str | None = None,
        failed: bool = False,
        since: Moment | None = None,
        slowest: int | None = None,
    ) -> Results:
        """Return the last outcome of each item; see ``Log.results``. They are held in memory: iterate over them with a
        plain ``for``."""

        def read(log: Log) -> Results:
            found = log.results(rerun=rerun, failed=failed, since=since, slowest=slowest)
            return Results(iter(list(found)))

        return await self._reading(read)

    async def pending(self, items: Iterable[T], **choices: Any) -> list[T]:
        """Return the items that are not done; see ``Log.pending``, which has the other arguments."""
        return await self._reading(lambda log: list(log.pending(items, **choices)))

    async def reruns(self) -> tuple[str, ...]:
        """Return the names of the reruns on this log, in the order in which they were begun."""
        return await self._reading(lambda log: log.reruns())

    async def map_status(self, *, rerun: str | None = None) -> MapStatus | None:
        """Return how far the log's map is, in whatever process it runs; see ``Log.map_status``."""
        return await self._reading(lambda log: log.map_status(rerun=rerun))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._log_key!r}>"

    # --- the log that is opened at the first call -------------------------------------------------------------

    async def _open(self) -> OpenedLog:
        if self._opened is None:
            self._opened = await self._open_log()
        return self._opened

    async def _reading(self, read: Callable[[Log], T]) -> T:
        opened = await self._open()
        return await self._rooms.reads.run(lambda: read(opened.log))

    async def _writing(self, write: Callable[[Log], T]) -> T:
        opened = await self._open()
        return await opened.writes.run(lambda: write(opened.log), writes=True)


def _parsed(handle: LogHandle, durability: str | None) -> Durability:
    return handle.store.durability if durability is None else Durability.parse(durability)
