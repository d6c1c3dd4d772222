"""How the logs of a backup differ from what was backed up."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._backup.marker import change_of, read_marker
from mpcheckpoint._logfile.faults import translated
from mpcheckpoint._logfile.header import read_header
from mpcheckpoint._logfile.unfinished import is_unfinished
from mpcheckpoint._store.log_end import clean_end
from mpcheckpoint.errors import CheckpointError

if TYPE_CHECKING:
    from mpcheckpoint._backup.marker import Change, SavedEnd
    from mpcheckpoint._maintenance.repairs.reports import LogCheck

_NOTES: dict[Change, str] = {
    "longer": "records were added since it was backed up: restore does not take this backup any more",
    "another": "it is another one than was backed up: restore does not take this backup any more",
}


class SavedLogs:
    """What a directory says of its logs, if it is a backup: empty if it is none, or one of an earlier release.

    A copy of a backup says so, too, and may be a store that is written to.
    """

    def __init__(self, directory: str) -> None:
        """Read it.

        Raises:
            BackupPlaceError: it cannot be read.
        """
        self._directory = directory
        self._marker = read_marker(directory)
        self.ends: dict[str, SavedEnd] = {}
        if self._marker is not None:
            self.ends = self._marker.logs or {}

    def compared(self, check: LogCheck) -> LogCheck:
        """Return the check of a log with what there is to say of how it was backed up."""
        known = self.ends.get(os.path.basename(check.path))
        if known is None:
            return check
        if check.state == "unreadable":
            is_gone = not system.exists(check.path)
            return replace(check, problem="it is gone, and was backed up") if is_gone else check
        try:
            with translated("reading", check.path, is_read=True):
                file = system.open_file(check.path)
                header = read_header(file.fd, check.path, log_key=None)
                change = change_of(file.fd, header, clean_end(file.fd, header), known)
                size = system.size_of(file.fd)
                if change == "none" or self._is_being_changed():
                    return check
        except CheckpointError:  # the check says so
            return check
        if change == "shorter":
            return replace(check, loss=f"it has {size:,} of the {known.offset:,} bytes that were backed up")
        if change == "damaged":
            return replace(check, loss="its last lines are others")
        return replace(check, notes=(*check.notes, _NOTES[change]))

    def _is_being_changed(self) -> bool:
        """Return whether a backup is made, or was meanwhile: then what is known is not of what was read."""
        return is_unfinished(self._directory) or read_marker(self._directory) != self._marker
