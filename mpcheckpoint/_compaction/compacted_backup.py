"""Back a store up, for users; without what a compaction would drop, if that is asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from inspect import signature
from typing import TYPE_CHECKING, Any, Protocol

from mpcheckpoint._backup.backing_up import back_up_store
from mpcheckpoint._backup.made_backup import make_backup
from mpcheckpoint._compaction.compacting import RaisedByCallerError, apart, rules_of, selection_by
from mpcheckpoint._store.store import DirectoryStore
from mpcheckpoint._store.workers import WorkerFiles
from mpcheckpoint.errors import NotForThisStoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._backup.backing_up import Backup
    from mpcheckpoint._compaction.selection import Selection
    from mpcheckpoint._view.store_handle import StoreHandle


class _WithStore(Protocol):
    """A Checkpoint."""

    _handle: StoreHandle


def backup(
    self: _WithStore,
    directory: str | os.PathLike[str],
    *,
    limit_rate: int | None = None,
    skip_damaged: bool = False,
    on_progress: Callable[[int], None] | None = None,
    compact: bool | Mapping[str, Any] = False,
) -> Backup:
    """Back up all logs as they are at one moment, while others go on writing.

    The first backup into a directory copies all; a later one adds what is new. All is read, proven and made durable
    in the store before it is written: whatever their durability, all appends that had returned before are in it.
    The backup is a store: it can be opened, read and verified. It shares the generations of the original, so write
    to a copy of it, or restore it first.

    Of a store on a server, too, the backup is a directory: its logs as one snapshot has them, record by record, with
    their stamps, ids and counts. A log that has changed since the last backup is made anew. To go on with such a
    backup, copy it to a server (``mpcheckpoint.maintenance.copy_store``), or into a directory; positions of the one
    are valid in the other.

    Durability: a backup that has returned is durable. One that fails, or is interrupted, leaves the directory as it
    was. If it is killed, the directory cannot be opened until the next backup into it, or a repair, has set it
    back.

    Concurrency: holds all append locks, and the store's, for some 20 us a log while it notes where the logs end;
    copies without any. It waits for a writer that keeps a lock for long with no other lock held. It needs two open
    files a log.

    Args:
        directory: where the backup is, or is to be. Its files are in ``directory/.checkpoint``.
        limit_rate: copy at most so many bytes a second.
        skip_damaged: leave out logs that are corrupt or cannot be read. The backup keeps what it had of them. For a
            store that is a directory.
        on_progress: called with the number of bytes that were copied since the last call, without any lock of the
            store. What it raises ends the backup, which leaves the directory as it was.
        compact: leave out of the backup what ``Log.compact`` would drop from each log; the store stays as it is. For a
            store that is a directory.
            True: only what nobody asks for any more. Or arguments of ``Log.compact`` that say what may go, as
            ``{"keep_last": 1}``: ``keep_last``, ``newer_than_s``, ``drop``, ``fold``, ``keep_ids_s``, ``purge``.
            Each log is read twice then, and both times count for ``limit_rate`` and ``on_progress``. A log from
            which something was dropped is copied anew by the next backup, compacted or not. A restore puts it in
            the place of the store's: what was dropped is dropped there, too, and counts, record ids, positions
            and cursors from before the backup go on.

    Raises:
        BackupPlaceError: ``directory`` is the store or overlaps it, is another store, or is a backup of another
            one or one that was written to. Nothing was changed.
        CorruptLogError, PoisonedLogError, FormatVersionError, ReadFailedError: of a log of the store. Nothing was
            changed.
        LockTimeoutError, StoreAccessError, WriteFailedError, UnfinishedBackupError: nothing was changed.
        ReentrancyError: called within an append, by a signal handler, or by the ``on_progress`` of a backup into
            the same directory. Nothing was changed.
        StoreUnavailableError: of a store on a server. Nothing was changed.
        NotForThisStoreError: ``compact`` or ``skip_damaged`` is asked for, and the store is no directory. Nothing was
            changed.
        ValueError: ``limit_rate`` is no rate. Nothing was changed.
    """
    storage = self._handle.storage()
    if limit_rate is not None and (type(limit_rate) is not int or limit_rate <= 0):
        raise ValueError(f"limit_rate is a number of bytes a second, above 0, or None, not {limit_rate!r}")
    select = _selections(compact, storage.path)
    timeout_s, told = self._handle.settings.lock_timeout_s, apart(on_progress)
    try:
        if not isinstance(storage, DirectoryStore):
            if select is not None or skip_damaged:
                what = "compact" if select is not None else "skip_damaged"
                raise NotForThisStoreError(f"a backup with {what}", storage.path)
            return make_backup(
                storage, directory, timeout_s=timeout_s, limit_rate=limit_rate, on_progress=told
            )
        return back_up_store(
            storage.directory,
            directory,
            timeout_s=timeout_s,
            limit_rate=limit_rate,
            skip_damaged=skip_damaged,
            on_progress=told,
            select=select,
        )
    except RaisedByCallerError as raised:
        error = raised.as_it_was()
    raise error


def _selections(compact: bool | Mapping[str, Any], path: str) -> Callable[[], Selection] | None:
    """Return what makes a selection for each log of the store at ``path``; None if nothing is to be dropped.

    Args:
        compact: what ``backup`` was given.

    Raises:
        ValueError, TypeError: it is not what it should be.
    """
    if not isinstance(compact, (bool, Mapping)):
        raise TypeError(f"compact is a bool, or names arguments of Log.compact, not {compact!r}")
    if compact is False:
        return None
    arguments: dict[str, Any] = {} if compact is True else dict(compact)
    known = tuple(signature(rules_of).parameters)
    for name in arguments:
        if name not in known:
            raise TypeError(f"compact has no rule {name!r}; there are {', '.join(known)}")
    rules = rules_of(**arguments)
    return lambda: selection_by(rules, path, WorkerFiles(path))
