"""Workers: each lives for as long as a session of its process holds a lock of the server. See ``worker_protocol``.

A lock of a session, not a time in a row: it ends with the session, whatever ends that, and nobody judges anything by
age. A server that restarts, or a link that is cut, ends sessions whose processes live on. So a process whose session
was lost has no worker any more, even if it does not know yet, and another one may run its items: one run an item is
promised while no session is lost, one outcome an item always (the map's appends are judged by the claims that the log
holds).
"""

from __future__ import annotations

import os
import re
import socket
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._postgres.faults import ConnectionLostError, ServerError
from mpcheckpoint._postgres.rows import bytea_array, int4, int8, number_in
from mpcheckpoint._postgres.session import ASYNC, Call, statement
from mpcheckpoint._postgres.sessions import Retry, passing, unavailable
from mpcheckpoint._store.worker_protocol import WorkerHolder
from mpcheckpoint._system import LockHolder
from mpcheckpoint._system.command_line import shown_command
from mpcheckpoint.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from psycopg.pq.abc import PGresult

    from mpcheckpoint._postgres.session import Session, Statement
    from mpcheckpoint._postgres.sessions import Sessions

T = TypeVar("T")

_ID = re.compile(r"[0-9a-f]{32}")
_ID_BYTES = 16
# The keys of locks have 64 bits, and share them with the locks of other programs: ours are random in 60 of them.
_LOCK_DIGITS = 15
_MOST_COMMAND_CHARACTERS = 200

BEGIN_WORKER = statement(
    "begin_worker_1",
    "select mpcheckpoint.begin_worker_1($1::text, $2::bigint, $3::bytea, $4::bigint, $5::bigint, $6::text, "
    "$7::integer, $8::text)",
)
RETIRE = statement("retire_1", "select mpcheckpoint.retire_worker_1($1::bigint, $2::bytea, $3::bigint)")
UNLOCK = statement("unlock", "select pg_advisory_unlock($1::bigint)")
LIVE = statement(
    "live_1",
    "select id, begun_us, host, pid::bigint, command, shown "
    "from mpcheckpoint.live_workers_1($1::bigint, $2::bytea[], $3::bytea[])",
)
KNOWN = statement(
    "known_1", "select exists (select from mpcheckpoint.worker where store = $1::bigint and id = $2::bytea)"
)
BEGIN_AGAIN = statement(
    "begin_again_1",
    "update mpcheckpoint.worker set begun_us = $3::bigint where store = $1::bigint and id = $2::bytea "
    "and ($4::boolean or not pg_try_advisory_xact_lock_shared(lock))",
)
SHOW = statement(
    "show_1", "update mpcheckpoint.worker set shown = $3::bytea where store = $1::bigint and id = $2::bytea"
)
CLEAR = statement(
    "clear_1",
    "delete from mpcheckpoint.worker w where w.store = $1::bigint and not w.id = any($2::bytea[]) "
    "and pg_try_advisory_xact_lock_shared(w.lock)",
)


class PostgresWorker:
    """A worker whose life is a lock of this process's session. See ``Worker`` in ``_store.worker_protocol``."""

    # A command cannot keep a session alive.
    fd = -1

    def __init__(self, workers: PostgresWorkers, worker_id: str, session: Session) -> None:
        self.id = worker_id
        self._workers = workers
        self._session = session
        self._pid = os.getpid()
        self._is_retired = False

    @property
    def is_mine(self) -> bool:
        return self._pid == os.getpid()

    @property
    def is_lost(self) -> bool:
        """Whether another session has taken the place of the one that holds the lock."""
        return self.is_mine and not self._is_retired and not self._workers.is_held(self._session)

    def live_again(self) -> bool:
        """Have the session of now hold the lock, and the row be there, if the session before was lost."""
        if not self.is_mine or self._is_retired:
            return False
        session = self._workers.renew(self.id, self._session)
        if session is None:
            return False
        self._session = session
        return True

    def begin_again(self) -> bool:
        """Note that another object was begun; return False if the session was lost, or the worker was retired."""
        if not self.is_mine or self._is_retired or not self._workers.is_held(self._session):
            return False
        try:
            done = self._workers.change(BEGIN_AGAIN, self.id, int8(clock.next(0)), asks_holder=True)
        except CheckpointError:
            return False
        return done.command_tuples == 1 and self._workers.is_held(self._session)

    def show(self, data: bytes) -> None:
        """Have the row show something, as well as the server lets us."""
        if self.is_mine and not self._is_retired:
            try:
                self._workers.change(SHOW, self.id, data)
            except CheckpointError:
                pass

    def others(self) -> list[LockHolder]:
        """Return no process: none shares the session."""
        return []

    def retire(self) -> None:
        if not self.is_mine or self._is_retired:
            return
        self._workers.end(self.id, self._session)
        self._is_retired = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.retire()


class PostgresWorkers:
    """The workers of a store in a database. See ``Workers`` in ``_store.worker_protocol``."""

    may_outlive_records = True

    def __init__(self, sessions: Sessions, store_id: int, retry_s: float, reopen: tuple[Any, ...]) -> None:
        self._sessions = sessions
        self._store_id = store_id
        self._retry_s = retry_s
        self._reopen = reopen
        self._is_cleared = False

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reopen

    def begin(self) -> PostgresWorker:
        if not self._is_cleared:
            self._is_cleared = True
            self.clear()
        while True:
            worker = self._tried(self._begin)
            if worker is not None:
                return worker

    def renew(self, worker_id: str, lost: Session) -> Session | None:
        """Have the session of now keep a worker alive that ``lost`` did; return it.

        None if that session was not lost, or another one has the worker's lock. Raises as ``begin``.
        """
        own = bytes.fromhex(worker_id)

        def renewed(session: Session) -> Session | None:
            if session is lost:
                session.read_one(KNOWN, int8(self._store_id), own)  # which finds out
                return lost
            session.call_one(RETIRE, int8(self._store_id), own, None)  # perhaps nobody has cleared up
            # Where another one has the lock, the server may not have noticed yet that the last session was lost.
            return session if self._register(session, own) else None

        session = self._tried(renewed)
        return None if session is lost else session

    def _tried(self, operation: Callable[[Session], T | None]) -> T | None:
        """Return what an operation returns; None if that was None for ``retry_s`` seconds. Raises as ``begin``."""
        retry = Retry(self._retry_s)
        while True:
            failure: Exception | None = None
            try:
                done = self._sessions.append(operation, None)
                if done is not None:
                    return done
            except (ConnectionLostError, ServerError) as error:
                failure = passing(error, "starting a worker", self._sessions.place)
            if not retry.pause():
                if failure is None:
                    return None
                raise unavailable("starting a worker", self._sessions.place, failure) from None

    def _begin(self, session: Session) -> PostgresWorker | None:
        worker_id = os.urandom(_ID_BYTES)
        is_begun = self._register(session, worker_id)
        return PostgresWorker(self, worker_id.hex(), session) if is_begun else None

    def _register(self, session: Session, worker_id: bytes) -> bool:
        """Have a session hold the lock of a worker, and a row say so; return whether it could have the lock."""
        loose = len(session.loose_locks)
        unlocking = (Call(UNLOCK, [int8(lock)]) for lock in session.loose_locks[:loose])
        beginning = (
            session.marker,
            int8(self._store_id),
            worker_id,
            int8(lock_of(worker_id.hex())),
            int8(clock.next(0)),
            session.text(socket.gethostname()),
            int4(os.getpid()),
            session.text(_command(tuple(sys.orig_argv))),
        )
        *_, begun = session.call(*unlocking, Call(BEGIN_WORKER, beginning))
        del session.loose_locks[:loose]
        if begun.get_value(0, 0) != b"\1":
            return False
        session.held.add(worker_id)
        return True

    def is_live(self, worker_id: str) -> bool:
        return worker_id in self._live([worker_id])

    def is_known(self, worker_id: str) -> bool:
        if not _ID.fullmatch(worker_id):
            return False
        row = self._read(
            lambda session: session.read_one(KNOWN, int8(self._store_id), bytes.fromhex(worker_id))
        )
        return bool(row.get_value(0, 0) == b"\1")

    def retire(self, worker_id: str) -> None:
        if _ID.fullmatch(worker_id):
            self.change(RETIRE, worker_id, None)

    def name_of(self, worker_id: str) -> str:
        """Return where an administrator finds it."""
        return f"mpcheckpoint.worker {worker_id} of {self._sessions.place}"

    def begun_us(self, worker_id: str) -> int | None:
        live = self._live([worker_id])
        return live[worker_id].begun_us if worker_id in live else None

    def shown(self) -> Iterator[bytes]:
        yield from [row.shown for row in self._live(None).values() if row.shown]

    def holders(self, worker_ids: Collection[str]) -> dict[str, WorkerHolder]:
        return {worker_id: WorkerHolder(row.holder) for worker_id, row in self._live(worker_ids).items()}

    def clear(self) -> None:
        """Remove the rows that killed workers left."""
        try:
            self._read(
                lambda session: session.call_one(
                    CLEAR, int8(self._store_id), bytea_array(list(self._held_by_main()))
                )
            )
        except CheckpointError:
            pass

    def end(self, worker_id: str, holder: Session) -> None:
        """Retire a worker of this process, whose lock ``holder`` holds. Raises as ``change``.

        It is dead without its row, whoever holds its lock. That another session cannot give back: the next worker that
        begins does, or the locks of a process would become too many for the server.
        """
        lock = lock_of(worker_id)

        def end(session: Session) -> PGresult:
            own = int8(lock) if session is holder else None
            done = session.call_one(RETIRE, int8(self._store_id), bytes.fromhex(worker_id), own)
            if session is not holder:
                holder.loose_locks.append(lock)
            return done

        self._read(end)
        holder.held.discard(bytes.fromhex(worker_id))

    def change(
        self, asked: Statement, worker_id: str, value: bytes | None, *, asks_holder: bool = False
    ) -> PGresult:
        """Change a worker's row, without a sync: no row outlives its session.

        Args:
            asks_holder: the statement wants to know whether the session that asks holds the worker's lock.

        Raises:
            StoreUnavailableError, StoreAccessError, WriteFailedError
        """
        own = bytes.fromhex(worker_id)

        def change(session: Session) -> PGresult:
            parameters = [int8(self._store_id), own, value]
            if asks_holder:
                parameters.append(b"\1" if own in session.held else b"\0")
            return session.call(ASYNC, Call(asked, parameters))[1]

        return self._read(change)

    def is_held(self, session: Session) -> bool:
        """Return whether a session is the one that holds the locks of this process now, as far as is known."""
        return self._sessions.main.current() is session

    def _held_by_main(self) -> frozenset[bytes]:
        session = self._sessions.main.current()
        return frozenset() if session is None else frozenset(session.held)

    def _live(self, worker_ids: Collection[str] | None) -> dict[str, _Row]:
        ids = None
        if worker_ids is not None:
            known = [bytes.fromhex(each) for each in worker_ids if _ID.fullmatch(each)]
            if not known:
                return {}
            ids = bytea_array(known)
        result = self._read(
            lambda session: session.read_one(LIVE, int8(self._store_id), ids, bytea_array(list(session.held)))
        )
        rows = (
            [result.get_value(row, column) or b"" for column in range(6)] for row in range(result.ntuples)
        )
        return {
            worker_id.hex(): _Row(
                number_in(begun_us),
                LockHolder(number_in(pid), f"{command.decode()} on {host.decode()}", is_stopped=False),
                shown,
            )
            for worker_id, begun_us, host, pid, command, shown in rows
        }

    def _read(self, operation: Callable[[Session], PGresult]) -> PGresult:
        return self._sessions.read(operation, "looking at the workers", retry_s=self._retry_s)


class _Row(NamedTuple):
    """A live worker."""

    begun_us: int
    holder: LockHolder
    shown: bytes


@lru_cache(maxsize=1)
def _command(words: tuple[str, ...]) -> str:
    """Return a command line as a row has it: everybody reads that who may read the store."""
    return shown_command(words)[:_MOST_COMMAND_CHARACTERS]


def lock_of(worker_id: str) -> int:
    """Return the key of a worker's lock."""
    return int(worker_id[:_LOCK_DIGITS], 16)
