"""Logs that look after their own size: what is to be kept is recorded in the log, and its writers see to it.

A process that opened a log with a retention compacts it in a thread of the background, one log at a time, when its file
is over a size and at least half of it can go. One that closes a handle does so for each log whose retention it knows.
"""

from __future__ import annotations

import logging
import sys
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mpcheckpoint._compaction.compacting import compact_by, require_number
from mpcheckpoint._compaction.rules import Rules
from mpcheckpoint._compaction.selection import RETENTION
from mpcheckpoint._format.control import Note, note_payload
from mpcheckpoint._store.process import process
from mpcheckpoint._view.log_handle import LogHandle
from mpcheckpoint.errors import ClosedError, LockTimeoutError, LogNotOpenError

if TYPE_CHECKING:
    from mpcheckpoint._view.store_handle import StoreHandle
    from mpcheckpoint._view.view import LogView

_LOOK_EVERY_S = 1.0
_MOST_KEPT = 0.5
_AGAIN_AT = 2
_USUAL_BYTES = 16 * 1024 * 1024
# Recorded in the log, for readers whose integers are doubles.
_MOST = 2**53

logger = logging.getLogger("mpcheckpoint")


@dataclass(frozen=True, slots=True)
class Retention:
    """What a log keeps by itself. Give it to ``Checkpoint.log``; it is recorded in the log.

    Attributes:
        keep_last: so many records of each object, its last ones; None for all.
        newer_than_s: the records that are at most so many seconds old; None for all. With ``keep_last``: what either
            keeps.
        max_bytes: the log is compacted when its file is larger than this and half of it, or more, can go.

    With neither of the first two nothing goes by itself.

    Raises:
        ValueError: one of them is no such number.
    """

    keep_last: int | None = None
    newer_than_s: float | None = None
    max_bytes: int = _USUAL_BYTES

    def __post_init__(self) -> None:
        keep_last, newer_than_s, max_bytes = self.keep_last, self.newer_than_s, self.max_bytes
        require_number(
            keep_last, "keep_last", "a number of records, 1 to 2^53", least=1, most=_MOST, is_whole=True
        )
        require_number(
            newer_than_s, "newer_than_s", "a number of seconds, at least 0", most=sys.float_info.max
        )
        require_number(
            max_bytes, "max_bytes", "a number of bytes, 1 to 2^53", least=1, most=_MOST, is_whole=True
        )
        if max_bytes is None:
            raise ValueError("max_bytes is a number of bytes, 1 to 2^53, not None")

    @property
    def is_on(self) -> bool:
        """Whether anything is to go."""
        return self.keep_last is not None or self.newer_than_s is not None

    def _note(self) -> Note:
        fields = {"keep_last": self.keep_last, "newer_than_s": self.newer_than_s, "max_bytes": self.max_bytes}
        return Note(RETENTION, fields)


def _recorded_in(view: LogView) -> Retention | None:
    """Return what a log says; None if it says nothing, or what this release does not understand."""
    fields: dict[str, Any] = view.note(RETENTION) or {}
    try:
        return Retention(**fields) if fields else None
    except (TypeError, ValueError):
        return None


def record(log: LogHandle, retention: Retention) -> None:
    """Record a retention in a log that says otherwise, and have it looked after by this process.

    Raises:
        TypeError: it is none. And what an append raises.
    """
    if not isinstance(retention, Retention):
        raise TypeError(f"retention is a Retention, or None, not {retention!r}")
    log.for_writing()  # also where the log says so already
    if log.query(_recorded_in) != retention:
        log.append_if([note_payload(retention._note())], lambda _: None, relies_on=frozenset())
    keeper.watch(log, retention)


class Keeper:
    """Looks after logs, in one background thread of the process, as long as there are any.

    Concurrency: any number of threads. A forked child looks after nothing until it opens a log so.
    """

    def __init__(self) -> None:
        # Entered by itself, not by its condition: that is code of Python, which a Ctrl-C may leave with it taken.
        self._mutex = threading.RLock()
        self._condition = threading.Condition(self._mutex)
        # By the handle on the store, for as long as that is open, and log key.
        self._watched: dict[tuple[weakref.ref[StoreHandle], str], Retention] = {}
        # How long each log may become before it is looked into again.
        self._next_bytes: dict[tuple[str, str], int] = {}
        self._thread: threading.Thread | None = None
        # The handle whose log the thread looks after now.
        self._at: StoreHandle | None = None

    def reset_after_fork(self) -> None:
        """Forget the parent's logs, and its thread, which does not exist here."""
        self.__init__()  # type: ignore[misc]

    def watch(self, log: LogHandle, retention: Retention) -> None:
        """Look after a log until its store is closed."""
        with self._mutex:
            self._watched[weakref.ref(log.store), log.log_key] = retention
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="mpcheckpoint-retention", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    return  # no more threads are to be had: it is looked after when it is closed
                self._thread = thread

    def finish(self, store: StoreHandle) -> None:
        """Look after the logs of a handle that is about to be closed, here and now, if it is known that they want it.

        Nothing is done to them after this.
        """
        with self._mutex:
            place = weakref.ref(store)
            watched = {key: self._watched.pop((place, key), None) for key in store.open_keys()}
            self._condition.notify_all()  # the thread ends if there is nothing left to look after
            self._condition.wait_for(lambda: self._at is not store)
        for log_key, retention in watched.items():
            log = LogHandle(store, log_key)
            retention = retention or log.known_note(_recorded_in)  # noqa: PLW2901
            if retention is not None:
                self.look_after(log, retention)

    def look_after(self, log: LogHandle, retention: Retention) -> bool:
        """Compact a log if that is worth it; return whether it was. What fails is logged: nobody waits for it."""
        place, size = (log.store.path, log.log_key), 0
        try:
            size = log.for_writing().size_bytes()
            if not retention.is_on or size <= max(retention.max_bytes, self._next_bytes.get(place, 0)):
                return False
            rules = Rules(retention.keep_last, retention.newer_than_s, most_kept=_MOST_KEPT)
            done = compact_by(log, rules, waits=False)
            # Half of it can go when it is twice as long as what was kept; what came meanwhile is not known.
            self._next_bytes[place] = _AGAIN_AT * done.bytes_after
        except LockTimeoutError:
            return False  # another process is at it
        except Exception as error:  # noqa: BLE001 - whatever it is, the log is as it was, and others are looked after
            if size:
                self._next_bytes[place] = _AGAIN_AT * size
            else:  # the log is gone, or not open any more
                with self._mutex:
                    self._watched.pop((weakref.ref(log.store), log.log_key), None)
            if not isinstance(error, LogNotOpenError | ClosedError):
                logger.warning("the log %r was not made smaller: %s", log.log_key, error)
            return False
        return done.is_changed

    def _run(self) -> None:
        while True:
            with self._mutex:
                self._watched = {
                    (store, log_key): retention
                    for (store, log_key), retention in self._watched.items()
                    if (handle := store()) is not None and not handle.is_closed
                }
                handle = None  # it is not to live for this
                if not self._watched:
                    self._thread = None
                    return
                self._condition.wait(_LOOK_EVERY_S)
                watched = list(self._watched)
            for each in watched:
                self._look_after_watched(*each)

    def _look_after_watched(self, store: weakref.ref[StoreHandle], log_key: str) -> None:
        with self._mutex:
            retention, self._at = self._watched.get((store, log_key)), store()
        try:
            if retention is not None and self._at is not None:
                self.look_after(LogHandle(self._at, log_key), retention)
        finally:
            with self._mutex:
                self._at = None
                self._condition.notify_all()


keeper = Keeper()
process.register(keeper)
