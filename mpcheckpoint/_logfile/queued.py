"""Appends of threads that wait for another thread of their process: the one that has the append lock writes them, too.

Each stays a batch of its own, with a stamp of its own; they share the lock, the look at the log's end and the write. A
thread that comes alone costs nothing more. A condition is judged by its own thread only.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from mpcheckpoint._logfile.opened import Appended

if TYPE_CHECKING:
    from mpcheckpoint._format.frame import EndState, Payload
    from mpcheckpoint._logfile.opened import OpenLog

# So many are written at once, of so many bytes each: a write in progress must not take long.
_MOST_AT_ONCE = 64
_LARGEST_BYTES = 16 * 1024


class QueuedAppend:
    """A batch that any thread of this process may write.

    Attributes:
        is_taken: whether another thread writes it, or has written it. Its own thread writes it only if not.
        appended: what came of that, once it was written.
    """

    __slots__ = ("appended", "is_taken", "payloads")

    def __init__(self, payloads: list[Payload]) -> None:
        self.payloads = payloads
        self.is_taken = False
        self.appended: Appended | None = None


class AppendQueue:
    """The appends of one log that wait for the thread that has the append lock."""

    def __init__(self) -> None:
        self.written = 0  # how many batches, own and others'
        self._queue: deque[QueuedAppend] = deque()

    def join(self, payloads: list[Payload]) -> QueuedAppend:
        """Put a batch into the queue. Requires: ``takes`` it."""
        queued = QueuedAppend(payloads)
        self._queue.append(queued)
        return queued

    @staticmethod
    def takes(payloads: list[Payload]) -> bool:
        """Return whether a batch is small enough to be written with others."""
        return len(payloads) == 1 and len(payloads[0].event) <= _LARGEST_BYTES

    def leave(self, queued: QueuedAppend) -> bool:
        """Take a batch out of the queue; return False if another thread has taken it."""
        try:
            self._queue.remove(queued)
        except ValueError:
            return not queued.is_taken
        return True

    def write(self, log: OpenLog, payloads: list[Payload]) -> EndState:
        """Write a batch, and those that other threads have queued meanwhile; return the end state after the batch.

        Requires: the append lock, and ``log.find_end``.

        Raises:
            WriteFailedError: the batch was not written. The others are left to their own threads.
        """
        ends: list[EndState] = []
        if not self._queue:
            log.append([payloads], ends)
            self.written += 1
            return ends[0]
        taken = self._take()
        try:
            log.append([payloads, *[each.payloads for each in taken]], ends)
        except OSError as error:
            if log.file.is_lost_by(error):
                raise
        finally:
            is_written = bool(ends) and log.end.state is ends[-1]
            if is_written:
                self.written += len(ends)
                for each, end in zip(taken, ends[1:], strict=True):
                    each.appended = Appended(log, end, log.end.beginning)
            else:
                for each in taken:
                    each.is_taken = False
        if not is_written:  # no room for all of them, maybe: each by itself
            ends.clear()
            log.append([payloads], ends)
            self.written += 1
        return ends[0]

    def _take(self) -> list[QueuedAppend]:
        """Return what waits now, to be written by this thread."""
        taken: list[QueuedAppend] = []
        while self._queue and len(taken) < _MOST_AT_ONCE:
            try:
                queued = self._queue[0]
                queued.is_taken = True  # before it is out of the queue: its thread may just be leaving
                self._queue.remove(queued)
            except (IndexError, ValueError):  # it has left
                continue
            taken.append(queued)
        return taken
