"""Kernel locks: two functions on a descriptor the caller owns, the store lock, and the proof that locks work.

All are flock locks: they die with the process that took them, they keep threads with different descriptors apart, and
closing another descriptor of the file does not drop them (POSIX record locks fail the last two).
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import filelock
import portalocker
from portalocker.portalocker import FlockLocker

from mpcheckpoint._system.files import filled_streams, open_above_streams

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

# flock whatever ``portalocker.LOCKER`` is set to elsewhere in the process: a POSIX record lock would not exclude
# threads, and two kinds of lock on one file ignore each other. What the locker calls is called without its checks of
# flags, which cost more than the lock, most of all in a process that has just been woken.
_flock = FlockLocker().locker
_EXCLUSIVE = int(portalocker.LockFlags.EXCLUSIVE)
_TRY = _EXCLUSIVE | int(portalocker.LockFlags.NON_BLOCKING)
_SHARED_TRY = int(portalocker.LockFlags.SHARED | portalocker.LockFlags.NON_BLOCKING)
_UNLOCK = int(portalocker.LockFlags.UNBLOCK)
_FIRST_PAUSE_S = 0.0002
_LONGEST_PAUSE_S = 0.02
_STORE_LOCK_POLL_S = 0.01
_CHILD_TIMEOUT_S = 30
# What says nothing about a file system. EAGAIN is the refusal of a child; a lock's is no error here.
_LACKING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
# The child takes the lock by name: it must be refused while this process holds it.
_CHILD = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
try:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    print("refused")
else:
    print("granted")
"""


def lock(
    fd: int, timeout_s: float | None = None, waiting: AbstractContextManager[object] | None = None
) -> bool:
    """Take the exclusive lock of an open file; return False if ``timeout_s`` seconds did not suffice.

    If it is not free at once, ``waiting`` is entered for as long as it takes.
    """
    try:
        _flock(fd, _TRY)
    except BlockingIOError:
        if waiting is None:
            return _wait_for_lock(fd, timeout_s)
        with waiting:
            return _wait_for_lock(fd, timeout_s)
    return True


def _wait_for_lock(fd: int, timeout_s: float | None) -> bool:
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


def unlock(fd: int) -> None:
    """Give the lock of an open file back."""
    _flock(fd, _UNLOCK)


@contextmanager
def store_lock(path: str, timeout_s: float | None) -> Iterator[None]:
    """Hold the lock of a whole store: for rare, long sections. It polls.

    Raises:
        TimeoutError: if it was held elsewhere for ``timeout_s`` seconds.
    """
    guard = filelock.FileLock(
        path,
        timeout=-1 if timeout_s is None else timeout_s,
        poll_interval=_STORE_LOCK_POLL_S,
        fallback_to_soft=False,
    )
    with ExitStack() as held:
        with filled_streams():  # it opens the file by itself
            held.enter_context(guard)
        yield


def prove_locking(path: str, *, with_child: bool) -> str | None:
    """Return None if the file at ``path`` can really be locked, else a sentence on what failed.

    Two descriptors of one process must exclude each other; ``with_child`` proves the same of another process, which
    costs starting one.

    Raises:
        OSError: this process lacks what it takes to find out, be it descriptors or memory.
    """
    first = second = -1
    try:
        first = open_above_streams(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        second = open_above_streams(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        lock(first)
        if try_lock(second):
            return "two descriptors of one file were locked at the same time"
        if with_child and not _child_is_refused(path):
            return "another process was given a lock that this process holds"
        unlock(first)
        return None if try_lock(second) else "a lock given back was not free"
    except OSError as error:
        if error.errno in _LACKING:
            raise
        return f"locking failed: {error}"
    finally:
        for fd in (first, second):
            if fd >= 0:
                os.close(fd)


def _child_is_refused(path: str) -> bool:
    if not sys.executable or getattr(sys, "frozen", False):
        return True  # no interpreter to start: the proof by two descriptors has to do
    answer = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _CHILD, path],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_CHILD_TIMEOUT_S,
        check=False,
    )
    return answer.stdout.strip() != "granted"


def is_locked(path: str) -> bool:
    """Return whether somebody holds the exclusive lock of the file at ``path``; False if there is no such file.

    Looks through a shared lock, so that any number of processes can look at once without taking each other for holders.
    """
    try:
        fd = open_above_streams(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        _flock(fd, _SHARED_TRY)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
