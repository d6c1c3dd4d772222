"""What makes a backup, or a restore, all or nothing: a journal beside the logs, there while their files are changed.

The steps of a change, and what is on disk if we die:
1. The journal names the logs that are to be made longer, and how long each is.
2. Lines are added to those, and other files are written under temporary names; all are synced.
       Crash: the logs are cut to what they were, and the temporary files removed. (Added lines call offsets durable
       that were so in the source, so a torn end of them would read as corrupt.)
3. The journal is replaced by one that names what is to get another name.
4. The files get their names, and the directory is synced. Crash: what is left of this is done.
5. The journal is removed. Crash, unsynced: as before.

A restore has steps 3 to 5 only, under the append locks of all logs. If it is killed, these are free: handles that were
open before may append to what is about to be replaced. So the journal says what each log was, and whoever finishes it
takes the locks, and keeps what has come since.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from mpcheckpoint import _system as system
from mpcheckpoint._format.names import LOG_SUFFIX
from mpcheckpoint._logfile.file_bytes import write_whole
from mpcheckpoint._logfile.header import read_header
from mpcheckpoint._logfile.ownership import is_temporary, leave_to_store, temporary_name
from mpcheckpoint._logfile.paths import BACKUP_JOURNAL, LogPaths
from mpcheckpoint._logfile.poison import Poison
from mpcheckpoint._logfile.quarantine import keep_bytes
from mpcheckpoint._store.append_locks import AppendLocks
from mpcheckpoint._store.name_list import add_name
from mpcheckpoint.errors import CheckpointError, UnfinishedBackupError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mpcheckpoint._format.control import Header
    from mpcheckpoint._types import Repair

logger = logging.getLogger("mpcheckpoint")

# In the names of quarantine files, where a header cannot be read.
UNKNOWN_GENERATION = "0" * 32
_MOST_BYTES = 64 * 1024 * 1024


class Replaced(msgspec.Struct, frozen=True, kw_only=True):
    """A log that a restore replaces, makes or takes out, and what of it is in the backup, or in quarantine, already.

    Attributes:
        log_key: its key.
        generation: which one that is; "" if there is none, or its header cannot be read.
        length: up to where; what follows, if that is more than padding, has come since.
        successor: the generation that takes its place; "" if none does.
    """

    log_key: str
    generation: str = ""
    length: int = 0
    successor: str = ""


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """What is being done to a directory.

    Attributes:
        doing: "backup" or "restore".
        is_written: whether all is written and synced, so that what is left is done; else what was done is undone.
        lengths: the files of logs that are made longer, by name, with their lengths before.
        renames: names that replace, or make, others: from temporary name to name.
        removals: names of files that go.
        logs: what a restore replaces.
    """

    doing: Literal["backup", "restore"]
    is_written: bool = False
    lengths: dict[str, int] = {}
    renames: dict[str, str] = {}
    removals: list[str] = []
    logs: list[Replaced] = []


class Settled(NamedTuple):
    """What was brought to an end, and what was appended since it was interrupted, which is in quarantine now."""

    journal: Journal
    kept: list[Repair]


def write_journal(directory: str, journal: Journal) -> None:
    """Make a journal durable, in the place of the one that is there."""
    path = os.path.join(directory, BACKUP_JOURNAL)
    temporary = write_beside(path, msgspec.json.encode(journal))
    try:
        system.replace(temporary, path)
    except BaseException:
        system.remove(temporary)
        raise
    system.sync_directory(directory)


def write_beside(path: str, data: bytes) -> str:
    """Write and sync a file under a temporary name, to become ``path``; return that name."""
    temporary = temporary_name(path)
    made = system.open_file(temporary, write=True, create=True, exclusive=True)
    try:
        leave_to_store(made.fd, os.path.dirname(path))
        write_whole(made.fd, data, 0)
        system.sync_data(made.fd)
    except BaseException:
        system.remove(temporary)
        raise
    finally:
        made.close()
    return temporary


def settle(
    directory: str,
    *,
    timeout_s: float | None = None,
    locks: AppendLocks | None = None,
    is_restored_anew: bool = False,
) -> Settled | None:
    """Finish, or undo, what an interrupted backup or restore left; return what that was, None if there was nothing.

    Requires: the store lock of the directory. May be interrupted, and done again.

    Args:
        timeout_s: how long to wait for those who append to logs that a restore is to replace.
        locks: the append locks of all logs, if they are held.
        is_restored_anew: all logs are about to be restored, so a file that is gone does not matter. Then the journal
            stays, until that restore has put its own in its place.

    Raises:
        UnfinishedBackupError: the journal cannot be read, or a file that it names is gone. No log was changed.
        LockTimeoutError: a log was locked elsewhere for so long. No log was changed.
        OSError: the next call goes on from there.
    """
    journal = read_journal(directory)
    if journal is None:
        return None
    if not journal.is_written:
        _undo(directory, journal)
        _end(directory)
        return Settled(journal, [])
    own = AppendLocks()
    try:
        if locks is None:
            logs = [LogPaths.of(directory, each.log_key) for each in journal.logs]
            own.take_all([paths for paths in logs if system.exists(paths.log)], timeout_s)
        lost = _lost(directory, journal)
        if lost and not is_restored_anew:
            raise UnfinishedBackupError(
                f"the file that was to become the log {lost[0]!r} of {os.path.dirname(directory)} is gone; start the "
                "restore again",
                path=directory,
                reason="a restored file is gone",
            )
        kept = _kept(directory, journal)
        (locks or own).require_held()
        _complete(directory, journal)
        if not lost:
            _end(directory)
    finally:
        try:
            own.give_back()
        except BaseException:  # a Ctrl-C in there: every step of it can be done again
            own.give_back()
            raise
    return Settled(journal, kept)


def finish(directory: str, journal: Journal) -> None:
    """Do what a journal says that was just written, and remove it.

    Requires: the store lock, and the append locks of all logs, both held since before it was written. Crash, or an
    error: ``settle`` goes on from there.
    """
    _complete(directory, journal)
    _end(directory)


def tell_settled(settled: Settled | None, base: str) -> None:
    """Have it told what became of an interrupted backup or restore. Requires: no lock is held."""
    if settled is None:
        return
    journal = settled.journal
    done = "finished" if journal.is_written else "undone: the logs are as they were before it"
    logger.warning("the interrupted %s of %s was %s", journal.doing, base, done)
    for repair in settled.kept:
        logger.warning(
            "%d bytes that were appended to the log %r after that %s was interrupted were taken out; they are kept in "
            "%s",
            repair.length_bytes,
            repair.log_key,
            journal.doing,
            repair.path,
        )


def read_journal(directory: str) -> Journal | None:
    """Return the journal in a directory; None if there is none.

    Raises:
        UnfinishedBackupError: it cannot be read.
    """
    path = os.path.join(directory, BACKUP_JOURNAL)
    if not system.exists(path):  # nearly always
        return None
    try:
        file = system.open_file(path)
    except FileNotFoundError:
        return None
    try:
        journal = msgspec.json.decode(system.read_at(file.fd, _MOST_BYTES, 0), type=Journal)
        _require_names(journal.lengths, journal.renames.values(), journal.removals)
        for each in journal.logs:
            LogPaths.of(directory, each.log_key)
        if not all(map(is_temporary, journal.renames)):
            raise ValueError("it renames what is no temporary file")
    except ValueError as error:
        raise UnfinishedBackupError(
            f"{path} cannot be read: {error}; make the backup anew, in another place",
            path=path,
            reason="unreadable journal",
        ) from error
    return journal


def _require_names(*names: Iterable[str]) -> None:
    """Return if these are names in the directory: who wrote the file may be somebody else."""
    for name in (name for some in names for name in some):
        if name != os.path.basename(name) or name in ("", ".", "..") or "\0" in name:
            raise ValueError(f"{name!r} is no name of a file")


def _lost(directory: str, journal: Journal) -> list[str]:
    """Return the keys of logs whose new files are neither there under their temporary names nor in their places."""
    successors = {each.log_key: each.successor for each in journal.logs if each.successor}
    lost = []
    for log_key, successor in successors.items():
        path = LogPaths.of(directory, log_key).log
        header = _header(path)
        # It may have got another generation since: handles that were open before go on with it.
        is_there = header is not None and header.continues(successor, "")
        if not is_there and not _is_waiting(directory, journal, path):
            lost.append(log_key)
    return lost


def _is_waiting(directory: str, journal: Journal, path: str) -> bool:
    """Return whether the file that is to become ``path`` is still to get its name."""
    name = os.path.basename(path)
    return any(
        wanted == name and system.exists(os.path.join(directory, temporary))
        for temporary, wanted in journal.renames.items()
    )


def _header(path: str) -> Header | None:
    try:
        file = system.open_file(path)
        return read_header(file.fd, path, log_key=None)
    except (FileNotFoundError, CheckpointError):
        return None


def _kept(directory: str, journal: Journal) -> list[Repair]:
    """Copy to quarantine what came to logs that are still to be replaced, since the journal was written."""
    kept = []
    for each in journal.logs:
        paths = LogPaths.of(directory, each.log_key)
        if not system.exists(paths.log) or (
            each.successor and not _is_waiting(directory, journal, paths.log)
        ):
            continue
        header = _header(paths.log)
        generation = "" if header is None else header.generation
        # Of another generation, or where it cannot be told, all is kept: once too often does no harm.
        start = each.length if generation == each.generation else 0
        file = system.open_file(paths.log)
        repair = keep_bytes(file.fd, paths, generation or UNKNOWN_GENERATION, start)
        if repair is not None:
            kept.append(repair)
    return kept


def _complete(directory: str, journal: Journal) -> None:
    renamed = set()
    for temporary, name in journal.renames.items():
        path = os.path.join(directory, temporary)
        if system.exists(path):
            system.replace(path, os.path.join(directory, name))
            renamed.add(name)
    for name in journal.removals:
        system.remove(os.path.join(directory, name))
    for each in journal.logs:
        paths = LogPaths.of(directory, each.log_key)
        if os.path.basename(paths.log) in renamed or not each.successor:
            system.remove(paths.poison)
        else:  # it has the name since a run before this one, and may have been poisoned since
            Poison(paths).clear_older(each.successor)
        if each.successor:
            add_name(directory, paths.name)


def _end(directory: str) -> None:
    system.sync_directory(directory)  # before the journal goes: else nobody would go on from here
    system.remove(os.path.join(directory, BACKUP_JOURNAL))
    system.sync_directory(directory)


def _undo(directory: str, journal: Journal) -> None:
    for name, length in journal.lengths.items():
        try:
            log = system.open_file(os.path.join(directory, name), write=True)
        except FileNotFoundError:
            continue
        if system.size_of(log.fd) > length:
            system.truncate(log.fd, length)
            system.sync_data(log.fd)
        log.close()
    for name in system.list_directory(directory):
        if is_temporary(name) and (LOG_SUFFIX in name or name.startswith("backup")):
            system.remove(os.path.join(directory, name))
