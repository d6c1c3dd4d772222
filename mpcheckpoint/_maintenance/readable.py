"""Read all of a store that can be read, and tell what cannot: for people who look. A handle is strict instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpcheckpoint._format.codec import encode_key
from mpcheckpoint._store.store import DirectoryStore
from mpcheckpoint._types import Cursor
from mpcheckpoint._view.follow import Follower
from mpcheckpoint._view.merged_read import Reading
from mpcheckpoint._view.object_index import list_objects
from mpcheckpoint.errors import CheckpointError, LogNotFoundError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator

    from mpcheckpoint._store.store import DirectoryLog
    from mpcheckpoint._view.merged_read import Choice
    from mpcheckpoint._view.object_index import ObjectSummary


class ReadableLogs:
    """The logs of a store, without those that cannot be read: of another user, damaged in the header, or misplaced.

    Writes nothing and takes no lock. A log that cannot be read, or not to its end, is told of once, and what stands
    before the damage is given out.

    Attributes:
        failures: what was met so far, in the order in which it was told.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        log_keys: Iterable[str] | None,
        on_failure: Callable[[CheckpointError], object],
    ) -> None:
        """Open the store in the directory ``path``.

        Args:
            log_keys: only these; None for all, new ones included.
            on_failure: called with what keeps a log from being read: after all that could be read of the others.

        Raises:
            StoreNotFoundError, NotAStoreError, StoreAccessError: there is no store that can be looked at.
            LogNotFoundError, InvalidKeyError: one of ``log_keys`` is none.
        """
        self.failures: list[CheckpointError] = []
        self._store = DirectoryStore(path, create=False, read_only=True)
        self._on_failure = on_failure
        self._logs: dict[str, DirectoryLog] = {}
        # What cannot be read: by path where a header does not tell the key, else by key.
        self._failed: set[str] = set()
        self._untold: list[CheckpointError] = []
        self._token: object | None = None
        self._finds_new = log_keys is None
        for log_key in log_keys or ():
            self._find(log_key, must_exist=True)

    def read(self, choice: Choice, *, last: int | None = None) -> Reading:
        """Return what ``Checkpoint.read`` returns, which does not raise: what cannot be read is told at its end.

        Raises:
            InvalidKeyError: the object key is none.
        """
        if choice.object_key is not None:
            encode_key(choice.object_key)
        return Reading(self._readable(), choice, last, on_failure=self._fail)

    def objects(self, choice: Choice, match: str | None) -> Iterator[ObjectSummary]:
        """Yield what ``Checkpoint.objects`` yields; what cannot be read is told at the end."""
        return list_objects(self._readable(), choice, match, on_failure=self._fail)

    def follow(self, cursor: Cursor, *, idle_timeout_s: float) -> Follower:
        """Return a follower of what can be read, which goes on behind ``cursor``, of a reading that has ended."""

        def discover() -> list[DirectoryLog]:
            logs = self._readable()
            self.tell()
            return logs

        after = Cursor(tuple(place for place in cursor if place.log_key not in self._failed))
        return Follower(discover, after=after, idle_timeout_s=idle_timeout_s)

    def tell(self) -> None:
        """Tell of the logs that could not be opened. What was met in reading others was told before."""
        untold, self._untold = self._untold, []
        for error in untold:
            self.failures.append(error)
            self._on_failure(error)

    def _readable(self) -> list[DirectoryLog]:
        self._discover()
        return [log for log_key, log in sorted(self._logs.items()) if log_key not in self._failed]

    def _discover(self) -> None:
        if not self._finds_new:
            return
        token = self._store.change_token()
        if token is not None and token == self._token:
            return
        for path, found in self._store.listing():
            if isinstance(found, str):
                self._find(found, must_exist=False)
            elif path not in self._failed:
                self._failed.add(path)
                self._untold.append(found)
        self._token = token

    def _find(self, log_key: str, *, must_exist: bool) -> None:
        if log_key in self._logs or log_key in self._failed:
            return
        try:
            self._logs[log_key] = self._store.find_log(log_key)
        except LogNotFoundError:
            if must_exist:
                raise
        except CheckpointError as error:
            self._failed.add(log_key)
            self._untold.append(error)

    def _fail(self, log_key: str, error: CheckpointError) -> None:
        self._failed.add(log_key)
        self._untold.append(error)
