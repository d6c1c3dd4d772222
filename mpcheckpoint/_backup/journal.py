"""What makes a backup, or a restore, all or nothing: a journal beside the logs, there while their files are changed.

The steps of a change, and what is on disk if we die:
1. The journal names the logs that are to be made longer, and how long each is.
2. Lines are added to those, and other files are written under temporary names; all are synced.
       Crash: the logs are cut to what they were, and the temporary files removed. (Added lines call offsets durable
       that were so in the source, so a torn end of them would read as corrupt.)
3. The journal is replaced by one that names what is to get another name.
4. The files get their names, and the directory is synced. Crash: what is left of this is done.
5. The journal is removed. Crash, unsynced: as before.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

import msgspec

from mpcheckpoint import _system as system
from mpcheckpoint._format.names import LOG_SUFFIX
from mpcheckpoint._logfile.file_bytes import write_whole
from mpcheckpoint._logfile.ownership import is_temporary, leave_to_store, temporary_name
from mpcheckpoint._logfile.paths import BACKUP_JOURNAL
from mpcheckpoint.errors import UnfinishedBackupError

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST_BYTES = 64 * 1024 * 1024


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """What is being done to a directory.

    Attributes:
        doing: "backup" or "restore".
        is_written: whether all is written and synced, so that what is left is done; else what was done is undone.
        lengths: the files of logs that are made longer, by name, with their lengths before.
        renames: names that replace, or make, others: from temporary name to name.
        removals: names of files that go.
    """

    doing: Literal["backup", "restore"]
    is_written: bool = False
    lengths: dict[str, int] = {}
    renames: dict[str, str] = {}
    removals: list[str] = []


def write_journal(directory: str, journal: Journal) -> None:
    """Make a journal durable, in the place of the one that is there."""
    path = os.path.join(directory, BACKUP_JOURNAL)
    temporary = write_beside(path, msgspec.json.encode(journal))
    system.replace(temporary, path)
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


def settle(directory: str) -> Journal | None:
    """Finish, or undo, what an interrupted backup or restore left; return its journal, None if there was none.

    Requires: the store lock of the directory. May be interrupted, and done again.

    Raises:
        UnfinishedBackupError: the journal cannot be read. Nothing was changed.
        OSError: the next call goes on from there.
    """
    journal = read_journal(directory)
    if journal is None:
        return None
    if journal.is_written:
        _complete(directory, journal)
    else:
        _undo(directory, journal)
    system.sync_directory(directory)  # before the journal goes: else nobody would go on from here
    system.remove(os.path.join(directory, BACKUP_JOURNAL))
    system.sync_directory(directory)
    return journal


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


def _complete(directory: str, journal: Journal) -> None:
    for temporary, name in journal.renames.items():
        path = os.path.join(directory, temporary)
        if system.exists(path):
            system.replace(path, os.path.join(directory, name))
    for name in journal.removals:
        system.remove(os.path.join(directory, name))


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
