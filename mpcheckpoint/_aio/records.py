"""Records for a task: those that are there, a part at a time, and those that come."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeVar

from mpcheckpoint._store.process import process
from mpcheckpoint._types import Cursor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from mpcheckpoint._aio.jobs import Job
    from mpcheckpoint._aio.threads import Threads
    from mpcheckpoint._types import Position, Record
    from mpcheckpoint._view.follow import Follower
    from mpcheckpoint._view.tail import Tail

T = TypeVar("T")

_MOST_AT_ONCE = 256


class _Source(Generic[T]):
    """An iterator that threads begin and ask, one after the other, and that the task closes."""

    def __init__(self, begin: Callable[[], Iterator[T]]) -> None:
        self._begin = begin
        self._source: Iterator[T] | None = None
        self._mutex = threading.Lock()
        self._is_over = False

    def part(self) -> tuple[list[T], Exception | None]:
        """Return what comes next, and what the iterator raised after that."""
        part: list[T] = []
        error: Exception | None = None
        with self._mutex:
            try:
                if self._source is None:
                    self._source = self._begin()
                part.extend(islice(self._source, _MOST_AT_ONCE))
            except Exception as raised:  # noqa: BLE001 - raised in the task
                error = raised
        if self._is_over:
            self.close()
        return part, error

    def close(self) -> None:
        """Close the iterator: at once, or where a thread asks it just now, after that. Waits for nothing."""
        self._is_over = True
        if not self._mutex.acquire(blocking=False):
            return
        try:
            close: Callable[[], None] | None = getattr(self._source, "close", None)
            if close is not None:
                close()
        finally:
            self._mutex.release()


async def in_parts(threads: Threads, begin: Callable[[], Iterator[T]]) -> AsyncIterator[T]:
    """Yield what an iterator yields that threads begin and ask, so many at a time."""
    source = _Source(begin)
    try:
        while True:
            part, error = await threads.run(source.part)
            for each in part:
                yield each
            if error is not None:
                raise error
            if len(part) < _MOST_AT_ONCE:
                return
    finally:
        source.close()


class AsyncFollower:
    """Iterate over records with ``async for`` as they are appended, by this or any other process.

    As ``Follower``. A cancelled wait loses no record: the next one gives it. While it waits it keeps a thread of the
    handle, of which there are 32; more followers than that take turns.

    Concurrency: one task at a time, in any event loop. ``close`` by any task.
    """

    def __init__(self, begin: Callable[[], Awaitable[Follower]], threads: Threads) -> None:
        self._begin = begin
        self._threads = threads
        self._follower: Follower | None = None
        self._polling: Job[list[Record] | None] | None = None
        self._found: deque[Record] = deque()
        self._given: dict[str, Position] = {}
        self._is_over = False
        process.register(self)

    @property
    def cursor(self) -> Cursor:
        """The place after the last record that was given out: hand it to ``follow`` to go on from there."""
        return Cursor.of(self._given)

    def __aiter__(self) -> AsyncFollower:
        return self

    async def __anext__(self) -> Record:
        """Return the next record, waiting for it.

        Raises:
            StopAsyncIteration: the follower was closed, or nothing came for the idle timeout.
            CorruptLogError, ReadFailedError, LogNotFoundError: a log cannot be read on.
        """
        process.notice_fork()
        if self._follower is None and not self._is_over:
            self._follower = await self._begin()
            self._given = {each.log_key: each for each in self._follower.cursor}
        while not self._found:
            if self._is_over:
                raise StopAsyncIteration
            assert self._follower is not None
            polling = self._polling
            if polling is None:
                polling = self._polling = self._threads.begin(self._follower.wait_for_some)
            elif polling.loop is not (loop := asyncio.get_running_loop()):
                polling.move_to(loop)  # the wait that began it was cut short, and its loop may be closed
            # The thread goes on when this task is cancelled; what it finds is for the next call.
            await asyncio.wait([polling.future])
            if self._polling is not polling:
                continue  # another call has taken what it found
            found = self._taken(polling)
            if found is None:
                self._is_over = True
            else:
                self._found.extend(found)
        record = self._found.popleft()
        self._given[record.log_key] = record.position
        return record

    def _taken(self, polling: Job[list[Record] | None]) -> list[Record] | None:
        self._polling = None
        return polling.future.result()

    async def close(self) -> None:
        """End the iteration, also while another task waits in it. Closing twice is fine."""
        self._is_over = True
        self._found.clear()
        if self._follower is not None:
            self._follower.close()

    def reset_after_fork(self) -> None:
        """In a forked child: what a thread looks for, and what it found that no task has taken, is the parent's."""
        self._polling = None
        self._found.clear()
        if self._follower is not None:
            self._follower.go_back(self._given)

    async def __aenter__(self) -> AsyncFollower:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncTail:
    """What was appended since the last call, without waiting; see ``Tail``. Get it from ``AsyncLog.tail`` or
    ``AsyncCheckpoint.tail``.

    A cancelled call loses no record: the next one gives what it found.

    Concurrency: any number of tasks; each record is returned to one of them.
    """

    def __init__(self, tail: Tail, threads: Threads) -> None:
        self._tail = tail
        self._threads = threads
        self._found: deque[Record] = deque()  # by a thread, and taken by no task yet
        self._given = {each.log_key: each for each in tail.cursor}
        # For threads alone: what one finds is put there before another one looks.
        self._mutex = threading.Lock()
        process.register(self)

    @property
    def cursor(self) -> Cursor:
        """The place after all that was returned: hand it to ``tail`` or ``follow`` to go on there."""
        return Cursor.of(self._given)

    async def new(self) -> list[Record]:
        """Return the records that were appended since the last call, in any process; [] if there are none. Raises as
        ``Tail.new``."""
        await self._threads.run(self._look)
        new = []
        while self._found:
            record = self._found.popleft()
            self._given[record.log_key] = record.position
            new.append(record)
        return new

    def _look(self) -> None:
        with self._mutex:
            self._found.extend(self._tail.new())

    async def close(self) -> None:
        """Give back files. Closing twice is fine."""
        await self._threads.run_to_its_end(self._tail.close)

    def reset_after_fork(self) -> None:
        """In a forked child: as ``AsyncFollower`` does."""
        self._mutex = threading.Lock()
        self._found.clear()
        self._tail.go_back(self._given)

    async def __aenter__(self) -> AsyncTail:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
