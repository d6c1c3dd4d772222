"""The backup that a restore takes: found, as it was made, and kept so meanwhile."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._backup.marker import read_marker
from mpcheckpoint._backup.restore_steps import refusal, saved_steps
from mpcheckpoint._engines import directory_of
from mpcheckpoint._logfile.faults import translated
from mpcheckpoint._logfile.paths import STORE_LOCK, store_directory
from mpcheckpoint._logfile.unfinished import refuse_unfinished
from mpcheckpoint._store.directory import StoreDirectory
from mpcheckpoint.errors import BackupPlaceError, CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint._backup.marker import Marker
    from mpcheckpoint._backup.restore_steps import RestoreStep

# What keeps a user from locking a backup: it is another one's, on a medium that is only read, or on one without locks.
_NOT_OURS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})


def backup_in(backup: str | os.PathLike[str], path: str | os.PathLike[str]) -> tuple[StoreDirectory, Marker]:
    """Return the directory of a backup that holds something, and lies apart from the store; and what it says."""
    path = directory_of(path, "restore")
    source = StoreDirectory(directory_of(backup, "restore"), create=False, read_only=True)
    here, there = os.path.realpath(source.base), os.path.realpath(store_directory(path))
    if f"{here}/".startswith(f"{there}/") or f"{there}/".startswith(f"{here}/"):
        raise refusal(source, f"and the store {store_directory(path)} lie in one another")
    marker = read_marker(source.path)
    if marker is None or not marker.cut_us:
        raise refusal(source, "is no backup that mpcheckpoint backup made; a plain copy is moved into place")
    return source, marker


@contextmanager
def kept_as_it_is(source: StoreDirectory, marker: Marker, timeout_s: float | None) -> Iterator[None]:
    """Have nobody back up into the backup meanwhile, as far as this user may: its medium may be read-only.

    In the order of a backup: the lock of the place, then that of the store.
    """
    with ExitStack() as held:
        with translated("locking the backup in", source.path, is_read=True):
            if system.exists(os.path.join(source.path, STORE_LOCK)):
                try:
                    held.enter_context(source.locked(timeout_s))
                except OSError as error:
                    if isinstance(error, CheckpointError) or error.errno not in _NOT_OURS:
                        raise
            require_as_it_was(source, marker)
        yield


def require_as_it_was(source: StoreDirectory, marker: Marker) -> None:
    """Return if no backup was begun, or made, in the place since this was its marker."""
    refuse_unfinished(source.path)
    if read_marker(source.path) != marker:
        raise refusal(source, "got another backup meanwhile; try again")


def saved_in(source: StoreDirectory, marker: Marker, directory: str) -> dict[str, RestoreStep]:
    """Return what ``saved_steps`` does. Where somebody backs up into the place meanwhile, that is told."""
    try:
        return saved_steps(source, marker, directory)
    except BackupPlaceError:
        require_as_it_was(source, marker)
        raise
