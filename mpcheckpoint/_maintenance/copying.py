"""Copy the logs of a store into another one, whatever the two are kept in."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mpcheckpoint._backup.copying import CopyPace
from mpcheckpoint._compaction.compacting import RaisedByCallerError, apart
from mpcheckpoint._engines import address_of
from mpcheckpoint._postgres.address import Address
from mpcheckpoint._store.directory import StoreDirectory
from mpcheckpoint._store.moving import is_copy_of
from mpcheckpoint._store.store import DirectoryStore
from mpcheckpoint.checkpoint import Checkpoint
from mpcheckpoint.errors import BackupPlaceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpcheckpoint._store.moving import LogCut
    from mpcheckpoint._store.protocol import Store
    from mpcheckpoint._view.store_handle import StoreHandle


@dataclass(frozen=True, slots=True)
class CopiedLog:
    """What a copy did with one log.

    Attributes:
        log_key: its key.
        action: "copied"; "there already": another copy did it, and nothing came to the log it was copied from since.
    """

    log_key: str
    action: Literal["copied", "there already"]


@dataclass(frozen=True, slots=True)
class StoreCopy:
    """What a copy did.

    Attributes:
        source, target: from which store, into which.
        is_of_one_moment: whether the logs were copied as they were at one moment. False where this user may not lock
            them, or the handle is read-only: then each is whole, as it was at about that time.
        logs: what was done with each log, in the order of their keys.
    """

    source: str
    target: str
    is_of_one_moment: bool
    logs: tuple[CopiedLog, ...]


def copy_store(
    source: Checkpoint | str | os.PathLike[str] | Address,
    target: Checkpoint | str | os.PathLike[str] | Address,
    *,
    limit_rate: int | None = None,
    on_progress: Callable[[int], None] | None = None,
    lock_timeout_s: float | None = None,
) -> StoreCopy:
    """Copy all logs of a store into another one, from a directory to a server, back, or between two of a kind.

    The logs are copied as they are at one moment. Records keep their order, stamps, batches, ids and meta, over all
    logs too; counts go on after compactions, what was forgotten stays so, maps go on where they were, and positions
    and cursors up to that moment are valid in both. Claims are void in the copy: who has them works in the other store.
    From there on the two go their own ways: the copy refuses later positions of the source, and the source, which
    knows nothing of the copy, must not be asked for later ones of that.

    Durability: a log that was copied is durable there.

    Concurrency: each log appears whole. Killed, or raising, meanwhile, the copy has some of the logs; the next call
    goes on with the rest, if nothing was appended to the source since. So stop the programs that use it, or begin
    anew in an empty store. Nobody waits while it is copied.

    Args:
        source: a store, which is only read; for a directory its locks are taken for a moment. Where this user may not
            lock them, or the handle is read-only, each log is copied as it was at about that time, one after the other.
        target: a store, made if need be: one in a directory, of one in a directory, for the users of that. It must have
            no logs of the same keys.
        limit_rate: copy at most so many bytes a second.
        on_progress: called with the number of bytes that were copied since the last call, without any lock. What it
            raises ends the copy, as above.
        lock_timeout_s: how long to wait for locks, in seconds; None for ever. Handles that are given have their own.

    Returns:
        What was done.

    Raises:
        BackupPlaceError: ``target`` is ``source``, or has a log of the same key that is not what would be copied.
            Nothing was changed.
        StoreNotFoundError: there is no ``source``. Nothing was made.
        CorruptLogError, PoisonedLogError, FormatVersionError, ReadFailedError: of a log of the source.
        LockTimeoutError, StoreAccessError, WriteFailedError, StoreUnavailableError: logs that were copied stay.
        NoAnswerError: so they do, and one more may be there.
        ValueError: ``limit_rate`` is no rate. Nothing was changed.
    """
    if limit_rate is not None and (type(limit_rate) is not int or limit_rate <= 0):
        raise ValueError(f"limit_rate is a number of bytes a second, above 0, or None, not {limit_rate!r}")
    pace = CopyPace(limit_rate, apart(on_progress))
    try:
        with ExitStack() as opened:
            handles: list[StoreHandle] = []
            for place, may_make in ((source, False), (target, True)):
                if not isinstance(place, Checkpoint):
                    if may_make:
                        _make_for_users(handles[0].storage(), place)
                    made = Checkpoint(place, create=may_make, log_keys=(), lock_timeout_s=lock_timeout_s)
                    handles.append(opened.enter_context(made)._handle)
                else:
                    handles.append(place._handle)
            waits = [handle.settings.lock_timeout_s for handle in handles]
            return _copied(handles[0].storage(), handles[1].storage(), waits[0], waits[1], pace)
    except RaisedByCallerError as raised:
        error = raised.as_it_was()
    raise error


def _make_for_users(source: Store, place: str | os.PathLike[str] | Address) -> None:
    """Make the directory that a store's logs are to come to, if there is none, for the users of that store."""
    if isinstance(source, DirectoryStore) and address_of(place) is None:
        assert not isinstance(place, Address)
        StoreDirectory(place, create=True, read_only=False, users_of=source.path)


def _copied(
    source: Store, target: Store, source_wait_s: float | None, target_wait_s: float | None, pace: CopyPace
) -> StoreCopy:
    if os.path.realpath(source.path) == os.path.realpath(target.path):
        raise BackupPlaceError(
            f"{target.path} is the store itself; choose another one. Nothing was changed",
            path=target.path,
            reason="the store itself",
        )
    with source.cut(source_wait_s) as logs:
        there = _there(logs, target, target_wait_s)
        done = []
        for log in logs:
            log_key = log.header.log_key
            if log_key not in there:
                try:
                    target.adopt_log(log, timeout_s=target_wait_s, pace=pace.advance)
                except BackupPlaceError:
                    # It was made since we looked: by another copy, or by an earlier one that got no answer.
                    there |= _there([log], target, target_wait_s)
                    if log_key not in there:
                        raise
            done.append(CopiedLog(log_key, "there already" if log_key in there else "copied"))
    is_of_one_moment = all(log.is_of_one_moment for log in logs)
    return StoreCopy(source.path, target.path, is_of_one_moment, tuple(done))


def _there(logs: Sequence[LogCut], target: Store, timeout_s: float | None) -> set[str]:
    """Return the keys of logs that an earlier copy has made.

    Raises:
        BackupPlaceError: there is another log of the key of one of them.
    """
    if not set(target.log_keys()) & {log.header.log_key for log in logs}:
        return set()
    there = set()
    with target.cut(timeout_s) as found:
        headers = {log.header.log_key: log.header for log in found}
    for log in logs:
        header = headers.get(log.header.log_key)
        if header is None:
            continue
        if not is_copy_of(header, log):
            earlier = any(each.to == log.header.generation for each in header.restored)
            what = "an earlier state of it" if earlier else "another one"
            raise BackupPlaceError(
                f"{target.path} has a log {log.header.log_key!r}, which is {what}; a log is only copied to where there "
                "is none of its key: copy into an empty store. Nothing was changed",
                path=target.path,
                reason="log exists",
            )
        there.add(log.header.log_key)
    return there
