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

from psycopg import Error, OperationalError, pq

from mpcheckpoint._postgres.connecting import connected, note_cancelled_waits, settings_of, text_for
from mpcheckpoint._postgres.faults import (
    ANOTHER_SESSION,
    IN_RECOVERY,
    ConnectionLostError,
    ServerError,
    UnreachableError,
)
from mpcheckpoint._postgres.rows import milliseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from psycopg import Connection
    from psycopg.pq.abc import PGresult

# Asked anew so often whether a signal has come, where the wait has no end.
_LONGEST_WAIT_S = 60.0
# How long, after a Ctrl-C, the server gets to stop what it was doing: to end the session would end our workers.
_CANCEL_S = 2.0
# How long a server may take for a statement that waits for nothing. A pooler may keep a link alive to which nobody
# answers any more.
_READ_S = 60.0
# How long a server may take to answer at the start of a session.
_SETUP_S = 10.0
_BINARY = [1] * 32
_MARKER = "select coalesce(current_setting('mpcheckpoint.session', true), '')"


class Statement(NamedTuple):
    """A statement. Each session prepares it at its first use.

    Attributes:
        name: unique in the package; empty for one that is not prepared.
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


BEGIN, COMMIT, ROLLBACK = (statement(word, word) for word in ("begin", "commit", "rollback"))
_LOCK_TIMEOUT = statement("lock_timeout", "select set_config('lock_timeout', $1::text, false)")
# Before a change that need not be on the disk when it returns. No BEGIN: after an error, the session would be within a
# transaction.
ASYNC = Call(statement("async", "select set_config('synchronous_commit', 'off', true)"), is_last=False)


def lock_timeout(timeout_s: float | None) -> Call:
    """Return what has a session wait so long for locks from now on."""
    return Call(_LOCK_TIMEOUT, [str(0 if timeout_s is None else milliseconds(timeout_s)).encode()])


class Session:
    """A session of the server.

    Attributes:
        marker: what it has set in the server, so that each append can prove that it is the same session still.
        is_lost: whether it has ended: what it held is free.
        is_busy: whether a call is under way; a signal handler that interrupts it must use another session.
        held: the ids of the workers whose locks it holds.
        loose_locks: the keys of locks that it holds of workers that have retired.

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
        self.marker = os.urandom(8).hex().encode()
        self._pid = os.getpid()
        self.is_lost = False
        self.is_busy = False
        self.held: set[bytes] = set()
        self.loose_locks: list[int] = []
        # Names of statements to the names under which the server has them.
        self._prepared: dict[bytes, bytes] = {}
        self._epoch = 0
        self._whole = connected(conninfo, must_write=must_write)
        # Its lower half: a statement through the upper one takes several times as long.
        self._connection = self._whole.pgconn
        self._unreplicated = note_cancelled_waits(self._connection)
        try:
            self._connection.nonblocking = 1
            self._connection.enter_pipeline_mode()
            setting_up = settings_of(self._connection.server_version)
            marking = f"select set_config('mpcheckpoint.session', '{self.marker.decode()}', false)"
            asked = [Call(statement("", sql), is_last=False) for sql in (*setting_up, _MARKER, marking)]
            *_, marker, _ = self.call(*asked[:-1], asked[-1]._replace(is_last=True), timeout_s=_SETUP_S)
            if marker.get_value(0, 0):
                raise ServerError(ANOTHER_SESSION, "a connection pooler shares one session between clients")
        except (OperationalError, ConnectionLostError) as error:
            self.close()
            raise UnreachableError(str(error)) from None
        except BaseException:
            self.close()
            raise

    @property
    def server_version(self) -> int:
        """The version of the server, as 150004 for 15.4."""
        return self._connection.server_version

    def text(self, value: str) -> bytes:
        """Return a text as the database can hold it; for what is only shown."""
        return text_for(self._connection, value)

    @property
    def is_in_transaction(self) -> bool:
        """Whether it is within a transaction, which may hold locks. Requires: no call is under way."""
        idle = pq.TransactionStatus.IDLE, pq.TransactionStatus.UNKNOWN
        return not self.is_lost and self._connection.transaction_status not in idle

    def call(
        self, *calls: Call, timeout_s: float | None = None, meanwhile: Callable[[], object] | None = None
    ) -> list[PGresult]:
        """Send all of these in one message; return what each of them gave.

        Args:
            timeout_s: for all answers together; None to wait for as long as the connection stands.
            meanwhile: done once they are sent, before the answers are waited for. It must not use the session.

        Raises:
            ServerError: the first of them that the server refused. What was in a transaction with it was not done.
            ConnectionLostError: there was no answer, or not the one that was waited for: anything may have been done.
        """
        if self.is_lost:
            raise UnreachableError("the session has ended")
        assert not self.is_busy
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            self.is_busy = True
            expected = self._send(calls)
            if meanwhile is not None:
                self._connection.flush()
                meanwhile()
            results = self._answers(expected, deadline)
            self.is_busy = False
        except (OperationalError, OSError, ConnectionLostError) as error:
            self.close()
            raise ConnectionLostError(str(error).strip()) from None
        except BaseException:  # a Ctrl-C, say
            self._stop()
            raise
        for at, result in enumerate(results):
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise self._refusal(result, at)
        if self._unreplicated:
            raise ConnectionLostError(self._unreplicated.pop())
        return results

    def call_one(
        self, asked: Statement, *parameters: bytes | None, timeout_s: float | None = None
    ) -> PGresult:
        """Send one statement; return what it gave. Raises as ``call``."""
        (result,) = self.call(Call(asked, parameters), timeout_s=timeout_s)
        return result

    def read_one(
        self, asked: Statement, *parameters: bytes | None, meanwhile: Callable[[], object] | None = None
    ) -> PGresult:
        """Send one statement that waits for no lock; return what it gave. Raises as ``call``, also after a minute."""
        (result,) = self.call(Call(asked, parameters), timeout_s=_READ_S, meanwhile=meanwhile)
        return result

    def script(self, sql: str) -> None:
        """Run any number of statements, as one transaction. Raises as ``call``."""
        try:
            self._connection.exit_pipeline_mode()
            self._connection.nonblocking = 0
            result = self._connection.exec_(sql.encode())
            if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
                raise self._refusal(result)
        except OperationalError as error:
            self.close()
            raise ConnectionLostError(str(error)) from None
        finally:
            if not self.is_lost:
                self._connection.nonblocking = 1
                self._connection.enter_pipeline_mode()

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

    def _send(self, calls: Iterable[Call]) -> list[Statement | None]:
        """Queue the calls; return of what there will be answers. None: of the end of a transaction."""
        connection, expected = self._connection, list[Statement | None]()
        preparing = dict[bytes, bytes]()
        for wanted, parameters, is_last in calls:
            count = len(parameters)
            if not wanted.name:
                connection.send_query_params(wanted.sql, parameters, None, _BINARY[:count], 1)
            else:
                name = self._prepared.get(wanted.name) or preparing.get(wanted.name)
                if name is None:
                    name = preparing[wanted.name] = b"%b %d" % (wanted.name, self._epoch)
                    connection.send_prepare(name, wanted.sql)
                    expected.append(Statement(wanted.name, b""))
                connection.send_query_prepared(name, parameters, _BINARY[:count], 1)
            expected.append(wanted)
            if is_last:
                connection.pipeline_sync()
                expected.append(None)
        return expected

    def _answers(self, expected: list[Statement | None], deadline: float | None) -> list[PGresult]:
        """Return the answers, without those to preparations.

        Raises:
            ConnectionLostError: there was none, or the session ended at the end of a transaction.
        """
        connection = self._connection
        results: list[PGresult] = []
        is_sending, at = connection.flush() == 1, 0
        while True:
            while not connection.is_busy():
                result = connection.get_result()
                if result is None:
                    continue  # it stands between two answers
                about, is_error = expected[at], result.status == pq.ExecStatus.FATAL_ERROR
                if is_error and _is_last_word(result):
                    return self._ended(results, about, result)
                if about is None:
                    if result.status != pq.ExecStatus.PIPELINE_SYNC:
                        # The commit was refused, after the statements were not: that is the answer to the last one.
                        results[-1] = result
                        continue
                elif about.sql or is_error:  # else of a preparation
                    results.append(result)
                else:
                    self._prepared[about.name] = b"%b %d" % (about.name, self._epoch)
                at += 1
                if at == len(expected):
                    return results
            events = select.POLLIN | select.POLLOUT if is_sending else select.POLLIN
            self._wait_for_socket(deadline, events)
            connection.consume_input()
            if is_sending:
                is_sending = connection.flush() == 1

    def _ended(self, results: list[PGresult], about: Statement | None, last_word: PGresult) -> list[PGresult]:
        """Return the answers of a session that the server ended in the middle of them."""
        code, message = _words_of(last_word)
        # Within a commit: what was to be committed may be there. So it may if the server did not end us on purpose.
        if about is None or not code.startswith("57P"):
            raise ConnectionLostError(message)
        return [*results, last_word]

    def _wait_for_socket(self, deadline: float | None, events: int) -> None:
        poll = select.poll()
        poll.register(self._connection.socket, events)
        while True:
            left_s = _LONGEST_WAIT_S if deadline is None else deadline - time.monotonic()
            if poll.poll(max(0.0, min(left_s, _LONGEST_WAIT_S)) * 1000):
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError("the server did not answer")

    def _stop(self) -> None:
        """Have the server stop, and take the answers that are left; if they do not come, end the session.

        After it the session is outside of any transaction, or has ended.
        """
        try:
            self._whole.cancel_safe(timeout=_CANCEL_S)
            self._drain(time.monotonic() + _CANCEL_S)
            # Which statements were prepared is not known: their names are not used again.
            self._epoch += 1
            self._prepared.clear()
            self._unreplicated.clear()
            self.is_busy = False
            if self.is_in_transaction:
                self.call(Call(ROLLBACK), timeout_s=_CANCEL_S)
        except (Error, OSError, ConnectionLostError, ServerError):
            self.close()  # and the Ctrl-C is raised
        except BaseException:
            self.close()
            raise

    def _drain(self, deadline: float) -> None:
        """Take all answers, however many statements were sent when we were interrupted."""
        connection = self._connection
        connection.pipeline_sync()  # else nothing would be said to statements after which there was none
        while True:
            is_sending = connection.flush() == 1
            while not connection.is_busy():
                if connection.get_result() is None and self._is_drained():
                    return
            self._wait_for_socket(deadline, select.POLLIN | select.POLLOUT if is_sending else select.POLLIN)
            connection.consume_input()

    def _is_drained(self) -> bool:
        try:
            self._connection.exit_pipeline_mode()  # refused while an answer is to come
        except OperationalError:
            return False
        self._connection.enter_pipeline_mode()
        return True

    def _refusal(self, result: PGresult, at: int = 0) -> Exception:
        code, message = _words_of(result)
        if not code or code.startswith("57P") or code == IN_RECOVERY:
            self.close()
        return ServerError(code, message, at) if code else ConnectionLostError(message)


def _words_of(result: PGresult) -> tuple[str, str]:
    code = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
    message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message
    return code, message.decode(errors="replace").strip()


def _is_last_word(result: PGresult) -> bool:
    """Return whether the server has ended the session with this answer."""
    severity = result.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED)
    return severity in (b"FATAL", b"PANIC") or not result.error_field(pq.DiagnosticField.SQLSTATE)


# Connections of parents: see ``Session.abandon``.
_abandoned: list[Connection[Any]] = []
