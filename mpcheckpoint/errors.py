"""The errors of mpcheckpoint: one root, each also the builtin exception a caller would expect.

Contention is a result, a torn end is a state, corruption is an exception. Every message says what happened,
where, and what to do; every error survives pickling, and so crosses process pools whole.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from mpcheckpoint._root_error import CheckpointError as CheckpointError  # noqa: PLC0414 - for users
from mpcheckpoint._root_error import InvalidPositionError as InvalidPositionError  # noqa: PLC0414 - for users
from mpcheckpoint._root_error import advised
from mpcheckpoint._work_errors import BadLineError as BadLineError  # noqa: PLC0414 - for users
from mpcheckpoint._work_errors import ChangedItemError as ChangedItemError  # noqa: PLC0414 - for users
from mpcheckpoint._work_errors import ChangedVersionError as ChangedVersionError  # noqa: PLC0414 - for users
from mpcheckpoint._work_errors import InvalidFunctionError as InvalidFunctionError  # noqa: PLC0414 - for users
from mpcheckpoint._work_errors import InvalidItemError as InvalidItemError  # noqa: PLC0414 - for users
from mpcheckpoint._work_errors import ItemFailedError as ItemFailedError  # noqa: PLC0414 - for users
from mpcheckpoint._work_errors import JournalError as JournalError  # noqa: PLC0414 - for users
from mpcheckpoint._work_errors import MissingExtraError as MissingExtraError  # noqa: PLC0414 - for users
from mpcheckpoint._work_errors import NoSourceError as NoSourceError  # noqa: PLC0414 - for users
from mpcheckpoint._work_errors import ShortageError as ShortageError  # noqa: PLC0414 - for users
from mpcheckpoint._work_errors import SourceBusyError as SourceBusyError  # noqa: PLC0414 - for users
from mpcheckpoint._work_errors import SourceChangedError as SourceChangedError  # noqa: PLC0414 - for users
from mpcheckpoint._work_errors import WorkerDiedError as WorkerDiedError  # noqa: PLC0414 - for users

if TYPE_CHECKING:
    from mpcheckpoint._types import Position


def shell_text(error: CheckpointError) -> str:
    """Return an error's message with the advice that helps on the command line: options, not arguments."""
    return advised(error.message, error.shell_advice)


# --- what the caller handed in -----------------------------------------------------------------------------


class InvalidEventError(CheckpointError, TypeError, ValueError):
    """The event has no lossless JSON form. Nothing was written.

    Attributes:
        type_name: the type that JSON does not have, as "numpy.bool"; None if the type is one of JSON's and the value is
            refused, as NaN is.
    """

    def __init__(self, message: str, *, reason: str = "", type_name: str | None = None) -> None:
        super().__init__(message, reason=reason)
        self.type_name = type_name


class InvalidResultError(InvalidEventError):
    """What a map's function returned is no JSON value. The item is recorded as failed.

    With ``on_error="raise"`` the first one is raised; else it ends the map once it has repeated
    (``max_invalid_results``).
    """


class InvalidKeyError(CheckpointError, TypeError, ValueError):
    """The log key or object key is not a string that UTF-8 can hold. Nothing was written."""


class LimitExceededError(CheckpointError, ValueError):
    """An event or a batch is larger than the format allows. Nothing was written."""


class UnknownSchemeError(CheckpointError, ValueError):
    """A URL was given where the path of a directory or file should be. Nothing was made.

    Neither the message nor an attribute holds more of the URL than its scheme: there may be a password in it.

    Attributes:
        scheme: what is before ``://``.
    """

    scheme: str

    def __init__(self, scheme: str, what: str, advice: str) -> None:
        super().__init__(
            f"the {what} is given as a URL ({scheme}://...); {advice}. Where a name really begins like that, put ./ "
            "before it",
            reason="a URL",
        )
        self.scheme = scheme


class InvalidAddressError(CheckpointError, ValueError):
    """The address of a store on a server is not written as one. Nothing was made.

    Neither the message nor an attribute repeats anything of it: there may be a password in it.
    """

    def __init__(self, why: str) -> None:
        super().__init__(
            f"the address of the store is invalid: {why}. An address is postgresql://user@host/database#store",
            reason="no address",
        )


class NotForThisStoreError(CheckpointError, TypeError, ValueError):
    """What was asked for is about the files of a store, and this store is on a server. Nothing was changed.

    Attributes:
        path: the address of the store, without its password.
    """

    def __init__(self, what: str, path: str) -> None:
        super().__init__(
            f"not for this store: {what} is for stores in a directory, and {path} is on a server",
            path=path,
            reason="not in a directory",
        )


# --- the place a store should stand in ---------------------------------------------------------------------


class StoreNotFoundError(CheckpointError, FileNotFoundError):
    """There is no store here, and the handle may not create one."""


class NotAStoreError(CheckpointError, NotADirectoryError):
    """Something else is where the store, or a part of it, should be: a file, or a symbolic link."""


class StoreAccessError(CheckpointError, PermissionError):
    """The operating system refuses access to the store. Nothing was written."""


class StoreUnavailableError(CheckpointError, ConnectionError):
    """The server that keeps the store could not be reached for ``retry_s`` seconds, or not be used. Nothing was
    written."""


class LockUnsupportedError(CheckpointError, OSError):
    """The file system does not really lock files, so processes could not be kept apart."""


class NetworkFileSystemError(LockUnsupportedError):
    """The store lies on a network file system, where locks and appends cannot be relied on."""


class UnsupportedPlatformError(CheckpointError, OSError):
    """This operating system is not supported."""


class UnfinishedBackupError(CheckpointError, RuntimeError):
    """A backup into this directory, or a restore of it, was interrupted or is under way: its logs may not belong
    together. Nothing was changed. The same again, or a repair, brings it to an end."""


class BackupPlaceError(CheckpointError, ValueError):
    """The directory cannot take this backup, or this store cannot be restored from it: it is, or lies in, something
    else. Nothing was changed."""


class ReadOnlyError(CheckpointError, PermissionError):
    """The handle was opened with ``read_only=True`` and never writes."""


class ClosedError(CheckpointError, ValueError):
    """The handle, follower or transaction is closed."""


class ReentrancyError(CheckpointError, RuntimeError):
    """A signal handler, a finalizer, an ``on_progress`` or the items of a map entered what was just calling them, or a
    task an AsyncClaim whose block had not ended."""


# --- logs --------------------------------------------------------------------------------------------------


class LogNotOpenError(CheckpointError, KeyError):
    """The log key is not open in this handle: create or open it first."""


class LogNotFoundError(CheckpointError, KeyError):
    """The store has no log of that key, and the handle may not create one.

    Attributes:
        log_key: the key.
    """

    log_key: str | None

    def __init__(
        self, message: str, *, path: str | None = None, reason: str = "", log_key: str | None = None
    ) -> None:
        super().__init__(message, path=path, reason=reason)
        self.log_key = log_key


class CorruptLogError(CheckpointError, ValueError):
    """Bytes that were once durable no longer read as they were written. Nothing was changed.

    Attributes:
        path, offset, reason: where the damage starts, and what it is.
        expected: what should be there.
        found: what is there.
    """

    expected: str
    found: str

    def __init__(
        self,
        path: str,
        offset: int,
        *,
        expected: str,
        found: str,
        log_key: str | None = None,
        advice: str | None = None,
    ) -> None:
        """``advice``: in the place of the usual one."""
        where = f"log {log_key!r} ({path})" if log_key is not None else path
        shows = f"mpcheckpoint repair --store {_store_of(path)} shows"
        super().__init__(
            f"{where} is corrupt at offset {offset}: expected {expected}, found {found}. Nothing was changed",
            path=path,
            offset=offset,
            reason="corrupt",
            advice=advice or f"{shows} what can be saved, Log.read() what precedes it",
            shell_advice=advice or f"{shows} what can be saved",
        )
        self.expected = expected
        self.found = found
        self.log_key = log_key


def _store_of(path: str) -> str:
    return shlex.quote(path.rpartition("/.checkpoint/")[0]) if "/.checkpoint/" in path else "DIR"


class FormatVersionError(CheckpointError, ValueError):
    """The log was written by a newer format version, or holds a control line this version does not know."""


class WrongLogError(CheckpointError, ValueError):
    """The header of a log file names another log key than its file name does."""


# --- writing -----------------------------------------------------------------------------------------------


class LockTimeoutError(CheckpointError, TimeoutError):
    """A lock was held by somebody else for longer than ``lock_timeout_s``. Nothing was written."""


class WriteFailedError(CheckpointError, OSError):
    """The operating system refused the write (disk full, quota, limit). Nothing was appended; try again."""


class ReadFailedError(CheckpointError, OSError):
    """The operating system failed to read. An I/O error is never taken for the end of a log; nothing was changed."""


class OutcomeUnknownError(CheckpointError, OSError):
    """The record was written but not made durable: whether it is there will show after recovery. Until then the log
    takes no appends. A NoAnswerError has another meaning, and the log goes on.

    Attributes:
        position: the position the record has if it is there.
    """

    position: Position | None

    def __init__(
        self,
        message: str,
        *,
        position: Position | None = None,
        path: str | None = None,
        reason: str = "",
        advice: str = "",
        shell_advice: str | None = None,
    ) -> None:
        super().__init__(message, path=path, reason=reason, advice=advice, shell_advice=shell_advice)
        self.position = position


class NoAnswerError(OutcomeUnknownError):
    """The server that keeps the store gave no answer for ``retry_s`` seconds: what was to be appended is in the log, or
    is not, and may come to it yet. The log goes on: to append it again is safe with the same ``record_id``.

    Attributes:
        position: None, since nobody knows.
    """


class RecordsLostError(CheckpointError, RuntimeError):
    """Records that were given out before are not in the log any more: the server that keeps it has crashed, or another
    one has taken its place, and they were not durable there. What is in the log can be read from its start.

    Attributes:
        log_key: the log.
        position: the place after the last record that was given out; it is no position of the log any more.
    """

    log_key: str | None
    position: Position | None

    def __init__(
        self,
        message: str,
        *,
        log_key: str | None = None,
        position: Position | None = None,
        path: str | None = None,
        reason: str = "records lost",
        advice: str = "",
        shell_advice: str | None = None,
    ) -> None:
        super().__init__(message, path=path, reason=reason, advice=advice, shell_advice=shell_advice)
        self.log_key = log_key
        self.position = position


class PoisonedLogError(CheckpointError, OSError):
    """A sync of this log failed earlier, so it takes no appends until ``Log.recover()``. Nothing was written."""


class CompactionError(CheckpointError, RuntimeError):
    """A log could not be compacted, since others changed it all the time. Nothing was changed."""


class ClockError(CheckpointError, OverflowError):
    """The wall clock is outside the range of stamps. Nothing was written."""


class ConflictError(CheckpointError, RuntimeError):
    """A condition of an append or transaction did not hold. Nothing was written.

    Attributes:
        object_key: the object; None if it was about the end of the log.
        expected: what the caller stated: how many events the object has. Of the end of the log 0: no records after it.
        found: what the log holds. Of its end, how many records there are after the one that was expected; 0 if a
            compaction has left them out, or objects were forgotten.
        position: the position of the record that broke the condition, or None.
        end: where the log ends now, if it was about that; None otherwise. To try again, read what is new, and expect
            this end: where the last records were dropped or forgotten, it is after all that is read.
    """

    object_key: str | None
    expected: int
    found: int
    position: Position | None
    end: Position | None

    def __init__(
        self,
        object_key: str | None,
        *,
        expected: int,
        found: int,
        position: Position | None,
        end: Position | None = None,
        after: str = "",
    ) -> None:
        """``after``: the expected end of the log, as text."""
        first = "" if position is None else f" (first unexpected record at {position})"
        if object_key is not None:
            what = f"object {object_key!r} has {found} event{'' if found == 1 else 's'} in this log"
            if found == expected:
                what += (
                    ", as was expected, but not what was read: it was forgotten meanwhile, or that was lost"
                )
            else:
                what += f" where {expected} {'was' if expected == 1 else 'were'} expected"
        elif found:
            what = f"the log has {found} record{'' if found == 1 else 's'} after its expected end, {after}"
        else:
            what = f"records were dropped from the log, or objects forgotten, after its expected end, {after}"
        again = "read again and retry" if end is None else f"read again and retry, with the end {end}"
        super().__init__(f"{what}{first}. Nothing was written; {again}.", reason="conflict")
        self.object_key = object_key
        self.expected = expected
        self.found = found
        self.position = position
        self.end = end
