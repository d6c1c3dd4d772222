"""Put a backup in the place of a store: each log becomes another generation, of its lineage, with what it had then.

The steps, and what is on disk if we die:
1. Take the store lock and all append locks, held throughout.
2. Copy what is taken out of the store to quarantine.                 Crash: the store is as it was.
3. Write the new generations under temporary names, and sync them.    Crash: stale temporary files.
4. Write a journal that names them all.                               Crash: the store is not opened until a repair, or
                                                                      another restore, has done what is left.
5. Have the old generations take no appends: who had a log open before and outlives us learns of the journal by that.
6. Rename the new ones; remove the journal.                           Crash: as in 4.

Each header notes where the backup ended. A position after that, of an earlier generation, is refused: what was there is
gone, and what is recorded from now on would be passed over.

Appends that were not durable yet when their log was replaced raise OutcomeUnknownError, as after each switch of
generations to one that does not hold them.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._backup.journal import (
    UNKNOWN_GENERATION,
    Journal,
    Replaced,
    finish,
    read_journal,
    settle,
    tell_settled,
    write_journal,
)
from mpcheckpoint._backup.restore_source import backup_in, kept_as_it_is, require_as_it_was, saved_in
from mpcheckpoint._backup.restore_steps import (
    LogRestore,
    RestoreStep,
    compared,
    logs_in,
    previous_of_both,
    require_proven,
)
from mpcheckpoint._format.control import Restored
from mpcheckpoint._logfile.faults import NOT_CHANGED, translated
from mpcheckpoint._logfile.generations import GenerationCopy
from mpcheckpoint._logfile.header import read_header
from mpcheckpoint._logfile.ownership import missing_directories, temporary_name
from mpcheckpoint._logfile.paths import STORE_DIRECTORY, STORE_LOCK, store_directory
from mpcheckpoint._logfile.places import places
from mpcheckpoint._logfile.poison import Poison
from mpcheckpoint._logfile.quarantine import keep_bytes
from mpcheckpoint._logfile.replay import replay
from mpcheckpoint._logfile.unfinished import is_unfinished
from mpcheckpoint._store.append_locks import AppendLocks
from mpcheckpoint._store.directory import StoreDirectory
from mpcheckpoint.errors import CheckpointError, CorruptLogError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._backup.marker import Marker
    from mpcheckpoint._types import Repair

    OnProgress = Callable[[int], None]

_SPARE_BYTES = 1024 * 1024
# Of a restore that fails once its journal is written.
_LEFT = "another restore, or mpcheckpoint repair, brings it to an end"


def plan_restore(backup: str | os.PathLike[str], path: str | os.PathLike[str]) -> list[LogRestore]:
    """Return what `restore` would do now, log by log. Writes nothing and takes no lock.

    Args, Raises:
        As `restore`.
    """
    source, marker = backup_in(backup, path)
    there = os.path.join(store_directory(path), STORE_DIRECTORY)
    saved = saved_in(source, marker, there)
    logs = []
    if os.path.lexists(there):
        logs = logs_in(StoreDirectory(path, create=False, read_only=True, is_unfinished_taken=True), saved)
    steps = compared(source, saved, logs)
    for step in steps:
        require_proven(step)
    return [step.outcome() for step in steps]


def restore(
    backup: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    lock_timeout_s: float | None = None,
    on_progress: OnProgress | None = None,
) -> list[LogRestore]:
    """Make the store in the directory ``path`` what it was when the backup was made.

    Each log gets another generation with the records that the backup has; what was recorded since, and logs that the
    backup does not have, go to quarantine. A log that is as it was is left alone. Positions and cursors from before the
    moment of the backup stay valid; later ones are refused, since other records come in their place.

    A store that is made, and logs that are, belong to those who may use the backup.

    Durability: when it has returned all is durable. If it fails or is interrupted before it begins to replace logs, the
    store is as it was. If it fails or is killed after that, the store cannot be opened until another restore, or a
    repair, has brought it to an end. Meanwhile handles that were open before append nothing to logs that are still to
    be replaced, and make, compact and back up none. What one may have appended in the instant before goes to
    quarantine, and a log message says so.

    Concurrency: holds the store lock and all append locks, and the store lock of the backup, where this user may lock
    it. Handles that have a log open read it anew, and append to the new generation; better, stop the programs first,
    for they may rely on what is taken out.

    Args:
        backup: the directory of the backup; it is only read.
        path: the directory of the store; made if there is none.
        lock_timeout_s: how long to wait for writers, in seconds; None waits for ever.
        on_progress: called with the number of bytes that were read since the last call, under all locks of the store:
            an append to it in there waits for itself.

    Raises:
        BackupPlaceError: ``backup`` is no backup, or of another store, or one that was written to or cut short since it
            was made, or changed while it was read. Nothing was changed.
        CorruptLogError: the backup is damaged. Nothing was changed.
        NotForThisStoreError: one of them is no directory. Nothing was changed.
        StoreNotFoundError, UnfinishedBackupError, LockTimeoutError, StoreAccessError, WriteFailedError,
        ReadFailedError, LockUnsupportedError, NetworkFileSystemError: nothing was changed; unless the store cannot be
        opened now, as above.
    """
    source, marker = backup_in(backup, path)
    deadline = None if lock_timeout_s is None else time.monotonic() + lock_timeout_s
    there = os.path.join(store_directory(path), STORE_DIRECTORY)
    with kept_as_it_is(source, marker, lock_timeout_s):
        saved_in(source, marker, there)  # what cannot be read makes no store
        made = missing_directories(there)
        try:
            target = StoreDirectory(
                path, create=True, read_only=False, is_unfinished_taken=True, users_of=source.path
            )
            target.require_locking()
            return _restored(source, marker, target, deadline, on_progress)
        except BaseException:
            _unmake(made)
            raise


def _restored(
    source: StoreDirectory,
    marker: Marker,
    target: StoreDirectory,
    deadline: float | None,
    on_progress: OnProgress | None,
) -> list[LogRestore]:
    settled, locks = None, AppendLocks()
    try:
        with translated("restoring", target.path, left=NOT_CHANGED), target.locked(_left(deadline)):
            try:
                places.make_names_durable(target.path)
                saved = saved_in(source, marker, target.path)
                logs = logs_in(target, saved)
                locks.take_all(logs, _left(deadline))
                with translated("restoring", target.path, left=_LEFT):
                    settled = settle(target.path, locks=locks, is_restored_anew=True)
                if settled is not None:  # it may have made some, which handles that were open find
                    known = {paths.log for paths in logs}
                    logs = logs_in(target, saved)
                    locks.take_all([paths for paths in logs if paths.log not in known], _left(deadline))
                target.remove_stale_files()
                steps = compared(source, saved, logs)
                todo = [step for step in steps if step.outcome().action != "nothing"]
                for step in steps:
                    if step.outcome().action == "nothing":  # others are proven when they are read
                        require_proven(step)
                done = _carried_out(source, marker, target, todo, locks, on_progress)
            finally:
                try:
                    locks.give_back()
                except BaseException:  # a Ctrl-C in there: every step of it can be done again
                    locks.give_back()
                    raise
    finally:
        tell_settled(settled, target.base)
    return [done.get(step.paths.log_key, step.outcome()) for step in steps]


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _unmake(made: list[str]) -> None:
    """Remove a store that was made, and in which there is nothing."""
    try:
        there = [path for path in made if system.exists(path)]
        if there and there[0] == made[0]:
            if set(system.list_directory(made[0])) - {STORE_LOCK}:
                return
            system.remove(os.path.join(made[0], STORE_LOCK))
        for path in there:
            system.remove_directory(path)
    except OSError:
        return  # somebody put something into it


# --- carried out ---------------------------------------------------------------------------------------------


def _carried_out(
    source: StoreDirectory,
    marker: Marker,
    target: StoreDirectory,
    todo: list[RestoreStep],
    locks: AppendLocks,
    on_progress: OnProgress | None,
) -> dict[str, LogRestore]:
    """Change the store, or nothing of it. Requires: the store lock and all append locks."""
    renames: dict[str, str] = {}
    removals: list[str] = []
    replaced: list[Replaced] = []
    kept: dict[str, Repair] = {}
    journal: Journal | None = None
    if not todo and not is_unfinished(target.path):
        return {}
    try:
        _require_room(target, todo)
        for step in todo:
            _keep(step, kept)
            if step.header is None:
                removals.append(step.paths.log)
                replaced.append(_replaced(step, ""))
            else:
                temporary = temporary_name(step.paths.log)
                renames[temporary] = step.paths.log
                replaced.append(_replaced(step, _write(step, temporary, on_progress)))
            removals.append(step.paths.page)  # its hints are about the generation that goes
        require_as_it_was(source, marker)
        locks.require_held()
        name = os.path.basename
        journal = Journal(
            doing="restore",
            is_written=True,
            renames={name(temporary): name(path) for temporary, path in renames.items()},
            removals=[name(path) for path in removals],
            logs=replaced,
        )
        write_journal(target.path, journal)
    except BaseException:
        # Once it has its name it may be durable: then what it names has to stay.
        if not _is_named(journal, target.path):
            _remove([*renames, *(repair.path for repair in kept.values())])
        raise
    with translated("restoring", target.path, left=_LEFT):
        _finish(target, journal, todo)
    return {step.paths.log_key: _done(step, kept) for step in todo}


def _finish(target: StoreDirectory, journal: Journal, todo: list[RestoreStep]) -> None:
    try:
        for step in todo:
            if step.present is not None:
                Poison(step.paths).stop(step.present.generation)
        finish(target.path, journal)
    except (OSError, CheckpointError):
        raise
    except BaseException as error:  # a Ctrl-C: every step of it can be done again
        finish(target.path, journal)
        error.add_note(f"mpcheckpoint: the restore of {target.base} was brought to its end all the same")
        raise


def _is_named(journal: Journal | None, directory: str) -> bool:
    """Return whether a journal may have got its name."""
    try:
        return journal is not None and read_journal(directory) == journal
    except (OSError, CheckpointError):
        return True


def _remove(paths: list[str]) -> None:
    for path in paths:
        try:
            system.remove(path)
        except OSError:
            continue  # it stays, which does no harm; the first error is the one to report


def _done(step: RestoreStep, kept: dict[str, Repair]) -> LogRestore:
    repair = kept.get(step.paths.log_key)
    return replace(step.outcome(), is_done=True, kept_in=None if repair is None else repair.path)


def _require_room(target: StoreDirectory, todo: list[RestoreStep]) -> None:
    """Refuse to fill the disk, where others write too, before anything is written."""
    copied = sum(step.end.offset for step in todo if step.end is not None)
    needed = _SPARE_BYTES + copied + sum(step.outcome().removed_bytes for step in todo)
    free = system.space_at(target.path).free_bytes
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed, and {free:,} are free there")


def _replaced(step: RestoreStep, successor: str) -> Replaced:
    generation = "" if step.present is None else step.present.generation
    return Replaced(
        log_key=step.paths.log_key, generation=generation, length=step.length, successor=successor
    )


def _keep(step: RestoreStep, kept: dict[str, Repair]) -> None:
    """Copy what is taken out of the store to quarantine."""
    if step.size <= step.common:
        return
    file = system.open_file(step.paths.log)
    generation = UNKNOWN_GENERATION if step.present is None else step.present.generation
    repair = keep_bytes(file.fd, step.paths, generation, step.common)
    if repair is not None:
        kept[step.paths.log_key] = repair


def _write(step: RestoreStep, temporary: str, on_progress: OnProgress | None) -> str:
    """Write the new generation of a log: what the backup has, read and proven. Return its name."""
    header, end, present = step.header, step.end, step.present
    assert header is not None
    assert end is not None
    saved = system.open_file(step.saved_path)  # now: there may be many
    if read_header(saved.fd, step.saved_path, log_key=step.paths.log_key) != header:
        raise _changed(step, 0)
    old = header._replace(
        previous=header.previous if present is None else previous_of_both(header, present),
        restored=(*header.restored, Restored(header.generation, end.stamp_us)),
        created_us=max(header.created_us, 0 if present is None else present.created_us),
        lineage=header.lineage or ("" if present is None else present.lineage),
    )
    copy = GenerationCopy(step.paths, temporary, old, users_of=None if step.is_there else step.saved_path)
    found = header.end
    for scan in replay(saved.fd, header.end):
        copy.add(saved.fd, scan.lines)
        if on_progress is not None:
            on_progress(scan.end.offset - found.offset)
        found = scan.end
        if scan.damage is not None:
            break
    if found != end:
        raise _changed(step, found.offset)
    copy.finish(covers_us=end.stamp_us)
    system.sync_data(copy.fd)
    return copy.generation


def _changed(step: RestoreStep, offset: int) -> CorruptLogError:
    return CorruptLogError(step.saved_path, offset, expected="what was backed up", found="other bytes")
