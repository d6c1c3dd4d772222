"""What is done in a thread for a task of an event loop, and what a cancellation makes of it."""

from __future__ import annotations

import asyncio
import copy
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mpcheckpoint._root_error import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")

_MOST_CAUSES = 100
_NOTE = (
    "mpcheckpoint: the call was under way when it was cancelled: what it was to write may be there, or come yet. "
    "mpcheckpoint.aio.under_way(error) tells what became of it"
)


class State(Enum):
    """How far a job is. It leaves QUEUED under the mutex of its queue."""

    QUEUED = "queued"
    TAKEN = "taken"
    DONE = "done"


class Job(Generic[T]):
    """Something that a thread does for a task.

    Attributes:
        loop: of the task. ``future`` is touched by its thread alone. A job that a task waits for in another loop has
            moved there.
        state, value, error: how far it is, and what came of it. ``error`` is None if all went well.
        is_abandoned: nobody will take the value. Set and read under the mutex of the queue.
    """

    __slots__ = ("error", "future", "is_abandoned", "loop", "state", "value")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.future: asyncio.Future[T] = loop.create_future()
        self.state = State.QUEUED
        self.value: Any = None
        self.error: BaseException | None = None
        self.is_abandoned = False

    def move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """In another loop: have the outcome come to this one. Requires: no task waits for it elsewhere.

        Invariant: the thread sets ``state`` before it asks for ``loop``, and ``_deliver`` takes the future before it
        does; so what is handed to the loop before is found here to be done, and no loop touches the future of another.
        """
        self.loop = loop
        self.future = loop.create_future()
        if self.state is State.DONE:
            _deliver(loop, [self])

    def outcome(self) -> T:
        """Return what came of it, or raise that. Requires: it is done."""
        if self.error is not None:
            raise self.error
        value: T = self.value
        return value


def deliver_all(jobs: Iterable[Job[Any]]) -> None:
    """Have the loops of these jobs, which are done, hand out what came of them. A loop that was closed is passed over:
    nobody waits there any more."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Job[Any]]] = {}
    for job in jobs:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, own in by_loop.items():
        try:
            loop.call_soon_threadsafe(_deliver, loop, own)
        except RuntimeError:  # it is closed
            pass


def _deliver(loop: asyncio.AbstractEventLoop, jobs: list[Job[Any]]) -> None:
    """In the loop: hand what came of them to the tasks that wait."""
    for job in jobs:
        future, error = job.future, job.error
        if job.loop is not loop or future.done():  # it has moved, or nobody waits
            continue
        if error is None:
            future.set_result(job.value)
        else:
            future.set_exception(error)


def own_error(error: BaseException) -> BaseException:
    """Return an error for one of several tasks that are told the same: each adds its own traceback."""
    if not isinstance(error, CheckpointError):
        return error
    copied = copy.copy(error)
    copied.__cause__ = error.__cause__
    return copied


class UnderWay(Generic[T]):
    """A call that was under way in a thread when its task was cancelled. It goes on. Get it from ``under_way``."""

    def __init__(self, job: Job[T]) -> None:
        self._job = job

    @property
    def is_done(self) -> bool:
        """Whether it has ended."""
        return self._job.state is State.DONE

    async def outcome(self) -> T:
        """Wait until the call has ended, in the event loop that it was made in; return what it would have returned.

        Raises:
            What the call would have raised.
        """
        if self._job.state is not State.DONE:
            await asyncio.shield(self._job.future)
        return self._job.outcome()


def note_under_way(error: BaseException, job: Job[Any]) -> None:
    """In the loop: have what ends a task's wait say that the job goes on, or is done, and let that be waited for."""
    if job.future.done() and job.state is not State.DONE:
        job.future = job.loop.create_future()  # the task's cancellation has cancelled the one before
        job.future.add_done_callback(_retrieved)
    error.under_way = UnderWay(job)  # type: ignore[attr-defined]  # exceptions take attributes
    error.add_note(_NOTE)


def _retrieved(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


def under_way(error: BaseException | None) -> UnderWay[Any] | None:
    """Return the call that an error, as asyncio.CancelledError or the TimeoutError that it was made into, has cut short
    while it was under way; None if it had not begun, and so wrote nothing, or if the error is of another kind.

    ``await under_way(error).outcome()`` gives what the call returns or raises in the end.

    Ask where the error was caught around the call itself, inside of its task, or by the first that awaits the task. An
    error of your own tells what the one does that it was raised ``from``. What drops the errors of tasks, or makes new
    ones, tells nothing, whatever was written: an ``asyncio.TaskGroup`` that is cancelled or in a timeout,
    ``asyncio.gather(..., return_exceptions=True)``, in Python 3.11 an ``asyncio.wait_for`` that is itself cancelled.
    """
    for _ in range(_MOST_CAUSES):
        if error is None:
            return None
        found: UnderWay[Any] | None = getattr(error, "under_way", None)
        if found is not None:
            return found
        error = error.__cause__ or _cancellation_before(error)
    return None


def _cancellation_before(error: BaseException) -> BaseException | None:
    """Return the cancellation that an error was made of without naming it, as asyncio.run makes a Ctrl-C of one, and
    libraries a timeout.

    Any other context is what was handled when the call was made, and of another call.
    """
    is_made = isinstance(error, TimeoutError | KeyboardInterrupt) and not isinstance(error, CheckpointError)
    context = error.__context__
    return context if is_made and isinstance(context, asyncio.CancelledError) else None
