"""A second engine behind the same handles: logs in memory, shared by all stores of one place in this process.

Nothing of it is durable, and no other process sees it. It is here to show that a handle, and the conformance suite,
need no directory; and it comes in small parts, so that a test can put a fault in the place of each.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpcheckpoint._format.columns import Lines
from mpcheckpoint._format.concern import concern_of
from mpcheckpoint._format.control import control_name
from mpcheckpoint._format.frame import EndState, encode_batch
from mpcheckpoint._format.names import file_name
from mpcheckpoint._format.scan import scan
from mpcheckpoint._logfile.chunk import Chunk, Origin, Told
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._logfile.compaction import Compacted
from mpcheckpoint._logfile.judged import Judged, Seen
from mpcheckpoint._store.durability import Mode
from mpcheckpoint._store.moving import already_there
from mpcheckpoint._types import Position
from mpcheckpoint.errors import InvalidPositionError, LockTimeoutError, LogNotFoundError, RecordsLostError
from support.memory_content import Content
from support.memory_workers import MemoryWorkers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeAlias

    from mpcheckpoint._format.frame import Line, Payload
    from mpcheckpoint._logfile.compaction import Pace
    from mpcheckpoint._logfile.near_end import Rest
    from mpcheckpoint._logfile.selected import Selection
    from mpcheckpoint._store.durability import Durability
    from mpcheckpoint._store.moving import LogCut
    from mpcheckpoint._store.protocol import Reader
    from mpcheckpoint._types import Repair
    from mpcheckpoint.errors import CheckpointError

    Guard: TypeAlias = Callable[[], Position | None]


class MemoryReader:
    """See ``Reader`` in ``_store.protocol``."""

    def __init__(self, content: Content, *, resumes: bool = False) -> None:
        self.given = 0
        self._content = content
        self._resumes = resumes
        self._generation = content.generation
        self._end = content.header_end
        self._skip = (-1, 0)
        # What a look found, until it is given.
        self._found: Content | None = None

    def look(self) -> EndState:
        """Have the next poll give what the log holds now, and return where that ends."""
        self._found = found = self._content.frozen()
        return found.end

    def poll(self) -> Iterator[Chunk]:
        """Yield what is new, in one chunk."""
        found, self._found = self._found or self._content.frozen(), None
        is_reset = self._restarted(found)
        result = scan(found.since(self._end.offset), self._end)
        told = Told()
        lines: list[Line] = []
        for line in result.lines:
            if line.object_key is None:
                told.take(control_name(line), line, len(lines))
            elif (line.stamp_us, -line.more) > self._skip:
                lines.append(line)
        is_new = bool(lines or told.notes or told.forgets or is_reset)
        self.given += is_new
        self._end = result.end
        clock.observe(result.end.stamp_us)
        if is_new:
            yield told.chunk(
                lines, self._generation, self._content.lineage, 0, 0, is_reset=is_reset, begun_us=0
            )

    def _restarted(self, content: Content) -> bool:
        """Begin anew in another generation; return whether what was given is void."""
        if self._generation == content.generation:
            return False
        if self._resumes:
            self._skip = max(self._skip, (self._end.stamp_us, 0))
            if content.is_lost(self._generation, self._skip[0]):
                raise RecordsLostError(
                    "what was read was lost", log_key=content.log_key, position=self.position()
                )
        self._generation, self._end = content.generation, content.header_end
        return not self._resumes

    def seek(self, position: Position) -> None:
        """Begin behind ``position``: reading from the start, since stamps tell."""
        header = self._content.header()
        if position.log_key != self._content.log_key or not (
            header.continues(position.generation, position.lineage)
            and header.holds(position.generation, position.stamp_us)
        ):
            raise InvalidPositionError(f"{position} is no position of this log", reason="of another log")
        if self._content.is_lost(position.generation, position.stamp_us):
            raise InvalidPositionError(f"what was before {position} was lost", reason="lost")
        self._skip = (position.stamp_us, -position.more)

    def begin_near_end(self, length_bytes: int) -> int | None:
        """Begin at the start: all is in memory."""
        del length_bytes
        return None

    def rest(self) -> Rest | None:
        """Return None: nobody dies in a write."""

    def position(self) -> Position:
        stamp_us, less = max(self._skip, (self._end.stamp_us, 0))
        content = self._content
        return Position(
            content.log_key, content.generation, self._end.offset, stamp_us, -less, content.lineage
        )

    def seen(self) -> Seen:
        return Seen(self._generation, self._end)

    def release(self) -> None:
        """Nothing to give back."""


class MemoryLog:
    """See ``StoredLog``."""

    reader_type = MemoryReader
    longest_pause_s = 0.02

    def __init__(self, content: Content) -> None:
        self.log_key = content.log_key
        self.content = content

    def append(
        self,
        payloads: list[Payload],
        *,
        durability: Durability,
        timeout_s: float | None,
        guard: Guard | None = None,
    ) -> Position:
        """Append one batch under the mutex, judging conditions there only where that has to be."""
        position = self.append_judged(payloads, timeout_s, guard)
        if durability.mode is Mode.ALWAYS:
            self.flush(timeout_s)
        return position

    def append_group(
        self, batches: Sequence[list[Payload]], *, durability: Durability, timeout_s: float | None
    ) -> list[Position | CheckpointError]:
        """Append each batch by itself, with one sync."""
        self.content.mutex.refuse_reentry()
        with self.held(timeout_s):
            found: list[Position | CheckpointError] = [self.write(each) for each in batches]
        if durability.mode is Mode.ALWAYS:
            self.flush(timeout_s)
        return found

    def append_judged(
        self, payloads: list[Payload], timeout_s: float | None, guard: Guard | None
    ) -> Position:
        """Append, without a sync."""
        self.content.mutex.refuse_reentry()
        while isinstance(guard, Judged) and guard.seen is not None:
            with self.held(timeout_s):
                if self.is_met(guard):
                    return self.write(payloads)
            if not guard.is_met_anew():
                break
        with self.held(timeout_s):
            found = guard() if guard is not None else None
            return self.write(payloads) if found is None else found

    def is_met(self, guard: Judged) -> bool:
        """Return whether a condition is met still, by what has been appended since. Requires: the mutex."""
        return guard.seen is not None and not self.content.has_changed(guard.seen, guard.relies_on)

    @contextmanager
    def held(self, timeout_s: float | None) -> Iterator[None]:
        """Hold the mutex."""
        try:
            if not self.content.mutex.acquire(timeout_s):
                raise LockTimeoutError(f"the log {self.log_key!r} was locked for {timeout_s} s")
            yield
        finally:
            self.content.mutex.release_if_owned()

    def write(self, payloads: list[Payload]) -> Position:
        """Add the batch. Requires: the mutex."""
        end = self.content.end
        data, new_end = encode_batch(payloads, end=end, stamp_us=self.stamp_us(), durable=end.offset)
        self.content.publish(data, new_end, frozenset(map(self.concern_of, payloads)))
        content = self.content
        return Position(
            self.log_key, content.generation, new_end.offset, new_end.stamp_us, lineage=content.lineage
        )

    def concern_of(self, payload: Payload) -> bytes:
        """Return what a line concerns."""
        return concern_of(payload)

    def stamp_us(self) -> int:
        """Return the stamp of the next batch."""
        return clock.next(max(self.content.end.stamp_us, self.content.highest_us))

    def reader(self, *, resumes: bool = False) -> MemoryReader:
        return self.reader_type(self.content, resumes=resumes)

    def subscribe(self, seconds: float) -> None:
        """Return None: whoever waits has to look again."""

    def flush(self, timeout_s: float | None) -> None:
        """Have all that is there survive a crash."""
        with self.held(timeout_s):
            self.content.durable = self.content.end

    def finish(self) -> None:
        """Have all that is there survive a crash."""
        self.flush(None)

    def recover(self, timeout_s: float | None) -> None:
        """No sync ever fails."""

    def compact(
        self,
        selection: Selection,
        *,
        timeout_s: float | None,
        pace: Pace,
        is_dry_run: bool = False,
        purges: bool = False,
        waits: bool = True,
    ) -> Compacted:
        """Write the next generation, and put it in the place of the present one."""
        del timeout_s, purges, waits
        content = self.content
        with content.compaction:
            start = content.end
            lines = content.lines(content.header_end)
            selection.begin(start.stamp_us, Origin(self.log_key, content.generation, content.lineage))
            if lines:
                selection.look(lines)
            pace(start.offset, 2 * start.offset)
            if not selection.decide():
                return Compacted(None, start.offset, start.offset)
            copied = self.next_generation(selection.leading())
            copied.add(content, lines, *self.fates(selection, lines))
            if is_dry_run or copied.end.offset > start.offset * selection.most_kept:
                return Compacted(None, start.offset, copied.end.offset)
            pace(2 * start.offset, 2 * start.offset)
            try:
                content.mutex.acquire(None)
                self.catch_up(copied, start)
                content.become(copied)
            finally:
                content.mutex.release_if_owned()
            return Compacted(content.generation, start.offset, content.end.offset)

    def next_generation(self, leading: Sequence[Payload]) -> Content:
        """Return the next generation, begun."""
        return self.content.begun(leading)

    def fates(self, selection: Selection, lines: Lines) -> tuple[Any, Any]:
        """Return what becomes of the lines."""
        return selection.fates(lines)

    def catch_up(self, copied: Content, start: EndState) -> None:
        """Copy what was appended since the start."""
        if later := self.content.lines(start):
            copied.add(self.content, later)

    def size_bytes(self) -> int:
        return self.content.end.offset

    def repairs(self) -> list[Repair]:
        """Return that nothing was cut."""
        return []

    def stats(self) -> dict[str, object]:
        return {
            "size_bytes": self.content.end.offset,
            "appends": self.content.appends,
            "syncs": 0,
            "repairs": 0,
            "is_poisoned": False,
        }


class MemoryCut:
    """A log as it was. See ``LogCut``."""

    is_of_one_moment = True

    def __init__(self, content: Content) -> None:
        self.header = content.header()
        self.last_us = content.end.stamp_us
        self.size_bytes = content.end.offset
        self._begun, self._data = content.header_end, content.since(content.header_end.offset)

    def lines(self) -> Iterator[Lines]:
        """Yield what it holds, at once."""
        yield Lines.of(scan(self._data, self._begun).lines)


_MOST_LOOKS = 5
_Contents = dict[str, Content]


class MemoryStore:
    """The logs of one place. See ``Store``."""

    workers_type = MemoryWorkers

    log_type = MemoryLog
    content_type = Content
    cut_type = MemoryCut
    _places: dict[str, _Contents] = {}  # noqa: RUF012 - all stores share it: that is its purpose
    _mutex = threading.Lock()

    def __init__(self, place: Path) -> None:
        self.path = str(place)
        self.workers = self.workers_type(self.path)
        with self._mutex:
            self.contents = self._places.setdefault(self.path, {})

    @classmethod
    def lose_end(cls, place: Path) -> None:
        """Lose what is not durable, in all logs of a place."""
        for content in cls._places[str(place)].values():
            content.lose_end()

    @classmethod
    def forget(cls, place: Path) -> None:
        """Drop what stands on a place."""
        with cls._mutex:
            cls._places.pop(str(place), None)

    def log_keys(self) -> list[str]:
        return sorted(self.contents)

    def change_token(self) -> object | None:
        """Return how many logs there are: none is ever removed."""
        return len(self.contents)

    def look(self, readers: Sequence[Reader]) -> bool:
        """Look at all logs again and again, until none of them has changed: that is one moment of all of them."""
        ends: list[EndState] = []
        for _ in range(_MOST_LOOKS):
            before, ends = ends, [reader.look() for reader in readers if isinstance(reader, MemoryReader)]
            if ends == before:
                return True
        return False

    def find_log(self, log_key: str) -> MemoryLog:
        return self._found(log_key)

    def open_log(self, log_key: str, *, create: bool, timeout_s: float | None) -> MemoryLog:
        del timeout_s  # nobody holds the mutex for long
        file_name(log_key)  # refuses what is no key
        if create:
            with self._mutex:
                if log_key not in self.contents:
                    self.contents[log_key] = Content(log_key)
        return self._found(log_key)

    @contextmanager
    def cut(self, timeout_s: float | None) -> Iterator[list[MemoryCut]]:
        with ExitStack() as held, self._mutex:
            logs = [self.log_type(self.contents[log_key]) for log_key in self.log_keys()]
            for log in logs:
                held.enter_context(log.held(timeout_s))
                log.content.durable = log.content.end
            cut = [self.cut_type(log.content) for log in logs]
        yield cut

    def adopt_log(self, log: LogCut, *, timeout_s: float | None, pace: Callable[[int], None]) -> None:
        del timeout_s  # nobody holds the mutex for long
        made = self.content_type.made_of(log, pace)
        with self._mutex:
            self.add_log(made)
        clock.observe(log.last_us)

    def add_log(self, made: Content) -> None:
        """Add a log that is whole. Requires: the mutex."""
        if made.log_key in self.contents:
            raise already_there(made.log_key, self.path)
        self.contents[made.log_key] = made

    def _found(self, log_key: str) -> MemoryLog:
        file_name(log_key)
        if log_key not in self.contents:
            raise LogNotFoundError(
                f"there is no log {log_key!r}", path=self.path, reason="no such log", log_key=log_key
            )
        return self.log_type(self.contents[log_key])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MemoryStore) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (Path(self.path),)
