"""A map of a coroutine function, for the task that takes its outcomes."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mpcheckpoint._aio.task_pool import EndedError, Tasks
from mpcheckpoint._aio.threads import Threads
from mpcheckpoint._work.map import MapRun
from mpcheckpoint._work.start_map import start_map
from mpcheckpoint.log import handle_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mpcheckpoint._aio.task_pool import TaskPool
    from mpcheckpoint._work.outcomes import Outcome
    from mpcheckpoint.log import Log

T_co = TypeVar("T_co", covariant=True)
R_co = TypeVar("R_co", covariant=True)
_OVER = object()


class AsyncMapRun(Generic[T_co, R_co]):
    """A map of a coroutine function under way: iterate over it with ``async for`` to get its outcomes. Get it from
    ``AsyncLog.map``.

    As ``MapRun``: each outcome is durable before it is given out. While nobody iterates, the items that were given out
    are run and recorded, and no more are taken. Use it in an ``async with`` statement, or call ``close``, to end it
    before all is done: coroutines that run then are cancelled, and their items are given back. What a coroutine has
    returned by then, or returns though it is cancelled, is recorded, and its item is done. A cancelled wait loses no
    outcome.

    Concurrency: for one task.
    """

    def __init__(self, run: MapRun[T_co, R_co], pool: TaskPool, threads: Threads) -> None:
        self._run = run
        self._pool = pool
        self._threads = threads
        self._kept: deque[Any] = deque()
        self._is_closed = False

    def __aiter__(self) -> AsyncMapRun[T_co, R_co]:
        return self

    async def __anext__(self) -> Outcome[T_co, R_co]:
        """Return the next outcome; wait for it.

        Raises:
            StopAsyncIteration: all items are done, or the map was closed.
            And what the next outcome of a ``MapRun`` raises.
        """
        if self._is_closed:
            raise StopAsyncIteration
        try:
            outcome = await self._threads.run(self._next, undo=self._kept.append)
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):
                await self.close()
            raise
        if outcome is _OVER:
            await self.close()
            raise StopAsyncIteration
        found: Outcome[T_co, R_co] = outcome
        return found

    def _next(self) -> Any:
        if self._kept:
            return self._kept.popleft()
        try:
            return next(self._run, _OVER)
        except EndedError:
            return _OVER

    @property
    def done(self) -> int:
        """How many items have an outcome, those included that were done before, and those that others did."""
        return self._run.done

    @property
    def failed(self) -> int:
        """How many of the items that are done failed, now or before. What was done before counts once it was met."""
        return self._run.failed

    @property
    def failures(self) -> int:
        """How many of the items that ran in this map have failed so far."""
        return self._run.failures

    @property
    def left(self) -> int | None:
        """How many items have no outcome yet, those that run included; None if it is not known how many there are."""
        return self._run.left

    @property
    def is_halted(self) -> bool:
        """Whether so many items failed that ``halt``, or ``on_error="halt"``, keeps the others from being started."""
        return self._run.is_halted

    async def close(self) -> None:
        """End the map: what was not started is dropped; what runs is cancelled and given back, unless it returns all
        the same, which is recorded. Twice is fine."""
        self._is_closed = True
        self._pool.end()
        await self._threads.run_to_its_end(self._run.close)
        self._threads.close()

    async def __aenter__(self) -> AsyncMapRun[T_co, R_co]:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def begin_map(
    log: Log, writes: Threads, fn: Callable[[Any], Any], items: Iterable[Any], **choices: Any
) -> AsyncMapRun[Any, Any]:
    """Start a map; see ``AsyncLog.map``."""
    tasks = Tasks(asyncio.get_running_loop(), writes)
    threads = Threads("map", 1, handle_of(log).store.settings.path)
    try:
        run = await threads.run(
            lambda: start_map(log, fn, items, executor=tasks, **choices), writes=True, undo=MapRun.close
        )
    except BaseException:
        threads.close()
        raise
    assert tasks.pool is not None
    return AsyncMapRun(run, tasks.pool, threads)
