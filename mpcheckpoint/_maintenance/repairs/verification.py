"""Read every byte of every log, and tell what is wrong with each. Nothing is written, and no lock is taken."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec

from mpcheckpoint import _system as system
from mpcheckpoint._format.names import LOG_SUFFIX, file_name
from mpcheckpoint._logfile.faults import translated
from mpcheckpoint._logfile.header import read_header, wrong_log
from mpcheckpoint._logfile.page import stated_durable
from mpcheckpoint._logfile.paths import QUARANTINE, WORKERS, LogPaths
from mpcheckpoint._logfile.poison import Poison
from mpcheckpoint._logfile.quarantine import list_repairs
from mpcheckpoint._maintenance.repairs.damage import Damage, LogCheck, State
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
_OF_A_LOG = (LOG_SUFFIX, ".lock", ".sync", ".page", ".poison")
_OF_THE_STORE = frozenset({"store.lock", "logs", "bell", QUARANTINE, WORKERS})


class Target(NamedTuple):
    """One log to be looked at: its file's name without suffix, and its paths, None where the key cannot be told."""

    name: str
    path: str
    paths: LogPaths | None


def verify(
    path: str | os.PathLike[str],
    *,
    log_keys: Iterable[str] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[LogCheck]:
    """Read every byte of a store's logs and yield what is found, a log at a time.

    Behind a damage it goes on at the next line that can be proven, so that several damages of a log are all told.
    Writes nothing, takes no lock, and works while others write: what is being written is no damage. Bounded memory.

    Args:
        path: the directory of the store.
        log_keys: only these logs; None for all.
        on_progress: called with the number of bytes that were read since it was called last.

    Raises:
        StoreNotFoundError, NotAStoreError, StoreAccessError: there is no store that can be read.
        LogNotFoundError: one of ``log_keys`` does not exist.
        ReadFailedError: the store cannot be listed. What concerns one log only is told of that log.
    """
    directory = StoreDirectory(path, create=False, read_only=True)
    targets = targets_in(directory, log_keys)
    return (check_log(target, on_progress) for target in targets)


def size_in_bytes(path: str | os.PathLike[str], *, log_keys: Iterable[str] | None = None) -> int:
    """Return how many bytes `verify` is going to read.

    Raises:
        As `verify`.
    """
    directory = StoreDirectory(path, create=False, read_only=True)
    size = 0
    for target in targets_in(directory, log_keys):
        try:
            size += system.stat_path(target.path).st_size
        except OSError:
            continue  # the check will tell
    return size


def stray_files(path: str | os.PathLike[str]) -> list[str]:
    """Return the names in a store's directory that are none of its own, sorted. They are left alone.

    Raises:
        StoreNotFoundError, NotAStoreError, StoreAccessError, ReadFailedError: there is no store that can be read.
    """
    directory = StoreDirectory(path, create=False, read_only=True)
    with translated("listing", directory.path, is_read=True):
        names = system.list_directory(directory.path)
    logs = {name.removesuffix(LOG_SUFFIX) for name in names if name.endswith(LOG_SUFFIX)}
    own = _OF_THE_STORE.union(log + suffix for log in logs for suffix in _OF_A_LOG)
    return sorted(set(names) - own)


def targets_in(directory: StoreDirectory, log_keys: Iterable[str] | None) -> list[Target]:
    """Return the logs to look at, sorted by file name.

    Raises:
        LogNotFoundError, InvalidKeyError: a log is asked for that cannot be.
        ReadFailedError: the store cannot be listed.
    """
    with translated("listing", directory.path, is_read=True):
        names = system.list_directory(directory.path)
    there = {name.removesuffix(LOG_SUFFIX) for name in names if name.endswith(LOG_SUFFIX)}
    if log_keys is None:
        return [_target(directory.path, name) for name in sorted(there)]
    targets = []
    for log_key in dict.fromkeys(log_keys):
        paths = directory.paths_of(log_key)
        if paths.name not in there:
            raise LogNotFoundError(
                f"the store {directory.base} has no log {log_key!r}",
                path=paths.log,
                reason="no such log",
                log_key=log_key,
            )
        targets.append(Target(paths.name, paths.log, paths))
    return targets


def _target(directory: str, name: str) -> Target:
    path = os.path.join(directory, name + LOG_SUFFIX)
    log_key = _key_of(path, name)
    return Target(name, path, None if log_key is None else LogPaths.of(directory, log_key))


def _key_of(path: str, name: str) -> str | None:
    """Return the log key that has this file name; None if it cannot be told.

    A short name says it by itself. A long one ends in a hash, and a key that has that hash is proven by it, wherever it
    stands: also in a header that is damaged.
    """
    candidates = []
    try:
        candidates.append("" if name == "%" else unquote_to_bytes(name).decode())
    except UnicodeError:  # also where the name of a file holds bytes that are no UTF-8
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


def check_log(target: Target, on_progress: Callable[[int], None] | None = None) -> LogCheck:
    """Return what is found in one log."""
    return check_found(target, on_progress)[0]


def check_found(
    target: Target, on_progress: Callable[[int], None] | None = None
) -> tuple[LogCheck, Inspection | None]:
    """Return what is found in one log, as it is told and as it is; None if it could not be read."""
    try:
        with translated("reading", target.path, is_read=True):
            return _checked(target, on_progress)
    except FileNotFoundError:
        return _unreadable(target, "it was removed meanwhile"), None
    except CheckpointError as error:
        return _unreadable(target, shell_text(error)), None


def _checked(target: Target, on_progress: Callable[[int], None] | None) -> tuple[LogCheck, Inspection | None]:
    descriptor = system.open_file(target.path)
    fd = descriptor.fd
    found_size = system.size_of(fd)
    problem = _problem_with_header(fd, target)
    if problem is not None:
        return _unreadable(target, problem), None
    page = target.paths.page if target.paths is not None else ""
    found = inspect(fd, target.path, page, on_progress)
    if found.refusal is not None:
        return _unreadable(target, shell_text(found.refusal)), None
    return _told(target, found, is_pending=_is_pending(fd, target, found, found_size)), found


def _problem_with_header(fd: int, target: Target) -> str | None:
    """Return what keeps the log from being read at all; damage is for the inspection to find."""
    try:
        header = read_header(fd, target.path, log_key=None)
    except FormatVersionError as error:
        return shell_text(error)
    except CorruptLogError:
        return None
    if file_name(header.log_key) != target.name:
        expected = target.paths.log_key if target.paths is not None else None
        wanted = (
            repr(expected) if expected is not None else f"one whose file name is {target.name}{LOG_SUFFIX}"
        )
        return shell_text(wrong_log(target.path, header.log_key, wanted))
    return None


def _unreadable(target: Target, problem: str) -> LogCheck:
    log_key = target.paths.log_key if target.paths is not None else None
    return LogCheck(target.path, log_key, None, "unreadable", problem=problem)


def _is_pending(fd: int, target: Target, found: Inspection, size_before: int) -> bool:
    """Return whether the last damage is a write in progress, and no torn end.

    It is if it began behind what was there at first, if it changes, or if somebody holds the append lock. Who died in
    mid-write holds none.
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
        time.sleep(_PAUSE_S)  # whoever writes gets on meanwhile
    return _bytes_from(fd, gap.damage.offset) != before


def _bytes_from(fd: int, offset: int) -> tuple[int, bytes]:
    """Return what tells a write that goes on from one that does not: the size, and the first bytes."""
    return system.size_of(fd), system.read_at(fd, 1024 * 1024, offset)


def _told(target: Target, found: Inspection, *, is_pending: bool) -> LogCheck:
    poison = _poison(target, found)
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
        target.paths.log_key if target.paths is not None else None,
        found.header.generation if found.header is not None else None,
        state,
        found.records,
        found.size,
        found.durable,
        tuple(_damages(target.path, found, len(breaks))),
        len(breaks),
        None
        if target.paths is not None
        else "which log it is cannot be told: its header is damaged, and its name a hash",
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


def _poison(target: Target, found: Inspection) -> str | None:
    if target.paths is None or found.header is None:
        return None
    return Poison(target.paths).reason(found.header.generation)


def _notes(target: Target, found: Inspection) -> Iterator[str]:
    if target.paths is None:
        return
    if found.header is not None:
        log = system.path_status(target.path)
        stated = stated_durable(target.paths.page, found.header.generation, log)
        if stated > found.size:
            yield (
                f"{stated} bytes of it were once durable, and it has {found.size}: "
                "it was cut off, or put back from a copy"
            )
    for note in found.salvages:
        gaps = note.fields.get("gaps")
        count = len(gaps) if isinstance(gaps, list) else 0
        where = "one place" if count == 1 else f"{count} places"
        yield f"salvaged from generation {note.fields.get('from')}: records may be missing in {where}"
    try:
        repairs = list_repairs(target.paths)
    except OSError as error:
        yield f"what is in quarantine cannot be told: {error.strerror or error}"
        return
    if repairs:
        kept_bytes = sum(repair.length_bytes for repair in repairs)
        files = "one file" if len(repairs) == 1 else f"{len(repairs)} files"
        yield f"{kept_bytes} bytes that repairs cut off are kept in {files} of {target.paths.quarantine}"
