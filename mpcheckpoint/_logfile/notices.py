"""What a writer says of its log, in the log messages of this process and in errors."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mpcheckpoint.errors import LockTimeoutError

if TYPE_CHECKING:
    from mpcheckpoint._logfile.log_file import LogFile
    from mpcheckpoint._logfile.paths import LogPaths
    from mpcheckpoint._types import Repair

logger = logging.getLogger("mpcheckpoint")


def repaired(repair: Repair) -> str:
    """Return what is said of a repair."""
    return (
        f"repaired the torn end of log {repair.log_key!r}: {repair.length_bytes} "
        f"{'byte' if repair.length_bytes == 1 else 'bytes'} at offset {repair.offset} moved to {repair.path}"
    )


def tell(file: LogFile) -> None:
    """Log what a log file has to tell. Requires: no lock is held, for handlers are user code."""
    while file.notices:
        try:
            notice = file.notices.pop(0)
        except IndexError:  # another thread told it
            return
        logger.warning("%s", notice)


def timed_out(paths: LogPaths, timeout_s: float | None) -> LockTimeoutError:
    """Return the error for an append lock that others held for too long."""
    return LockTimeoutError(
        f"the log {paths.log_key!r} was locked by another writer for {abs(timeout_s or 0):g} s ({paths.lock}). "
        "Nothing was written",
        path=paths.lock,
        reason="lock timeout",
        advice="try again, or give a longer lock_timeout_s",
        shell_advice="try again, or give a longer --lock-timeout",
    )
