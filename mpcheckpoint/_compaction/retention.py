"""Logs that look after their own size: what is to be kept is recorded in the log, and its writers see to it.

A process that opened a log with a retention compacts it in a thread of the background, one log at a time, when its file
is over a size and at least half of it can go. One that closes a handle does so for each log whose retention it knows.
"""

from __future__ import annotations

import logging
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from mpcheckpoint._compaction.compacting import compact_by, require_number
from mpcheckpoint._compaction.rules import Rules
from mpcheckpoint._compaction.selection import RETENTION
from mpcheckpoint._format.control import Note, note_payload
from mpcheckpoint._store.process import process
from mpcheckpoint.errors import CheckpointError, LockTimeoutError

if TYPE_CHECKING:
    from mpcheckpoint._view.log_handle import LogHandle
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
        require_number(newer_than_s, "newer_than_s", "a number of seconds, 0 to 2^53", most=_MOST)
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
        fields = {
            "keep_last": self.keep_last,
            "newer_than_s": self.newer_than_s,
            "max_bytes": self.max_bytes,
        }
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
    if log.query(_recorded_in) != retention:
        log.append_if([note_payload(retention._note())], lambda _: None)
    keeper.watch(log, retention)


class _Watched(NamedTuple):
    """A log that is looked after."""

    handle: weakref.ref[LogHandle]
    retention: Retention


class Keeper:
    """Looks after logs, in one background thread of the process, as long as there are any.

    Concurrency: any number of threads. A forked child looks after nothing until it opens a log so.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._watched: dict[tuple[str, str], _Watched] = {}
        # How long each log may become before it is looked into again.
        self._next_bytes: dict[tuple[str, str], int] = {}
        self._thread: threading.Thread | None = None

    def reset_after_fork(self) -> None:
        """Forget the parent's logs, and its thread, which does not exist here."""
        self.__init__()  # type: ignore[misc]

    def watch(self, log: LogHandle, retention: Retention) -> None:
        """Look after a log for as long as its handle is used."""
        with self._condition:
            self._watched[log.store.path, log.log_key] = _Watched(weakref.ref(log), retention)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="mpcheckpoint-retention", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    return  # no more threads are to be had: it is looked after when it is closed
                self._thread = thread

    def finish(self, logs: list[LogHandle]) -> None:
        """Look after logs whose handle is about to be closed, here and now, if it is known that they want it."""
        for log in logs:
            with self._condition:
                known = self._watched.pop((log.store.path, log.log_key), None)
            retention = log.known_note(_recorded_in) if known is None else known.retention
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
            kept = done.records_after / max(1, done.records_before)
            self._next_bytes[place] = int(_AGAIN_AT * kept * done.bytes_before)
        except LockTimeoutError:
            return False  # another process is at it
        except (CheckpointError, MemoryError) as error:
            self._next_bytes[place] = _AGAIN_AT * size
            logger.warning("the log %r was not made smaller: %s", log.log_key, error)
            return False
        return done.is_changed

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait(_LOOK_EVERY_S)
                watched = list(self._watched.items())
                if not watched:
                    self._thread = None
                    return
            for place, (handle, retention) in watched:
                log = handle()
                if log is None or log.store.is_closed:
                    with self._condition:
                        if self._watched.get(place) == (handle, retention):
                            del self._watched[place]
                else:
                    self.look_after(log, retention)
                del log


keeper = Keeper()
process.register(keeper)
