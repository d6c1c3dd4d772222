"""Claims in a task: taken and given back in a thread."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint._format.codec import encode_key
from mpcheckpoint._work.claims import Claim, TakenError, give_back, take
from mpcheckpoint.errors import ReentrancyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mpcheckpoint._aio.opened import OpenedLog
    from mpcheckpoint._store.worker_protocol import Worker
    from mpcheckpoint._view.earlier import Earlier
    from mpcheckpoint._view.log_handle import LogHandle


class _Held(NamedTuple):
    """A worker, and what it has claimed; no ``claim`` if another one has the object."""

    log: LogHandle
    worker: Worker
    claim: Claim | None
    earlier: Earlier | None

    def end(self) -> None:
        """Give back what there is, and end the worker."""
        try:
            if self.claim is not None:
                give_back(self.log, self.claim.object_key, self.worker, self.earlier)
        finally:
            self.worker.retire()


class AsyncClaim:
    """The sole right to work on an object, for an ``async with`` block. Get it from ``AsyncLog.claim``.

    It can be entered again once its block has ended. Entered before that, by whichever task, it raises
    ReentrancyError, and the block that has it keeps it: each task takes a claim of its own from ``AsyncLog.claim``.
    """

    def __init__(self, open_log: Callable[[], Awaitable[OpenedLog]], object_key: str) -> None:
        encode_key(object_key)
        self._open_log = open_log
        self._object_key = object_key
        self._held: _Held | None = None
        # Held from before the first await of an entry to after the last one of its exit. Never waited for.
        self._entry = threading.Lock()

    async def __aenter__(self) -> Claim | None:
        if not self._entry.acquire(blocking=False):
            raise ReentrancyError(
                f"this claim of {self._object_key!r:.200} is entered already, and has one block at a time: take one of "
                f"its own for each block and task, by log.claim({self._object_key!r:.200})",
                reason="reentered",
            )
        try:
            opened = await self._open_log()
            log, self._writes = opened.handle, opened.writes
            self._held = await self._writes.run(lambda: _taken(log, self._object_key), undo=_Held.end)
        except BaseException:
            self._entry.release()
            raise
        return self._held.claim

    async def __aexit__(self, *_: object) -> None:
        held, self._held = self._held, None
        if held is None:
            return
        try:
            await self._writes.run_to_its_end(held.end)
        finally:
            self._entry.release()


def _taken(log: LogHandle, object_key: str) -> _Held:
    log.append_many(())  # refuses a handle that may not write, before a file is made
    worker = log.workers.begin()
    try:
        try:
            earlier = take(log, object_key, worker)
        except TakenError:
            return _Held(log, worker, None, None)
        return _Held(log, worker, Claim(object_key, worker.id), earlier)
    except BaseException:
        worker.retire()
        raise
