"""The files whose locks show that workers are alive: made and locked, or checked and removed, in one step each.

Each name is used once. So a process that holds any lock on such a file, and then finds it at its path, knows whose it
is.
"""

from __future__ import annotations

import os

from mpcheckpoint._system.files import Descriptor, open_file
from mpcheckpoint._system.locks import lock, try_shared_lock
from mpcheckpoint._system.statx import path_status

_LONGEST_LOOK_S = 0.5


def create_locked(path: str) -> Descriptor | None:
    """Create a file and hold its lock; None if another process removed it, or held a shared lock for too long.

    Another process may find the new file before it is locked, and take it for that of a dead worker.
    """
    descriptor = open_file(path, write=True, create=True, exclusive=True)
    try:
        if lock(descriptor.fd, _LONGEST_LOOK_S) and _is_at(path, descriptor):
            return descriptor
    except BaseException:
        descriptor.close()
        raise
    descriptor.close()
    return None


def remove_unlocked(path: str) -> bool:
    """Remove a file unless its lock is held; return whether it is gone.

    The lock taken for that is a shared one. It keeps the owner from taking its lock in between, and, unlike an
    exclusive one, it does not make a dead owner seem alive to others that look at the same moment.
    """
    try:
        descriptor = open_file(path)
    except FileNotFoundError:
        return True
    try:
        if not try_shared_lock(descriptor.fd):
            return False
        os.unlink(path)
    except FileNotFoundError:
        pass  # another clean-up was quicker
    finally:
        descriptor.close()
    return True


def _is_at(path: str, descriptor: Descriptor) -> bool:
    try:
        return path_status(path).identity == descriptor.identity
    except FileNotFoundError:
        return False
