"""A worker pool whose workers are tasks of an event loop: they run the coroutines of a map, so many at a time.

The map itself runs in a thread of its own, as it does for functions: what it reads and decides may take long. What a
task claims and records goes through threads, too; the loop runs nothing but the coroutines.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from mpcheckpoint._work.claims import give_back
from mpcheckpoint._work.flag import Flag
from mpcheckpoint._work.forked_child import end_forked_child
from mpcheckpoint._work.outcomes import Result, made_result
from mpcheckpoint._work.pool import PoolExecutor, arrived
from mpcheckpoint._work.refusals import require_coroutine_function
from mpcheckpoint._work.report import ItemReport, Kind
from mpcheckpoint._work.run_item import RECORD_S, ItemRunner, Turn
from mpcheckpoint._work.shortage import Shortage, shortage_of
from mpcheckpoint._work.worker_name import worker_name
from mpcheckpoint.errors import ClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mpcheckpoint._aio.threads import Threads
    from mpcheckpoint._format.made_json import Default
    from mpcheckpoint._work.inputs import Input
    from mpcheckpoint._work.plan import Plan

DEFAULT_JOBS = 100
_LOOK_S = 0.1


class Tasks(PoolExecutor):
    """What ``start_map`` is given: it makes a pool of tasks in an event loop.

    Attributes:
        pool: the pool, once it was made.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, threads: Threads) -> None:
        self._loop = loop
        self._threads = threads
        self.pool: TaskPool | None = None

    def require_function(self, fn: object) -> None:
        """Refuse what is no coroutine function."""
        require_coroutine_function(fn)

    def worker_pool(
        self,
        plan: Plan,
        fn: Callable[..., Any],
        default: Default | None,
        jobs: int | None,
        timeout_s: float | None,
    ) -> TaskPool:
        """Return the pool."""
        calls = _Calls(fn, default, timeout_s)
        self.pool = TaskPool(plan, calls, jobs or DEFAULT_JOBS, self._loop, self._threads)
        return self.pool


class _Calls(NamedTuple):
    """How an item is run."""

    fn: Callable[..., Any]
    default: Default | None
    timeout_s: float | None

    async def result(self, item: Any) -> tuple[Result, asyncio.CancelledError | None]:
        """Run the coroutine for an item to its end; return what it made of it, and the cancellation of this task that
        came meanwhile, if any: such a result is recorded, too, for what has returned is not to run again.

        Raises:
            asyncio.CancelledError: this task was cancelled, and so was the coroutine, which has not returned.
        """
        began_s = time.monotonic()
        task = asyncio.ensure_future(self._called(item))
        cancelled: asyncio.CancelledError | None = None
        try:
            await asyncio.wait([task], timeout=self.timeout_s)
        except asyncio.CancelledError as error:
            cancelled = error
        is_cut_short, is_late = False, False
        if not task.done():
            is_cut_short, is_late = cancelled is not None, cancelled is None
            task.cancel()
            cancelled = await _ended(task) or cancelled
        if is_late and task.cancelled():
            cause = f"timed out after {self.timeout_s:g} s"
            result = Result(False, None, cause, TimeoutError(cause))
        else:
            result, has_returned = task.result()
            if is_cut_short and not has_returned:  # what it raised may come of our cancellation
                assert cancelled is not None
                raise cancelled
        return result._replace(duration_s=time.monotonic() - began_s, worker=worker_name()), cancelled

    async def _called(self, item: Any) -> tuple[Result, bool]:
        """Return the result, and whether it was returned, not raised. Never returns in a forked child."""
        pid, task = os.getpid(), asyncio.current_task()
        has_returned = False
        try:
            value = await self.fn(item)
            has_returned = True
            result = made_result(value, self.default)
        except BaseException as error:
            if os.getpid() != pid:
                end_forked_child(error)
            is_cancelled = isinstance(error, asyncio.CancelledError)
            if is_cancelled and task is not None and task.cancelling():
                raise  # by us, and not by something inside
            if is_cancelled or isinstance(error, Exception):
                return Result.of_exception(error), has_returned
            raise
        if os.getpid() != pid:
            end_forked_child()
        return result, True


async def _ended(future: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait for the end of a future, whatever comes; return the last cancellation that came meanwhile."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if not future.cancelled():
        future.exception()  # taken note of
    return cancelled


class EndedError(Exception):
    """The map is to end, though it waits for an outcome."""


class TaskPool:
    """A ``WorkerPool`` of tasks, ``jobs`` at a time. As many items are ahead, so that no task waits for the map.

    Locking rules: none is taken. The thread of the map and the loop share deques and a queue, of which each step is
    whole; what an item is handed to is decided by who takes it out of ``_waiting``.
    """

    def __init__(
        self, plan: Plan, calls: _Calls, jobs: int, loop: asyncio.AbstractEventLoop, threads: Threads
    ) -> None:
        """Give out nothing yet."""
        self._plan = plan
        self._calls = calls
        self._jobs = jobs
        self.most = 2 * jobs
        self._loop = loop
        self._threads = threads
        self._waiting: deque[Input] = deque()
        self._given = 0  # items that were given out and not reported
        self._done: SimpleQueue[tuple[Input, ItemReport | BaseException] | None] = SimpleQueue()
        self._is_ending = False
        # In the loop alone.
        self._workers: set[asyncio.Task[None]] = set()
        self._idle = 0
        self._have_ended = Flag()
        self._runners: list[ItemRunner] = []

    # --- in the thread of the map -----------------------------------------------------------------------------

    def has_room(self) -> bool:
        return self._given < self.most

    def submit(self, entry: Input) -> None:
        """Give out an item.

        Raises:
            ClosedError: the event loop is closed.
        """
        self._waiting.append(entry)
        try:
            self._loop.call_soon_threadsafe(self._start_worker)
        except RuntimeError:
            self._waiting.clear()
            raise ClosedError("the event loop that the map runs in is closed", reason="closed") from None
        self._given += 1

    def collect(self, timeout_s: float | None) -> list[tuple[Input, ItemReport]]:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        found = arrived(self._done, deadline, self._require_open_loop)
        if found and self._is_ending:
            raise EndedError
        return [self._reported(each) for each in found if each is not None]

    def _require_open_loop(self) -> None:
        if self._loop.is_closed():
            raise ClosedError("the event loop that the map runs in is closed", reason="closed") from None

    def _reported(self, found: tuple[Input, ItemReport | BaseException]) -> tuple[Input, ItemReport]:
        entry, report = found
        self._given -= 1
        if isinstance(report, BaseException):
            raise report
        return entry, report

    def recall(self) -> list[Input]:
        """Take back what no task has taken."""
        recalled: list[Input] = []
        while (entry := self._next()) is not None:
            recalled.append(entry)
        self._given -= len(recalled)
        return recalled

    def stop(self, *, is_interrupted: bool) -> None:
        """Drop what has not started; cancel what runs, give it back, and wait for its end. Twice is fine."""
        del is_interrupted
        self._is_ending = True
        self._waiting.clear()
        try:
            self._loop.call_soon_threadsafe(self._cancel_all)
            while not self._have_ended.wait(_LOOK_S) and self._loop.is_running():
                pass
        except RuntimeError:
            pass  # it is closed: its tasks are no more
        if not self._have_ended.is_set:
            for runner in list(self._runners):
                runner.retire()

    # --- by any task ------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Have the map end, though it may be waiting for an outcome."""
        self._is_ending = True
        self._done.put(None)

    def _next(self) -> Input | None:
        try:
            return self._waiting.popleft()
        except IndexError:
            return None

    # --- in the loop ------------------------------------------------------------------------------------------

    def _start_worker(self) -> None:
        if self._waiting and len(self._workers) < self._jobs and not self._is_ending:
            worker = self._loop.create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._ended)

    def _ended(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not worker.cancelled() and (error := worker.exception()) is not None:
            self._loop.call_exception_handler({"message": "a worker of a map failed", "exception": error})
        if self._is_ending and not self._workers:
            self._have_ended.set()
        self._start_worker()  # an item may have come when it had just seen that there is none

    def _cancel_all(self) -> None:
        for worker in self._workers:
            worker.cancel()
        if not self._workers:
            self._have_ended.set()

    async def _work(self) -> None:
        """Run items until none waits."""
        runner = ItemRunner(self._plan, keeps_file=True)
        self._runners.append(runner)
        try:
            while not self._is_ending and (entry := self._next()) is not None:
                await self._run(runner, entry)
        except GeneratorExit:  # thrown away with a loop that was closed: nothing can be awaited
            raise  # ``stop`` retires the runner, or the worker file is closed with it
        except BaseException:
            await self._end(runner)
            raise
        await self._end(runner)

    async def _end(self, runner: ItemRunner) -> None:
        try:
            await self._to_its_end(runner.retire)
        finally:
            self._runners.remove(runner)

    async def _run(self, runner: ItemRunner, entry: Input) -> None:
        """Run an item, and those that are claimed with its outcome. A cancellation that came too late for what runs is
        raised after that is recorded."""
        taken = deque([entry])
        cancelled: asyncio.CancelledError | None = None

        def following() -> Input | None:
            upcoming = None if self._is_ending or cancelled is not None else self._next()
            if upcoming is not None:
                taken.append(upcoming)
            return upcoming

        turn: Turn | None = Turn(entry)
        try:
            while turn is not None:
                result, cancelled = await self._result_of(turn)
                report, turn = await self._stepped(runner, turn, following, result)
                if report is not None:
                    self._done.put((taken.popleft(), report))
                if cancelled is not None:
                    raise cancelled
        except asyncio.CancelledError:
            if not self._is_ending:  # the program has cancelled a task of ours
                self._report_end(taken, ClosedError("a task of the map was cancelled", reason="cancelled"))
            raise
        except Exception as error:  # noqa: BLE001 - the map raises it
            await self._to_its_end(runner.retire)
            self._report_end(taken, error)

    def _report_end(self, taken: Iterable[Input], error: Exception) -> None:
        for each in taken:  # the second one did not begin
            self._done.put((each, error))

    async def _result_of(self, turn: Turn) -> tuple[Result | None, asyncio.CancelledError | None]:
        """Run an item that is claimed, and return as ``_Calls.result``; no result if it is to be claimed first."""
        worker = turn.worker
        if worker is None:
            return None, None
        try:
            return await self._calls.result(turn.entry.item)
        except GeneratorExit:  # as in ``_work``
            raise
        except BaseException:
            log, object_key = self._plan.log.log, turn.entry.object_key
            await self._to_its_end(lambda: give_back(log, object_key, worker))
            raise

    async def _stepped(
        self, runner: ItemRunner, turn: Turn, following: Callable[[], Input | None], result: Result | None
    ) -> tuple[ItemReport | None, Turn | None]:
        """Claim or record in a thread. A cancellation waits for that: what has run is recorded first."""
        until_s = time.monotonic() + (0.0 if result is None else RECORD_S)
        cancelled: asyncio.CancelledError | None = None
        step: asyncio.Future[tuple[ItemReport | None, Turn | None]] | None = None
        shortage: Shortage | None = None
        while step is None:
            try:
                step = self._threads.begin(lambda: runner.step(turn, following, result)).future
            except Exception as error:
                shortage = shortage_of(error)
                if shortage is None:
                    raise
                if time.monotonic() >= until_s:
                    break
                cancelled = await _ended(asyncio.ensure_future(asyncio.sleep(_LOOK_S))) or cancelled
        if step is None:  # there is no thread for it: it is given back, and runs again
            await self._to_its_end(runner.retire)
        else:
            cancelled = await _ended(step) or cancelled
        if cancelled is not None:
            raise cancelled
        return (ItemReport(Kind.SHORT, shortage=shortage), None) if step is None else step.result()

    async def _to_its_end(self, act: Callable[[], None]) -> None:
        """Do what frees an item, whatever comes."""
        try:
            done = self._threads.owe(act).future
        except Exception as error:
            if shortage_of(error) is None:
                raise
            act()  # there is no thread to do it, and an item that stays claimed is worse than a pause
            return
        cancelled = await _ended(done)
        done.result()
        if cancelled is not None:
            raise cancelled
