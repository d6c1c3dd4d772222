"""Kernel locks: on a descriptor that the caller owns, of a whole store, and the proof that locks work.

All are flock locks. They die with the process that took them, they exclude threads that have different descriptors, and
closing another descriptor of the file does not drop them. POSIX record locks fail the last two.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary, WeakSet

import portalocker
from portalocker.portalocker import FlockLocker

from mpcheckpoint import _core
from mpcheckpoint._system.files import Descriptor, open_above_streams, open_file
from mpcheckpoint._system.statx import path_status
from mpcheckpoint.errors import ReentrancyError

if TYPE_CHECKING:
    from collections.abc import Iterator

# flock, whatever ``portalocker.LOCKER`` is set to elsewhere in the process: a POSIX record lock would not exclude
# threads, and two kinds of lock on one file ignore each other. Called without the locker's checks of flags: they cost
# more than the lock, most of all in a process that has just been woken.
_flock = FlockLocker().locker
_EXCLUSIVE = int(portalocker.LockFlags.EXCLUSIVE)
_TRY = _EXCLUSIVE | int(portalocker.LockFlags.NON_BLOCKING)
_SHARED_TRY = int(portalocker.LockFlags.SHARED | portalocker.LockFlags.NON_BLOCKING)
_UNLOCK = int(portalocker.LockFlags.UNBLOCK)
_FIRST_PAUSE_S = 0.0002
_LONGEST_PAUSE_S = 0.02
_REOPEN_LIMIT = 100
_CHILD_TIMEOUT_S = 30
_LONGEST_PROBE_S = 2.0
# The native core's, which needs no interpreter: a hundredth of the time.
_lock_in_child = getattr(_core.native, "lock_in_child", None)
# The child opens the file by its name. It must be refused the lock while this process holds it.
_CHILD = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
try:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("refused")
else:
    print("granted")
"""


def lock(fd: int, timeout_s: float | None = None) -> bool:
    """Wait for the exclusive lock of an open file; return False if it was not free for ``timeout_s`` seconds."""
    if timeout_s is None:
        _flock(fd, _EXCLUSIVE)
        return True
    deadline = time.monotonic() + timeout_s
    pause_s = _FIRST_PAUSE_S
    while not try_lock(fd):
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return False
        time.sleep(min(pause_s, left_s))
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
    return True


def try_lock(fd: int) -> bool:
    """Take the exclusive lock of an open file if it is free; return whether it was."""
    try:
        _flock(fd, _TRY)
    except BlockingIOError:
        return False
    return True


def try_shared_lock(fd: int) -> bool:
    """Take a shared lock of an open file unless the exclusive one is held; return whether it was taken."""
    try:
        _flock(fd, _SHARED_TRY)
    except BlockingIOError:
        return False
    return True


def unlock(fd: int) -> None:
    """Release the lock of an open file."""
    _flock(fd, _UNLOCK)


class StoreLocks:
    """What this process has open to hold, or to wait for, the locks of stores."""

    def __init__(self) -> None:
        # Weakly: a Ctrl-C may come before what is done with is taken out, and what stays open stays locked.
        self.files: WeakSet[Descriptor] = WeakSet()
        # Which thread holds a lock.
        self._holders: WeakKeyDictionary[Descriptor, int] = WeakKeyDictionary()

    def note_held(self, file: Descriptor) -> None:
        """Take note that this thread holds a lock."""
        self._holders[file] = threading.get_ident()

    def note_given_back(self, file: Descriptor) -> None:
        """Take note that a lock is not held from here on."""
        self._holders.pop(file, None)

    def refuse_reentry(self, file: Descriptor, path: str) -> None:
        """Return if this thread does not hold the lock of this file: it would wait for itself.

        Raises:
            ReentrancyError: it does.
        """
        for held, thread in list(self._holders.items()):
            if thread == threading.get_ident() and held.identity == file.identity and held.is_intact():
                raise ReentrancyError(
                    f"what holds the lock {path} was entered again by the same thread, from a function that it was "
                    "given, a signal handler or a finalizer; do the call from ordinary code",
                    path=path,
                    reason="re-entry",
                )

    def reset_after_fork(self) -> None:
        """Close, in a forked child, the files of its parent, which goes on holding its locks."""
        files = list(self.files)
        self.__init__()  # type: ignore[misc]
        for file in files:
            file.close()


store_locks = StoreLocks()


@contextmanager
def store_lock(path: str, timeout_s: float | None) -> Iterator[None]:
    """Hold the lock of a whole store, a file that exists, for rare, long sections.

    Raises:
        TimeoutError: it was held elsewhere for ``timeout_s`` seconds.
        ReentrancyError: this thread holds it, and would wait for ever.
        OSError: it cannot be opened: there is none, or it is a link; or it is being replaced again and again.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    file = _locked_file(path, deadline)
    try:
        yield
    finally:
        store_locks.note_given_back(file)
        store_locks.files.discard(file)
        if file.is_intact():  # not in a forked child, nor where somebody closed it
            # Unlocked, not closed alone: a child that was forked while the file was being opened shares the lock.
            unlock(file.fd)
        file.close()


def _locked_file(path: str, deadline: float | None) -> Descriptor:
    """Return the file of that name, open and locked: the one that has the name once it is locked."""
    for _ in range(_REOPEN_LIMIT):
        file = open_file(path, write=True)
        store_locks.files.add(file)
        try:
            if deadline is None:
                store_locks.refuse_reentry(file, path)
            if not lock(file.fd, None if deadline is None else max(0.0, deadline - time.monotonic())):
                raise TimeoutError(errno.ETIMEDOUT, "the lock is held elsewhere", path)
            if path_status(path).identity == file.identity:
                store_locks.note_held(file)
                return file
        except BaseException:
            store_locks.files.discard(file)
            file.close()
            raise
        store_locks.files.discard(file)
        file.close()
    raise OSError(errno.EAGAIN, "the lock file is being replaced again and again", path)


class LockProof(NamedTuple):
    """What is known of the locks of a file system.

    Attributes:
        works: True: a second lock was refused to another descriptor, and to another process if one was to be asked.
            False: a second lock was granted. None: refused to another descriptor; no process could be asked.
        cause: which lock was granted, or why no process could be asked; "" where locks work.
    """

    works: bool | None
    cause: str = ""


_GRANTED = LockProof(False, "another process was given a lock that this process holds")


def prove_locking(path: str, *, with_child: bool) -> LockProof:
    """Try whether the file at ``path``, which nobody else uses, can really be locked.

    Two descriptors of one process must exclude each other. ``with_child`` starts another process and proves the same of
    that. Only a second lock that was granted is evidence that locks do not work.

    Raises:
        OSError: two descriptors could not be tried (none left, no memory, an I/O error), or the file system says that
            it does not lock files (ENOSYS, ENOLCK, EOPNOTSUPP).
    """
    first = second = -1
    try:
        first = open_above_streams(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        second = open_above_streams(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        if not lock(first, _LONGEST_PROBE_S):
            raise OSError(errno.EBUSY, "a file that was just made is already locked", path)
        if try_lock(second):
            return LockProof(False, "two descriptors of one file were locked at the same time")
        proof = _proof_by_child(path) if with_child else LockProof(True)
        if proof.works is False:
            return proof
        unlock(first)
        if not lock(second, _LONGEST_PROBE_S):
            raise OSError(errno.EBUSY, "a lock that was released is still held", path)
        return proof
    finally:
        for fd in (first, second):
            if fd >= 0:
                os.close(fd)


def _proof_by_child(path: str) -> LockProof:
    """Have another process ask for the lock of a file, which this process holds."""
    answer = None if _lock_in_child is None else _lock_in_child(os.fsencode(path))
    if answer == errno.EWOULDBLOCK:
        return LockProof(True)
    if answer == 0:
        return _GRANTED
    return _proof_by_interpreter(path)  # which asks, or has words for why that cannot be done


def _proof_by_interpreter(path: str) -> LockProof:
    if not sys.executable or getattr(sys, "frozen", False):
        return LockProof(True)  # no interpreter to start: two descriptors have to do as a proof
    try:
        answer = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _CHILD, path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_CHILD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        cause = f"gave no answer for {_CHILD_TIMEOUT_S} s"
    except OSError as error:
        cause = f"could not be run: {error.strerror or error}"
    else:
        said = answer.stdout.strip()
        if said == "refused":
            return LockProof(True)
        if said == "granted":
            return _GRANTED
        lines = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        cause = f"gave no answer: {lines[-1]}"
    return LockProof(None, f"{sys.executable} {cause}")


def is_locked(path: str) -> bool:
    """Return whether the exclusive lock of the file at ``path`` is held; False if there is no such file.

    Asked by a shared lock, so that any number of processes can ask at once without taking each other for the holder.
    """
    try:
        fd = open_above_streams(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        return not try_shared_lock(fd)
    finally:
        os.close(fd)
