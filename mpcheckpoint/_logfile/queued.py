"""Appends of threads that wait for another thread of their process: the one that has the append lock writes them, too.

Each stays a batch of its own, with a stamp of its own; they share the lock, the look at the log's end and the write. A
thread that comes alone costs nothing more. A condition is judged by its own thread only.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from mpcheckpoint._logfile.opened import Appended

if TYPE_CHECKING:
    from mpcheckpoint._format.frame import EndState, Payload
    from mpcheckpoint._logfile.opened import OpenLog

# So many are written at once, of so many bytes each: a write in progress must not take long.
_MOST_AT_ONCE = 64
_LARGEST_BYTES = 16 * 1024
_PAUSE_S = 0.001


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

    def wait(self, timeout_s: float) -> None:
        """Return once the thread that has taken it has written it, or has given it up; or after so many seconds."""
        until_s = time.monotonic() + timeout_s
        while self.is_taken and self.appended is None and time.monotonic() < until_s:
            time.sleep(_PAUSE_S)


class AppendQueue:
    """The appends of one log that wait for the thread that has the append lock."""

    def __init__(self) -> None:
        self.written = 0  # how many batches, own and others'
        self._queue: deque[QueuedAppend] = deque()

    def join(self, queued: QueuedAppend) -> None:
        """Put a batch into the queue. Requires: ``takes`` it, and the caller sees to it that it leaves."""
        self._queue.append(queued)

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
            WriteFailedError: the batch was not written. Others that were not are left to their own threads.
        """
        ends: list[EndState] = []
        if not self._queue:
            log.append([payloads], ends)
            self.written += 1
            return ends[0]
        taken: list[QueuedAppend] = []
        try:
            self._take(taken)
            log.append([payloads, *[each.payloads for each in taken]], ends)
        except OSError as error:
            if log.file.is_lost_by(error):
                raise
        finally:
            # Where there was no room for all of them, the first ones may be there.
            written = ends.index(log.end.state) + 1 if log.end.state in ends else 0
            self.written += written
            for each, end in zip(taken, ends[1:written], strict=False):
                each.appended = Appended(log, end, log.end.beginning)
            for each in taken[max(0, written - 1) :]:
                each.is_taken = False
        if not written:  # each by itself
            ends.clear()
            log.append([payloads], ends)
            self.written += 1
        return ends[0]

    def _take(self, taken: list[QueuedAppend]) -> None:
        """Put into ``taken`` what waits now, to be written by this thread. It is there before it is out of the queue:
        a Ctrl-C in between leaves nothing to nobody."""
        while self._queue and len(taken) < _MOST_AT_ONCE:
            try:
                queued = self._queue[0]
            except IndexError:  # it has left
                return
            taken.append(queued)
            queued.is_taken = True  # before it is out of the queue: its thread may just be leaving
            try:
                self._queue.remove(queued)
            except (IndexError, ValueError):  # it has left
                taken.pop()
