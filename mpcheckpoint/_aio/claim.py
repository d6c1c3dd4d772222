"""Claims in a task: taken and given back in a thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint._format.codec import encode_key
from mpcheckpoint._work.claims import Claim, TakenError, give_back, take

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
    """The sole right to work on an object, for an ``async with`` block. Get it from ``AsyncLog.claim``."""

    def __init__(self, open_log: Callable[[], Awaitable[OpenedLog]], object_key: str) -> None:
        encode_key(object_key)
        self._open_log = open_log
        self._object_key = object_key
        self._held: _Held | None = None

    async def __aenter__(self) -> Claim | None:
        opened = await self._open_log()
        log, self._writes = opened.handle, opened.writes
        self._held = await self._writes.run(lambda: _taken(log, self._object_key), undo=_Held.end)
        return self._held.claim

    async def __aexit__(self, *_: object) -> None:
        held, self._held = self._held, None
        if held is not None:
            await self._writes.run_to_its_end(held.end)


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
