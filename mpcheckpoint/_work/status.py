"""What a map has recorded, and how far it is: read from the log, and from which workers live."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from mpcheckpoint import _system as system
from mpcheckpoint._format.codec import decode_event
from mpcheckpoint._work.file_marks import ChangedFiles, FileOf, is_changed, mark_of
from mpcheckpoint._work.inputs import object_key_of
from mpcheckpoint._work.outcomes import Outcome, outcome_of
from mpcheckpoint._work.presence import MapStart, map_starts
from mpcheckpoint._work.reruns import history_of
from mpcheckpoint._work.runs import dated_outcomes, is_done, last_outcome, latest_outcomes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mpcheckpoint._store.worker_protocol import Workers
    from mpcheckpoint._view.log_handle import LogHandle

T = TypeVar("T")

_MOMENT_S = 1.0


@dataclass(frozen=True, slots=True)
class RunningItem:
    """An item that a live worker runs now.

    Attributes:
        object_key: the object that stands for it.
        elapsed_s: for how many seconds.
    """

    object_key: str
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class MapStatus:
    """How far a map is, or one rerun of it.

    Attributes:
        run: the number in the log of the run that began last.
        version: of the work; for a command, its line.
        ok: how many items are done and did not fail.
        failed: how many are done and failed.
        to_retry: how many failed, or were killed, and rest before they run again.
        running: the items that run, the longest running first.
        starts: the processes in which it is under way; none if it is finished, or was killed.
        rerun: the rerun whose outcomes were counted; None if the last outcome of each item was.
    """

    run: int
    version: str
    ok: int
    failed: int
    to_retry: int
    running: tuple[RunningItem, ...]
    starts: tuple[MapStart, ...]
    rerun: str | None = None

    @property
    def items(self) -> int | None:
        """How many items there are at least, as far as the processes under way know; None if none of them knows."""
        known = [start.items for start in self.starts if start.items is not None]
        return max(*known, self.ok + self.failed) if known else None


def pending_of(
    log: LogHandle,
    items: Iterable[T],
    key: Callable[[T], str] | None,
    rerun: str | None,
    changed: ChangedFiles | None,
    file_of: FileOf,
) -> Iterator[T]:
    """Yield the items that are not done. See ``Log.pending``."""

    def is_pending(item: T) -> bool:
        object_key = object_key_of(item, key)
        if changed is None:
            return not log.query(lambda view: is_done(view, object_key, rerun))
        mark = mark_of(file_of(item), changed)
        found = log.query(lambda view: last_outcome(view, object_key, rerun))
        return found is None or is_changed(decode_event(found).get("file"), mark)

    return filter(is_pending, items)


def status_of(log: LogHandle, rerun: str | None) -> MapStatus | None:
    """Return how far the log's map, or a rerun of it, is; None if none ran. See ``Log.map_status``."""
    starts = tuple(map_starts(log.workers, log.log_key))
    if rerun is None:
        reruns = {start.rerun for start in starts}
        rerun = reruns.pop() if len(reruns) == 1 else None  # the one that all starts work on
    history = log.query(history_of)
    notes = [note for note in history.notes if rerun is None or note.rerun == rerun]
    if not notes:
        return None
    running = running_items(log)
    at_work = {item.object_key for item in running}
    ok = failed = to_retry = 0
    for object_key, _, head, is_to_retry in latest_outcomes(log, history.rule(rerun)):
        if head is not None:
            ok, failed = ok + head.is_ok, failed + (not head.is_ok)
        to_retry += is_to_retry and object_key not in at_work
    return MapStatus(
        notes[-1].number,
        notes[-1].version,
        ok,
        failed,
        to_retry,
        running,
        tuple(start for start in starts if rerun is None or start.rerun == rerun),
        rerun,
    )


def running_items(log: LogHandle) -> tuple[RunningItem, ...]:
    """Return what live workers run, the longest running first."""
    claims = log.query(lambda view: dict(view.claims))  # a copy: the view goes on
    return running_of(log.workers, claims)


def running_of(workers: Workers, claims: dict[str, str]) -> tuple[RunningItem, ...]:
    """Return the claimed objects whose workers live, the longest running first."""
    found = []
    for object_key, worker_id in claims.items():
        begun_us = workers.begun_us(worker_id)
        if begun_us is not None:
            found.append(RunningItem(object_key, max(0.0, (system.now_us() - begun_us) / 1e6)))
    return tuple(sorted(found, key=lambda item: -item.elapsed_s))


def has_moved_since(log: LogHandle, records: int) -> tuple[bool, int]:
    """Return whether the log has more than ``records`` records, or live workers run something; and how many it has.

    An item claimed less than a second ago does not count: another map may fail to start it, again and again.
    """
    count = log.query(lambda view: view.records.count)
    return count > records or any(item.elapsed_s > _MOMENT_S for item in running_items(log)), count


def outcomes_of(log: LogHandle, rerun: str | None) -> Iterator[Outcome]:
    """Yield each object's last outcome that counts for that rerun, or without one."""
    history = log.query(history_of)
    for stamp_us, object_key, event in dated_outcomes(log, history.rule(rerun)):
        yield outcome_of(event, object_key, stamp_us, history.by_number)
