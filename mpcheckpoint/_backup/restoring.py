"""Put a backup in the place of a store: each log becomes another generation, of its lineage, with what it had then.

The steps, and what is on disk if we die:
1. Take the store lock and all append locks, held throughout.
2. Copy what is taken out of the store to quarantine.                 Crash: the store is as it was.
3. Write the new generations under temporary names, and sync them.    Crash: stale temporary files.
4. Write a journal that names them all; rename them; remove it.       Crash: the store is not opened until a repair, or
                                                                      another restore, has done what is left.

Each header notes where the backup ended. A position after that, of an earlier generation, is refused: what was there is
gone, and what is recorded from now on would be passed over.

Appends that were not durable yet when their log was replaced raise OutcomeUnknownError, as after each switch of
generations to one that does not hold them.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from mpcheckpoint import _system as system
from mpcheckpoint._backup.cut import AppendLocks
from mpcheckpoint._backup.journal import Journal, settle, write_journal
from mpcheckpoint._backup.log_end import clean_end
from mpcheckpoint._backup.place import read_marker
from mpcheckpoint._format.control import Header, Restored
from mpcheckpoint._format.names import LOG_SUFFIX
from mpcheckpoint._logfile.faults import translated
from mpcheckpoint._logfile.generations import GenerationCopy
from mpcheckpoint._logfile.header import read_header
from mpcheckpoint._logfile.ownership import temporary_name
from mpcheckpoint._logfile.paths import STORE_DIRECTORY, LogPaths, store_directory
from mpcheckpoint._logfile.places import places
from mpcheckpoint._logfile.quarantine import keep_bytes
from mpcheckpoint._logfile.replay import is_chain, replay
from mpcheckpoint._store.directory import StoreDirectory
from mpcheckpoint.errors import BackupPlaceError, CorruptLogError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._format.frame import EndState
    from mpcheckpoint._types import Repair

    OnProgress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class LogRestore:
    """What a restore does to one log, or did.

    Attributes:
        log_key: its key.
        action: "nothing": the store has it as the backup has it; "put back"; "made": the store has none; "taken out":
            the backup has none.
        until_us: the stamp of the last thing that the log holds then, in microseconds since 1970; None if it is taken
            out.
        removed_bytes: how many bytes of the store's log are taken out; they go to quarantine.
        is_done: whether it was done.
        kept_in: the quarantine file with these bytes, if any.
    """

    log_key: str
    action: Literal["nothing", "put back", "made", "taken out"]
    until_us: int | None
    removed_bytes: int
    is_done: bool = False
    kept_in: str | None = None


@dataclass(slots=True)
class _Step:
    """A log of the backup, of the store, or of both: its files in the store, and what each of the two holds."""

    paths: LogPaths
    saved_path: str = ""
    saved: system.Descriptor | None = None
    header: Header | None = None
    end: EndState | None = None
    present: Header | None = None
    size: int = 0
    # Up to where the store's log is what the backup's is.
    common: int = 0

    def outcome(self) -> LogRestore:
        end = self.end
        removed = max(0, self.size - self.common)
        if end is None:
            return LogRestore(self.paths.log_key, "taken out", None, removed)
        if not self.size:
            return LogRestore(self.paths.log_key, "made", end.stamp_us, 0)
        is_same = not removed and self.common == end.offset
        return LogRestore(self.paths.log_key, "nothing" if is_same else "put back", end.stamp_us, removed)


def plan_restore(backup: str | os.PathLike[str], path: str | os.PathLike[str]) -> list[LogRestore]:
    """Return what `restore` would do now, log by log. Writes nothing and takes no lock.

    Args, Raises:
        As `restore`.
    """
    source = _backup_in(backup, path)
    there = os.path.join(store_directory(path), STORE_DIRECTORY)
    target = None
    if os.path.lexists(there):
        target = StoreDirectory(path, create=False, read_only=True, is_unfinished_taken=True)
    return [step.outcome() for step in _steps(source, there, target)]


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

    Durability: when it has returned all is durable. If it fails or is interrupted, the store is as it was. If it is
    killed, it is as it was, or it cannot be opened until another restore, or a repair, has brought it to an end.

    Concurrency: holds the store lock and all append locks. Handles that have a log open read it anew, and append to the
    new generation; better, stop the programs first, for they may rely on what is taken out.

    Args:
        backup: the directory of the backup; it is only read.
        path: the directory of the store; made if there is none.
        lock_timeout_s: how long to wait for writers, in seconds; None waits for ever.
        on_progress: called with the number of bytes that were read since the last call.

    Raises:
        BackupPlaceError: ``backup`` is no backup, or of another store, or one that was written to. Nothing was changed.
        CorruptLogError: the backup is damaged. Nothing was changed.
        StoreNotFoundError, UnfinishedBackupError, LockTimeoutError, StoreAccessError, WriteFailedError,
        ReadFailedError, LockUnsupportedError, NetworkFileSystemError: nothing was changed.
    """
    source = _backup_in(backup, path)
    target = StoreDirectory(path, create=True, read_only=False, is_unfinished_taken=True)
    target.require_locking()
    deadline = None if lock_timeout_s is None else time.monotonic() + lock_timeout_s
    locks = AppendLocks()
    with target.locked(lock_timeout_s), ExitStack() as held, translated("restoring", target.path):
        places.make_names_durable(target.path)
        settle(target.path)
        target.remove_stale_files()
        held.callback(locks.give_back)
        for paths in _in_store(target, _names(source, target.path)):
            locks.take(paths, None if deadline is None else max(0.0, deadline - time.monotonic()))
        steps = _steps(source, target.path, target)
        todo = [step for step in steps if step.outcome().action != "nothing"]
        done = _carried_out(target, todo, locks, on_progress)
    for step in steps:
        if step.outcome().action == "made":
            target.open_log(
                step.paths.log_key, create=False, timeout_s=lock_timeout_s
            )  # puts it on the list of names
    return [done.get(step.paths.log_key, step.outcome()) for step in steps]


# --- what is to be done --------------------------------------------------------------------------------------


def _backup_in(backup: str | os.PathLike[str], path: str | os.PathLike[str]) -> StoreDirectory:
    """Return the directory of a backup that holds something, and lies apart from the store."""
    source = StoreDirectory(backup, create=False, read_only=True)
    here, there = os.path.realpath(source.base), os.path.realpath(store_directory(path))
    if f"{here}/".startswith(f"{there}/") or f"{there}/".startswith(f"{here}/"):
        raise _refusal(source, f"and the store {store_directory(path)} lie in one another")
    marker = read_marker(source.path)
    if marker is None or not marker.cut_us:
        raise _refusal(source, "is no backup that mpcheckpoint backup made; a plain copy is moved into place")
    return source


def _refusal(source: StoreDirectory, what: str) -> BackupPlaceError:
    return BackupPlaceError(f"{source.base} {what}. Nothing was changed", path=source.base, reason=what)


def _in_store(target: StoreDirectory, saved: dict[str, LogPaths]) -> list[LogPaths]:
    """Return the logs of a store, by key. One whose header is damaged has the key of that of the backup."""
    found: list[LogPaths] = []
    for path, log_key in target.listing():
        name = os.path.basename(path).removesuffix(LOG_SUFFIX)
        if isinstance(log_key, str):
            found.append(LogPaths.of(target.path, log_key))
        elif name in saved:
            found.append(saved[name])
        else:
            raise log_key
    return sorted(found, key=lambda paths: paths.log_key)


def _names(source: StoreDirectory, directory: str) -> dict[str, LogPaths]:
    """Return where the logs of the backup go, by the names of their files."""
    wanted = [LogPaths.of(directory, log_key) for log_key in source.log_keys()]
    return {paths.name: paths for paths in wanted}


def _steps(source: StoreDirectory, directory: str, target: StoreDirectory | None) -> list[_Step]:
    """Return what each log needs, by key."""
    steps: dict[str, _Step] = {}
    for log_key in source.log_keys():
        steps[log_key] = _saved(source, LogPaths.of(source.path, log_key), directory)
    for paths in [] if target is None else _in_store(target, _names(source, directory)):
        _compare(source, steps.setdefault(paths.log_key, _Step(paths)))
    return [steps[log_key] for log_key in sorted(steps)]


def _saved(source: StoreDirectory, paths: LogPaths, directory: str) -> _Step:
    with translated("reading", paths.log, is_read=True):
        file = system.open_file(paths.log)
        header = read_header(file.fd, paths.log, log_key=paths.log_key)
        end = clean_end(file.fd, header)
        if end is None or end.offset != system.size_of(file.fd):
            raise _refusal(source, f"was written to: more follows the records of its log {paths.log_key!r}")
    return _Step(LogPaths.of(directory, paths.log_key), paths.log, file, header, end)


def _compare(source: StoreDirectory, step: _Step) -> None:
    """Take note of what the store has of a log."""
    with translated("reading", step.paths.log, is_read=True):
        file = system.open_file(step.paths.log)
        step.size = system.size_of(file.fd)
        try:
            step.present = read_header(file.fd, step.paths.log, log_key=step.paths.log_key)
        except CorruptLogError:
            return  # for that there are backups
        present, header, end = step.present, step.header, step.end
        if header is None or end is None:
            return
        is_related = present.continues(header.generation, header.lineage)
        if not is_related and not header.continues(present.generation, present.lineage):
            raise _refusal(
                source, f"is a backup of another store: its log {step.paths.log_key!r} is another one"
            )
        found = clean_end(file.fd, present)
        if found is not None:
            step.size = found.offset  # what follows is padding
        # Every byte is looked at: a log that is damaged further up is to be put back.
        is_common = present.generation == header.generation and end.offset <= step.size
        if is_common and is_chain(file.fd, header.end, end):
            step.common = end.offset


# --- carried out ---------------------------------------------------------------------------------------------


def _carried_out(
    target: StoreDirectory, todo: list[_Step], locks: AppendLocks, on_progress: OnProgress | None
) -> dict[str, LogRestore]:
    """Change the store, or nothing of it. Requires: the store lock and all append locks."""
    renames: dict[str, str] = {}
    removals: list[str] = []
    kept: dict[str, Repair] = {}
    try:
        for step in todo:
            if step.size:
                _keep(step, kept)
            if step.header is None:
                removals.append(step.paths.log)
            else:
                temporary = temporary_name(step.paths.log)
                renames[temporary] = step.paths.log
                _write(step, temporary, on_progress)
            removals += [step.paths.poison, step.paths.page]  # of the generation that goes
        locks.require_held()
    except BaseException:
        for path in (*renames, *(repair.path for repair in kept.values())):
            system.remove(path)
        raise
    if todo:
        name = os.path.basename
        write_journal(
            target.path,
            Journal(
                doing="restore",
                is_written=True,
                renames={name(temporary): name(path) for temporary, path in renames.items()},
                removals=[name(path) for path in removals],
            ),
        )
        settle(target.path)
    return {
        step.paths.log_key: replace(
            step.outcome(),
            is_done=True,
            kept_in=kept[step.paths.log_key].path if step.paths.log_key in kept else None,
        )
        for step in todo
    }


def _keep(step: _Step, kept: dict[str, Repair]) -> None:
    """Copy what is taken out of the store to quarantine."""
    file = system.open_file(step.paths.log)
    generation = "0" * 32 if step.present is None else step.present.generation
    repair = keep_bytes(file.fd, step.paths, generation, step.common)
    if repair is not None:
        kept[step.paths.log_key] = repair


def _write(step: _Step, temporary: str, on_progress: OnProgress | None) -> None:
    """Write the new generation of a log: what the backup has, read and proven."""
    header, end, saved = step.header, step.end, step.saved
    assert header is not None
    assert end is not None
    assert saved is not None
    continued = (*header.previous, header.generation)
    present = step.present
    others = () if present is None else (*present.previous, present.generation)
    old = header._replace(
        # What the store was since is named first: it is older than the restore.
        previous=(*(each for each in others if each not in continued), *header.previous),
        restored=(*header.restored, Restored(header.generation, end.stamp_us)),
    )
    copy = GenerationCopy(
        step.paths, temporary, old, users_of=step.paths.log if step.size else step.saved_path
    )
    found = header.end
    for scan in replay(saved.fd, header.end):
        copy.add(saved.fd, scan.lines)
        if on_progress is not None:
            on_progress(scan.end.offset - found.offset)
        found = scan.end
        if scan.damage is not None:
            break
    if found != end:
        raise CorruptLogError(
            step.saved_path, found.offset, expected="what was backed up", found="other bytes"
        )
    copy.finish(covers_us=end.stamp_us)
    system.sync_data(copy.fd)
