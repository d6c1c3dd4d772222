"""Read what can be read of a store, and report the rest: for people who look. A handle is strict instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpcheckpoint._engines import listing, store_at
from mpcheckpoint._format.codec import encode_key
from mpcheckpoint._types import Cursor
from mpcheckpoint._view.follow import Follower
from mpcheckpoint._view.followed import FollowedLogs
from mpcheckpoint._view.merged_read import Reading
from mpcheckpoint._view.object_index import list_objects
from mpcheckpoint.errors import CheckpointError, LogNotFoundError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from mpcheckpoint._postgres.address import Address
    from mpcheckpoint._store.protocol import Reader, StoredLog
    from mpcheckpoint._view.merged_read import Choice
    from mpcheckpoint._view.object_index import ObjectSummary


class ReadableLogs:
    """The logs of a store, without those that cannot be read: of another user, damaged in the header, or misplaced.

    Writes nothing and takes no lock. A log that cannot be read, or not to its end, is reported once. What precedes the
    damage is read.

    Attributes:
        failures: the errors so far, in the order in which they were reported.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Address,
        *,
        log_keys: Iterable[str] | None,
        on_failure: Callable[[CheckpointError], object],
    ) -> None:
        """Open the store at ``path``.

        Args:
            log_keys: only these; None for all, new ones included.
            on_failure: called with the error of a log that cannot be read, after all that can be read.

        Raises:
            StoreNotFoundError, NotAStoreError, StoreAccessError: there is no store that can be read.
            LogNotFoundError, InvalidKeyError: one of ``log_keys`` does not exist, or cannot.
        """
        self.failures: list[CheckpointError] = []
        self._store = store_at(path)
        self._on_failure = on_failure
        self._logs: dict[str, StoredLog] = {}
        # The logs that cannot be read: by path if a header does not tell the key, else by key.
        self._failed: set[str] = set()
        self._untold: list[CheckpointError] = []
        self._token: object | None = None
        self._finds_new = log_keys is None
        for log_key in log_keys or ():
            self._find(log_key, must_exist=True)

    def read(self, choice: Choice, *, last: int | None = None) -> Reading:
        """Return what ``Checkpoint.read`` returns, but without raising: ``tell`` reports what cannot be read.

        Raises:
            InvalidKeyError: the object key is invalid.
        """
        if choice.object_key is not None:
            encode_key(choice.object_key)
        return Reading(self._readable(), choice, last, on_failure=self._fail)

    def objects(self, choice: Choice, match: str | None) -> Iterator[ObjectSummary]:
        """Yield what ``Checkpoint.objects`` yields; ``tell`` reports what cannot be read."""
        return list_objects(self._readable(), choice, match, on_failure=self._fail)

    def follow(self, cursor: Cursor, *, idle_timeout_s: float) -> Follower:
        """Return a follower of the readable logs that goes on after ``cursor``, the end of a reading."""

        def look(_: Sequence[Reader]) -> tuple[bool, list[StoredLog]]:
            logs = self._readable()
            self.tell()
            return False, logs

        after = Cursor(tuple(place for place in cursor if place.log_key not in self._failed))
        return Follower(FollowedLogs(look, after), idle_timeout_s)

    def tell(self) -> None:
        """Report the logs that could not be read since the last call."""
        untold, self._untold = self._untold, []
        for error in untold:
            self.failures.append(error)
            self._on_failure(error)

    def _readable(self) -> list[StoredLog]:
        self._discover()
        return [log for log_key, log in sorted(self._logs.items()) if log_key not in self._failed]

    def _discover(self) -> None:
        if not self._finds_new:
            return
        token = self._store.change_token()
        if token is not None and token == self._token:
            return
        for path, found in listing(self._store):
            if isinstance(found, str):
                self._find(found, must_exist=False)
            elif path not in self._failed:
                self._fail(path, found)
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
            self._fail(log_key, error)

    def _fail(self, log_key: str, error: CheckpointError) -> None:
        self._failed.add(log_key)
        self._untold.append(error)
