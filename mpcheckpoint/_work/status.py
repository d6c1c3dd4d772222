"""How far a map is, as anybody can see it: from the log, and from which workers live."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._work.presence import MapStart, map_starts
from mpcheckpoint._work.runs import current_run, is_ok, standings
from mpcheckpoint._work.workers import is_live

if TYPE_CHECKING:
    from mpcheckpoint._log.record_log import RecordLog


@dataclass(frozen=True, slots=True)
class RunningItem:
    """An item that a live worker works on now.

    Attributes:
        object_key: the object that stands for it.
        elapsed_s: for how long, in seconds.
    """

    object_key: str
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class MapStatus:
    """How far a map is.

    Attributes:
        run: which run of the log's map this is: 1, and one more for each ``rerun``.
        version: what is run; of a command its line.
        ok: how many items are done and well.
        failed: how many are done and failed.
        to_retry: how many have failed and are to be tried again, now at rest.
        running: the items that run, those that have run longest first.
        starts: the processes in which the map is under way; none: it is finished, or was killed.
    """

    run: int
    version: str
    ok: int
    failed: int
    to_retry: int
    running: tuple[RunningItem, ...]
    starts: tuple[MapStart, ...]

    @property
    def items(self) -> int | None:
        """How many items there are, at least: as the starts under way know it; None if none of them does yet."""
        known = [start.items for start in self.starts if start.items is not None]
        return max(*known, self.ok + self.failed) if known else None


def status_of(log: RecordLog) -> MapStatus | None:
    """Return how far the log's map is; None if none ran."""
    current = log.look(current_run)
    if current is None:
        return None
    number, version = current
    running = running_items(log)
    at_work = {item.object_key for item in running}
    ok = failed = to_retry = 0
    for object_key, outcome, has_failed_since in standings(log, number):
        if outcome is not None:
            is_well = is_ok(outcome, number)
            ok, failed = ok + is_well, failed + (not is_well)
        to_retry += has_failed_since and object_key not in at_work
    starts = tuple(map_starts(log.workers_directory, log.log_key, number))
    return MapStatus(number, version, ok, failed, to_retry, running, starts)


def running_items(log: RecordLog) -> tuple[RunningItem, ...]:
    """Return what live workers work on, those that have run longest first."""
    directory = log.workers_directory
    claims = log.look(lambda view: view.claims())
    found = []
    for object_key, worker_id in claims.items():
        if is_live(directory, worker_id):
            try:
                made_s = system.stat_path(os.path.join(directory, worker_id)).st_mtime
            except OSError:
                continue  # it is done
            found.append(RunningItem(object_key, max(0.0, system.now_us() / 1e6 - made_s)))
    return tuple(sorted(found, key=lambda item: -item.elapsed_s))
