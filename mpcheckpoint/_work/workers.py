"""Workers: each lives as long as the kernel holds the lock on its file, so no lock is ever judged by its age."""

from __future__ import annotations

import itertools
import os
import re
import threading

from mpcheckpoint import _system as system
from mpcheckpoint._logfile.faults import translated
from mpcheckpoint._logfile.ownership import leave_to_store, make_directory_inside
from mpcheckpoint._store.process import process
from mpcheckpoint.errors import NotAStoreError, WriteFailedError

_ID = re.compile(r"[0-9a-f]{32}")
_ID_BYTES = 16
_CREATE_LIMIT = 100
# Directories in which this process has removed the files of killed workers.
_cleared: set[str] = set()


class _Thread(threading.local):
    """The number of a thread among those of its process that have run items, from 1."""

    number = 0


_numbers = itertools.count(1)
_thread = _Thread()


def worker_name() -> str:
    """Return how outcomes name whoever runs an item: "4711", a process, or "4711/2", a thread that is not its first.

    Rejected: the id of the worker's file. A command has a file of its own, so there is one an item, and nobody can tell
    which of them ran one after the other.
    """
    if threading.current_thread() is threading.main_thread():
        return str(os.getpid())
    if not _thread.number:
        _thread.number = next(_numbers)
    return f"{os.getpid()}/{_thread.number}"


class Worker:
    """Stands for the work on an object, from the claim to the outcome. Use it in a ``with`` statement.

    Invariant: a worker has one object at a time (held by tests/map/test_claims.py). A command that inherits the lock
    and outlives us blocks that object only. A daemon that a command leaves blocks nothing, since the file is removed
    when the object is done.

    In a forked child the descriptor is closed, never unlocked: an unlock would free the parent's lock, and an open
    descriptor would keep a dead parent's claim alive.

    Attributes:
        id: the name of the locked file.
        path: the locked file.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._pid = os.getpid()
        with translated("starting a worker in", directory):
            if not _is_directory(directory):
                raise NotAStoreError(
                    f"{directory} is no directory; nothing in a store is opened through a link: move it away",
                    path=directory,
                    reason="not a directory",
                )
            if directory not in _cleared:
                _cleared.add(directory)
                remove_dead_workers(directory)
            self.id, self._descriptor = _create(directory)
        self.path = os.path.join(directory, self.id)
        process.register(self)

    @property
    def fd(self) -> int:
        """The descriptor that holds the lock; a command that inherits it keeps this worker alive."""
        return self._descriptor.fd

    @property
    def is_mine(self) -> bool:
        """Whether this process made the worker, and is no fork of that one."""
        return self._pid == os.getpid()

    def begin_again(self) -> bool:
        """Note that this worker begins another object now; return False if its file is gone: its claims count no more.

        The time of the file is what ``Log.map_status`` takes for the beginning of the object's work.
        """
        try:
            system.touch(self.path)
        except OSError:
            return False
        return True

    def retire(self) -> None:
        """End the worker and its claim. The file goes first: a process that inherited the lock then holds no claim."""
        if self.is_mine and self._descriptor.fd >= 0:
            with translated("removing a worker from", self._directory):
                system.remove(self.path)
        self._descriptor.close()

    def reset_after_fork(self) -> None:
        """In a forked child: close the descriptor."""
        self._descriptor.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.retire()


def is_live(directory: str, worker_id: str) -> bool:
    """Return whether that worker lives."""
    if not _ID.fullmatch(worker_id):
        return False  # not one of ours, and it must not become part of a path
    path = os.path.join(directory, worker_id)
    with translated("looking at the worker", path, is_read=True):
        return system.is_locked(path)


def worker_ids(directory: str) -> list[str]:
    """Return the ids of all workers that have a file, dead or alive; none if they cannot be listed."""
    try:
        return [name for name in system.list_directory(directory) if _ID.fullmatch(name)]
    except OSError:
        return []


def remove_dead_workers(directory: str) -> None:
    """Remove the files that killed workers left. Best effort: they do no harm."""
    for name in worker_ids(directory):
        try:
            system.remove_unlocked(os.path.join(directory, name))
        except OSError:
            pass  # another user's


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
