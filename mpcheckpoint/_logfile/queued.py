"""Appends of threads that wait for another thread of their process: the one that has the append lock writes them, too.

Each stays a batch of its own, with a stamp of its own; they share the lock, the look at the log's end and the write. A
thread that comes alone costs nothing more. A condition is judged by its own thread only.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from mpcheckpoint._logfile.opened import Appended
from mpcheckpoint._logfile.successor import outcome_unknown
from mpcheckpoint.errors import CheckpointError, LockTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._format.frame import EndState, Payload
    from mpcheckpoint._logfile.opened import OpenLog
    from mpcheckpoint._logfile.paths import LogPaths

# So many are written at once, of so many bytes each: a write in progress must not take long.
_MOST_AT_ONCE = 64
_LARGEST_BYTES = 16 * 1024
_PAUSE_S = 0.001
# Of another thread, for one whose time to wait is over: to tell what became of its record.
_LONGEST_WRITE_S = 10.0


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
        """Put a batch into the queue; the caller sees to it that it leaves."""
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

    def append(
        self,
        queued: QueuedAppend,
        exclusive: Callable[[Callable[[], Appended | None]], Appended],
        paths: LogPaths,
    ) -> Appended:
        """Wait for the thread that is inside; return what that wrote for this one, or what this one wrote itself.

        Args:
            queued: a batch that the queue ``takes``.
            exclusive: waits for other threads, returns what it is given if that is not None, and appends else.

        Raises:
            OutcomeUnknownError: the thread that had taken the batch was interrupted. And what ``exclusive`` raises.
        """

        def written_by_another() -> Appended | None:
            return None if self.leave(queued) else _written(queued, paths)

        try:
            self.join(queued)  # in here: a Ctrl-C right after it must not leave the batch to others
            return exclusive(written_by_another)
        except BaseException as error:
            try:
                is_unwritten = self.leave(queued)
            except BaseException:  # a Ctrl-C in there: it can be done again
                self.leave(queued)
                raise
            if is_unwritten:
                raise
            if isinstance(error, LockTimeoutError):
                # Another thread is just writing it, or has written it. Rejected: to wait for the lock once more. A
                # thread that came in between may keep it for long, and what that says need not be so.
                queued.wait(_LONGEST_WRITE_S)
                if queued.is_taken:
                    return _written(queued, paths)
                raise
            if not isinstance(error, CheckpointError):
                error.add_note(
                    f"mpcheckpoint: the record may have been written to {paths.log} by another thread"
                )
            raise

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
        before = self.written
        try:
            self._take(taken)
            log.append([payloads, *[each.payloads for each in taken]], ends)
        except OSError as error:
            if log.file.is_lost_by(error):
                raise
        finally:
            try:
                self._tell(log, taken, ends, before)
            except BaseException:  # a Ctrl-C in there: every step of it can be done again
                self._tell(log, taken, ends, before)
                raise
        if self.written == before:  # each by itself
            ends.clear()
            log.append([payloads], ends)
            self.written += 1
        return ends[0]

    def _tell(self, log: OpenLog, taken: list[QueuedAppend], ends: list[EndState], before: int) -> None:
        """Tell the threads that wait what became of their batches; ``before`` so many were written before these."""
        # Where there was no room for all of them, the first ones may be there.
        written = ends.index(log.state.end) + 1 if log.state.end in ends else 0
        self.written = before + written
        for each, end in zip(taken, ends[1:written], strict=False):
            each.appended = Appended(log, end, log.state.beginning)
        for each in taken[max(0, written - 1) :]:
            each.is_taken = False

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


def _written(queued: QueuedAppend, paths: LogPaths) -> Appended:
    """Return what came of an append that another thread has taken."""
    if queued.appended is None:
        cause = "the thread that was to write it was interrupted, or its write takes long"
        raise outcome_unknown(paths, cause, None)
    return queued.appended
