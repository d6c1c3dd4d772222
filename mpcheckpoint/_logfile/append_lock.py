"""The append lock: one thread of one process writes to a log at a time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mpcheckpoint._logfile.lock_file import LockFile
from mpcheckpoint._logfile.lock_waits import LockWait
from mpcheckpoint._logfile.mutex import Mutex, wait_s
from mpcheckpoint._logfile.notices import timed_out

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._logfile.append_state import PureAppendState
    from mpcheckpoint._logfile.paths import LogPaths


class AppendLock:
    """Keeps the threads of this process apart by a mutex, and processes by the kernel's lock on the ``.lock`` file.

    Locking rules:
    1. The mutex, then the kernel's lock, never the other way; the lock is given back before the mutex is.
    2. No sync happens under either, but for a first use, a repair and a switch of generations.
    3. A reader and the fork hook wait for neither while somebody waits for the kernel's lock: a stopped lock holder
       elsewhere must not hang reads or forks here. The fork hook waits, for a moment, where ``is_held``.
    4. User code never runs inside: events are encoded before, warnings logged after.

    How to hold it (rejected: a context manager; its exit is a call of its own, and a Ctrl-C at the start of that call
    would leave the lock to whatever drops the traceback)::

        if lock.is_owned():  # before the try: its finally would give back what the outer call holds
            lock.refuse_reentry()
        try:
            lock.enter(timeout_s)
            lock.take()
            ...
        finally:
            try:
                lock.give_back()
            except BaseException:  # a Ctrl-C in there: every step of it can be done again
                lock.give_back()
                raise
    """

    def __init__(self, paths: LogPaths) -> None:
        self._paths = paths
        self._renew_mutex()
        self._file = LockFile(paths.lock, LockWait(paths.log_key, paths.lock))
        self.is_held = False
        # Whether a thread has the mutex, most likely.
        self.is_entered = False
        # Of the thread that is inside: how long it may wait, and until when.
        self._timeout_s: float | None = None
        self._until_s = 0.0
        # Whether the kernel's lock was tried just now, and held elsewhere.
        self._is_busy = False

    def refuse_reentry(self) -> None:
        """Raise ReentrancyError if this thread is inside already: it would wait for itself."""
        self._mutex.refuse_reentry()

    def enter(self, timeout_s: float | None) -> None:
        """Take the mutex, waiting at most ``timeout_s`` seconds for other threads.

        Raises:
            LockTimeoutError: they had it for so long.
        """
        until_s = 0.0 if timeout_s is None else time.monotonic() + timeout_s
        if not self._mutex.lock.acquire(timeout=wait_s(timeout_s)):
            raise timed_out(self._paths, timeout_s)
        self.is_entered = True
        self._timeout_s, self._until_s = timeout_s, until_s

    def take(self) -> None:
        """Take the kernel's lock, waiting no longer than ``enter`` was told, what that took included.

        Requires: ``enter``. May be called again.

        Raises:
            LockTimeoutError: it was held elsewhere for so long.
            OSError: the lock file cannot be used.
        """
        is_busy, self._is_busy = self._is_busy, False
        left_s = None if self._timeout_s is None else max(0.0, self._until_s - time.monotonic())
        if not self._file.take(left_s, is_busy=is_busy):
            raise timed_out(self._paths, self._timeout_s)
        self.is_held = True

    def for_native(self) -> tuple[object, ...] | None:
        """Return the mutex, the descriptor of the lock file, its number, and which file that is. Requires: ``take``."""
        own = self._file.descriptor
        return None if own is None else (self._mutex.lock, own, (own.fd, own.identity))

    def note_busy(self) -> None:
        """Take note that native code has just tried the kernel's lock, and found it held elsewhere."""
        self._is_busy = True

    def watch(self, state: PureAppendState) -> None:
        """Have waits of native code for the kernel's lock told of, as others are, if they take long."""
        self._file.watch(state)

    def give_back(self) -> None:
        """Give back both locks, if this thread has them; else nothing."""
        if self.is_owned():
            self._file.give_back()
            self.is_held = self.is_entered = False
            self._mutex.lock.release()

    def require_held(self) -> None:
        """Return if the lock that was taken is still held: before what must not be done without, after a while.

        Raises:
            OSError: EBADF, somebody closed the lock file, and with that gave the lock back.
        """
        self._file.require_held()

    def is_at_path(self) -> bool:
        """Return whether the file that is locked is the one that others find."""
        return self._file.is_at_path()

    def close_file(self) -> None:
        """Give the kernel's lock back, and open the lock file anew at the next ``take``."""
        self._file.close()

    # --- fork -------------------------------------------------------------------------------------------------

    def pause_for_fork(self, timeout_s: float, resumes: list[Callable[[], None]], *, is_held: bool) -> None:
        """Take the mutex of a thread that holds the lock, also in native code; wait no longer than ``timeout_s``.

        What gives it back goes to ``resumes`` before it is taken: a Ctrl-C must not leave us with it.
        """
        if (self.is_held or is_held) and not self._mutex.is_owned():
            resumes.append(self._mutex.release_if_owned)
            self._mutex.acquire(timeout_s)

    def reset_after_fork(self) -> None:
        """Let go of both locks in the child: close, never unlock.

        The open file is shared with the parent, and an unlock here would free its lock. Not to close it would keep the
        lock alive when the parent dies.
        """
        self._renew_mutex()
        self.is_held = self.is_entered = False
        self._file.close()

    def _renew_mutex(self) -> None:
        self._mutex = Mutex(f"the log {self._paths.log_key!r}")
        # Whether this thread is inside. The lock's own method: each append asks.
        self.is_owned: Callable[[], bool] = self._mutex.lock._is_owned
