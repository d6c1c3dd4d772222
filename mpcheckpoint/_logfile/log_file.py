"""The file of a log, open for append: which file it is, and its sync."""

from __future__ import annotations

import errno
from time import monotonic
from typing import TYPE_CHECKING, NoReturn

from mpcheckpoint import _system as system

if TYPE_CHECKING:
    from mpcheckpoint._logfile.paths import LogPaths
    from mpcheckpoint._system import FileStatus

SLOW_SYNC_S = 1.0
_TELL_SLOW_EVERY_S = 60.0
# What a sync can fail by: ``enum failure`` in native/commit.c.
_NOT_SYNCED, _NOT_LOOKED_AT, _ANOTHER_FILE = range(3)


class LogFile:
    """One generation of a log as a file that this process has open.

    Other code of the process may close our descriptor, and its number may then stand for another file. ``is_intact``
    tells: asked whenever the log's bytes, or the page, are not what this process expects, before it writes to the one
    or calls the other damaged; and after each sync, which would have been that of another file.

    Concurrency: ``sync`` by any thread; all else under the append lock.
    """

    def __init__(self, paths: LogPaths) -> None:
        """Open the log.

        Raises:
            OSError: it cannot be opened.
        """
        self._paths = paths
        self.is_poisoned = False
        # Whether somebody closed the descriptor, and the log was not read anew since: so also right after ``reopen``.
        self.is_lost = False
        # What there is to tell once no lock is held: a handler of log messages is user code.
        self.notices: list[str] = []
        self._told_slow_s = -_TELL_SLOW_EVERY_S
        self._open()

    def _open(self) -> None:
        self._descriptor = system.open_file(self._paths.log, write=True)
        self.fd = self._descriptor.fd
        self.status = system.file_status(self.fd)
        self.identity = self.status.identity

    def is_broken(self) -> bool:
        """Return whether a sync of it has failed, or somebody has closed it."""
        return self.is_poisoned or self.is_lost

    def is_intact(self) -> bool:
        """Return whether the descriptor is still that of the log."""
        return self._descriptor.is_intact()

    def reopen(self) -> None:
        """Open the log anew, after somebody has closed the descriptor.

        Nobody told the new descriptor of syncs that failed meanwhile: what is not known to be durable has to be
        written once more, as by a process that has just begun.

        Requires: the append lock, and ``regain`` once that is sure to come.
        """
        self.is_lost = True
        self._open()
        self.notices.append(
            f"somebody closed the open file of log {self._paths.log_key!r}; it was opened again ({self._paths.log})"
        )

    def regain(self) -> None:
        """Take note that what is known of the log is from the descriptor that is open now."""
        self.is_lost = False

    def lose(self) -> OSError:
        """Let go of a descriptor that somebody closed; return the error that says so.

        The next append opens the log anew, also where the number stands for a copy of the log by now, or for a
        descriptor of it that takes no write.
        """
        self.is_lost = True
        self._descriptor.abandon()
        return OSError(errno.EBADF, "somebody closed the open file of the log")

    def is_lost_by(self, error: OSError) -> bool:
        """Return whether a write failed since somebody closed the file; then the next append opens it anew."""
        # EBADF, and yet the log: its number was given to a descriptor that is open for reading only.
        if error.errno != errno.EBADF and self.is_intact():
            return False
        self.lose()
        return True

    def sync(self) -> FileStatus:
        """Make everything durable that was written to the log so far; return what the file is then.

        A failed sync is final: Linux drops the dirty pages, reports it once, and a second sync would succeed.

        Raises:
            OSError: the sync failed, and ``is_poisoned`` is set; or, EBADF, somebody had closed the file.
        """
        began_s = monotonic()
        fd = self.fd  # another thread may open the log anew meanwhile
        try:
            system.sync_data(fd)
        except OSError as error:
            self.fail_sync(_NOT_SYNCED, error)
        try:
            status = system.file_status(fd)
        except OSError as error:
            self.fail_sync(_NOT_LOOKED_AT, error)
        if status[:2] != self.identity:
            self.fail_sync(_ANOTHER_FILE)
        self.note_sync(monotonic() - began_s)
        return status

    def fail_sync(self, failure: int, error: OSError | None = None) -> NoReturn:
        """Raise what it comes to that a sync has failed, or the look at the file after it; or was of another file."""
        if failure == _ANOTHER_FILE or not self.is_intact():
            raise self.lose() from error
        self.is_poisoned = self.is_poisoned or failure == _NOT_SYNCED
        assert error is not None
        raise error

    def note_sync(self, took_s: float) -> None:
        """Have a slow sync told of, but not each of a slow disk."""
        now_s = monotonic()
        if took_s >= SLOW_SYNC_S and now_s - self._told_slow_s >= _TELL_SLOW_EVERY_S:
            self._told_slow_s = now_s
            self.notices.append(
                f"a sync of log {self._paths.log_key!r} took {took_s:.1f} s; the disk is slow, or busy "
                f"({self._paths.log})"
            )

    def for_native(self) -> tuple[object, ...]:
        """Return the descriptor, its number, and which file that is; and from when on a sync is slow."""
        return self._descriptor, (self.fd, self.identity), SLOW_SYNC_S

    def close(self) -> None:
        """Close the file, in a forked child; elsewhere the last thread to let go of this object does."""
        self._descriptor.close()
