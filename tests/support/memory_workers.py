"""The workers of the engine in memory: they live as long as this process, or until they retire."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING

from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._store.worker_protocol import WorkerHolder

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from mpcheckpoint._system import LockHolder


class MemoryWorker:
    """A worker that lives until it retires: it has no process that could die before this one. See ``Worker``."""

    fd = -1

    def __init__(self, known: dict[str, MemoryWorker]) -> None:
        self.id = uuid.uuid4().hex
        self.begun_us = clock.next(0)
        self.data = b""
        self._known = known
        known[self.id] = self
        self._pid = os.getpid()

    @property
    def is_mine(self) -> bool:
        return self._pid == os.getpid()

    @property
    def is_lost(self) -> bool:
        """False: no session keeps it alive."""
        return False

    def live_again(self) -> bool:
        """Return False: no session keeps it alive, so it was removed."""
        return False

    def begin_again(self) -> bool:
        self.begun_us = clock.next(0)
        return self.id in self._known

    def show(self, data: bytes) -> None:
        self.data = data

    def others(self) -> list[LockHolder]:
        """Return no process: a descriptor to inherit there is not."""
        return []

    def retire(self) -> None:
        self._known.pop(self.id, None)

    def __enter__(self) -> MemoryWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.retire()


class MemoryWorkers:
    """The workers of one place. See ``Workers``."""

    worker_type = MemoryWorker
    may_outlive_records = True
    _places: dict[str, dict[str, MemoryWorker]] = {}  # noqa: RUF012 - all stores share it: that is its purpose

    def __init__(self, path: str) -> None:
        self._path = path
        self.known = self._places.setdefault(path, {})

    def __reduce__(self) -> tuple[type[MemoryWorkers], tuple[str]]:
        return type(self), (self._path,)

    def begin(self) -> MemoryWorker:
        return self.worker_type(self.known)

    def is_live(self, worker_id: str) -> bool:
        return worker_id in self.known

    def is_known(self, worker_id: str) -> bool:
        return worker_id in self.known

    def retire(self, worker_id: str) -> None:
        self.known.pop(worker_id, None)

    def name_of(self, worker_id: str) -> str:
        return worker_id

    def begun_us(self, worker_id: str) -> int | None:
        worker = self.known.get(worker_id)
        return None if worker is None else worker.begun_us

    def shown(self) -> Iterator[bytes]:
        yield from [worker.data for worker in list(self.known.values()) if worker.data]

    def holders(self, worker_ids: Collection[str]) -> dict[str, WorkerHolder]:
        """Return that of each nothing more is known than that it lives."""
        return {worker_id: WorkerHolder(None) for worker_id in worker_ids if worker_id in self.known}

    def clear(self) -> None:
        """Remove nothing: the dead leave nothing here."""
