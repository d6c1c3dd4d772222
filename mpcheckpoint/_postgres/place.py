"""Where a log of a server is: what its readers and writers share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpcheckpoint._postgres.faults import NO_SUCH_LOG, ServerError
from mpcheckpoint._postgres.rows import int8, number_in
from mpcheckpoint._postgres.session import statement

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg.pq.abc import PGresult

    from mpcheckpoint._postgres.session import Session, Statement
    from mpcheckpoint._postgres.sessions import Sessions

# A transaction that writes next to nothing: once it is durable, so is all that was committed before it. A standby shows
# only what it has made durable.
FLUSH = statement(
    "flush",
    "select case when not pg_is_in_recovery() then pg_logical_emit_message(true, 'mpcheckpoint', '') end",
)
SIZE = statement(
    "size_1",
    """
    select coalesce((select max(b.number) from mpcheckpoint.batch b where b.gen = l.gen), l.floor_number)
        - l.removed_bytes
    from mpcheckpoint.log l where l.id = $1::bigint
    """,
)
# $1: a log. $2, $3, $4: the number of a batch, its id, and the generation that it was in. Whether it is there: one that
# is not may have been left out by a compaction, but not if that was before it.
HOLDS = statement(
    "holds_1",
    """
    select exists (
        select from mpcheckpoint.batch b where b.gen = l.gen and b.number = $2::bigint
            and substr(uuid_send(b.id), 1, 14) = substr(uuid_send($3::uuid), 1, 14)
    ) or (l.generation <> $4::bytea and $2::bigint <= l.floor_number)
    from mpcheckpoint.log l where l.id = $1::bigint
    """,
)


def require_log(result: PGresult) -> PGresult:
    """Return what a statement gave that has rows of each log that is there.

    Raises:
        ServerError: it has none.
    """
    if not result.ntuples:
        raise ServerError(NO_SUCH_LOG, "no such log")
    return result


class LogPlace:
    """Where a log is: what its readers and writers share."""

    def __init__(
        self, sessions: Sessions, log_key: str, log_id: int, *, read_only: bool, retry_s: float
    ) -> None:
        self.sessions = sessions
        self.log_key = log_key
        self.id = log_id
        self.place = sessions.place
        self.retry_s = retry_s
        self.is_read_only = read_only

    def read(
        self, asked: Statement, *parameters: bytes | None, meanwhile: Callable[[], object] | None = None
    ) -> PGresult:
        """Return what a statement gives that changes nothing, and has rows of a log that is there.

        ``meanwhile``: see ``Session.call``; at each try.

        Raises:
            LogNotFoundError, StoreUnavailableError, ReadFailedError, StoreAccessError, FormatVersionError
        """
        what = f"reading the log {self.log_key!r}"
        return self.sessions.read(
            lambda session: require_log(session.read_one(asked, *parameters, meanwhile=meanwhile)),
            what,
            retry_s=self.retry_s,
        )

    def ask(self, operation: Callable[[Session], list[PGresult]]) -> list[PGresult]:
        """Return what an operation gives that changes nothing. Raises as ``read``."""
        return self.sessions.read(operation, f"examining the log {self.log_key!r}", retry_s=self.retry_s)

    def size_bytes(self) -> int:
        """Return how many bytes the batches of the log take, without what the server adds."""
        return number_in(self.read(SIZE, int8(self.id)).get_value(0, 0))

    def flush(self) -> None:
        """Return when all that is visible is durable."""
        what = f"making the log {self.log_key!r} durable"
        self.sessions.read(lambda session: session.call_one(FLUSH), what, retry_s=self.retry_s)

    def holds(self, number: int, batch_id: bytes, generation: bytes) -> bool:
        """Return whether the log still has a batch, or has left it out on purpose."""
        row = self.read(HOLDS, int8(self.id), int8(number), batch_id, generation)
        return bool(row.get_value(0, 0) == b"\1")

    def known_durable(self, number: int) -> int:
        """Return a number up to which all is durable, given that all up to ``number`` is visible."""
        if not self.is_read_only:
            return 0
        self.flush()
        return number
