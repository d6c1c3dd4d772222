"""What a look at a log asks of the place it is on: its file and the locks beside it, or the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mpcheckpoint import _system as system
from mpcheckpoint._logfile.paths import LogPaths
from mpcheckpoint._logfile.poison import Poison
from mpcheckpoint._store.store import DirectoryStore
from mpcheckpoint.errors import CheckpointError

if TYPE_CHECKING:
    from mpcheckpoint._store.protocol import Store, StoredLog


class LogPlace(Protocol):
    """Where a log is.

    Attributes:
        path: its file, or the address of its store.
    """

    path: str

    @property
    def files(self) -> tuple[str, str] | None:
        """Return its append lock and its file: who has them open writes or reads it. None on a server."""

    def mark(self) -> object:
        """Return what is another one once a log that could not be read is worth another try."""

    def lock(self) -> system.LockStatus:
        """Return who holds its append lock."""

    def is_poisoned(self, generation: str) -> bool:
        """Return whether it takes no appends.

        Raises:
            OSError, CheckpointError: that cannot be told.
        """

    def size_bytes(self) -> int | None:
        """Return how large it is; None if that cannot be told."""


class FilePlace:
    """The file of a log, and those beside it. See ``LogPlace``."""

    def __init__(self, paths: LogPaths) -> None:
        self.path, self.files = paths.log, (paths.lock, paths.log)
        self._paths = paths

    def mark(self) -> object:
        """Return what changes when the file is another, or longer."""
        try:
            return system.path_mark(self.path)
        except OSError:
            return ()

    def lock(self) -> system.LockStatus:
        return system.lock_status(self._paths.lock)

    def is_poisoned(self, generation: str) -> bool:
        """Return whether a sync has failed."""
        return Poison(self._paths).reason(generation) is not None

    def size_bytes(self) -> int | None:
        try:
            return system.path_status(self.path).size_bytes
        except OSError:
            return None


class ServerPlace:
    """A log on a server, which is asked. Who uses it there, and who holds its lock, is the server's to tell."""

    files = None

    def __init__(self, stored: StoredLog, path: str) -> None:
        self.path = path
        self._stored = stored

    def mark(self) -> object:
        """Return another object each time: a server is back when it answers."""
        return object()

    def lock(self) -> system.LockStatus:
        """Return that it is not known."""
        return system.LockStatus(system.LockState.UNKNOWN, None, None)

    def is_poisoned(self, generation: str) -> bool:
        """Return what the storage says."""
        del generation
        return bool(self._stored.stats()["is_poisoned"])

    def size_bytes(self) -> int | None:
        """Return what the storage says."""
        try:
            return self._stored.size_bytes()
        except CheckpointError:
            return None


def place_of(store: Store, stored: StoredLog) -> LogPlace:
    """Return where a log of a store is."""
    if isinstance(store, DirectoryStore):
        return FilePlace(LogPaths.of(store.path, stored.log_key))
    return ServerPlace(stored, store.path)
