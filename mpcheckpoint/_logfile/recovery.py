"""Another generation in a log's place, or a torn end cut off, as a writer does it outside of an append."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, TypeVar

from mpcheckpoint import _system as system
from mpcheckpoint._logfile.faults import typed
from mpcheckpoint._logfile.generations import switch_generation
from mpcheckpoint._logfile.header import read_header

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._logfile.append import LogWriter
    from mpcheckpoint._logfile.opened import OpenLog
    from mpcheckpoint._types import Repair

T = TypeVar("T")


def recover(writer: LogWriter, timeout_s: float | None) -> None:
    """Put a new generation with the same records in the place of this one, and forget that a sync failed.

    Requires: the store lock.

    Raises:
        LockTimeoutError, CorruptLogError, WriteFailedError: nothing was changed.
    """

    def switch(log: OpenLog | None) -> None:
        old = log or writer.opened()
        old.reopen_if_lost()
        switch_generation(writer.paths, old)
        writer.poison.clear()

    writer.exclusive(timeout_s, switch)


def repair_end(writer: LogWriter, timeout_s: float | None) -> Repair | None:
    """Repair a torn end as the next append would, and make what is left durable; return what was cut off, if any.

    Raises:
        LockTimeoutError, CorruptLogError, PoisonedLogError: nothing was changed.
        WriteFailedError: nothing was cut.
    """
    # As a process that has just begun: one that believes the page does not look after padding.
    return writer.exclusive(timeout_s, lambda _: writer.establish(writer.opened()))


def replace_damaged(
    writer: LogWriter, timeout_s: float | None, replace: Callable[[Callable[[], None]], T | None]
) -> T | None:
    """Return what ``replace`` does under the locks of a log whose file may hold anything; None if that is nothing.

    ``replace`` puts another generation in the place of this one, or returns None. It is given a function that raises an
    OSError if the append lock was lost meanwhile.

    Requires: the store lock.

    Raises:
        LockTimeoutError: nothing was changed. And what ``replace`` raises.
        WriteFailedError: somebody replaced the lock file. Nothing was changed, and the next call takes the new one.
    """

    def under_lock(_: OpenLog | None) -> T | None:
        # To an append an open log tells that its lock file is the one that others find. A damaged log tells nothing.
        if not writer.lock.is_at_path():
            writer.lock.close_file()
            cause = OSError(errno.EAGAIN, "another lock file was put in its place")
            raise typed(cause, doing="locking", path=writer.paths.lock)
        replaced = replace(writer.lock.require_held)
        if replaced is not None:
            writer.poison.clear()
        return replaced

    return writer.exclusive(timeout_s, under_lock)


def is_poisoned(writer: LogWriter) -> bool:
    """Return whether the log takes no appends because a sync of it failed. Only reads."""
    current = writer.log
    if current is not None and current.file.is_poisoned and writer.is_current(current):
        return True
    paths = writer.paths
    log = system.open_file(paths.log)
    header = read_header(log.fd, paths.log, log_key=paths.log_key)
    return writer.poison.reason(header.generation) is not None
