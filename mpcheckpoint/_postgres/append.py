"""The way of an append to a log of a server, read top to bottom.

An append is one message where nothing has to be judged under the lock: the server locks the log, sees
whether anything came that concerns the condition, writes one row, and commits. Where several processes append to a log
at once, it commits without waiting for the disk, so that the lock is free at once, and a second transaction in the same
message waits for the disk: so one sync makes the appends of many durable. Commits become durable in their order, so
what an append was built upon is durable when it is.

Whether an append was done that got no answer is found out under the lock, before its condition is judged anew, by the
id of its batch; and it is acknowledged only after a commit of ours was made durable.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._logfile.judged import Judged, Seen
from mpcheckpoint._logfile.mutex import HeldElsewhereError, run_and_end
from mpcheckpoint._postgres.attempt import Attempt
from mpcheckpoint._postgres.faults import ConnectionLostError, ServerError, UnreachableError, typed
from mpcheckpoint._postgres.place import FLUSH
from mpcheckpoint._postgres.read import SeenEnd
from mpcheckpoint._postgres.rows import hashes_of, int4, int8, milliseconds, number_in
from mpcheckpoint._postgres.session import BEGIN, COMMIT, ROLLBACK, Call, statement
from mpcheckpoint._postgres.sessions import unavailable
from mpcheckpoint._types import Position
from mpcheckpoint.errors import CheckpointError, LockTimeoutError, NoAnswerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from psycopg.pq.abc import PGresult

    from mpcheckpoint._postgres.place import LogPlace
    from mpcheckpoint._postgres.session import Session

T = TypeVar("T")

# After so many appends that met nobody one waits for the disk under the lock again, which takes one commit less.
_ALONE_AFTER = 50
# The server ends a wait for a lock; the client only where the server does not answer.
_GRACE_S = 10.0
_TRUE, _FALSE = b"\1", b"\0"
_NO_CONDITION = (None, None, None, None)

APPEND = statement(
    "append_1",
    "select mpcheckpoint.append_1($1::text, $2::bigint, $3::integer, $4::uuid, $5::bigint, $6::bigint, "
    "$7::integer, $8::integer[], $9::bytea, $10::bigint, $11::bigint, $12::uuid, $13::integer[], $14::boolean)",
)
LOCK = statement(
    "lock_1", "select * from mpcheckpoint.lock_1($1::text, $2::bigint, $3::integer, $4::uuid, $5::bigint)"
)


# What ``append_1`` returns: what was done, whether it waited, number, stamp, generation. The rest is the lineage.
_DONE = struct.Struct("!c?qq16s")
_MOVED, _APPENDED = b"m", b"a"


class Written(NamedTuple):
    """Where a batch is."""

    number: int
    stamp_us: int
    generation: bytes
    lineage: bytes


class Unsynced(NamedTuple):
    """A batch that a server may lose if it crashes."""

    number: int
    id: bytes
    generation: bytes


class Appender:
    """Append to one log.

    Attributes:
        appends, syncs: how many there were.
        unsynced: the last batch that was appended without a sync.

    Concurrency: any number of threads, one after the other.
    """

    def __init__(self, place: LogPlace) -> None:
        self.appends = self.syncs = 0
        self.unsynced: Unsynced | None = None
        self._place = place
        self._sessions = place.sessions
        self.what = f"appending to the log {place.log_key!r}"
        self._met_nobody = _ALONE_AFTER

    def append(self, attempt: Attempt) -> Position:
        """Append one batch: try until it is there, or for as long as may be. Raises as ``StoredLog.append``."""
        while True:
            may_be_there = False
            try:
                written = self._try(attempt)
                if not attempt.is_durable and isinstance(written, Written):
                    self.note_unsynced(written, attempt)
                return self.acknowledged(written)
            except UnreachableError as error:
                failure: Exception = error
            except ConnectionLostError as error:
                failure, may_be_there = error, True
            except ServerError as error:
                if not error.is_of_session:
                    raise self._refused(error, attempt) from None
                failure = error
            if not attempt.again(may_be_there=may_be_there):
                raise self.given_up(attempt, failure) from None

    def note_unsynced(self, written: Written, attempt: Attempt) -> None:
        """Take note of a batch that a server may lose if it crashes."""
        self.unsynced = Unsynced(written.number, attempt.id, written.generation)

    def acknowledged(self, written: Written | Position) -> Position:
        """Return where a batch is that was appended, or found."""
        if isinstance(written, Position):
            return written
        self.appends += 1
        clock.observe(written.stamp_us)
        return self._position(written)

    def _try(self, attempt: Attempt) -> Written | Position:
        guard = attempt.guard
        while isinstance(guard, Judged) and guard.seen is not None:
            # Judged without the lock: the server tells whether anything came since that concerns it.
            written = self._try_unguarded(attempt, guard)
            if written is not None:
                return written
            guard.is_met_anew()
        if guard is not None:
            return self._try_guarded(attempt, guard)
        written = self._try_unguarded(attempt)
        assert written is not None
        return written

    def _try_unguarded(self, attempt: Attempt, judged: Judged | None = None) -> Written | None:
        """Append in one message; return None if what the condition was judged of is not all that concerns it."""
        is_durable = attempt.is_durable
        is_apart = is_durable and self._met_nobody < _ALONE_AFTER

        def ask(session: Session) -> PGresult:
            parameters = self.parameters(session, attempt, judged, is_durable=is_durable and not is_apart)
            flushing = [Call(FLUSH)] if is_apart or (is_durable and attempt.may_be_there) else []
            try:
                return session.call(Call(APPEND, parameters), *flushing, timeout_s=patience_for(attempt))[0]
            except ServerError as error:
                raise perhaps_done(error, 1) from None

        done, has_waited, written = done_by(self.within(ask, attempt))
        self._met_nobody = 0 if has_waited else self._met_nobody + 1
        self.syncs += is_durable
        if done == _MOVED:
            return None
        if judged is not None and judged.seen is not None and done == _APPENDED:
            end = judged.seen.end
            assert isinstance(end, SeenEnd)  # and the log is in that generation still
            judged.appended = Seen(judged.seen.generation, SeenEnd(end.gen, written.number, attempt.id))
        return written

    def _try_guarded(self, attempt: Attempt, guard: Callable[[], Position | None]) -> Written | Position:
        """Append in a transaction that holds the lock while the condition is judged."""

        def ask(session: Session) -> Written | Position:
            return run_and_end(lambda: judge_and_append(session), lambda: _end_transaction(session))

        def judge_and_append(session: Session) -> Written | Position:
            flushing, timeout_s = [Call(FLUSH)] if attempt.is_durable else [], patience_for(attempt)
            locking = (
                session.marker,
                int8(self._place.id),
                _timeout(attempt),
                attempt.id,
                int8(attempt.base_us) if attempt.may_be_there else None,
            )
            try:
                begun = Call(BEGIN, is_last=False), Call(LOCK, locking)
                found = session.call(*begun, timeout_s=timeout_s)[1]
                position: Written | Position | None = None
                if found.get_value(0, 0) is not None:
                    number, stamp_us, generation, lineage = (
                        found.get_value(0, column) for column in range(4)
                    )
                    position = Written(
                        number_in(number), number_in(stamp_us), generation or b"", lineage or b""
                    )
                else:
                    position = self._sessions.guard(guard)
                if position is not None:
                    session.call(Call(ROLLBACK), *flushing, timeout_s=timeout_s)
                    return position
            except ConnectionLostError as error:
                raise UnreachableError(str(error)) from None  # and nothing was written by this try
            appending = Call(APPEND, self.parameters(session, attempt, is_durable=False), is_last=False)
            try:
                # The lock is free before the disk is waited for.
                result = session.call(appending, Call(COMMIT), *flushing, timeout_s=timeout_s)[0]
            except ServerError as error:
                # A session that was ended at the commit may have committed.
                raise perhaps_done(error, 1 if error.is_of_session else 2) from None
            self.syncs += attempt.is_durable
            return done_by(result)[2]

        return self.within(ask, attempt)

    def parameters(
        self, session: Session, attempt: Attempt, judged: Judged | None = None, *, is_durable: bool
    ) -> list[bytes | None]:
        """Return what ``APPEND`` is called with."""
        seen: Sequence[bytes | None] = _NO_CONDITION
        if judged is not None and judged.seen is not None:
            end = judged.seen.end
            assert isinstance(end, SeenEnd)
            relies_on = judged.relies_on
            hashes = None if relies_on is None else hashes_of(relies_on)
            seen = int8(end.gen), int8(end.number), end.id, hashes
        return [
            session.marker,
            int8(self._place.id),
            _timeout(attempt),
            attempt.id,
            int8(attempt.base_us),
            int8(attempt.stamp_us),
            *attempt.batch(),
            *seen,
            _TRUE if is_durable else _FALSE,
        ]

    def _refused(self, error: ServerError, attempt: Attempt) -> Exception:
        if attempt.may_be_there:
            return self.given_up(attempt, error)
        return typed(error, self.what, self._place.place)

    def given_up(self, attempt: Attempt, failure: Exception) -> CheckpointError:
        """Return the error for an append that was tried for as long as may be."""
        if not attempt.may_be_there:
            return unavailable(self.what, self._place.place, failure)
        return NoAnswerError(
            f"{self.what} of {self._place.place}: the server gave no answer, and could not be asked since "
            f"({failure}): the batch may be there or not",
            path=self._place.place,
            reason="no answer",
        )

    def within(self, ask: Callable[[Session], T], attempt: Attempt) -> T:
        """Return what was asked of the connection for appends, while this thread has it."""
        try:
            return self._sessions.append(ask, attempt.timeout_s)
        except HeldElsewhereError:
            locked = LockTimeoutError(
                f"{self.what} of {self._place.place}: other threads of this process were appending for "
                f"{attempt.timeout_s} s",
                path=self._place.place,
                reason="locked",
            )
            raise (self.given_up(attempt, locked) if attempt.may_be_there else locked) from None

    def _position(self, written: Written) -> Position:
        return Position(
            self._place.log_key,
            written.generation.hex(),
            written.number,
            written.stamp_us,
            lineage=written.lineage.hex(),
        )


def done_by(result: PGresult) -> tuple[bytes, bool, Written]:
    """Return what ``append_1`` did, whether it waited, and where the batch is."""
    value = result.get_value(0, 0) or b""
    done, has_waited, number, stamp_us, generation = _DONE.unpack_from(value)
    return done, has_waited, Written(number, stamp_us, generation, value[_DONE.size :])


def _end_transaction(session: Session) -> None:
    """Have the session be outside of a transaction: it would lock all others out."""
    if session.is_in_transaction:
        try:
            session.call(Call(ROLLBACK), timeout_s=_GRACE_S)
        except (ConnectionLostError, ServerError):
            session.close()  # which ends the transaction as well


def perhaps_done(error: BaseException, first: int) -> BaseException:
    """Return the error to raise: where the server refused a statement from ``first`` on, the batch is there already."""
    if isinstance(error, ServerError) and error.at >= first:
        return ConnectionLostError(str(error))
    return error


def _timeout(attempt: Attempt) -> bytes | None:
    return None if attempt.timeout_s is None else int4(milliseconds(attempt.timeout_s))


def patience_for(attempt: Attempt) -> float | None:
    """Return how long to wait for the answer to a statement that waits for a lock."""
    return None if attempt.timeout_s is None else attempt.timeout_s + _GRACE_S
