"""What goes wrong with a server: codes of SQL to typed errors, and a connection that ended without an answer."""

from __future__ import annotations

from mpcheckpoint.errors import (
    CheckpointError,
    FormatVersionError,
    LockTimeoutError,
    LogNotFoundError,
    ReadFailedError,
    StoreAccessError,
    StoreNotFoundError,
    WriteFailedError,
)

# What our own functions say (schema.sql). MP003, that a standby does not know who lives, is as any other refused read.
ANOTHER_SESSION, NO_SUCH_LOG = "MP001", "MP002"
# A statement that this session has prepared is not there, or one that it has not is: it is not the session that it was.
_NOT_OURS = ("26000", "42P05")
# Of a foreign key: what is made belongs to a store that is not there any more.
NO_SUCH_STORE = "23503"
IN_RECOVERY = "25006"
CANNOT_LOCK, DUPLICATE_OBJECT = "55P03", ("42P06", "42P07", "23505", "42710", "42723")
# The session has ended with these, or is of no use: another one may do.
_LOST = ("08", "57P", IN_RECOVERY)
_AGAIN = ("40001", "40P01")
_NO_SCHEMA = ("3F000", "42P01", "42883", "42703")
_NO_ACCESS = ("42501", "28000", "28P01")
# Another one may have its name by now.
_GONE = (
    "the {} that was opened is gone: what the server keeps was made anew, or is as it was before that was made. "
    "Open the store anew"
)


class ConnectionLostError(Exception):
    """There was no answer: what was asked may have been done."""


class UnreachableError(ConnectionLostError):
    """No connection was made: nothing was asked."""


class ServerError(Exception):
    """The server refused a statement.

    Attributes:
        code: of five characters, as in the appendix "PostgreSQL Error Codes" of its documentation.
        at: which of the statements of one call it was, from 0.
    """

    def __init__(self, code: str, message: str, at: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.at = at

    @property
    def is_of_session(self) -> bool:
        """Whether another session may do what this one could not; what was asked was not done."""
        return self.code.startswith(_LOST) or self.code in _AGAIN


def typed(error: ServerError, what: str, place: str, *, is_read: bool = False) -> CheckpointError:
    """Return the error that users see.

    Args:
        what: was being done, as "appending to the log 'a'". place: the store, without its password.
    """
    said = f"{what} of {place}: {error}"
    if error.code == CANNOT_LOCK:
        return LockTimeoutError(f"{said}: others were writing all the time", path=place, reason="locked")
    if error.code == NO_SUCH_LOG:
        return LogNotFoundError(f"{what} of {place}: {_GONE.format('log')}", path=place, reason="no such log")
    if error.code == NO_SUCH_STORE:
        gone = _GONE.format("store")
        return StoreNotFoundError(f"{what} of {place}: {gone}", path=place, reason="store removed")
    if error.code in (ANOTHER_SESSION, *_NOT_OURS):
        return StoreAccessError(
            f"{said}. Something between here and the server gives one session to several clients, as a connection "
            "pooler does between transactions. Use an address that leads to the server itself, or to a pooler that "
            "keeps a session for each client",
            path=place,
            reason="no session of its own",
        )
    if error.code in _NO_ACCESS:
        return StoreAccessError(said, path=place, reason="access denied")
    if error.code == "3D000":
        return StoreNotFoundError(said, path=place, reason="no such database")
    if error.code in _NO_SCHEMA:
        return FormatVersionError(
            f"{said}: the schema mpcheckpoint of the database is of another version, or not there",
            path=place,
            reason="another version",
        )
    failed = ReadFailedError if is_read else WriteFailedError
    return failed(said, path=place, reason=error.code)
