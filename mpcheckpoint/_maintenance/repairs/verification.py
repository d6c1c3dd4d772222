"""Read every byte of every log, and say what is wrong with each. Writes nothing and takes no lock."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec

from mpcheckpoint import _system as system
from mpcheckpoint._engines import directory_of
from mpcheckpoint._format.names import LOG_SUFFIX, file_name
from mpcheckpoint._logfile.faults import translated
from mpcheckpoint._logfile.header import read_header, wrong_log
from mpcheckpoint._logfile.ownership import is_temporary
from mpcheckpoint._logfile.page import stated_durable
from mpcheckpoint._logfile.paths import BACKUP_JOURNAL, BACKUP_MARKER, QUARANTINE, WORKERS, LogPaths
from mpcheckpoint._logfile.poison import Poison
from mpcheckpoint._logfile.quarantine import list_repairs
from mpcheckpoint._maintenance.repairs.reports import Damage, LogCheck, State
from mpcheckpoint._maintenance.repairs.saved import SavedLogs
from mpcheckpoint._salvage.inspection import Inspection, inspect
from mpcheckpoint._salvage.salvage import is_corrupt, log_key_in
from mpcheckpoint._store.directory import StoreDirectory
from mpcheckpoint.errors import (
    CheckpointError,
    CorruptLogError,
    FormatVersionError,
    InvalidKeyError,
    LogNotFoundError,
    shell_text,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_MOST_DAMAGES = 1000
_PAUSE_S = 0.1
_OF_A_LOG = (LOG_SUFFIX, ".lock", ".sync", ".page", ".poison", ".compact")
_OF_THE_STORE = frozenset({"store.lock", "logs", "bell", QUARANTINE, WORKERS, BACKUP_MARKER, BACKUP_JOURNAL})


class CheckTarget(NamedTuple):
    """One log to check: the name of its file without suffix, and its paths, None if its key cannot be told."""

    name: str
    path: str
    paths: LogPaths | None

    @property
    def log_key(self) -> str | None:
        """The log's key; None if it cannot be told."""
        return None if self.paths is None else self.paths.log_key


def verify(
    path: str | os.PathLike[str],
    *,
    log_keys: Iterable[str] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[LogCheck]:
    """Read every byte of a store's logs and yield what is found, a log at a time.

    After a damage it goes on at the next line that can be proven, so it finds all damages of a log. Writes nothing,
    takes no lock, and works while others write: a write in progress is no damage. Bounded memory. Of a backup, it is
    said of each log whether it is as it was backed up.

    Args:
        path: the directory of the store.
        log_keys: only these logs; None for all.
        on_progress: called with the number of bytes that were read since the last call.

    Raises:
        NotForThisStoreError, StoreNotFoundError, NotAStoreError, StoreAccessError: there is no store that can be read.
        BackupPlaceError: it is a backup, and what that says of itself cannot be read.
        LogNotFoundError: one of ``log_keys`` does not exist.
        ReadFailedError: the store cannot be listed. An error of one log is in its ``LogCheck``.
    """
    directory = StoreDirectory(directory_of(path, "verify"), create=False, read_only=True)
    targets = targets_in(directory, log_keys)
    saved = SavedLogs(directory.path)
    if log_keys is None:
        there = {os.path.basename(target.path) for target in targets}
        gone = {name.removesuffix(LOG_SUFFIX) for name in saved.ends.keys() - there}
        targets = sorted([*targets, *(_target(directory.path, name) for name in gone)])
    return (saved.compared(check_log(target, on_progress)) for target in targets)


def size_in_bytes(path: str | os.PathLike[str], *, log_keys: Iterable[str] | None = None) -> int:
    """Return how many bytes `verify` will read.

    Raises:
        As `verify`.
    """
    directory = StoreDirectory(directory_of(path, "verify"), create=False, read_only=True)
    size = 0
    for target in targets_in(directory, log_keys):
        try:
            size += system.stat_path(target.path).st_size
        except OSError:
            continue  # the check will say so
    return size


def stray_files(path: str | os.PathLike[str]) -> list[str]:
    """Return the names in a store's directory that do not belong to it, sorted. They are left alone.

    A file that is being made, or that a killed process left unfinished, belongs to it: that one is removed in time.

    Raises:
        NotForThisStoreError, StoreNotFoundError, NotAStoreError, StoreAccessError, ReadFailedError: there is no store
        that can be read.
    """
    directory = StoreDirectory(directory_of(path, "verify"), create=False, read_only=True)
    names, logs = _names_in(directory)
    own = _OF_THE_STORE.union(log + suffix for log in logs for suffix in _OF_A_LOG)
    return sorted(name for name in names - own if not is_temporary(name))


def targets_in(directory: StoreDirectory, log_keys: Iterable[str] | None) -> list[CheckTarget]:
    """Return the logs to check, sorted by file name.

    Raises:
        LogNotFoundError, InvalidKeyError: one of ``log_keys`` does not exist, or cannot.
        ReadFailedError: the store cannot be listed.
    """
    _, there = _names_in(directory)
    if log_keys is None:
        return [_target(directory.path, name) for name in sorted(there)]
    targets = []
    for log_key in dict.fromkeys(log_keys):
        paths = LogPaths.of(directory.path, log_key)
        if paths.name not in there:
            raise LogNotFoundError(
                f"the store {directory.base} has no log {log_key!r}",
                path=paths.log,
                reason="no such log",
                log_key=log_key,
            )
        targets.append(CheckTarget(paths.name, paths.log, paths))
    return targets


def _names_in(directory: StoreDirectory) -> tuple[set[str], set[str]]:
    """Return all names in a store's directory, and those of its logs without suffix."""
    with translated("listing", directory.path, is_read=True):
        names = set(system.list_directory(directory.path))
    return names, {name.removesuffix(LOG_SUFFIX) for name in names if name.endswith(LOG_SUFFIX)}


def _target(directory: str, name: str) -> CheckTarget:
    path = os.path.join(directory, name + LOG_SUFFIX)
    log_key = _key_of(path, name)
    return CheckTarget(name, path, None if log_key is None else LogPaths.of(directory, log_key))


def _key_of(path: str, name: str) -> str | None:
    """Return the log key that has this file name; None if it cannot be told.

    A short name tells it by itself. A long name ends in a hash of the key. That proves a key wherever it is found, also
    in a damaged header.
    """
    candidates = []
    try:
        candidates.append("" if name == "%" else unquote_to_bytes(name).decode())
    except UnicodeError:  # also if the file's name holds bytes that are no UTF-8
        pass
    try:
        descriptor = system.open_file(path)
        stated = log_key_in(descriptor.fd)
        candidates.append(msgspec.json.decode(stated or b'""', type=str))
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        pass
    for log_key in candidates:
        try:
            if file_name(log_key) == name:
                return log_key
        except InvalidKeyError:
            continue
    return None


# --- one log -------------------------------------------------------------------------------------------------


def check_log(target: CheckTarget, on_progress: Callable[[int], None] | None = None) -> LogCheck:
    """Return the check of one log."""
    return check_found(target, on_progress)[0]


def check_found(
    target: CheckTarget, on_progress: Callable[[int], None] | None = None
) -> tuple[LogCheck, Inspection | None]:
    """Return the check of one log, and the inspection that it comes from; None if it could not be read."""
    try:
        with translated("reading", target.path, is_read=True):
            file = system.open_file(target.path)
            found_size = system.size_of(file.fd)
            problem = _problem_with_header(file.fd, target)
            if problem is not None:
                return _unreadable(target, problem), None
            page = target.paths.page if target.paths is not None else ""
            found = inspect(file.fd, target.path, page, on_progress)
            if found.refusal is not None:
                return _unreadable(target, shell_text(found.refusal)), None
            is_pending = _is_pending(file.fd, target, found, found_size)
            return _check_of(target, found, is_pending=is_pending), found
    except FileNotFoundError:
        return _unreadable(target, "it was removed meanwhile"), None
    except CheckpointError as error:
        return _unreadable(target, shell_text(error)), None


def _problem_with_header(fd: int, target: CheckTarget) -> str | None:
    """Return why the log cannot be read at all. The inspection finds damage."""
    try:
        header = read_header(fd, target.path, log_key=None)
    except FormatVersionError as error:
        return shell_text(error)
    except CorruptLogError:
        return None
    if file_name(header.log_key) != target.name:
        by_name = f"one whose file name is {target.name}{LOG_SUFFIX}"
        wanted = by_name if target.log_key is None else repr(target.log_key)
        return shell_text(wrong_log(target.path, header.log_key, wanted))
    return None


def _unreadable(target: CheckTarget, problem: str) -> LogCheck:
    return LogCheck(target.path, target.log_key, None, "unreadable", problem=problem)


def _is_pending(fd: int, target: CheckTarget, found: Inspection, size_before: int) -> bool:
    """Return whether the last damage is a write in progress, and no torn end.

    It is if it began after the first look's end of the file, if it changes, or if a process holds the append lock. A
    writer that died holds none.
    """
    if not found.breaks or not found.breaks[-1].gap.is_last or found.is_corrupt(found.breaks[-1]):
        return False
    gap = found.breaks[-1].gap
    if gap.damage.offset >= size_before:
        return True
    if target.paths is None:
        return False
    before = _bytes_from(fd, gap.damage.offset)
    lock = system.lock_status(target.paths.lock)
    if lock.state is system.LockState.HELD:
        return True
    if lock.state is system.LockState.UNKNOWN:
        time.sleep(_PAUSE_S)  # a writer gets on meanwhile
    return _bytes_from(fd, gap.damage.offset) != before


def _bytes_from(fd: int, offset: int) -> tuple[int, bytes]:
    """Return what changes while a write goes on: the size, and the first bytes."""
    return system.size_of(fd), system.read_at(fd, 1024 * 1024, offset)


def _check_of(target: CheckTarget, found: Inspection, *, is_pending: bool) -> LogCheck:
    generation = None if found.header is None else found.header.generation
    poison = None
    if target.paths is not None and generation is not None:
        poison = Poison(target.paths).reason(generation)
    breaks = found.breaks[:-1] if is_pending else found.breaks
    state: State = "whole"
    if is_corrupt(found):
        state = "corrupt"
    elif breaks:
        state = "torn"
    elif poison is not None:
        state = "poisoned"
    elif is_pending:
        state = "pending"
    return LogCheck(
        target.path,
        target.log_key,
        generation,
        state,
        found.records,
        found.size,
        found.durable,
        tuple(_damages(target.path, found, len(breaks))),
        len(breaks),
        None
        if target.paths is not None
        else "its log key cannot be told: its header is damaged, and its name is a hash",
        poison,
        tuple(_notes(target, found)),
    )


def _damages(path: str, found: Inspection, count: int) -> Iterator[Damage]:
    for each in found.breaks[: min(count, _MOST_DAMAGES)]:
        gap = each.gap
        yield Damage(
            path,
            gap.damage.offset,
            gap.stop - gap.damage.offset,
            gap.damage.expected,
            gap.damage.found,
            "corrupt" if found.is_corrupt(each) else "torn",
            each.records_behind,
            gap.is_mended,
            each.after_us if each.after_us >= 0 else None,
            each.before_us if each.before_us >= 0 else None,
        )


def _notes(target: CheckTarget, found: Inspection) -> Iterator[str]:
    if target.paths is None:
        return
    if found.header is not None:
        log = system.path_status(target.path)
        stated = stated_durable(target.paths.page, found.header.generation, log)
        if stated > found.size:
            yield (
                f"{stated} bytes of it were once durable, and it has {found.size}: "
                "it was cut off, or restored from a copy"
            )
    for note in found.salvages:
        gaps = note.fields.get("gaps")
        count = len(gaps) if isinstance(gaps, list) else 0
        where = "one place" if count == 1 else f"{count} places"
        also = ", and forgets: their objects are back" if count else ""
        yield f"salvaged from generation {note.fields.get('from')}: records may be missing in {where}{also}"
    try:
        repairs = list_repairs(target.paths)
    except OSError as error:
        yield f"the quarantine cannot be listed: {error.strerror or error}"
        return
    if repairs:
        kept_bytes = sum(repair.length_bytes for repair in repairs)
        files = "one file" if len(repairs) == 1 else f"{len(repairs)} files"
        yield f"{kept_bytes} bytes that repairs cut off are kept in {files} of {target.paths.quarantine}"
