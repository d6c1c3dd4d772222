"""One log, looked at again and again: its figures, how fast they grow, who uses it, and how far its map is.

Nothing here asks for a log's times, takes a lock, or writes: a look costs the log's writers nothing.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint._maintenance.monitoring.log_place import place_of
from mpcheckpoint._maintenance.monitoring.map_progress import Failure, MapProgress
from mpcheckpoint._view.statistics import Figures
from mpcheckpoint._work.presence import MapStart, map_starts
from mpcheckpoint._work.status import RunningItem, running_of
from mpcheckpoint.errors import CheckpointError, CorruptLogError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpcheckpoint import _system as system
    from mpcheckpoint._store.protocol import Reader, Store, StoredLog

# Rates are of so many seconds: of one look they would jump.
_RATE_OVER_S = 5.0


@dataclass(frozen=True, slots=True)
class MapSight:
    """A map, as it was seen.

    Attributes:
        version, rerun: of the run that began last.
        items: how many there are; None if no process that works on it knows, or none works on it.
        ok, failed, to_retry: how many items, by the rule of ``Log.results``.
        items_s: how many were done a second, lately.
        running: what runs, the longest running first.
        starts: the processes in which it is under way.
        failures: the last ones, the latest first.
    """

    version: str
    rerun: str | None
    items: int | None
    ok: int
    failed: int
    to_retry: int
    items_s: float
    running: tuple[RunningItem, ...]
    starts: tuple[MapStart, ...]
    failures: tuple[Failure, ...]

    @property
    def done(self) -> int:
        """How many items have an outcome."""
        return self.ok + self.failed

    @property
    def left_s(self) -> float | None:
        """In how many seconds it ends at this rate; None if that cannot be told."""
        if self.items is None or not self.items_s:
            return None
        return max(0, self.items - self.done) / self.items_s


@dataclass(frozen=True, slots=True)
class LogSight:
    """A log, as it was seen.

    Attributes:
        log_key: its key; None if its header cannot be read.
        state: "whole", "poisoned", "corrupt" or "unreadable". What a dying writer left is not told apart here from a
            write in progress.
        error: why it cannot be read, or not to its end.
        appends_s, syncs_s: a second, lately, as the log itself tells of all processes.
        lock: "free", "held" or "unknown"; ``holder`` and ``waiters`` as for ``Log.stats``.
        writers, readers: the processes that have it open to append, or else only to read, as far as we may see that.
    """

    log_key: str | None
    path: str
    state: str
    error: CheckpointError | None = None
    records: int = 0
    objects: int = 0
    size_bytes: int | None = None
    last_us: int | None = None
    appends_s: float = 0.0
    syncs_s: float = 0.0
    lock: str = "unknown"
    holder: system.LockHolder | None = None
    waiters: int | None = None
    writers: tuple[system.LockHolder, ...] = ()
    readers: tuple[system.LockHolder, ...] = ()
    map: MapSight | None = None


class _Sample(NamedTuple):
    at_s: float
    batches: int
    syncs: int
    done: int


@dataclass
class _Rates:
    """How fast the figures of a log grew lately."""

    samples: deque[_Sample] = field(default_factory=deque)

    def add(self, sample: _Sample) -> tuple[float, float, float]:
        """Return how much was added a second, of each figure."""
        while self.samples and self.samples[0].at_s < sample.at_s - _RATE_OVER_S:
            self.samples.popleft()
        self.samples.append(sample)
        first = self.samples[0]
        took_s = sample.at_s - first.at_s
        if took_s <= 0:
            return 0.0, 0.0, 0.0
        added = (after - before for after, before in zip(sample[1:], first[1:], strict=True))
        appends_s, syncs_s, items_s = (max(0, each) / took_s for each in added)
        return appends_s, syncs_s, items_s


class LogMonitor:
    """Looks at one log. For one thread at a time."""

    def __init__(
        self, store: Store, stored: StoredLog, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.place = place_of(store, stored)
        self.error: CheckpointError | None = None
        self._stored = stored
        self._workers = store.workers
        self._clock = clock
        self._failed_at: object = None
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._reader: Reader = self._stored.reader()
        self._figures, self._progress, self._rates = Figures(), MapProgress(), _Rates()
        self._generation = ""

    def read(self, is_over: Callable[[], bool]) -> None:
        """Read what is new. What cannot be read is tried again once the file is another, or longer."""
        mark = self.place.mark()
        if self.error is not None:
            if mark == self._failed_at:
                return
            self.error = None
            self._reader.release()
            self._begin_anew()
        try:
            for chunk in self._reader.poll():
                if chunk.is_reset:
                    self._figures, self._progress, self._rates = Figures(), MapProgress(), _Rates()
                self._generation = chunk.generation
                self._figures.add(chunk)
                self._progress.take(chunk)
                if is_over():
                    return
        except CheckpointError as error:
            self.error, self._failed_at = error, mark

    def sight(self, writers: Sequence[system.LockHolder], readers: Sequence[system.LockHolder]) -> LogSight:
        """Return what there is to see. Requires: ``read``."""
        figures, progress = self._figures, self._progress
        sample = _Sample(self._clock(), figures.batches, figures.stated_syncs, progress.ok + progress.failed)
        appends_s, syncs_s, items_s = self._rates.add(sample)
        lock = self.place.lock()
        return LogSight(
            self._stored.log_key,
            self.place.path,
            self._state(),
            self.error,
            records=figures.records,
            objects=len(figures.object_keys),
            size_bytes=self.place.size_bytes(),
            last_us=figures.last_us,
            appends_s=appends_s,
            syncs_s=syncs_s,
            lock=lock.state.value,
            holder=lock.holder,
            waiters=lock.waiters,
            writers=tuple(writers),
            readers=tuple(readers),
            map=self._map(items_s),
        )

    def close(self) -> None:
        """Give back the file."""
        self._reader.release()

    def _state(self) -> str:
        if self.error is not None:
            return "corrupt" if isinstance(self.error, CorruptLogError) else "unreadable"
        try:
            is_poisoned = self.place.is_poisoned(self._generation)
        except (OSError, CheckpointError):
            return "unreadable"
        return "poisoned" if is_poisoned else "whole"

    def _map(self, items_s: float) -> MapSight | None:
        progress = self._progress
        if not progress.runs:
            return None
        last = progress.runs[-1]
        done = progress.ok + progress.failed
        starts = tuple(map_starts(self._workers, self._stored.log_key))
        known = [start.items for start in starts if start.items is not None]
        return MapSight(
            last.version,
            last.rerun,
            max(*known, done) if known else None,
            progress.ok,
            progress.failed,
            progress.to_retry,
            items_s,
            running_of(self._workers, progress.claims),
            starts,
            progress.failures(),
        )
