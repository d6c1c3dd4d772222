"""A kernel lock on a file that exists for nothing else, its descriptor kept open."""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._logfile.lock_waits import waits
from mpcheckpoint._logfile.ownership import open_beside_log

if TYPE_CHECKING:
    from mpcheckpoint._logfile.append_state import PureAppendState
    from mpcheckpoint._logfile.lock_waits import LockWait

_REOPEN_LIMIT = 100
# What a lock of a descriptor that somebody closed raises. ValueError: of -1, where we were given its number anew.
_CLOSED = (OSError, ValueError)


class LockFile:
    """The append lock or the leader lock of one log, as one process takes it.

    The file is never replaced by us, nor unlinked. If somebody did that by hand, others lock another file: a lock on a
    file that has no name any more does not count.

    Somebody may close our descriptor, and its number may then stand for another file: locked, that would keep nobody
    out. So before each lock the descriptor is shown to be the file that was opened, and after an append lock was waited
    for, once more.

    Concurrency: for one thread at a time; a mutex of the caller sees to that.
    """

    __slots__ = ("_path", "_wait", "descriptor")

    def __init__(self, path: str, wait: LockWait | None = None) -> None:
        """Take the lock of the file at ``path``; where that takes time, ``wait`` is entered meanwhile."""
        self._path = path
        self._wait = wait
        self.descriptor: system.Descriptor | None = None

    def take(self, timeout_s: float | None, *, is_busy: bool = False) -> bool:
        """Take the lock; return False if ``timeout_s`` seconds did not suffice.

        Args:
            is_busy: it was tried just now, and held elsewhere.
        """
        for _ in range(_REOPEN_LIMIT):
            descriptor = (self.descriptor if is_busy else self._intact()) or self._opened()
            try:
                if not is_busy and system.try_lock(descriptor.fd):
                    return True
                is_busy = False
                with self._wait or nullcontext():
                    is_taken = system.lock(descriptor.fd, timeout_s)
                if not is_taken:
                    return False
                if self._intact() is not None:
                    return True
                # What was waited for is a lock on somebody else's file, or on one that has no name any more.
                if not descriptor.is_intact():
                    system.unlock(descriptor.fd)
            except _CLOSED:
                if descriptor.is_intact():
                    raise
                continue  # somebody closed it just now
            self.close()
        raise OSError(errno.EAGAIN, "the lock file is being replaced again and again")

    def try_take(self) -> bool:
        """Take the lock if it is free; return whether it was."""
        descriptor = self._intact() or self._opened()
        try:
            return system.try_lock(descriptor.fd)
        except ValueError:
            return False  # somebody closed it just now

    def watch(self, state: PureAppendState) -> None:
        """Have waits of native code told of, as those of ``take`` are, if they take long."""
        if self._wait is not None:
            waits.watch(self._wait, state)

    def give_back(self) -> None:
        """Give the lock back, if it is held."""
        if self.descriptor is None:
            return
        try:
            system.unlock(self.descriptor.fd)
        except _CLOSED:
            self.close()  # closing the only descriptor of this lock gives it back too

    def require_held(self) -> None:
        """Return if the lock that was taken is held still: before what must not be done without, after a while.

        Raises:
            OSError: EBADF, somebody closed the lock file, and with that gave the lock back; or ENOENT, it was removed.
        """
        if self._intact() is None:
            if self.descriptor is not None and self.descriptor.is_intact():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._path)
            raise OSError(errno.EBADF, "somebody closed the open lock file", self._path)

    def is_at_path(self) -> bool:
        """Return whether the file that is locked is the one that others find."""
        if self.descriptor is None:
            return False
        try:
            at_path = system.stat_path(self._path)
        except FileNotFoundError:
            return False
        opened = system.stat_fd(self.descriptor.fd)
        return (opened.st_dev, opened.st_ino) == (at_path.st_dev, at_path.st_ino)

    def close(self) -> None:
        """Close the file, without unlocking: in a forked child that would free the parent's lock."""
        descriptor, self.descriptor = self.descriptor, None
        if descriptor is not None:
            descriptor.close()

    def _intact(self) -> system.Descriptor | None:
        """Return the descriptor, if it is still that of the lock file, and others can find that file."""
        descriptor = self.descriptor
        if descriptor is None:
            return None
        try:
            status = system.stat_fd(descriptor.fd)
        except OSError:
            return None
        is_ours = status.st_ino == descriptor.identity[1] and status.st_dev == descriptor.identity[0]
        return descriptor if is_ours and status.st_nlink else None

    def _opened(self) -> system.Descriptor:
        self.descriptor = descriptor = open_beside_log(self._path)
        return descriptor
