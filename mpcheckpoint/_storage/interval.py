"""The ``interval`` setting: one background thread a process that syncs what was written, every so many milliseconds."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from mpcheckpoint.errors import CheckpointError

if TYPE_CHECKING:
    from mpcheckpoint._storage.writer import Appended, LogWriter

_IDLE_EXIT_S = 5.0

logger = logging.getLogger("mpcheckpoint")


class IntervalSyncer:
    """Sync each log at most ``interval_s`` after the first append that is not yet durable.

    Invariant: a writer is in ``_due`` as long as it has appends of the ``interval`` setting that no sync covers.
    A failed sync poisons the log, so that the next append or flush raises.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._due: dict[LogWriter, tuple[float, Appended]] = {}
        self._thread: threading.Thread | None = None

    def schedule(self, writer: LogWriter, appended: Appended, interval_s: float) -> None:
        """See to it that an append is durable within about ``interval_s`` seconds."""
        with self._condition:
            due_s = time.monotonic() + interval_s
            earlier = self._due.get(writer)
            if earlier is not None:
                due_s = min(due_s, earlier[0])
            self._due[writer] = (due_s, appended)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="mpcheckpoint-interval", daemon=True)
                self._thread.start()
            elif earlier is None:
                self._condition.notify()

    def flush(self, writer: LogWriter | None = None) -> None:
        """Sync now what is scheduled, for one writer or for all.

        Raises:
            OutcomeUnknownError: a sync failed.
        """
        with self._condition:
            chosen = [writer] if writer is not None else list(self._due)
            taken = [(each, self._due.pop(each)) for each in chosen if each in self._due]
        for each, (_, appended) in taken:
            each.make_durable(appended)

    def flush_at_exit(self) -> None:
        """Sync what is scheduled; log what fails, for there is nobody left to tell."""
        try:
            self.flush()
        except CheckpointError as error:
            logger.error("the last sync failed: %s", error)

    def reset_after_fork(self) -> None:
        """Forget the parent's appends, which the parent syncs, and its thread, which does not exist here."""
        self.__init__()  # type: ignore[misc]  # every field is to be as new

    def _run(self) -> None:
        while True:
            with self._condition:
                if not self._due and not self._condition.wait_for(lambda: bool(self._due), _IDLE_EXIT_S):
                    self._thread = None
                    return
                writer, (due_s, appended) = min(self._due.items(), key=lambda item: item[1][0])
                wait_s = due_s - time.monotonic()
                if wait_s > 0:
                    self._condition.wait(wait_s)
                    continue
                del self._due[writer]
            try:
                writer.make_durable(appended)
            except CheckpointError as error:
                logger.error("a background sync failed: %s", error)
