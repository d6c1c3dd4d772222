"""The connections of one process to one server: one for appends and workers, and another one where it is busy.

An append may wait long, for a lock that another process has; nobody who reads waits for that. So while one thread is
within an append, the reads of others go through a second connection, which is made the first time that this happens.
"""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from mpcheckpoint._logfile.mutex import HeldElsewhereError, Mutex
from mpcheckpoint._postgres.faults import ConnectionLostError, ServerError, UnreachableError, typed
from mpcheckpoint._postgres.session import Session
from mpcheckpoint._store.process import process
from mpcheckpoint.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpcheckpoint._postgres.address import Address

T = TypeVar("T")

_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0


class Retry:
    """How long, and how often, something is tried again while the server cannot be reached.

    The time counts from the first failure: that may have taken long to come.
    """

    def __init__(self, retry_s: float) -> None:
        self._retry_s = retry_s
        self._deadline: float | None = None
        self._pause_s = _SHORTEST_PAUSE_S

    def pause(self) -> bool:
        """Wait a while; return False if there was no time left."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._retry_s
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            return False
        time.sleep(min(left_s, self._pause_s * random.uniform(0.5, 1)))
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        return True


class Connection:
    """One connection, made anew after it was lost. ``mutex`` keeps threads apart."""

    def __init__(self, address: Address, what: str, *, must_write: bool) -> None:
        self._address = address
        self._what = what
        self._must_write = must_write
        self._session: Session | None = None
        self.mutex = Mutex(what)

    def session(self) -> Session:
        """Return the session; a new one, if the last one was lost. Requires: ``mutex``.

        Raises:
            UnreachableError, ServerError
        """
        session = self._session
        if session is None or session.is_lost:
            session = self._session = Session(self._address.conninfo(), must_write=self._must_write)
        return session

    def is_busy(self) -> bool:
        """Return whether a call is under way: who asks is a signal handler, where it is this thread's."""
        return self._session is not None and self._session.is_busy

    def current(self) -> Session | None:
        """Return the session, if there is one that was not lost."""
        session = self._session
        return None if session is None or session.is_lost else session

    def reset_after_fork(self) -> None:
        """In a forked child: leave the session to the parent."""
        session, self._session = self._session, None
        self.mutex = Mutex(self._what)
        if session is not None:
            session.abandon()

    def close(self) -> None:
        """End the session."""
        session, self._session = self._session, None
        if session is not None:
            session.close()


class Sessions:
    """The connections of this process to one server, for any number of stores and threads.

    Attributes:
        place: the address without its password, for messages.
        main: for appends, and for what has to be in one session with them: the locks of workers.
        listening: for notifications, made once something is followed.
    """

    def __init__(self, address: Address, *, must_write: bool) -> None:
        self.place = str(address)
        self.main = Connection(address, f"the connection to {self.place}", must_write=must_write)
        self._side = Connection(address, f"the second connection to {self.place}", must_write=must_write)
        self.listening = Connection(
            address, f"the listening connection to {self.place}", must_write=must_write
        )
        self._guarding = False  # whether the thread that owns ``main`` is within a guard, which reads
        self._address, self._must_write = address, must_write
        self._others: set[Connection] = set()
        process.register(self)
        weakref.finalize(self, _close, os.getpid(), self.main, self._side, self.listening)

    def append(self, operation: Callable[[Session], T], timeout_s: float | None) -> T:
        """Return what an operation returns for which this thread has ``main``.

        Raises:
            ReentrancyError: this thread has it already.
            HeldElsewhereError: other threads had it for so long.
            UnreachableError, ServerError
        """
        process.notice_fork()
        return self.main.mutex.run(lambda: operation(self.main.session()), timeout_s)

    def guard(self, condition: Callable[[], T]) -> T:
        """Return what a condition says, whose reads go through ``main``, which holds the lock. Requires: ``main``."""
        self._guarding = True
        try:
            return condition()
        finally:
            self._guarding = False

    def read(self, operation: Callable[[Session], T], what: str, *, retry_s: float) -> T:
        """Return what an operation returns that may be done twice, tried again until it could be done.

        Raises:
            StoreUnavailableError: the server could not be reached for so long.
            CheckpointError: as the server refused it.
        """
        process.notice_fork()
        if self._guarding and self.main.mutex.is_owned() and not self.main.is_busy():
            try:
                return operation(self.main.session())
            except ServerError as error:
                raise ConnectionLostError(str(passing(error, what, self.place, is_read=True))) from None
        retry = Retry(retry_s)
        while True:
            try:
                return self._read_once(operation)
            except (ConnectionLostError, ServerError) as error:
                failure = passing(error, what, self.place, is_read=True)
            if not retry.pause():
                raise unavailable(what, self.place, failure) from None

    def _read_once(self, operation: Callable[[Session], T]) -> T:
        mutex = self.main.mutex
        if not mutex.is_owned():  # else a signal handler reads, within an append
            try:
                return mutex.run(lambda: operation(self.main.session()), 0)
            except HeldElsewhereError:
                pass
        with self._side.mutex.guard():
            return operation(self._side.session())

    @contextmanager
    def another(self, what: str) -> Iterator[Session]:
        """Give a session that nobody else uses, for work that takes long.

        Raises:
            UnreachableError, ServerError
        """
        connection = Connection(self._address, what, must_write=self._must_write)
        self._others.add(connection)
        try:
            yield connection.session()
        finally:
            self._others.discard(connection)
            connection.close()

    def reset_after_fork(self) -> None:
        """In a forked child: leave all sessions to the parent."""
        self._guarding = False
        for connection in list(self._others):
            connection.reset_after_fork()
        self.main.reset_after_fork()
        self._side.reset_after_fork()
        self.listening.reset_after_fork()


def unavailable(what: str, place: str, failure: Exception) -> StoreUnavailableError:
    """Return the error for a server that could not be reached for as long as it was tried."""
    never = " " if isinstance(failure, UnreachableError) else " in the end "
    return StoreUnavailableError(
        f"{what} of {place}: the server could not be reached{never}({failure}). Nothing was written",
        path=place,
        reason="unreachable",
    )


def passing(error: Exception, what: str, place: str, *, is_read: bool = False) -> Exception:
    """Return an error after which another session may do what was asked; raise any other as users see it."""
    if isinstance(error, ServerError) and not error.is_of_session:
        raise typed(error, what, place, is_read=is_read) from None
    return error


@contextmanager
def told(what: str, place: str, *, is_read: bool = False) -> Iterator[None]:
    """Have what goes wrong with the server in the block raised as users see it."""
    try:
        yield
    except (ConnectionLostError, ServerError) as error:
        raise unavailable(what, place, passing(error, what, place, is_read=is_read)) from None


_of_process: weakref.WeakValueDictionary[tuple[Address, bool], Sessions] = weakref.WeakValueDictionary()
_mutex = threading.RLock()


def sessions_of(address: Address, *, must_write: bool) -> Sessions:
    """Return the sessions of this process with a server, which all its stores there share."""
    with _mutex:
        sessions = _of_process.get((address, must_write))
        if sessions is None:
            sessions = _of_process[address, must_write] = Sessions(address, must_write=must_write)
        return sessions


def _close(pid: int, *connections: Connection) -> None:
    if pid == os.getpid():
        for connection in connections:
            connection.close()
