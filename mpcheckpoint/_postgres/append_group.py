"""Many appends to a log of a server by one message: each a batch of its own, in one transaction with one commit.

So they are in the log together or not at all, and what is told of each is true of it alone. Where the server refuses
the transaction, each is appended by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpcheckpoint._postgres.append import APPEND, Appender, Written, done_by, patience_for, perhaps_done
from mpcheckpoint._postgres.attempt import Attempt
from mpcheckpoint._postgres.faults import ConnectionLostError, ServerError, UnreachableError, typed
from mpcheckpoint._postgres.place import FLUSH
from mpcheckpoint._postgres.session import Call
from mpcheckpoint.errors import CheckpointError, LockTimeoutError, NoAnswerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg.pq.abc import PGresult

    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._postgres.place import LogPlace
    from mpcheckpoint._postgres.session import Session
    from mpcheckpoint._types import Position


# The log is locked meanwhile: a few milliseconds.
_MOST_AT_ONCE = 100


def append_group(
    appender: Appender,
    place: LogPlace,
    batches: Sequence[list[Payload]],
    timeout_s: float | None,
    *,
    is_durable: bool,
) -> list[Position | CheckpointError]:
    """Append each of these batches by itself; return what came of each, in their order.

    Raises:
        LockTimeoutError: none was written.
    """
    found: list[Position | CheckpointError] = []
    for first in range(0, len(batches), _MOST_AT_ONCE):
        part = batches[first : first + _MOST_AT_ONCE]
        attempts = [
            Attempt(payloads, None, timeout_s=timeout_s, is_durable=is_durable, retry_s=place.retry_s)
            for payloads in part
        ]
        try:
            found += _append_together(appender, place, attempts)
        except LockTimeoutError as error:
            if not found:
                raise
            return [*found, *[error] * (len(batches) - first)]
    return found


def _append_together(
    appender: Appender, place: LogPlace, attempts: Sequence[Attempt]
) -> list[Position | CheckpointError]:
    while True:
        may_be_there = False
        try:
            written = _try(appender, attempts)
            if not attempts[0].is_durable:
                appender.note_unsynced(written[-1], attempts[-1])
            return [appender.acknowledged(each) for each in written]
        except UnreachableError as error:
            failure: Exception = error
        except ConnectionLostError as error:
            failure, may_be_there = error, True
        except NoAnswerError as error:
            # Other threads were appending all the time, after a try without an answer.
            return [error] * len(attempts)
        except ServerError as error:
            if not error.is_of_session:
                refused = typed(error, appender.what, place.place)
                if isinstance(refused, LockTimeoutError):
                    if not attempts[0].may_be_there:
                        raise refused from None
                    return [appender.given_up(attempt, error) for attempt in attempts]
                return [_appended_alone(appender, attempt) for attempt in attempts]
            failure = error
        # One pause for all: they share the time for which they are tried again.
        for attempt in attempts[1:]:
            attempt.next_try(may_be_there=may_be_there)
        if not attempts[0].again(may_be_there=may_be_there):
            return [appender.given_up(attempt, failure) for attempt in attempts]


def _try(appender: Appender, attempts: Sequence[Attempt]) -> list[Written]:
    """Append all in one message, as one transaction; a second one in it waits for the disk, without the lock."""

    def ask(session: Session) -> list[PGresult]:
        calls = [
            Call(APPEND, appender.parameters(session, attempt, is_durable=False), at == len(attempts))
            for at, attempt in enumerate(attempts, 1)
        ]
        flushing = [Call(FLUSH)] if attempts[0].is_durable else []
        try:
            return session.call(*calls, *flushing, timeout_s=patience_for(attempts[0]))
        except ServerError as error:
            raise perhaps_done(error, len(attempts)) from None

    results = appender.within(ask, attempts[0])
    appender.syncs += attempts[0].is_durable
    return [done_by(result)[2] for result in results[: len(attempts)]]


def _appended_alone(appender: Appender, attempt: Attempt) -> Position | CheckpointError:
    """Append one that the server refused together with others."""
    attempt.next_try(may_be_there=False)
    try:
        return appender.append(attempt)
    except CheckpointError as error:
        return error
