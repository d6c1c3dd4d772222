"""Follow logs: an iterator over records as they are appended, to one log or to all of a store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mpcheckpoint._store.process import process
from mpcheckpoint._types import Cursor
from mpcheckpoint._view.settings import require_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mpcheckpoint._store.protocol import Notifier, StoredLog
    from mpcheckpoint._types import Position, Record
    from mpcheckpoint._view.followed import FollowedLogs

_SHORTEST_PAUSE_S = 0.0005
# Where there is no log yet.
_IDLE_PAUSE_S = 0.02
# How long writers are told that somebody follows.
_EXPECTED_S = 10.0
_MOST_AT_ONCE = 256


class Waiter:
    """How a follower waits until it is worth polling again.

    A writer that appends to a followed log wakes it. If none does, because there is no notifier or the wake-up was
    lost, it polls again after a pause. The pause grows while nothing comes, and is short again after a record.
    """

    def __init__(self) -> None:
        # Whether any thread has ended the waiting. Not an Event: it may be set in a signal handler of the thread that
        # waits, and Event.set takes a lock.
        self.is_closed = False
        self._pause_s = _SHORTEST_PAUSE_S
        self._notifier: Notifier | None = None
        self._shortest_pause_s, self._longest_pause_s = _SHORTEST_PAUSE_S, _IDLE_PAUSE_S
        self._heard = 0
        self._expected_until_s = 0.0

    def listen(self, logs: Iterable[StoredLog]) -> None:
        """Have the writers of these logs wake us. Call it before each poll: whatever is appended after it wakes."""
        now_s = time.monotonic()
        if now_s > self._expected_until_s:
            pauses_s = []
            for stored in logs:
                self._notifier = stored.subscribe(_EXPECTED_S) or self._notifier
                pauses_s.append(stored.longest_pause_s)
            if pauses_s:  # else none was found yet, and there may be some at the next call
                self._expected_until_s = now_s + _EXPECTED_S / 2
            if self._notifier is not None:
                self._longest_pause_s = self._notifier.longest_pause_s
                self._shortest_pause_s = max(_SHORTEST_PAUSE_S, self._notifier.shortest_pause_s)
            else:
                self._longest_pause_s = min(pauses_s, default=_IDLE_PAUSE_S)
        if self._notifier is not None:
            self._heard = self._notifier.value()

    def wait(self, deadline: float | None) -> bool:
        """Wait until it is worth polling again; return False when closed or past the deadline."""
        longest_s = self._longest_pause_s
        left_s = longest_s if deadline is None else deadline - time.monotonic()
        if left_s <= 0 or self.is_closed:
            return False
        pause_s = min(max(self._pause_s, self._shortest_pause_s), left_s)
        if self._notifier is None:
            time.sleep(pause_s)
        else:
            self._notifier.wait(self._heard, pause_s)
        self._pause_s = min(self._pause_s * 1.5, longest_s)
        return True

    def arrived(self) -> None:
        """Note that a record came."""
        self._pause_s = _SHORTEST_PAUSE_S

    def start_over(self) -> None:
        """Forget the notifier: the next poll takes another."""
        self._notifier, self._expected_until_s = None, 0.0
        self._shortest_pause_s = self._pause_s = _SHORTEST_PAUSE_S


class Follower:
    """Iterate over records as they are appended, by this or any other process.

    In order within each log; between logs as they are found. Waits when there is nothing, until ``close`` (from any
    thread), or until nothing came for ``idle_timeout_s`` seconds: then the iteration ends quietly.

    Concurrency: one thread iterates; any thread may close. A forked child may go on with its copy, and gets every
    record from where the copy was made.
    """

    def __init__(self, followed: FollowedLogs, idle_timeout_s: float | None) -> None:
        if idle_timeout_s is not None:
            require_seconds(idle_timeout_s, "idle_timeout_s is a number of seconds, at least 0, or None")
        self._followed = followed
        self._idle_timeout_s = idle_timeout_s
        self._waiter = Waiter()
        self._looks: Iterator[Record] = iter(())
        self._idle_deadline: float | None = None
        process.register(self)

    @property
    def cursor(self) -> Cursor:
        """The place after the last record that was given out: hand it to ``follow`` to go on from there."""
        return Cursor.of(self._followed.positions)

    def __iter__(self) -> Follower:
        return self

    def __next__(self) -> Record:
        """Return the next record, waiting for it.

        Raises:
            StopIteration: the follower was closed, or nothing came for the idle timeout.
            CorruptLogError, ReadFailedError, LogNotFoundError: a log cannot be read on.
        """
        process.notice_fork()
        deadline = None if self._idle_timeout_s is None else time.monotonic() + self._idle_timeout_s
        while not self._waiter.is_closed:
            record = self._next_found()
            if record is not None:
                self._followed.positions[record.log_key] = record.position
                self._waiter.arrived()
                return record
            if not self._waiter.wait(deadline):
                break
        raise StopIteration

    def wait_for_some(self) -> list[Record] | None:
        """Return the next records, if there are any now, and a bounded number of them; else wait once, for no longer
        than the pause between two polls, and return none. None instead of a list once the iteration has ended.

        For one who asks again and again, and waits elsewhere in between.
        """
        process.notice_fork()
        found: list[Record] = []
        while len(found) < _MOST_AT_ONCE and not self._waiter.is_closed:
            try:
                record = self._next_found()
            except Exception:
                if not found:
                    raise
                break  # it comes again at the next call: nothing was read on after what was given
            if record is None:
                break
            self._followed.positions[record.log_key] = record.position
            found.append(record)
        if found:
            self._waiter.arrived()
            self._idle_deadline = None
            return found
        return [] if self._waits_on() else None

    def _waits_on(self) -> bool:
        """Wait once; return whether the iteration goes on."""
        if self._idle_deadline is None and self._idle_timeout_s is not None:
            self._idle_deadline = time.monotonic() + self._idle_timeout_s
        return not self._waiter.is_closed and self._waiter.wait(self._idle_deadline)

    def _next_found(self) -> Record | None:
        try:
            record = next(self._looks, None)
            if record is None:
                self._looks = self._look()
                record = next(self._looks, None)
        except BaseException:
            self._start_over()
            raise
        return record

    def close(self) -> None:
        """End the iteration, also while another thread waits in it. Closing twice is fine."""
        self._waiter.is_closed = True

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def go_back(self, positions: Mapping[str, Position]) -> None:
        """In a forked child: go on from after these positions, where what was found since is the parent's."""
        self._followed.start_over(positions)

    def reset_after_fork(self) -> None:
        """In a forked child: the next poll opens the files anew, after the last record given out."""
        self._start_over()

    def _start_over(self) -> None:
        self._looks = iter(())
        self._waiter.start_over()
        self._followed.start_over(self._followed.positions)

    def _look(self) -> Iterator[Record]:
        followed = self._followed
        self._waiter.listen([each.stored for each in followed.logs.values()])
        followed.look()
        for log_key in list(followed.logs):
            yield from followed.news_of(log_key)
