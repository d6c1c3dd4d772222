"""Appends of many tasks to one log, which share write and sync.

A task queues its record and waits. One thread a log takes all that is queued, and appends it as a group: each record
is a batch of its own, with its own position and its own failure, and they share one write and one sync. While that is
under way, others queue; so the more tasks append, the larger the groups. A task that appends alone is a group of one.

Rejected: a thread an append, whose records the native core would join: a thousand threads spend their time on waking
each other. Rejected: one batch of all that is queued: it would be there as a whole or not at all, so one record for
which there is no room would fail a thousand others, and readers would see a batch that nobody made.
"""

from __future__ import annotations

import asyncio
import threading
import time
from itertools import islice
from typing import TYPE_CHECKING, Any

from mpcheckpoint._aio.jobs import Job, State, deliver_all, note_under_way, own_error
from mpcheckpoint._aio.threads import Threads
from mpcheckpoint._store.process import process
from mpcheckpoint._types import Position
from mpcheckpoint.errors import CheckpointError, LockTimeoutError

if TYPE_CHECKING:
    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._store.durability import Durability
    from mpcheckpoint._view.log_handle import LogHandle

# Others wait for the append lock meanwhile.
_MOST_AT_ONCE = 1000
_MOST_BYTES = 1024 * 1024


class QueuedAppend(Job[Position]):
    """One batch that is to be appended."""

    __slots__ = ("durability", "payloads", "queued_s")

    # Few calls: each append makes one.
    def __init__(
        self, loop: asyncio.AbstractEventLoop, payloads: list[Payload], durability: Durability
    ) -> None:
        self.loop = loop
        self.future = loop.create_future()
        self.state = State.QUEUED
        self.payloads = payloads
        self.durability = durability
        self.queued_s = 0.0
        self.error = self.value = None


class GroupedAppends:
    """The appends to one log that wait for the thread which writes them.

    Locking rules:
    1. ``_mutex`` guards ``_queue``, ``_is_served`` and the step of a job out of QUEUED. Nothing is called under it.

    Invariant: a job that is in ``_queue`` is in no group; one that was withdrawn is in neither (held by
    tests/aio/test_aio_cancel.py).
    """

    def __init__(self, log: LogHandle) -> None:
        self._log = log
        self._threads = Threads("appends", 1, log.store.settings.path)
        self._timeout_s = log.store.settings.lock_timeout_s
        self._renew()
        process.register(self)

    def _renew(self) -> None:
        self._mutex = threading.Lock()
        self._queue: dict[QueuedAppend, None] = {}
        self._is_served = False

    async def append(self, payloads: list[Payload], durability: Durability) -> Position:
        """Queue a batch; return its position when it is as durable as asked.

        Raises:
            ClosedError: the handle is closed.
            And what an append raises.
        """
        job = QueuedAppend(asyncio.get_running_loop(), payloads, durability)
        if self._timeout_s is not None:
            job.queued_s = time.monotonic()
        process.notice_fork()  # the thread that serves the queue may be the parent's
        with self._mutex:
            self._queue[job] = None
            is_served, self._is_served = self._is_served, True
        if not is_served:
            self._begin_to_serve(job)
        try:
            return await job.future
        except BaseException as error:
            self._end_wait(job, error)
            raise

    def _end_wait(self, job: QueuedAppend, error: BaseException) -> None:
        """Take a batch out of the queue whose task waits no more. Where the thread has taken it, it goes on, and the
        error says so."""
        if job.error is error:
            return
        with self._mutex:
            is_queued = job in self._queue
            self._queue.pop(job, None)
        if not is_queued:
            note_under_way(error, job)

    def _begin_to_serve(self, job: QueuedAppend) -> None:
        try:
            self._threads.begin(self._serve)
        except BaseException as error:
            with self._mutex:  # those that came meanwhile, from other loops, rely on it
                left = [each for each in self._queue if each is not job]
                self._queue, self._is_served = {}, False
            self._settle(left, [error] * len(left))
            raise

    def close(self) -> list[Job[Any]]:
        """Take nothing more; return what was queued and not taken, which is dropped."""
        self._threads.close()
        with self._mutex:
            left, self._queue = list[Job[Any]](self._queue), {}
        return left

    def reset_after_fork(self) -> None:
        """In a forked child: what is queued is the parent's."""
        self._renew()

    # --- in the thread ----------------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Append what is queued, until nothing is."""
        while group := self._taken():
            self._append(group)

    def _taken(self) -> list[QueuedAppend]:
        """Take what is to be appended next; note that nobody serves the queue any more if it is empty."""
        with self._mutex:
            group: list[QueuedAppend] = []
            size_bytes = 0
            for job in islice(self._queue, _MOST_AT_ONCE):
                size_bytes += sum([len(each.event) for each in job.payloads])
                if group and (size_bytes > _MOST_BYTES or job.durability != group[0].durability):
                    break
                group.append(job)
            if len(group) == len(self._queue):
                self._queue = {}
            else:
                for job in group:
                    del self._queue[job]
            for job in group:
                job.state = State.TAKEN
            self._is_served = bool(group)
            return group

    def _append(self, group: list[QueuedAppend]) -> None:
        timeout_s = self._timeout_s
        if timeout_s is not None:
            timeout_s = max(0.0, timeout_s - (time.monotonic() - group[0].queued_s))
        try:
            stored, durability = self._log.for_writing(), group[0].durability
            found: list[Any]
            if len(group) == 1:  # it has a shorter way of its own
                found = [stored.append(group[0].payloads, durability=durability, timeout_s=timeout_s)]
            else:
                batches = [job.payloads for job in group]
                found = stored.append_group(batches, durability=durability, timeout_s=timeout_s)
        except LockTimeoutError as error:
            self._give_up_or_go_on(group, error)
        except BaseException as error:  # noqa: BLE001 - it is the tasks'
            if not isinstance(error, CheckpointError):
                error.add_note("mpcheckpoint: the record may have been written")
            self._settle(group, [error] * len(group))
        else:
            self._settle(group, found)

    def _give_up_or_go_on(self, group: list[QueuedAppend], error: LockTimeoutError) -> None:
        """Nothing was written. Those whose time is over are told so; the others wait on, before all that came since."""
        assert self._timeout_s is not None
        over_s = time.monotonic() - self._timeout_s
        over = [job for job in group if job is group[0] or job.queued_s <= over_s]
        with self._mutex:
            left = {job: None for job in group if job not in over}
            for job in left:
                job.state = State.QUEUED
            self._queue = left | self._queue
        self._settle(over, [error] * len(over))

    def _settle(self, group: list[QueuedAppend], found: list[Any]) -> None:
        for job, outcome in zip(group, found, strict=True):
            if isinstance(outcome, Position):
                job.value = outcome
            else:
                job.error = own_error(outcome)
            job.state = State.DONE
        deliver_all(group)
