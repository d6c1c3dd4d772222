"""The mark that a failed sync leaves beside a log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mpcheckpoint import _system as system
from mpcheckpoint._storage.repair import write_whole

if TYPE_CHECKING:
    from mpcheckpoint._storage.paths import LogPaths

_LARGEST_NOTE_BYTES = 4096


class _Note(msgspec.Struct):
    """The generation whose sync failed, and how."""

    generation: str
    reason: str


class Poison:
    """The ``.poison`` file of one log.

    Invariant: it concerns the generation it names and no other, so one that survives a recovery is void.
    """

    def __init__(self, paths: LogPaths) -> None:
        self._path = paths.poison
        self._directory = paths.directory

    def mark(self, generation: str, error: OSError) -> str | None:
        """Tell every process that a sync of ``generation`` failed; return why that could not be told, or None.

        Best effort, for the disk is failing. Crash, or no room for the file: processes that had the log open get
        the error from their own next sync, and whoever opens it later writes the unsynced part once more before
        calling it durable.
        """
        note = _Note(generation, error.strerror or str(error))
        try:
            file = system.open_file(self._path, write=True, create=True)
            write_whole(file.fd, msgspec.json.encode(note), 0)
            system.sync_data(file.fd)
            system.sync_directory(self._directory)
        except OSError as failure:
            return f"could not write {self._path}: {failure}"
        return None

    def reason(self, generation: str) -> str | None:
        """Return why ``generation`` takes no appends, or None if it does.

        Raises:
            OSError: the file is there and cannot be read.
        """
        if not system.exists(self._path):
            return None
        try:
            file = system.open_file(self._path)
        except FileNotFoundError:
            return None  # recovered between the two looks
        data = system.read_at(file.fd, _LARGEST_NOTE_BYTES, 0)
        try:
            note = msgspec.json.decode(data, type=_Note)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return "a sync failed, and then the note about it"
        return note.reason if note.generation == generation else None

    def clear(self) -> None:
        """Forget that a sync failed. Requires: the append lock, and a durable successor at the log's path."""
        system.remove(self._path)
        system.sync_directory(self._directory)
