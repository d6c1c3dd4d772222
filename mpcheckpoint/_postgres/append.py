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

import os
import struct
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._logfile.judged import Judged, Seen
from mpcheckpoint._logfile.mutex import HeldElsewhereError, run_and_end
from mpcheckpoint._postgres.faults import ConnectionLostError, ServerError, UnreachableError, typed
from mpcheckpoint._postgres.place import FLUSH
from mpcheckpoint._postgres.read import SeenEnd
from mpcheckpoint._postgres.rows import body_of, concerns_of, hashes_of, int4, int8, number_in
from mpcheckpoint._postgres.session import ROLLBACK, Call, statement
from mpcheckpoint._postgres.sessions import Retry, unavailable
from mpcheckpoint._types import Position
from mpcheckpoint.errors import LockTimeoutError, NoAnswerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from psycopg.pq.abc import PGresult

    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._postgres.place import LogPlace
    from mpcheckpoint._postgres.session import Session

T = TypeVar("T")

# After so many appends that met nobody one waits for the disk under the lock again, which takes one commit less.
_ALONE_AFTER = 50
# The server ends a wait for a lock; the client only where the server does not answer.
_GRACE_S = 10.0
_TRUE, _FALSE = b"\1", b"\0"
_NO_CONDITION = (None, None, None, None)
_ID_BYTES, _TRY_BYTES = 14, 2
_MOST_TRIES = 2 ** (8 * _TRY_BYTES) - 1

APPEND = statement(
    "append_1",
    "select mpcheckpoint.append_1($1::text, $2::bigint, $3::integer, $4::uuid, $5::bigint, $6::bigint, "
    "$7::integer, $8::integer[], $9::bytea, $10::bigint, $11::bigint, $12::uuid, $13::integer[], $14::boolean)",
)
LOCK = statement(
    "lock_1", "select * from mpcheckpoint.lock_1($1::text, $2::bigint, $3::integer, $4::uuid, $5::bigint)"
)
BEGIN, COMMIT = (statement(word, word) for word in ("begin", "commit"))


# What ``append_1`` returns: what was done, whether it waited, number, stamp, generation. The rest is the lineage.
_DONE = struct.Struct("!c?qq16s")
_MOVED, _APPENDED = b"m", b"a"


class _Attempt:
    """One append, over all its tries.

    Attributes:
        id: of the batch that this try appends. Each try has its own: a server that crashes may lose what the first one
            appended, with what others had appended before it, and readers would take the second one's batch for that.
        base_us: the stamp that the first try proposed.
        stamp_us: the one that this try proposes.
        may_be_there: whether a try had no answer.
    """

    def __init__(self, payloads: list[Payload], retry_s: float, *, is_fixed: bool) -> None:
        """Take the lines; ``is_fixed``: no condition chooses others."""
        self._payloads = payloads
        self._batch = _encoded(payloads) if is_fixed else None
        self._append_id = os.urandom(_ID_BYTES)
        self._tries = 0
        self.id = self._append_id + bytes(_TRY_BYTES)
        self.base_us = self.stamp_us = clock.next(0)
        self.may_be_there = False
        self._retry_s = retry_s
        self._retry: Retry | None = None

    def batch(self) -> _Batch:
        """Return the lines, as the server takes them."""
        return self._batch or _encoded(self._payloads)

    def again(self, *, may_be_there: bool) -> bool:
        """Wait a while before the next try; return False if there was no time left."""
        self.may_be_there = self.may_be_there or may_be_there
        self._tries += 1
        self.id = self._append_id + int.to_bytes(min(self._tries, _MOST_TRIES), _TRY_BYTES, "big")
        self.stamp_us = max(self.stamp_us, clock.next(0))
        if self._retry is None:
            self._retry = Retry(self._retry_s)
        return self._retry.pause()


class _Batch(NamedTuple):
    """Lines: how many, hashes of what they concern, and the body."""

    size: bytes
    concerns: bytes
    body: bytes


def _encoded(payloads: list[Payload]) -> _Batch:
    return _Batch(int4(len(payloads)), hashes_of(concerns_of(payloads)), body_of(payloads))


class _Written(NamedTuple):
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
        self._what = f"appending to the log {place.log_key!r}"
        self._met_nobody = _ALONE_AFTER

    def append(
        self,
        payloads: list[Payload],
        guard: Callable[[], Position | None] | None,
        timeout_s: float | None,
        *,
        is_durable: bool,
    ) -> Position:
        """Append one batch; see ``StoredLog.append``."""
        attempt = _Attempt(payloads, self._place.retry_s, is_fixed=guard is None)
        while True:
            may_be_there = False
            try:
                written = self._try(attempt, guard, timeout_s, is_durable=is_durable)
                if not is_durable and isinstance(written, _Written):
                    self.unsynced = Unsynced(written.number, attempt.id, written.generation)
                return self._acknowledged(written)
            except UnreachableError as error:
                failure: Exception = error
            except ConnectionLostError as error:
                failure, may_be_there = error, True
            except ServerError as error:
                if not error.is_of_session:
                    raise self._refused(error, attempt) from None
                failure = error
            if not attempt.again(may_be_there=may_be_there):
                raise self._given_up(attempt, failure) from None

    def _acknowledged(self, written: _Written | Position) -> Position:
        if isinstance(written, Position):
            return written
        self.appends += 1
        clock.observe(written.stamp_us)
        return self._position(written)

    def _try(
        self,
        attempt: _Attempt,
        guard: Callable[[], Position | None] | None,
        timeout_s: float | None,
        *,
        is_durable: bool,
    ) -> _Written | Position:
        while isinstance(guard, Judged) and guard.seen is not None:
            # Judged without the lock: the server tells whether anything came since that concerns it.
            written = self._try_unguarded(attempt, guard, timeout_s, is_durable=is_durable)
            if written is not None:
                return written
            guard.is_met_anew()
        if guard is not None:
            return self._try_guarded(attempt, guard, timeout_s, is_durable=is_durable)
        written = self._try_unguarded(attempt, None, timeout_s, is_durable=is_durable)
        assert written is not None
        return written

    def _try_unguarded(
        self,
        attempt: _Attempt,
        judged: Judged | None,
        timeout_s: float | None,
        *,
        is_durable: bool,
    ) -> _Written | None:
        """Append in one message; return None if what the condition was judged of is not all that concerns it."""
        is_apart = is_durable and self._met_nobody < _ALONE_AFTER

        def ask(session: Session) -> PGresult:
            parameters = self._parameters(
                session, attempt, judged, timeout_s, is_durable=is_durable and not is_apart
            )
            flushing = [Call(FLUSH)] if is_apart or (is_durable and attempt.may_be_there) else []
            try:
                return session.call(Call(APPEND, parameters), *flushing, timeout_s=_patience(timeout_s))[0]
            except ServerError as error:
                raise _perhaps_done(error, 1) from None

        done, has_waited, written = _done(self._within(ask, attempt, timeout_s))
        self._met_nobody = 0 if has_waited else self._met_nobody + 1
        self.syncs += is_durable
        if done == _MOVED:
            return None
        if judged is not None and judged.seen is not None and done == _APPENDED:
            end = judged.seen.end
            assert isinstance(end, SeenEnd)  # and the log is in that generation still
            judged.appended = Seen(judged.seen.generation, SeenEnd(end.gen, written.number, attempt.id))
        return written

    def _try_guarded(
        self,
        attempt: _Attempt,
        guard: Callable[[], Position | None],
        timeout_s: float | None,
        *,
        is_durable: bool,
    ) -> _Written | Position:
        """Append in a transaction that holds the lock while the condition is judged."""

        def ask(session: Session) -> _Written | Position:
            return run_and_end(lambda: judge_and_append(session), lambda: _end_transaction(session))

        def judge_and_append(session: Session) -> _Written | Position:
            flushing = [Call(FLUSH)] if is_durable else []
            locking = (
                session.marker,
                int8(self._place.id),
                _timeout(timeout_s),
                attempt.id,
                int8(attempt.base_us) if attempt.may_be_there else None,
            )
            try:
                begun = Call(BEGIN, is_last=False), Call(LOCK, locking)
                found = session.call(*begun, timeout_s=_patience(timeout_s))[1]
                position: _Written | Position | None = None
                if found.get_value(0, 0) is not None:
                    number, stamp_us, generation, lineage = (
                        found.get_value(0, column) for column in range(4)
                    )
                    position = _Written(
                        number_in(number), number_in(stamp_us), generation or b"", lineage or b""
                    )
                else:
                    position = self._sessions.guard(guard)
                if position is not None:
                    session.call(Call(ROLLBACK), *flushing, timeout_s=_patience(timeout_s))
                    return position
            except ConnectionLostError as error:
                raise UnreachableError(str(error)) from None  # and nothing was written by this try
            appending = self._parameters(session, attempt, None, None, is_durable=False)
            try:
                # The lock is free before the disk is waited for.
                result = session.call(
                    Call(APPEND, appending, is_last=False),
                    Call(COMMIT),
                    *flushing,
                    timeout_s=_patience(timeout_s),
                )[0]
            except ServerError as error:
                # A session that was ended at the commit may have committed.
                raise _perhaps_done(error, 1 if error.is_of_session else 2) from None
            self.syncs += is_durable
            return _done(result)[2]

        return self._within(ask, attempt, timeout_s)

    def _parameters(
        self,
        session: Session,
        attempt: _Attempt,
        judged: Judged | None,
        timeout_s: float | None,
        *,
        is_durable: bool,
    ) -> list[bytes | None]:
        seen: Sequence[bytes | None] = _NO_CONDITION
        if judged is not None and judged.seen is not None:
            end = judged.seen.end
            assert isinstance(end, SeenEnd)
            relies_on = judged.relies_on
            seen = [
                int8(end.gen),
                int8(end.number),
                end.id,
                None if relies_on is None else hashes_of(relies_on),
            ]
        return [
            session.marker,
            int8(self._place.id),
            _timeout(timeout_s),
            attempt.id,
            int8(attempt.base_us),
            int8(attempt.stamp_us),
            *attempt.batch(),
            *seen,
            _TRUE if is_durable else _FALSE,
        ]

    def _refused(self, error: ServerError, attempt: _Attempt) -> Exception:
        if attempt.may_be_there:
            return self._given_up(attempt, error)
        return typed(error, self._what, self._place.place)

    def _given_up(self, attempt: _Attempt, failure: Exception) -> Exception:
        if not attempt.may_be_there:
            return unavailable(self._what, self._place.place, failure)
        return NoAnswerError(
            f"{self._what} of {self._place.place}: the server gave no answer, and could not be asked since "
            f"({failure}): the batch may be there or not",
            path=self._place.place,
            position=None,
            reason="no answer",
        )

    def _within(self, ask: Callable[[Session], T], attempt: _Attempt, timeout_s: float | None) -> T:
        """Return what was asked of the connection for appends, while this thread has it."""
        try:
            return self._sessions.append(ask, timeout_s)
        except HeldElsewhereError:
            locked = LockTimeoutError(
                f"{self._what} of {self._place.place}: other threads of this process were appending for {timeout_s} s",
                path=self._place.place,
                reason="locked",
            )
            raise (self._given_up(attempt, locked) if attempt.may_be_there else locked) from None

    def _position(self, written: _Written) -> Position:
        return Position(
            self._place.log_key,
            written.generation.hex(),
            written.number,
            written.stamp_us,
            lineage=written.lineage.hex(),
        )


def _done(result: PGresult) -> tuple[bytes, bool, _Written]:
    """Return what ``append_1`` did, whether it waited, and where the batch is."""
    value = result.get_value(0, 0) or b""
    done, has_waited, number, stamp_us, generation = _DONE.unpack_from(value)
    return done, has_waited, _Written(number, stamp_us, generation, value[_DONE.size :])


def _end_transaction(session: Session) -> None:
    """Have the session be outside of a transaction: it would lock all others out."""
    if session.is_in_transaction:
        try:
            session.call(Call(ROLLBACK), timeout_s=_GRACE_S)
        except (ConnectionLostError, ServerError):
            session.close()  # which ends the transaction as well


def _perhaps_done(error: BaseException, first: int) -> BaseException:
    """Return the error to raise: where the server refused a statement from ``first`` on, the batch is there already."""
    if isinstance(error, ServerError) and error.at >= first:
        return ConnectionLostError(str(error))
    return error


def _timeout(timeout_s: float | None) -> bytes | None:
    """Return a wait as the server takes it, in ms; 0 would be for ever."""
    return None if timeout_s is None else int4(min(max(1, int(timeout_s * 1000)), 2**31 - 1))


def _patience(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else timeout_s + _GRACE_S
