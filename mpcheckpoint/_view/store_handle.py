"""What a ``Checkpoint`` and its logs share: the store, the settings, the views and the mutex over them."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, TypeVar

from mpcheckpoint._logfile.mutex import HeldElsewhereError, Mutex
from mpcheckpoint._store.durability import Durability
from mpcheckpoint._store.process import process
from mpcheckpoint._store.store import DirectoryStore
from mpcheckpoint._view.log_states import ClosedStates, LogState, taken_out
from mpcheckpoint._view.statistics import Statistics, StatisticsOfLogs
from mpcheckpoint._view.view import LogView, MovedError, merged
from mpcheckpoint.errors import (
    ClosedError,
    LogNotFoundError,
    LogNotOpenError,
    NotForThisStoreError,
    ReadOnlyError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mpcheckpoint._logfile.judged import Seen
    from mpcheckpoint._store.directory import StoreDirectory
    from mpcheckpoint._store.protocol import Reader, Store, StoredLog
    from mpcheckpoint._view.records import Records
    from mpcheckpoint._view.settings import Settings

T = TypeVar("T")

# How long a condition under an append lock waits for another thread that is inside the views.
_LONGEST_UNDER_A_LOCK_S = 0.01

_MOST_PASSES = 16


class StoreHandle:
    """One handle on a store, shared by the logs that were taken from it.

    Locking rules:
    1. ``mutex`` guards the views and readers. Nothing under it waits: there are only reads.
    2. It may be taken while an append lock is held (conditions are checked there), so never the other way round.

    Invariant: the view of a log holds exactly what its reader has yielded.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.durability = Durability.parse(settings.durability)
        self._store: Store = (
            DirectoryStore(settings.path, create=settings.create, read_only=settings.read_only)
            if settings.store is None
            else settings.store
        )
        self.path, self.workers = self._store.path, self._store.workers
        self.base = self._store.directory.base if isinstance(self._store, DirectoryStore) else None
        # A directory is looked at file by file, so it need not be asked at each read.
        self._looks = self.base is None
        self.mutex = Mutex(f"the view of {settings.path}")
        self._states: dict[str, LogState] = {}
        self._queried_s: dict[str, float] = {}  # when a query last brought a view up to date
        # What the view of each of them holds.
        self._records: dict[str, Records] = {}
        # Of the logs whose figures were asked for. Not from the views: those hold every event in memory.
        self._statistics = StatisticsOfLogs()
        self._token: object | None = None
        self._begun = 0  # how many readers there were: no earlier look knew of a new one
        # Logs that were found once, and that a restore has taken out.
        self._gone: set[str] = set()
        # None: every log of the store is read. Else only these are.
        self._scope: set[str] | None = None if settings.log_keys is None else set()
        self._open_keys: dict[str, None] = {}
        self._is_closed = False
        self._pid = os.getpid()
        process.register(
            self, self._store.directory.identity if isinstance(self._store, DirectoryStore) else None
        )
        for log_key in settings.log_keys or ():
            self.open(log_key)

    # --- which logs -------------------------------------------------------------------------------------------

    def open(self, log_key: str, *, create: bool | None = None) -> None:
        """Open a log for writing through this handle, creating it unless the handle may not."""
        self.require_open()
        may_create = self.settings.create if create is None else create and self.settings.create
        stored = self._store.open_log(
            log_key, create=may_create and not self.settings.read_only, timeout_s=self.settings.lock_timeout_s
        )
        with self.mutex.guard():
            self._open_keys[log_key] = None
            self._gone.discard(log_key)
            if self._scope is not None:
                self._scope.add(log_key)
            if log_key not in self._states:
                self._begin(stored)

    def release(self, log_key: str) -> None:
        """Close a log for writing through this handle; sync what its setting has left unsynced."""
        stored = self.opened(log_key)
        del self._open_keys[log_key]
        if not self.settings.read_only:
            stored.finish()

    def opened(self, log_key: str) -> StoredLog:
        """Return a log that this handle has open.

        Raises:
            ClosedError, LogNotOpenError
        """
        self.require_open()
        if log_key not in self._open_keys:
            raise LogNotOpenError(
                f"the log {log_key!r} is not open in this handle; call createCheckpointLog({log_key!r}) or "
                f"log({log_key!r}) first",
                reason="not open",
            )
        return self._states[log_key].stored

    def opened_for_writing(self, log_key: str) -> StoredLog:
        """Return a log that this handle has open and may write to. Few calls: each append asks.

        Raises:
            ClosedError, ReadOnlyError, LogNotOpenError
        """
        if self.settings.read_only:
            raise ReadOnlyError(
                f"the handle of {self.settings.path} was opened with read_only=True",
                path=self.settings.path,
                reason="read-only",
            )
        if self._is_closed or log_key not in self._open_keys or self._pid != os.getpid():
            return self.opened(log_key)
        return self._states[log_key].stored

    def open_keys(self) -> list[str]:
        """Return the logs open in this handle, in the order they were opened."""
        return list(self._open_keys)

    def log_keys(self) -> list[str]:
        """Return the keys of all logs of the store, sorted."""
        self.require_open()
        return self._store.log_keys()

    # --- one log, brought up to date --------------------------------------------------------------------------

    def events_in(self, log_key: str, object_key: str) -> list[bytes]:
        """Return the events of an object in one log, undecoded. Few calls: each read asks."""
        if self._is_closed or log_key not in self._open_keys or self._pid != os.getpid():
            self.opened(log_key)
        mutex = self.mutex
        if mutex.lock._is_owned():
            mutex.refuse_reentry()
        with mutex.lock:
            self._refresh((self._states[log_key],))
            return self._records[log_key].events_of(object_key)

    def query(
        self, log_key: str, judge: Callable[[LogView], T], *, max_age_s: float = 0.0, is_locked: bool = False
    ) -> T:
        """Return what ``judge`` makes of a log's view as it is now, or as a query saw it at most ``max_age_s`` ago.

        If the append lock ``is_locked``, and the log has to be read anew, or another thread reads one for so long,
        MovedError is raised instead.
        """
        self.opened(log_key)

        def asked() -> T:
            state, now_s = self._states[log_key], time.monotonic()
            is_whole = state.reader.given == state.view.applied  # no signal handler has interrupted a refresh
            if not is_whole or now_s - self._queried_s.get(log_key, 0.0) >= max_age_s:
                self._refresh((state,), is_locked=is_locked)
                self._queried_s[log_key] = now_s
            return judge(self._states[log_key].view)

        try:
            return self.mutex.run(asked, _LONGEST_UNDER_A_LOCK_S if is_locked else None)
        except HeldElsewhereError:
            raise MovedError from None

    def known(self, log_key: str) -> LogState | None:
        """Return a log's reader and view as far as it was read before; None if it was not. Requires: ``mutex``."""
        state = self._states.get(log_key)
        return None if state is None or not state.view.applied else state

    def state_of(self, log_key: str) -> LogState:
        """Return a log's reader and view as they are. Requires: ``mutex``."""
        return self._states[log_key]

    def seen_if(self, log_key: str, is_met: Callable[[LogView], bool]) -> Seen | None:
        """Return what a log's view was made of, as it is now, if ``is_met`` says so of it; else None.

        None, too, where the storage cannot tell.
        """
        self.opened(log_key)
        with self.mutex.guard():
            state = self._states[log_key]
            self._refresh((state,))
            self._queried_s[log_key] = time.monotonic()
            _, reader, view = self._states[log_key]
            return reader.seen() if is_met(view) else None

    def statistics(self, log_key: str) -> Statistics:
        """Return the figures of one log, brought up to date. Requires: ``mutex``."""
        return self._statistics.of(self._states[log_key].stored)

    def _discover(self) -> bool:
        """Find the logs that were added to the store; return whether there are any."""
        if self._scope is not None:
            return False
        token = self._store.change_token()
        if token is not None and token == self._token and not self._gone:
            return False
        before = self._begun
        for log_key in self._store.log_keys():
            if log_key not in self._states:
                self._begin(self._store.find_log(log_key))
                self._gone.discard(log_key)  # made anew: its name is on the list still, so that does not grow
        self._token = token
        return self._begun != before

    def _drop_gone(self) -> bool:
        """Let go of logs that were found, not opened, and that a restore has taken out; return whether there were any.

        Of these the quarantine has all bytes. One that somebody has removed is missed.

        Requires: ``mutex``.
        """
        if self._scope is not None or (
            isinstance(self._store, DirectoryStore) and not self._store.directory.stands()
        ):
            return False  # the whole store is gone: that is no reason to show it empty
        gone = taken_out(self._states, {*self._store.log_keys(), *self._open_keys})
        for log_key in gone:
            self._states.pop(log_key).reader.release()
            self._records.pop(log_key, None)
            self._gone.add(log_key)
        return bool(gone)

    def _begin(self, stored: StoredLog) -> LogState:
        """Have a log read from its start."""
        self._begun += 1
        state = self._states[stored.log_key] = LogState(stored, stored.reader(), LogView(stored.log_key))
        self._records[stored.log_key] = state.view.records
        self._queried_s.pop(stored.log_key, None)
        return state

    def discovered(self) -> Iterable[StoredLog]:
        """Return all logs in scope, new ones included, without those that are gone."""
        self.require_open()
        with self.mutex.guard():
            self._discover()
            self._drop_gone()
            return [state.stored for state in self._states.values()]

    # --- all logs, brought up to date -------------------------------------------------------------------------

    def _refreshed(self) -> dict[str, Records]:
        """Bring the views of all logs in scope up to date and return their records.

        Requires: ``mutex``.

        Where the storage shows one moment of all logs, that is it. Else they are read one after the other, so an effect
        in one may be seen without its cause, which came to another one after that was read. A pass over all of them
        that finds nothing new is a cut without this. If writers never pause for that long, the last of a few passes has
        to do.

        Raises:
            CorruptLogError: and the views stay as far as they were read.
        """
        for _ in range(_MOST_PASSES):
            is_cut, begun = self._look(), self._begun
            states = list(self._states.values())
            try:
                is_new = self._refresh(states)
            except LogNotFoundError:
                if not self._drop_gone():
                    raise
                continue
            if not is_new or (is_cut and self._begun == begun) or (len(states) < 2 and not self._discover()):
                break
        return self._records

    def look(self, readers: Sequence[Reader]) -> tuple[bool, list[StoredLog]]:
        """Have the next polls of others' readers give what one look finds; return if it is one moment, and all logs."""
        self.require_open()
        with self.mutex.guard():
            is_moment = self._looks and self._store.look(readers)
            self._discover()  # what the look knows of new logs is true now, and not at a later read
            return is_moment, [state.stored for state in self._states.values()]

    def _look(self) -> bool:
        """Look at all logs in scope at once, those included that were added; return whether that is one moment."""
        if not self._looks:
            self._discover()
            return False
        for _ in range(_MOST_PASSES):
            is_cut = self._store.look([state.reader for state in self._states.values()])
            # Asked after the look, it is known from that. Where nothing was looked at, a second look gains nothing.
            if not (self._discover() and is_cut):
                return is_cut
        return False

    def _refresh(self, states: Iterable[LogState], *, is_locked: bool = False) -> bool:
        """Read what is new in these logs; return whether there was anything. Few calls: each read asks."""
        is_new = False
        for stored, reader, view in states:
            if reader.given != view.applied:
                # A signal handler raised (a Ctrl-C, or our own ReentrancyError) when the reader had moved on and the
                # view had not: read anew.
                if is_locked:
                    raise MovedError
                _, reader, view = self._begin(stored)  # noqa: PLW2901
            for chunk in reader.poll():
                if chunk.is_reset and is_locked:
                    raise MovedError  # the reader has moved on, and the view has not: it is read anew
                view.apply(chunk)
                self._records[view.log_key] = view.records
                is_new = True
        return is_new

    def events(self, object_key: str) -> list[bytes]:
        """Return the events of an object over all logs, undecoded, in the merged order. Few calls: each read asks."""
        if self._is_closed or self._pid != os.getpid():
            self.require_open()
        mutex = self.mutex
        if mutex.lock._is_owned():
            mutex.refuse_reentry()
        with mutex.lock:
            return merged(self._refreshed(), object_key)

    def query_all(self, judge: Callable[[dict[str, Records]], T]) -> T:
        """Return what ``judge`` makes of the records of all logs, by key, as they are now."""
        self.require_open()
        with self.mutex.guard():
            return judge(self._refreshed())

    # --- life -------------------------------------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        """Whether the handle was closed."""
        return self._is_closed

    def storage(self) -> Store:
        """Return the store."""
        self.require_open()
        return self._store

    def directory(self, what: str) -> StoreDirectory:
        """Return the directory of the store, for ``what`` is about its files.

        Raises:
            NotForThisStoreError: it is none.
        """
        if not isinstance(store := self.storage(), DirectoryStore):
            raise NotForThisStoreError(what, self.path)
        return store.directory

    def require_open(self) -> None:
        """Raise ClosedError if the handle was closed; notice a fork that ran no hooks."""
        process.notice_fork()
        if self._is_closed:
            raise self._closed()

    def _closed(self) -> ClosedError:
        path = self.settings.path
        return ClosedError(f"the handle of {path} is closed", path=path, reason="closed")

    def close(self) -> None:
        """Sync what the ``interval`` setting has left, and give back files and memory. Closing twice is fine."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            if not self.settings.read_only:
                for log_key in self._open_keys:
                    self._states[log_key].stored.finish()
        finally:
            with self.mutex.guard():
                for state in self._states.values():
                    state.reader.release()
                self._statistics.drop()
                self._states, self._records = ClosedStates(self._closed), ClosedStates(self._closed)
            process.end_use(self)

    def reset_after_fork(self) -> None:
        """In a forked child: a view that no thread was changing is kept, any other is read anew."""
        is_whole = self.mutex.is_free() and not self.mutex.is_owned()
        self.mutex = Mutex(f"the view of {self.settings.path}")
        for state in list(self._states.values()):
            state.reader.release()
            if not is_whole:
                self._begin(state.stored)
        self._statistics.drop()
        self._pid = os.getpid()
