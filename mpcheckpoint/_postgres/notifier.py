"""What wakes the followers of a store's logs: notifications of the server, which appends to followed logs send.

A connection of its own waits for them. Nothing depends on it: a follower that is not woken looks again after a while.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mpcheckpoint._logfile.mutex import HeldElsewhereError
from mpcheckpoint._postgres.faults import ConnectionLostError, ServerError
from mpcheckpoint._postgres.rows import int4, int8
from mpcheckpoint._postgres.session import ASYNC, Call, statement
from mpcheckpoint.errors import CheckpointError

if TYPE_CHECKING:
    from mpcheckpoint._postgres.session import Session
    from mpcheckpoint._postgres.sessions import Sessions

# How long a follower waits at most: with notifications, for those that are lost; else for each record.
LONGEST_PAUSE_S = 0.5
# How long it waits at least: a look that comes in vain is in the way of the one for the next notification.
_SHORTEST_PAUSE_S = 0.05
LONGEST_PAUSE_ALONE_S = 0.05
_AFTER_LOSS_S = 0.05

# Another follower, or a compaction, may have the row at this moment: the next call comes soon, and until then the
# follower looks by itself. An append that is under way has read the mark, and does not notify: as if that were lost.
MARK_FOLLOWED = statement(
    "followed_1",
    "update mpcheckpoint.log set followed_until = clock_timestamp() + make_interval(secs => $2::integer) "
    "where id = (select id from mpcheckpoint.log where id = $1::bigint for no key update skip locked)",
)


class PostgresNotifier:
    """The notifications of one store, for all threads of this process. See ``Notifier`` in ``_store.protocol``."""

    longest_pause_s = LONGEST_PAUSE_S
    shortest_pause_s = _SHORTEST_PAUSE_S

    def __init__(self, sessions: Sessions, store_id: int) -> None:
        self._sessions = sessions
        self._channel = f"mpcheckpoint_{store_id}"
        self._count = 0
        # The session that listens; another one has heard nothing.
        self._session: Session | None = None

    def follow(self, log_id: int, seconds: float) -> bool:
        """Have appends to a log notify for so long; return whether they will."""
        marking = Call(MARK_FOLLOWED, (int8(log_id), int4(int(seconds) + 1)))
        try:
            # Not by the session that listens: another thread may wait there, for as long as nothing comes.
            marked = self._sessions.read(
                lambda session: session.call(ASYNC, marking)[1], "following a log", retry_s=0
            )
            self._begin_listening()
        except (CheckpointError, ConnectionLostError, ServerError):
            return False  # a role that may only read, say
        return bool(marked.command_tuples)

    def _begin_listening(self) -> None:
        mutex = self._sessions.listening.mutex
        if mutex.is_owned():
            return  # a signal handler of the thread that listens
        try:
            mutex.run(self._listening, 0)
        except HeldElsewhereError:
            return  # another thread listens

    def value(self) -> int:
        return self._count

    def wait(self, value: int, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        mutex = self._sessions.listening.mutex
        if mutex.is_owned():
            return

        def listen() -> None:
            try:
                if self._count == value:
                    self._count += self._listening().notified(max(0.0, deadline - time.monotonic()))
            except (ConnectionLostError, ServerError):
                self._session = None
                time.sleep(min(_AFTER_LOSS_S, timeout_s))

        try:
            mutex.run(listen, timeout_s)
        except HeldElsewhereError:
            return

    def _listening(self) -> Session:
        """Return the session that listens. Requires: its mutex."""
        session = self._sessions.listening.session()
        if session is not self._session:
            session.call_one(statement(f"listen_{self._channel}", f"listen {self._channel}"))
            self._session = session
            self._count += 1  # what was sent before was not heard
        return session
