"""Plan the repair of a store, and do it. The repair itself judges anew, under the locks of the log."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mpcheckpoint._backup.journal import read_journal, settle, tell_settled
from mpcheckpoint._engines import directory_of
from mpcheckpoint._logfile.faults import NOT_CHANGED, translated
from mpcheckpoint._logfile.recovery import recover, repair_end, replace_damaged
from mpcheckpoint._maintenance.repairs.reports import Action, LeftOut, LogCheck, LogRepair
from mpcheckpoint._maintenance.repairs.verification import CheckTarget, check_found, check_log, targets_in
from mpcheckpoint._salvage.inspection import Inspection, removed_spans, selected
from mpcheckpoint._salvage.salvage import salvage_log
from mpcheckpoint._salvage.scan import Doubt
from mpcheckpoint._store.directory import StoreDirectory
from mpcheckpoint._store.process import process
from mpcheckpoint.errors import CheckpointError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator

    from mpcheckpoint._types import Repair

_MOST_SPANS = 1000
_REST_OF_BATCH = "the rest of a batch that lost lines, or perhaps of one"
_OUT_OF_PLACE = "not in its place: a copy, or a piece of another log"


def plan_repairs(
    path: str | os.PathLike[str],
    *,
    log_keys: Iterable[str] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[LogRepair]:
    """Yield what `repair` would do now, a log at a time. Writes nothing and takes no lock.

    Args, Raises:
        As `verify`.
    """
    directory = StoreDirectory(directory_of(path, "repair"), create=False, read_only=True)
    targets = targets_in(directory, log_keys)
    return (_planned(target, on_progress) for target in targets)


def repair(
    path: str | os.PathLike[str],
    *,
    log_keys: Iterable[str] | None = None,
    lock_timeout_s: float | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[LogRepair]:
    """Repair the logs of a store that need it, one at a time as the iterator advances; yield the outcome of each.

    A torn end is cut off, as the next append would do. A log that takes no appends since a sync failed gets another
    generation with the same records. A corrupt log gets another generation with all that can be proven: what precedes
    the damage, and after it each whole batch whose lines all fit the line before. It takes out only the bytes that a
    plan shows, and all of them go to quarantine first.

    Durability: a log that it has yielded is durable. If it is killed, each log is as it was or as it is to be; the next
    repair goes on from there.

    Concurrency: waits for the store's lock and the log's append lock, and breaks neither. Handles that have the log
    open go on with the new generation. Of acknowledged records only damaged ones are lost. Positions and cursors stay
    valid.

    Args:
        path: the directory of the store.
        log_keys: only these logs; None for all.
        lock_timeout_s: how long to wait for other writers, in seconds; None waits for ever.
        on_progress: called with the number of bytes that were read since the last call.

    Raises:
        NotForThisStoreError, StoreNotFoundError, NotAStoreError, StoreAccessError, LockUnsupportedError,
        NetworkFileSystemError, LogNotFoundError: nothing was changed.
        An error of one log (LockTimeoutError, WriteFailedError, ReadFailedError, ...) is in its ``LogRepair.error``.
    """
    directory = StoreDirectory(
        directory_of(path, "repair"), create=False, read_only=False, is_unfinished_taken=True
    )
    _settled(directory, lock_timeout_s)
    targets = targets_in(directory, log_keys)
    return (_repaired(directory, target, lock_timeout_s, on_progress) for target in targets)


def _settled(directory: StoreDirectory, timeout_s: float | None) -> None:
    """Finish, or undo, a backup or a restore that was interrupted."""
    with translated("repairing", directory.path):
        if read_journal(directory.path) is None:
            return
        with directory.locked(timeout_s):
            settled = settle(directory.path, timeout_s=timeout_s)
    tell_settled(settled, directory.base)


def _planned(target: CheckTarget, on_progress: Callable[[int], None] | None) -> LogRepair:
    check, found = check_found(target, on_progress)
    action = _action_for(check, target)
    if found is None or action in ("nothing", "impossible"):
        return LogRepair(check, action, records_kept=check.records)
    if action == "salvage":
        return _salvaged(check, found)
    spans = [(found.batches_end, found.size)] if check.damages else []
    return _with_spans(LogRepair(check, action, records_kept=check.records), spans)


def _action_for(check: LogCheck, target: CheckTarget) -> Action:
    if check.problem is not None or target.paths is None:
        return "nothing" if check.is_whole else "impossible"
    if check.state == "corrupt":
        return "salvage"
    if check.poison is not None:
        return "recover"
    return "cut" if check.state == "torn" else "nothing"


def _salvaged(check: LogCheck, found: Inspection) -> LogRepair:
    """Return what a salvage does after this check."""
    kept = selected(found)
    chosen = {each.start for each in kept}
    left_out = [
        LeftOut(
            each.start,
            each.stop - each.start,
            each.records,
            each.object_keys,
            _OUT_OF_PLACE if each.doubt is Doubt.NONE else _REST_OF_BATCH,
        )
        for each in found.candidates
        if each.start not in chosen and each.records
    ]
    planned = LogRepair(
        check, "salvage", records_kept=sum(each.records for each in kept), left_out=tuple(left_out)
    )
    return _with_spans(planned, removed_spans(found, kept))


def _with_spans(planned: LogRepair, spans: list[tuple[int, int]]) -> LogRepair:
    removed = tuple((start, stop - start) for start, stop in spans)
    removed_bytes = sum(length for _, length in removed)
    return replace(planned, removed=removed[:_MOST_SPANS], removed_bytes=removed_bytes)


# --- doing it ------------------------------------------------------------------------------------------------


def _repaired(
    directory: StoreDirectory,
    target: CheckTarget,
    timeout_s: float | None,
    on_progress: Callable[[int], None] | None,
) -> LogRepair:
    planned = _planned(target, on_progress)
    if planned.action in ("nothing", "impossible"):
        return planned
    try:
        return _carried_out(directory, target, planned, timeout_s)
    except CheckpointError as error:
        return replace(planned, error=error)


def _carried_out(
    directory: StoreDirectory, target: CheckTarget, planned: LogRepair, timeout_s: float | None
) -> LogRepair:
    paths = target.paths
    assert paths is not None
    with translated("repairing", target.path, left=NOT_CHANGED):
        directory.require_locking()
        writer = process.writer(directory.identity, paths)
        if planned.action == "cut":
            cut = repair_end(writer, timeout_s)
            return _done(planned, [] if cut is None else [cut], planned.check.generation)
        with directory.locked(timeout_s):
            directory.remove_stale_files()
            if planned.action == "recover":
                recover(writer, timeout_s)
                return _done(planned, [], check_log(target).generation)
            salvage = replace_damaged(
                writer, timeout_s, lambda require_lock: salvage_log(paths, require_lock)
            )
    if salvage is None:  # another process repaired it meanwhile
        return LogRepair(planned.check, "nothing", records_kept=planned.check.records)
    return _done(_salvaged(planned.check, salvage.found), salvage.repairs, salvage.generation)


def _done(planned: LogRepair, repairs: list[Repair], generation: str | None) -> LogRepair:
    return replace(planned, is_done=True, repairs=tuple(repairs), generation=generation)
