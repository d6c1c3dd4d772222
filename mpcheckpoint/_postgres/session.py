"""One connection to a server, from its start to its end: statements sent together, answers waited for, errors named.

Several statements go out in one message and are answered in one: how many messages an append takes is what its speed is
made of. A child never uses, or ends, the connection of its parent: it closes the socket without a word, or the server
would be told that the parent had left, or go on to believe that it lives.
"""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg import Connection, OperationalError, pq
from psycopg.conninfo import conninfo_to_dict

from mpcheckpoint._postgres.faults import ANOTHER_SESSION, ConnectionLostError, ServerError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from psycopg.pq.abc import PGresult

# Asked anew so often whether a signal has come, where the wait has no end.
_LONGEST_WAIT_S = 60.0
# How long, after a Ctrl-C, the server gets to stop what it was doing: to end the session would end our workers.
_CANCEL_S = 2.0
_BINARY = [1] * 32

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
# Set by each session itself: what a role, or a database, has as its default would break what is promised.
_SETTINGS = """
    set session characteristics as transaction isolation level read committed, read write, not deferrable;
    set statement_timeout = 0;
    set lock_timeout = 0;
    set idle_in_transaction_session_timeout = 0;
    set idle_session_timeout = 0;
    set client_encoding = 'UTF8';
    set search_path = pg_catalog;
    set synchronous_commit = on;
    set jit = off
"""
# What is said at the start has no code that libpq tells. What is not among these may be otherwise in a while.
_REFUSALS = {
    "28P01": ("password authentication failed", "no password supplied", "no pg_hba.conf entry"),
    "42501": ("permission denied for database", "is not permitted to log in"),
    "28000": ('role "',),
    "3D000": ('database "',),
}
_MARKER = "select coalesce(current_setting('mpcheckpoint.session', true), '')"


class Statement(NamedTuple):
    """A statement that each session prepares which uses it.

    Attributes:
        name: unique in the package.
        sql: one statement, its parameters typed by casts. They and the results are binary.
    """

    name: bytes
    sql: bytes


def statement(name: str, sql: str) -> Statement:
    """Return a statement."""
    return Statement(name.encode(), sql.encode())


class Call(NamedTuple):
    """A statement with its parameters; ``is_last`` of the transaction that begins after the last such one."""

    statement: Statement
    parameters: Sequence[bytes | None] = ()
    is_last: bool = True


class Session:
    """A session of the server.

    Attributes:
        marker: what it has set in the server, so that each append can prove that it is the same session still.
        is_lost: whether it has ended: what it held is free.
        held: the ids of the workers whose locks it holds.

    Concurrency: for one thread at a time.
    """

    def __init__(self, conninfo: str, *, must_write: bool) -> None:
        """Connect.

        Args:
            conninfo: what libpq takes; there may be several hosts.
            must_write: only a server that takes writes will do.

        Raises:
            UnreachableError: no server could be reached, or none that will do.
            ServerError: it refused us, or there is something between that shares sessions.
        """
        self.marker = os.urandom(8).hex()
        self._pid = os.getpid()
        self.is_lost = False
        self.held: set[bytes] = set()
        self._prepared: set[bytes] = set()
        wanted = {"target_session_attrs": "read-write" if must_write else "any"}
        self._whole = _connected(_DEFAULTS | wanted | conninfo_to_dict(conninfo))
        # Its lower half: a statement through the upper one takes several times as long.
        self._connection = self._whole.pgconn
        try:
            self._simple(_SETTINGS)
            if self._simple(_MARKER).get_value(0, 0):
                raise ServerError(ANOTHER_SESSION, "a connection pooler shares one session between clients")
            self._simple(f"set mpcheckpoint.session = '{self.marker}'")
            self._connection.nonblocking = 1
            self._connection.enter_pipeline_mode()
        except OperationalError as error:
            self.close()
            raise UnreachableError(str(error)) from None
        except BaseException:
            self.close()
            raise

    @property
    def fd(self) -> int:
        """The socket."""
        return self._connection.socket

    @property
    def server_version(self) -> int:
        """The version of the server, as 150004 for 15.4."""
        return self._connection.server_version

    def call(self, *calls: Call, timeout_s: float | None = None) -> list[PGresult]:
        """Send all of these in one message; return what each of them gave.

        Args:
            timeout_s: for all answers together; None to wait for as long as the connection stands.

        Raises:
            ServerError: the first of them that the server refused. What was in a transaction with it was not done.
            ConnectionLostError: there was no answer: anything may have been done. The session has ended.
        """
        if self.is_lost:
            raise UnreachableError("the session has ended")
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        asked: list[Statement | None] = []  # of each answer that is to come; None: the end of a transaction
        try:
            results = self._answers(asked, self._send(calls, asked), deadline)
        except (OperationalError, OSError, ConnectionLostError) as error:
            self.close()
            raise ConnectionLostError(str(error).strip()) from None
        except BaseException:  # a Ctrl-C, say
            self._stop(asked)
            raise
        for at, result in enumerate(results):
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise self._refusal(result, at)
        return results

    def call_one(
        self, asked: Statement, *parameters: bytes | None, timeout_s: float | None = None
    ) -> PGresult:
        """Send one statement; return what it gave. Raises as ``call``."""
        (result,) = self.call(Call(asked, parameters), timeout_s=timeout_s)
        return result

    def script(self, sql: str) -> None:
        """Run any number of statements, as one transaction. Raises as ``call``."""
        try:
            self._connection.exit_pipeline_mode()
            self._connection.nonblocking = 0
            self._simple(sql)
            self._connection.nonblocking = 1
            self._connection.enter_pipeline_mode()
        except OperationalError as error:
            self.close()
            raise ConnectionLostError(str(error)) from None

    def notified(self, timeout_s: float) -> int:
        """Wait for notifications; return how many came. Requires: ``call`` was not interrupted.

        Raises:
            ConnectionLostError: the session has ended.
        """
        connection = self._connection
        try:
            self._wait_for_socket(time.monotonic() + timeout_s, select.POLLIN)
        except TimeoutError:
            return 0
        try:
            connection.consume_input()
            count = 0
            while connection.notifies() is not None:
                count += 1
        except OperationalError as error:
            self.close()
            raise ConnectionLostError(str(error)) from None
        return count

    def close(self) -> None:
        """End the session; in a forked child, only for that child."""
        if self._pid != os.getpid():
            self.abandon()
        elif not self.is_lost:
            self.is_lost = True
            self._whole.close()

    def abandon(self) -> None:
        """In a forked child: close the socket, and say nothing to the server.

        The connection is kept for ever: its end would be told to whoever has that descriptor by then. It checks which
        process made it, before it tells.
        """
        if self.is_lost:
            return
        self.is_lost = True
        _abandoned.append(self._whole)
        try:
            os.close(self._connection.socket)
        except (OSError, OperationalError):
            pass  # closed already

    # --- sending and waiting ----------------------------------------------------------------------------------

    def _send(self, calls: Iterable[Call], asked: list[Statement | None]) -> list[Statement | None]:
        """Queue the calls; add to ``asked`` what there will be answers to, and return it with the preparations."""
        connection, expected = self._connection, list[Statement | None]()
        for wanted, parameters, is_last in calls:
            if wanted.name not in self._prepared:
                connection.send_prepare(*wanted)
                expected.append(Statement(wanted.name, b""))
                asked.append(None)
            connection.send_query_prepared(wanted.name, parameters, _BINARY[: len(parameters)], 1)
            expected.append(wanted)
            asked.append(None)
            if is_last:
                connection.pipeline_sync()
                expected.append(None)
                asked.append(None)
        return expected

    def _answers(
        self, asked: list[Statement | None], expected: list[Statement | None], deadline: float | None
    ) -> list[PGresult]:
        """Return the answers, without those to preparations; take each from ``asked`` as it comes."""
        connection = self._connection
        results: list[PGresult] = []
        is_sending, at = connection.flush() == 1, 0
        while True:
            while not connection.is_busy():
                result = connection.get_result()
                if result is None:
                    continue  # it stands between two answers
                if connection.status == pq.ConnStatus.BAD:
                    raise ConnectionLostError(connection.get_error_message())
                about, at = expected[at], at + 1
                asked.pop()
                if about is not None and not about.sql:  # of a preparation
                    if result.status == pq.ExecStatus.COMMAND_OK:
                        self._prepared.add(about.name)
                    elif result.status == pq.ExecStatus.FATAL_ERROR:
                        results.append(result)
                elif about is not None:
                    results.append(result)
                if at == len(expected):
                    return results
            events = select.POLLIN | select.POLLOUT if is_sending else select.POLLIN
            self._wait_for_socket(deadline, events)
            connection.consume_input()
            if is_sending:
                is_sending = connection.flush() == 1

    def _wait_for_socket(self, deadline: float | None, events: int) -> None:
        poll = select.poll()
        poll.register(self._connection.socket, events)
        while True:
            left_s = _LONGEST_WAIT_S if deadline is None else deadline - time.monotonic()
            if poll.poll(max(0.0, min(left_s, _LONGEST_WAIT_S)) * 1000):
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError("the server did not answer")

    def _stop(self, asked: list[Statement | None]) -> None:
        """Have the server stop, and take the answers that are left; if they do not come, end the session."""
        try:
            self._connection.get_cancel().cancel()
            connection, deadline = self._connection, time.monotonic() + _CANCEL_S
            while asked:
                connection.flush()
                while asked and not connection.is_busy():
                    if connection.get_result() is not None:
                        asked.pop()
                if asked:
                    self._wait_for_socket(deadline, select.POLLIN)
                    connection.consume_input()
            self._prepared.clear()
        except BaseException:
            self.close()
            raise

    # --- one at a time ----------------------------------------------------------------------------------------

    def _simple(self, sql: str) -> PGresult:
        result = self._connection.exec_(sql.encode())
        if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
            raise self._refusal(result)
        return result

    def _refusal(self, result: PGresult, at: int = 0) -> Exception:
        code = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
        message = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message).decode(
            errors="replace"
        )
        if not code or self._connection.status == pq.ConnStatus.BAD:
            self.close()
            return ConnectionLostError(message)
        error = ServerError(code, message.strip(), at)
        if code.startswith("57P"):
            self.close()
        return error


# Connections of parents: see ``Session.abandon``.
_abandoned: list[Connection[Any]] = []


def _connected(conninfo: Mapping[str, Any]) -> Connection[Any]:
    """Return a connection. A Ctrl-C ends the wait for it."""
    try:
        return Connection.connect(**conninfo, autocommit=True)
    except OperationalError as error:
        message = str(error).strip()
        for code, words in _REFUSALS.items():
            if any(each in message for each in words):
                raise ServerError(code, message) from None
        raise UnreachableError(message) from None
