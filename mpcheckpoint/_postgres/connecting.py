"""How a connection to a server begins: parameters of libpq, and settings that no role or database may choose for us."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NoReturn

from psycopg import Connection, OperationalError, ProgrammingError, pq
from psycopg.conninfo import conninfo_to_dict

from mpcheckpoint._postgres.address import is_shown
from mpcheckpoint._postgres.faults import ServerError, UnreachableError
from mpcheckpoint.errors import InvalidAddressError

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

# The user's own parameters win. A dead link is noticed after 6 s, where the kernel's defaults take 40 and more.
_DEFAULTS = {
    "connect_timeout": "10",
    "keepalives": "1",
    "keepalives_idle": "3",
    "keepalives_interval": "1",
    "keepalives_count": "3",
    "tcp_user_timeout": "6000",
    "application_name": "mpcheckpoint",
}
# Set by each session itself: what a role, or a database, has as its default would break what is promised. Each is for
# the next statement, too, so that the limits of time come first.
_SETTINGS = (
    "set statement_timeout = 0",
    "set lock_timeout = 0",
    "set idle_in_transaction_session_timeout = 0",
    "set idle_session_timeout = 0",
    "set session characteristics as transaction isolation level read committed, read write, not deferrable",
    "set client_encoding = 'UTF8'",
    "set search_path = pg_catalog",
    "set synchronous_commit = on",
    "set client_min_messages = warning",
    "set jit = off",
    # A look costs six times as much where it is planned each time. A plan that stays must be good however large the
    # tables become: each statement has an index that serves it.
    "set plan_cache_mode = force_generic_plan",
    "set enable_seqscan = off",
    # The server's end of a link that is cut: what a session holds is free once the server notices.
    "set tcp_keepalives_idle = 3",
    "set tcp_keepalives_interval = 1",
    "set tcp_keepalives_count = 3",
    "set tcp_user_timeout = 6000",
)
# Settings of later versions than the oldest that we use.
_LATER_SETTINGS = {170000: "set transaction_timeout = 0"}
# What is said at the start has a code, too, which libpq does not tell of a connection that was not made: so the text
# has to do. It is in the language of the server. Whatever is not among these, whole, may be otherwise in a while, such
# as a limit of connections that is reached: a minute of tries in vain is less harm than to give up what would do.
_REFUSALS = {
    "28P01": r"FATAL:  (?:password|Peer|Ident|certificate) authentication failed for user|no password supplied",
    "28000": r"FATAL:  (?:no pg_hba\.conf entry for |pg_hba\.conf rejects connection )"
    r'|FATAL:  role ".*" (?:does not exist|is not permitted to log in)$',
    "42501": r"FATAL:  permission denied for database ",
    "3D000": r'FATAL:  database ".*" does not exist$',
}
# What libpq says of a parameter before it asks any server: to try again is useless.
_BAD_PARAMETER = re.compile(
    r"invalid \"?(\w+)\"? value: |invalid integer value .* for connection option \"(\w+)\"|bad value for (\w+): "
    r"|definition of (service) "
)


def connected(conninfo: str, *, must_write: bool) -> Connection[Any]:
    """Return a connection. A Ctrl-C ends the wait for it.

    Raises:
        UnreachableError: no server could be reached, or none that will do.
        ServerError: it refused us.
        InvalidAddressError: there is a parameter that libpq does not know, or a value that it does not take.
    """
    # Not "read-write": whose sessions begin read-only by default sets them otherwise, as we do.
    wanted = {"target_session_attrs": "primary" if must_write else "any"}
    try:
        parameters: dict[str, Any] = {**_DEFAULTS, **wanted, **conninfo_to_dict(conninfo)}
        return Connection.connect(**parameters, autocommit=True)
    except ProgrammingError as error:
        _refuse_parameters(_BAD_PARAMETER.search(str(error)))
    except OperationalError as error:
        message = str(error).strip()
        if bad := _BAD_PARAMETER.search(message):
            _refuse_parameters(bad)
        if error.pgconn is not None and error.pgconn.needs_password:
            raise ServerError("28P01", message) from None
        raise refusal(message) from None


def refusal(message: str) -> ServerError | UnreachableError:
    """Return the error for a connection that was not made: a ServerError if to try again is useless."""
    for code, words in _REFUSALS.items():
        if re.search(words, message, re.MULTILINE):
            return ServerError(code, message)
    return UnreachableError(message)


def _refuse_parameters(bad: re.Match[str] | None) -> NoReturn:
    """Raise what tells of a parameter, without repeating what may be a part of a password."""
    name = next(filter(None, bad.groups()), "") if bad else ""
    if is_shown(name):
        why = f"libpq does not take the value of {name} that the address or the environment gives"
    else:
        why = "after the ? there is a parameter that libpq does not know, as it knows sslmode and connect_timeout"
    raise InvalidAddressError(why) from None


def settings_of(server_version: int) -> list[str]:
    """Return what each session sets at its start on such a server."""
    return [*_SETTINGS, *(sql for version, sql in _LATER_SETTINGS.items() if version <= server_version)]


def text_for(connection: PGconn, value: str) -> bytes:
    """Return a text as the database can hold it, with escapes where its encoding may lack something."""
    takes_all = connection.parameter_status(b"server_encoding") in (b"UTF8", b"SQL_ASCII")
    return value.replace("\0", "").encode("utf-8" if takes_all else "ascii", "backslashreplace")


def note_cancelled_waits(connection: PGconn) -> list[str]:
    """Return a list to which is added whenever the wait of a commit for a synchronous standby was cancelled.

    Such a commit is answered as any other; an administrator can cancel it. The message is in the server's language, so
    the function that gave it is asked for.
    """
    noted: list[str] = []

    def note(notice: PGresult) -> None:
        if notice.error_field(pq.DiagnosticField.SOURCE_FUNCTION) == b"SyncRepWaitForLSN":
            noted.append("the wait for a synchronous standby was cancelled")

    connection.notice_handler = note
    return noted
