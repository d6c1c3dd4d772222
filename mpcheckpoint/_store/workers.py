"""Workers: each lives as long as the kernel holds the lock on its file, so no lock is ever judged by its age."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._logfile.faults import translated
from mpcheckpoint._logfile.ownership import leave_to_store, make_directory_inside
from mpcheckpoint._logfile.paths import WORKERS
from mpcheckpoint._store.process import process
from mpcheckpoint._store.worker_protocol import WorkerHolder
from mpcheckpoint.errors import NotAStoreError, WriteFailedError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_ID = re.compile(r"[0-9a-f]{32}")
_ID_BYTES = 16
_CREATE_LIMIT = 100
_MOST_SHOWN_BYTES = 256 * 1024
_ROOM = 24  # what a worker shows may grow by so much
# Directories in which this process has removed the files of killed workers.
_cleared: set[str] = set()


class FileWorker:
    """A worker whose life is the lock on a file. See ``Worker`` in ``_store.worker_protocol``.

    A command that inherits the descriptor keeps the lock, and outlives us with it. A daemon that a command leaves
    blocks nothing, since the file is removed when the worker retires.

    In a forked child the descriptor is closed, never unlocked: an unlock would free the parent's lock, and an open
    descriptor would keep a dead parent's worker alive.
    """

    def __init__(self, path: str, worker_id: str, descriptor: system.Descriptor) -> None:
        self.id = worker_id
        self._path = path
        self._descriptor = descriptor
        self._pid = os.getpid()
        self._width = 0
        process.register(self)

    @property
    def fd(self) -> int:
        """The descriptor that holds the lock; a command that inherits it keeps this worker alive."""
        return self._descriptor.fd

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
        """Note that this worker begins another object now; return False if its file is gone: its claims count no more.

        The time of the file is what ``Log.map_status`` takes for the beginning of the object's work.
        """
        try:
            system.touch(self._path)
        except OSError:
            return False
        return True

    def show(self, data: bytes) -> None:
        """Have the file say something, as well as a full disk lets us."""
        if not self.is_mine or self._descriptor.fd < 0:
            return
        try:
            # In one write, at least as long as those before: no reader sees half of it, or the end of an earlier one.
            self._width = max(self._width, len(data) + _ROOM)
            system.write_at(self._descriptor.fd, data.ljust(self._width), 0)
        except OSError:
            pass

    def others(self) -> list[system.LockHolder]:
        """Return the other processes that have inherited the descriptor, where the system tells."""
        return [each for each in system.openers([self._path])[self._path] if each.pid != os.getpid()]

    def retire(self) -> None:
        """End the worker and its claim. The file goes first: a process that inherited the lock then holds no claim."""
        if self.is_mine and self._descriptor.fd >= 0:
            with translated("removing the worker", self._path):
                system.remove(self._path)
        self._descriptor.close()

    def reset_after_fork(self) -> None:
        """In a forked child: close the descriptor."""
        self._descriptor.close()

    def __enter__(self) -> FileWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.retire()


class WorkerFiles:
    """The workers of a store, each with a file in one directory. See ``Workers`` in ``_store.worker_protocol``."""

    may_outlive_records = False  # what ends all records that are not synced is a loss of power

    def __init__(self, store_path: str) -> None:
        self.directory = os.path.join(store_path, WORKERS)

    def begin(self) -> FileWorker:
        directory = self.directory
        with translated("starting a worker in", directory):
            if not _is_directory(directory):
                raise NotAStoreError(
                    f"{directory} is no directory; nothing in a store is opened through a link: move it away",
                    path=directory,
                    reason="not a directory",
                )
            if directory not in _cleared:
                _cleared.add(directory)
                self.clear()
            worker_id, descriptor = _create(directory)
        return FileWorker(self._path(worker_id), worker_id, descriptor)

    def is_live(self, worker_id: str) -> bool:
        if not _ID.fullmatch(worker_id):
            return False  # not one of ours, and it must not become part of a path
        path = self._path(worker_id)
        with translated("looking at the worker", path, is_read=True):
            return system.is_locked(path)

    def is_known(self, worker_id: str) -> bool:
        return bool(_ID.fullmatch(worker_id)) and system.exists(self._path(worker_id))

    def retire(self, worker_id: str) -> None:
        """Retire a worker of any process: one that permits a map to go on."""
        if _ID.fullmatch(worker_id):
            path = self._path(worker_id)
            with translated("halting a map by removing", path):
                system.remove(path)

    def name_of(self, worker_id: str) -> str:
        return self._path(worker_id)

    def begun_us(self, worker_id: str) -> int | None:
        if not self.is_live(worker_id):
            return None
        try:
            return system.stat_path(self._path(worker_id)).st_mtime_ns // 1000
        except OSError:
            return None

    def shown(self) -> Iterator[bytes]:
        for worker_id in self._ids():
            path = self._path(worker_id)
            data = _content(path)
            if data and system.is_locked(path):
                yield data

    def holders(self, worker_ids: Collection[str]) -> dict[str, WorkerHolder]:
        statuses = {each: system.lock_status(self._path(each)) for each in worker_ids if _ID.fullmatch(each)}
        held = [each for each, status in statuses.items() if status.state is not system.LockState.FREE]
        openers = system.openers([self._path(each) for each in held])
        return {each: _holder(statuses[each].holder, openers[self._path(each)]) for each in held}

    def clear(self) -> None:
        """Remove the files that killed workers left. Best effort: they do no harm."""
        for worker_id in self._ids():
            try:
                system.remove_unlocked(self._path(worker_id))
            except OSError:
                pass  # another user's

    def _ids(self) -> list[str]:
        try:
            return [name for name in system.list_directory(self.directory) if _ID.fullmatch(name)]
        except OSError:
            return []

    def _path(self, worker_id: str) -> str:
        return os.path.join(self.directory, worker_id)


def _holder(taker: system.LockHolder | None, openers: list[system.LockHolder]) -> WorkerHolder:
    if not openers:  # another user's, or the system does not tell
        is_left = taker is not None and taker.command is None
        return WorkerHolder(None if is_left else taker, is_left)
    if taker is None or taker.pid in {each.pid for each in openers}:
        return WorkerHolder(taker or openers[0])
    return WorkerHolder(openers[0], is_left=True)


def _content(path: str) -> bytes:
    try:
        descriptor = system.open_file(path)
        try:
            return system.read_at(descriptor.fd, _MOST_SHOWN_BYTES, 0)
        finally:
            descriptor.close()
    except OSError:
        return b""  # removed meanwhile


def _is_directory(path: str) -> bool:
    """Return whether a directory stands there; make it if nothing does."""
    try:
        return system.is_directory(path)
    except FileNotFoundError:
        make_directory_inside(path)
        return system.is_directory(path)


def _create(directory: str) -> tuple[str, system.Descriptor]:
    for _ in range(_CREATE_LIMIT):
        worker_id = os.urandom(_ID_BYTES).hex()
        descriptor = system.create_locked(os.path.join(directory, worker_id))
        if descriptor is not None:
            leave_to_store(descriptor.fd, directory)  # other users' processes check the lock
            return worker_id, descriptor
    raise WriteFailedError(
        f"files in {directory} keep being removed as soon as they are made",
        path=directory,
        reason="worker files vanish",
    )
