"""The append locks of many logs, held at once: for a cut, and for a restore."""

from __future__ import annotations

import errno
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mpcheckpoint._logfile.faults import translated
from mpcheckpoint._logfile.lock_file import LockFile
from mpcheckpoint._logfile.lock_waits import LockWait
from mpcheckpoint._logfile.notices import timed_out
from mpcheckpoint._store.process import process
from mpcheckpoint.errors import CheckpointError, ReadFailedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mpcheckpoint._logfile.paths import LogPaths

_REOPEN_LIMIT = 100
_LOOK_AGAIN_S = 0.0002
_SHORT = (errno.EMFILE, errno.ENFILE)


class AppendLocks:
    """The append locks of many logs, held at once by one thread.

    Requires: the thread is inside no append, of which a signal handler would know nothing: ``process.refuse_reentry``.
    """

    def __init__(self) -> None:
        self._files: list[LockFile] = []
        process.register(self)

    def try_take(self, paths: LogPaths, until_s: float) -> bool:
        """Take one more; return False if it was held elsewhere until then, by the monotonic clock.

        Polled more often than ``take`` does: others wait for the locks that are held meanwhile.

        Raises:
            OSError: the lock file cannot be used.
        """
        file = LockFile(paths.lock)
        self._files.append(file)
        for _ in range(_REOPEN_LIMIT):
            while not file.try_take():
                if time.monotonic() >= until_s:
                    return False
                time.sleep(_LOOK_AGAIN_S)
            if file.is_at_path():
                return True
            file.close()
        raise OSError(errno.EAGAIN, "the lock file is being replaced again and again", paths.lock)

    def take(self, paths: LogPaths, timeout_s: float | None) -> None:
        """Take one more, waiting at most ``timeout_s`` seconds.

        Raises:
            LockTimeoutError: it was held elsewhere for so long.
            OSError: the lock file cannot be used.
        """
        file = LockFile(paths.lock, LockWait(paths.log_key, paths.lock))
        self._files.append(file)
        for _ in range(_REOPEN_LIMIT):
            if not file.take(timeout_s):
                raise timed_out(paths, timeout_s)
            if file.is_at_path():
                return
            file.close()
        raise OSError(errno.EAGAIN, "the lock file is being replaced again and again", paths.lock)

    def take_all(self, logs: Sequence[LogPaths], timeout_s: float | None) -> None:
        """Take those of all these logs, in this order, waiting at most ``timeout_s`` seconds in all.

        Requires: the store lock. Whoever takes several holds it, so no two processes wait for each other.

        Raises:
            LockTimeoutError: as ``take``.
            ReadFailedError: this process may not open so many files. Nothing was changed.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        for paths in logs:
            with _told_of(paths, len(logs)):
                self.take(paths, None if deadline is None else max(0.0, deadline - time.monotonic()))

    def try_take_all(self, logs: Sequence[LogPaths], until_s: float) -> LogPaths | None:
        """Take those of all these logs, in this order; or return one that was held elsewhere until then.

        Requires: as ``take_all``.

        Raises:
            ReadFailedError: as ``take_all``.
        """
        for paths in logs:
            with _told_of(paths, len(logs)):
                if not self.try_take(paths, until_s):
                    return paths
        return None

    def require_held(self) -> None:
        """Return if all are held still.

        Raises:
            OSError: somebody closed a lock file.
        """
        for file in self._files:
            file.require_held()

    def give_back(self) -> None:
        """Give all back."""
        while self._files:
            self._files[-1].give_back()
            self._files.pop().close()

    def reset_after_fork(self) -> None:
        """Close, in a forked child, what its parent goes on holding."""
        files, self._files = self._files, []
        for file in files:
            file.close()


@contextmanager
def _told_of(paths: LogPaths, count: int) -> Iterator[None]:
    """Raise what goes wrong as what it means for those who want so many locks at once."""
    try:
        with translated("locking", paths.lock):
            yield
    except CheckpointError as error:
        if not is_shortage(error):
            raise
        raise ReadFailedError(
            f"the append locks of all {count} logs are to be held at once, and this process may not open so many "
            f"files ({error.reason}). Nothing was changed",
            path=paths.lock,
            reason=error.reason,
            advice="raise the limit on open files (ulimit -n) and try again",
        ) from error


def is_shortage(error: CheckpointError) -> bool:
    """Return whether a file could not be opened for want of descriptors, which says nothing of the file."""
    return isinstance(error, OSError) and error.errno in _SHORT
