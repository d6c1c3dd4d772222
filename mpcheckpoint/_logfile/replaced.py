"""Whether the file that was appended to is the log still, once it was synced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._logfile.successor import outcome_unknown
from mpcheckpoint.errors import CheckpointError, OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._logfile.opened import Appended
    from mpcheckpoint._logfile.paths import LogPaths
    from mpcheckpoint._types import Position

_LOCK_WAIT_AFTER_LOSS_S = 10.0


def has_a_successor(
    appended: Appended, position: Position, paths: LogPaths, cover_all: Callable[..., Appended]
) -> bool:
    """Return whether another file has taken the place of the one that was appended to."""
    log = appended.log
    try:
        status = system.file_status(log.file.fd)
    except OSError:
        if log.file.is_intact():
            raise
    else:
        if status[:2] == log.file.identity and log.state.beginning == appended.beginning:
            return status.links == 0
    # Somebody closed the descriptor, and other threads or processes have synced the log.
    return is_replaced_by_now(appended, position, paths, cover_all)


def is_replaced_by_now(
    appended: Appended, position: Position, paths: LogPaths, cover_all: Callable[..., Appended]
) -> bool:
    """Make an append durable whose file somebody closed: as a first use does, opening it anew.

    Return whether the log got another generation meanwhile.

    Args:
        cover_all: makes everything durable that the log holds now; see ``LogWriter._cover_all``.

    Raises:
        OutcomeUnknownError: it could not be made durable, or what was written went elsewhere.
    """
    cause = "somebody closed the open file of the log"
    try:
        there = cover_all(_LOCK_WAIT_AFTER_LOSS_S, position, tries=1)
    except OutcomeUnknownError:
        raise
    except CheckpointError as failure:
        raise outcome_unknown(paths, f"{cause} ({failure.message})", position) from failure
    if there.log.generation != position.generation:
        return True
    # Closed before it was written, it went into whatever file had got the number.
    if there.end.offset < appended.end.offset or not there.log.end.bears_out(appended.end):
        raise outcome_unknown(paths, f"{cause}, and the record is not in it", position)
    return False
