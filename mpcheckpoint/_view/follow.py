"""Follow logs: an iterator over records as they are appended, to one log or to all of a store."""

from __future__ import annotations

import time
from bisect import bisect_right
from typing import TYPE_CHECKING

from mpcheckpoint._format.columns import Lines
from mpcheckpoint._store.process import process
from mpcheckpoint._types import Cursor, Position, Record
from mpcheckpoint._view.merged_read import ALL, Choice, records_in, skip_to_end
from mpcheckpoint.errors import InvalidPositionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from mpcheckpoint._format.frame import Line
    from mpcheckpoint._logfile.chunk import Chunk
    from mpcheckpoint._store.protocol import Notifier, Reader, StoredLog

_SHORTEST_PAUSE_S = 0.0005
# Where there is no log yet.
_IDLE_PAUSE_S = 0.02
# How long writers are told that somebody follows.
_EXPECTED_S = 10.0


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
            self._expected_until_s = now_s + _EXPECTED_S / 2
            pauses_s = []
            for stored in logs:
                self._notifier = stored.subscribe(_EXPECTED_S) or self._notifier
                pauses_s.append(stored.longest_pause_s)
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
        self._shortest_pause_s = _SHORTEST_PAUSE_S


class FollowedLog:
    """One log that is followed."""

    def __init__(self, stored: StoredLog, only: Callable[[Chunk], Sequence[Line]] | None = None) -> None:
        """Follow ``stored``. Of each chunk, give out what ``only`` returns."""
        self.stored = stored
        self.reader: Reader = stored.reader(resumes=True)
        self._only = only
        self._held = only if isinstance(only, StatedDurable) else None

    def records(self, choice: Choice = ALL) -> Iterator[Record]:
        """Yield what is new and wanted."""
        for chunk in self.reader.poll():
            if self._held is not None and self._held.is_superseded_by(chunk.generation):
                return
            lines = Lines.of(chunk.lines if self._only is None else self._only(chunk))
            yield from records_in(lines, choice, chunk.origin(self.stored.log_key))

    def is_superseded(self) -> bool:
        """Return whether the log got another generation while records were held back.

        The new generation was synced whole before it took the log's place, so those of them that are in it are durable.
        They are to be read again, from after the last one that was given out. Requires: ``records`` was exhausted.
        """
        held = self._held
        return held is not None and held.is_superseded_by(self.reader.position().generation)


class Follower:
    """Iterate over records as they are appended, by this or any other process.

    In order within each log; between logs as they are found. Waits when there is nothing, until ``close`` (from any
    thread), or until nothing came for ``idle_timeout_s`` seconds: then the iteration ends quietly.

    Concurrency: one thread iterates; any thread may close. A forked child may go on with its copy, and gets every
    record from where the copy was made.
    """

    def __init__(
        self,
        discover: Callable[[], Iterable[StoredLog]],
        *,
        after: Cursor | Position | str,
        idle_timeout_s: float | None,
        only: Callable[[StoredLog], Callable[[Chunk], Sequence[Line]]] | None = None,
        look: Callable[[Sequence[Reader]], object] | None = None,
    ) -> None:
        """Follow the logs that ``discover`` returns, asked anew at each poll, through the filter that ``only`` makes.

        Args:
            look: called before each poll of several readers: ``Store.look``.

        Raises:
            ValueError: ``after`` is neither a position or cursor nor "start" or "end".
            InvalidPositionError: a position is not one of its log.
        """
        if not isinstance(after, Position | Cursor) and after not in ("start", "end"):
            raise ValueError(f"after is a position, a cursor, 'start' or 'end', not {after!r}")
        self._discover = discover
        self._idle_timeout_s = idle_timeout_s
        self._only = only
        self._look_at = look
        self._waiter = Waiter()
        self._followed: dict[str, FollowedLog] = {}
        self._positions: dict[str, Position] = {}
        self._looks: Iterator[Record] = iter(())
        if isinstance(after, Position):
            after = Cursor((after,))
        if isinstance(after, Cursor):
            self._positions = {position.log_key: position for position in after}
        self._add_followed()
        for log_key in self._positions.keys() - self._followed.keys():
            raise InvalidPositionError(
                f"{self._positions[log_key]} is a position in the log {log_key!r}, which is not among those followed",
                reason="of another log",
            )
        if after == "end":
            self._positions = {
                log_key: skip_to_end(followed.reader) for log_key, followed in self._followed.items()
            }
        process.register(self)

    @property
    def cursor(self) -> Cursor:
        """The place after the last record that was given out: hand it to ``follow`` to go on from there."""
        return Cursor.of(self._positions)

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
                self._positions[record.log_key] = record.position
                self._waiter.arrived()
                return record
            if not self._waiter.wait(deadline):
                break
        raise StopIteration

    def _next_found(self) -> Record | None:
        try:
            record = next(self._looks, None)
            if record is None:
                self._looks = self._look()
                record = next(self._looks, None)
        except BaseException:
            # A Ctrl-C may have come when a reader had moved on and its records were not given out yet.
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

    def reset_after_fork(self) -> None:
        """In a forked child: the next poll opens the files anew, after the last record given out."""
        self._start_over()

    def _start_over(self) -> None:
        self._looks = iter(())
        self._waiter.start_over()
        for followed in self._followed.values():
            followed.reader.release()
        self._followed = {}

    def _look(self) -> Iterator[Record]:
        self._add_followed()
        self._waiter.listen([followed.stored for followed in self._followed.values()])
        if self._look_at is not None:
            self._look_at([followed.reader for followed in self._followed.values()])
        for log_key, followed in list(self._followed.items()):
            yield from followed.records()
            if followed.is_superseded():
                del self._followed[log_key]
                self._add_followed()  # which begins after the last record that was given out
                yield from self._followed[log_key].records()

    def _add_followed(self) -> None:
        for stored in self._discover():
            if stored.log_key in self._followed:
                continue
            followed = FollowedLog(stored, None if self._only is None else self._only(stored))
            if stored.log_key in self._positions:
                followed.reader.seek(self._positions[stored.log_key])
            self._followed[stored.log_key] = followed


class StatedDurable:
    """Hold records back until a later line states them durable. A read-only handle cannot know more."""

    def __init__(self) -> None:
        self._held: list[Line] = []
        self._generation = ""

    def __call__(self, chunk: Chunk) -> list[Line]:
        """Return the lines that are now known to be durable, in order. Requires: the chunk supersedes nothing held."""
        self._generation = chunk.generation
        self._held += chunk.lines
        count = bisect_right(self._held, chunk.durable, key=lambda line: line.end)  # ends rise
        released = self._held[:count]
        del self._held[:count]
        return released

    def is_superseded_by(self, generation: str) -> bool:
        """Return whether records are held back that are in another generation of the log."""
        return bool(self._held) and generation != self._generation
