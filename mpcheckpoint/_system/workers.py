"""The files by which workers show that they live: made and locked, or looked at and removed, in one step each.

A name is used once. So whoever holds any lock on such a file, and then finds it at its path, knows whose it is.
"""

from __future__ import annotations

import os

import portalocker
from portalocker.portalocker import FlockLocker

from mpcheckpoint._system.files import Descriptor, open_file, stat_fd, stat_path
from mpcheckpoint._system.locks import lock

_flock = FlockLocker()  # as in ``locks``: flock, whatever other libraries set portalocker to
_SHARED_TRY = portalocker.LockFlags.SHARED | portalocker.LockFlags.NON_BLOCKING
_LONGEST_LOOK_S = 0.5


def create_locked(path: str) -> Descriptor | None:
    """Create a file and hold its lock; None if somebody removed it, or looked at it too long, before it was locked.

    Another process may take the file, new and not yet locked, for one whose owner is dead.
    """
    descriptor = open_file(path, write=True, create=True, exclusive=True)
    try:
        if lock(descriptor.fd, _LONGEST_LOOK_S) and _is_at(path, descriptor.fd):
            return descriptor
    except BaseException:
        descriptor.close()
        raise
    descriptor.close()
    return None


def remove_unlocked(path: str) -> bool:
    """Remove a file unless somebody holds its lock; return whether it is gone.

    The shared lock keeps its owner from taking the lock in between, and, unlike an exclusive one, does not make a dead
    owner seem alive to those who look at the same moment.
    """
    try:
        descriptor = open_file(path)
    except FileNotFoundError:
        return True
    try:
        _flock.lock(descriptor.fd, _SHARED_TRY)
        os.unlink(path)
    except portalocker.LockException:
        return False
    except FileNotFoundError:
        return True  # two clean-ups at once
    finally:
        descriptor.close()
    return True


def _is_at(path: str, fd: int) -> bool:
    try:
        at_path = stat_path(path)
    except FileNotFoundError:
        return False
    opened = stat_fd(fd)
    return (at_path.st_dev, at_path.st_ino) == (opened.st_dev, opened.st_ino)
