"""A store that a backup, or a restore, has left half done: nobody writes to it until that is brought to an end."""

from __future__ import annotations

import os
import shlex

from mpcheckpoint import _system as system
from mpcheckpoint._logfile.paths import BACKUP_JOURNAL
from mpcheckpoint.errors import UnfinishedBackupError


def is_unfinished(directory: str) -> bool:
    """Return whether a journal stands in the directory of a store."""
    return system.exists(os.path.join(directory, BACKUP_JOURNAL))


def refuse_unfinished(directory: str) -> None:
    """Return if no journal stands in the directory of a store.

    Raises:
        UnfinishedBackupError: one does. Nothing was changed.
    """
    if not is_unfinished(directory):
        return
    base = os.path.dirname(directory)
    command = f"mpcheckpoint repair --store {shlex.quote(base)} --yes"
    raise UnfinishedBackupError(
        f"a backup into {base}, or a restore of it, was interrupted or is under way: its logs may not belong "
        f"together; start the backup or restore again, or bring it to an end with {command}",
        path=os.path.join(directory, BACKUP_JOURNAL),
        reason="unfinished backup or restore",
    )
