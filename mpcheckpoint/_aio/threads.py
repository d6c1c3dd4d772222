"""Threads that do for tasks of event loops what waits: for a lock, a disk, a server.

Rejected: ``asyncio.to_thread``. Its threads are shared with all else of the program, so that a lock which another
process holds could keep them all; a call that was cancelled runs later all the same, and nobody is told; and at exit
the interpreter waits for them, for as long as that lock is held.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from mpcheckpoint._aio.jobs import Job, State, deliver_all, note_under_way
from mpcheckpoint._store.process import process
from mpcheckpoint.errors import ClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

logger = logging.getLogger("mpcheckpoint")

_IDLE_S = 5.0


class _Call(NamedTuple):
    """What a thread is to do; ``is_owed``: also once these threads take no more calls."""

    job: Job[Any]
    fn: Callable[[], Any]
    undo: Callable[[Any], object] | None = None
    is_owed: bool = False


class Threads:
    """At most so many threads, started when there is something to do, and ended after a while without.

    They are daemons: what runs when the program ends is not acknowledged to anybody, and is not waited for.

    Locking rules:
    1. ``_mutex`` guards all fields, and is held for moments. Nothing is called under it.

    Concurrency: any number of loops, each in a thread of its own. A forked child begins with no threads and no calls.
    """

    def __init__(self, name: str, most: int, place: object) -> None:
        """Have at most so many; ``place``: that of the store, for messages."""
        self._name = name
        self._place = place
        self._most = most
        self._is_closed = False
        self._renew()
        process.register(self)

    def _renew(self) -> None:
        self._mutex = threading.Lock()
        self._has_calls = threading.Condition(self._mutex)
        self._calls: dict[Job[Any], _Call] = {}
        self._threads = self._idle = 0

    async def run(
        self, fn: Callable[[], T], *, writes: bool = False, undo: Callable[[T], object] | None = None
    ) -> T:
        """Return what ``fn`` returns, which is called in a thread.

        Cancelled before a thread has taken it, it is not called. After that it goes on, and what is raised says so if
        it ``writes``.

        Args:
            undo: called in a thread with what ``fn`` returned if that came too late for the task.

        Raises:
            ClosedError: these threads take no more calls.
        """
        job: Job[T] = Job(asyncio.get_running_loop())
        self._put(_Call(job, fn, undo))
        try:
            return await job.future
        except BaseException as error:
            if job.error is not error and not self._is_withdrawn(job):
                self._abandon(job, undo)
                if writes:
                    note_under_way(error, job)
            raise

    async def run_to_its_end(self, fn: Callable[[], T]) -> T:
        """Return what ``fn`` returns, which is called whatever becomes of the task, and of the handle."""
        return await asyncio.shield(self.owe(fn).future)

    def begin(self, fn: Callable[[], T]) -> Job[T]:
        """Have a thread call ``fn``, whatever becomes of the task; its outcome comes to the future of the job.

        Raises:
            ClosedError: these threads take no more calls.
        """
        job: Job[T] = Job(asyncio.get_running_loop())
        self._put(_Call(job, fn, is_owed=True))
        return job

    def owe(self, fn: Callable[[], T]) -> Job[T]:
        """As ``begin``, also once these threads take no more calls: for what gives something back."""
        job: Job[T] = Job(asyncio.get_running_loop())
        self._put(_Call(job, fn, is_owed=True), is_late=True)
        return job

    def _put(self, call: _Call, *, is_late: bool = False) -> None:
        """Have a thread do a call; ``is_late``: also if these threads take no more."""
        process.notice_fork()
        with self._mutex:
            if self._is_closed and not is_late:
                raise ClosedError(f"the handle of {self._place} is closed", reason="closed")
            self._calls[call.job] = call
            if self._idle >= len(self._calls) or self._threads >= self._most:
                self._has_calls.notify()
                return
            self._threads += 1
        try:
            threading.Thread(target=self._serve, name=f"mpcheckpoint-{self._name}", daemon=True).start()
        except BaseException as error:
            with self._mutex:
                self._threads -= 1
                # No more threads are to be had: one of those that run does it.
                if self._threads and isinstance(error, Exception):
                    self._has_calls.notify()
                    return
                self._calls.pop(call.job, None)
            raise

    def _is_withdrawn(self, job: Job[Any]) -> bool:
        with self._mutex:
            return self._calls.pop(job, None) is not None

    def _abandon(self, job: Job[T], undo: Callable[[T], object] | None) -> None:
        with self._mutex:
            job.is_abandoned = True
            is_late = job.state is State.DONE and job.error is None and undo is not None
        if is_late:
            assert undo is not None
            self._put(_Call(Job(job.loop), lambda: _undo(undo, job.value), is_owed=True), is_late=True)

    def close(self) -> list[Job[Any]]:
        """Take no more calls; return those that no thread has taken, which are dropped. Threads end when they have
        done what they have taken, and what is owed."""
        with self._mutex:
            self._is_closed = True
            left = [job for job, call in self._calls.items() if not call.is_owed]
            for job in left:
                del self._calls[job]
            self._has_calls.notify_all()
        return left

    def _serve(self) -> None:
        while (call := self._next()) is not None:
            job = call.job
            try:
                job.value = call.fn()
            except StopIteration as error:  # no future takes it, and a task would wait for ever
                job.error = RuntimeError("a function that was called in a thread raised StopIteration")
                job.error.__cause__ = error
            except BaseException as error:  # noqa: BLE001 - it is the task's
                job.error = error
            with self._mutex:
                job.state = State.DONE
                is_abandoned = job.is_abandoned
            if is_abandoned and call.undo is not None and job.error is None:
                _undo(call.undo, job.value)
            deliver_all([job])
            del call, job  # an idle thread keeps nothing

    def _next(self) -> _Call | None:
        with self._mutex:
            while not self._calls:
                if self._is_closed:
                    self._threads -= 1
                    return None
                self._idle += 1
                has_come = self._has_calls.wait(_IDLE_S)
                self._idle -= 1
                if not (has_come or self._calls):
                    self._threads -= 1
                    return None
            job = next(iter(self._calls))
            job.state = State.TAKEN
            return self._calls.pop(job)

    def reset_after_fork(self) -> None:
        """In a forked child: the threads are the parent's, and so is what they do."""
        self._renew()


def _undo(undo: Callable[[T], object], value: T) -> None:
    """Undo what came too late for its task. A failure is logged: nobody waits for it, and the thread is to go on."""
    try:
        undo(value)
    except BaseException as error:  # noqa: BLE001 - see above
        logger.warning("what came too late for a task that was cancelled could not be undone: %s", error)
