"""The ``interval`` setting: one background thread a process that syncs what was written, every so many milliseconds."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint.errors import CheckpointError

if TYPE_CHECKING:
    from mpcheckpoint._logfile.append import LogWriter
    from mpcheckpoint._logfile.opened import Appended

_IDLE_EXIT_S = 5.0

logger = logging.getLogger("mpcheckpoint")


class _Due(NamedTuple):
    writer: LogWriter
    due_s: float
    interval_s: float
    appended: Appended


class IntervalSyncer:
    """Sync each log at most ``interval_s`` after the first append that is not yet durable.

    Invariant: the file of a log is in ``_due`` as long as this process has appends to it of the ``interval``
    setting that no sync has covered; it leaves only when one has, so that a flush waits for a sync in progress.
    A failed sync poisons the log, so that the next append or flush raises. Where the log was replaced instead, by one
    that does not hold what was appended, the log is sound: then the next flush of it raises.
    """

    def __init__(self) -> None:
        self._make_locks()
        self._due: dict[str, _Due] = {}
        # By log file, what the thread found and nobody was told of yet, though the log takes appends.
        self._untold: dict[str, CheckpointError] = {}
        self._thread: threading.Thread | None = None

    def _make_locks(self) -> None:
        # The mutex is named, and not entered by its condition: that is code of Python, which a Ctrl-C may leave with
        # the mutex taken.
        self._mutex = threading.RLock()
        self._condition = threading.Condition(self._mutex)

    def schedule(self, writer: LogWriter, appended: Appended, interval_s: float) -> None:
        """See to it that an append is durable within about ``interval_s`` seconds."""
        with self._mutex:
            due = _Due(writer, time.monotonic() + interval_s, interval_s, appended)
            earlier = self._due.get(writer.paths.log)
            is_sooner = earlier is None or due.due_s < earlier.due_s
            if earlier is not None:
                # Threads may come here in another order than they appended in; stamps rise, also across generations.
                latest = max(due, earlier, key=lambda each: each.appended.end.stamp_us)
                due = latest._replace(due_s=min(due.due_s, earlier.due_s))
            self._due[writer.paths.log] = due
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="mpcheckpoint-interval", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    pass  # no more threads are to be had: synced below instead
                else:
                    self._thread = thread
            elif is_sooner:
                self._condition.notify()
            has_thread = self._thread is not None
        if earlier is not None and earlier.appended.log is not appended.log:
            # What was appended since vouches for nothing of an earlier generation.
            try:
                writer.wait_durable(earlier.appended)
            except CheckpointError as error:
                self._note_failure(earlier, error)
        if not has_thread:
            self._sync(due)

    def flush(self, log_path: str | None = None) -> None:
        """Sync now what is scheduled, for one log file or for all.

        Raises:
            OutcomeUnknownError: a sync failed, or the log was replaced by one that does not hold what was appended. The
                others were done all the same.
        """
        with self._mutex:
            entries = [due for path, due in self._due.items() if log_path in (None, path)]
            untold = [self._untold.pop(path) for path in list(self._untold) if log_path in (None, path)]
        failure: CheckpointError | None = untold[0] if untold else None
        for entry in entries:
            try:
                self._sync(entry)
            except CheckpointError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def flush_at_exit(self) -> None:
        """Sync what is scheduled; log what fails, for there is nobody left to tell."""
        try:
            self.flush()
        except CheckpointError as error:
            logger.error("the last sync failed: %s", error)

    def reset_after_fork(self) -> None:
        """Forget the parent's appends, which the parent syncs, and its thread, which does not exist here."""
        self._make_locks()
        self._untold = {}
        self._due = {}
        self._thread = None

    def _sync(self, entry: _Due) -> None:
        try:
            entry.writer.wait_durable(entry.appended)
        except CheckpointError:
            self._settle(entry)  # poisoned: the next append or flush raises
            raise
        except BaseException:  # a Ctrl-C, or no memory: still to be done
            with self._mutex:
                if self._due.get(entry.writer.paths.log) is entry:
                    due_s = time.monotonic() + entry.interval_s
                    self._due[entry.writer.paths.log] = entry._replace(due_s=due_s)
            raise
        self._settle(entry)

    def _settle(self, entry: _Due) -> None:
        path = entry.writer.paths.log
        with self._mutex:
            newer = self._due.get(path)
            if newer is entry:
                del self._due[path]
            elif newer is not None:
                self._due[path] = newer._replace(due_s=time.monotonic() + newer.interval_s)

    def _note_failure(self, entry: _Due, error: CheckpointError | MemoryError) -> None:
        """Log what nobody is there to be told, and keep for the next flush what no append will find."""
        if isinstance(error, CheckpointError) and not entry.appended.log.file.is_poisoned:
            with self._mutex:
                self._untold[entry.writer.paths.log] = error
        logger.error("a background sync failed: %s", str(error) or type(error).__name__)

    def _run(self) -> None:
        while True:
            with self._mutex:
                if not self._due and not self._condition.wait_for(lambda: bool(self._due), _IDLE_EXIT_S):
                    self._thread = None
                    return
                entry = min(self._due.values(), key=lambda due: due.due_s)
                wait_s = entry.due_s - time.monotonic()
                if wait_s > 0:
                    self._condition.wait(wait_s)
                    continue
            try:
                self._sync(entry)
            except (CheckpointError, MemoryError) as error:
                self._note_failure(entry, error)
