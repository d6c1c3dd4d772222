"""All logs of a store, looked at again and again, new ones included."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._engines import listing, store_at
from mpcheckpoint._maintenance.monitoring.log_monitor import LogMonitor, LogSight
from mpcheckpoint.errors import CheckpointError, CorruptLogError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpcheckpoint._postgres.address import Address


@dataclass(frozen=True, slots=True)
class StoreSight:
    """A store, as it was seen, and when: microseconds since 1970."""

    path: str
    at_us: int
    logs: tuple[LogSight, ...]

    @property
    def appends_s(self) -> float:
        """Appends a second, lately, of all logs."""
        return sum(log.appends_s for log in self.logs)

    @property
    def syncs_s(self) -> float:
        """Syncs a second, lately, of all logs."""
        return sum(log.syncs_s for log in self.logs)


class StoreMonitor:
    """Looks at a store. For one thread at a time, but for ``stop``.

    Reads each log once, and then what is new. Memory is bounded, but for the keys of objects.
    """

    def __init__(self, path: str | os.PathLike[str] | Address, log_keys: Sequence[str] = ()) -> None:
        """Open the store.

        Raises:
            StoreNotFoundError, NotAStoreError, StoreAccessError: there is no store that can be read.
            LogNotFoundError, InvalidKeyError: one of ``log_keys`` does not exist, or cannot.
        """
        self._store = store_at(path)
        self._name = str(path)
        self._finds_new = not log_keys
        self._token: object | None = None
        self._logs: dict[str, LogMonitor] = {}
        self._unreadable: dict[str, CheckpointError] = {}
        self._is_over = False
        for log_key in log_keys:
            self._logs[log_key] = LogMonitor(self._store, self._store.find_log(log_key))

    def look(self) -> StoreSight:
        """Read what is new; return what there is to see.

        Raises:
            StoreAccessError: the store cannot be listed any more.
        """
        self._discover()
        for monitor in self._logs.values():
            if self._is_over:
                break
            monitor.read(lambda: self._is_over)
        users = self._users()
        logs = [monitor.sight(*users[log_key]) for log_key, monitor in sorted(self._logs.items())]
        return StoreSight(self._name, system.now_us(), (*logs, *self._sights_of_unreadable()))

    def stop(self) -> None:
        """Have a look that is under way in another thread end soon."""
        self._is_over = True

    def close(self) -> None:
        """Give back the files."""
        for monitor in self._logs.values():
            monitor.close()

    def _discover(self) -> None:
        if not self._finds_new:
            return
        token = self._store.change_token()
        if token is not None and token == self._token:
            return
        self._unreadable = {}
        for path, found in listing(self._store):
            if isinstance(found, CheckpointError):
                self._unreadable[path] = found
            elif found not in self._logs:
                try:
                    self._logs[found] = LogMonitor(self._store, self._store.find_log(found))
                except CheckpointError as error:
                    self._unreadable[path] = error
        self._token = token

    def _users(self) -> dict[str, tuple[list[system.LockHolder], list[system.LockHolder]]]:
        """Return which processes append to each log, and which only read it: those keep its append lock's file open."""
        openers = system.openers([path for each in self._logs.values() for path in each.place.files or ()])
        found: dict[str, tuple[list[system.LockHolder], list[system.LockHolder]]] = {}
        for log_key, monitor in self._logs.items():
            if monitor.place.files is None:
                found[log_key] = [], []
                continue
            lock, log = monitor.place.files
            writers = [each for each in openers[lock] if each.pid != os.getpid()]
            known = {os.getpid(), *(each.pid for each in writers)}
            readers = [each for each in openers[log] if each.pid not in known]
            found[log_key] = writers, readers
        return found

    def _sights_of_unreadable(self) -> list[LogSight]:
        return [
            LogSight(None, path, "corrupt" if isinstance(error, CorruptLogError) else "unreadable", error)
            for path, error in sorted(self._unreadable.items())
        ]
