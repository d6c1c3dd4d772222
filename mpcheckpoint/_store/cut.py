"""The cut: where all logs of a store ended at one moment, which was while all their append locks were held.

A record whose writer had read another one is in the cut only if that other one is: it was appended later, so it cannot
end below the cut if the other one does not. Rejected: a cut by stamps, from which a clock that was set back takes
acknowledged records.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._format.names import LOG_SUFFIX
from mpcheckpoint._logfile.faults import translated
from mpcheckpoint._logfile.header import read_header
from mpcheckpoint._logfile.notices import timed_out
from mpcheckpoint._logfile.page import vouched_durable
from mpcheckpoint._logfile.paths import LogPaths
from mpcheckpoint._logfile.recovery import repair_end
from mpcheckpoint._logfile.replay import replay
from mpcheckpoint._logfile.torn_or_corrupt import Broken, require_torn
from mpcheckpoint._logfile.unfinished import refuse_unfinished
from mpcheckpoint._store.append_locks import AppendLocks, is_shortage
from mpcheckpoint._store.log_end import clean_end
from mpcheckpoint._store.process import process
from mpcheckpoint.errors import CheckpointError, LockTimeoutError, ReadFailedError, StoreAccessError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint._format.control import Header
    from mpcheckpoint._format.frame import EndState
    from mpcheckpoint._store.directory import StoreDirectory

_TRIES = 5
# How long a cut waits for locks while it holds others, in all; the second time twice that, and so on up to the longest.
# A writer that works has its lock for less than a millisecond, now and then for some.
_PATIENCE_S = 0.05
_LONGEST_PATIENCE_S = 1.0
# Of the files that this process may have open, the logs of a cut keep a quarter at most; others are opened again.
_SHARE = 4


@dataclass(slots=True)
class CutLog:
    """A log, and where the cut ends it.

    ``file`` is it, opened under the lock; None where there are too many logs to keep all open.
    """

    paths: LogPaths
    header: Header
    end: EndState
    file: system.Descriptor | None

    def opened(self) -> system.Descriptor | None:
        """Return the file that was cut; None if another one has taken its place."""
        if self.file is not None and self.file.is_intact():
            return self.file
        file = system.open_file(self.paths.log)
        header = read_header(file.fd, self.paths.log, log_key=self.paths.log_key)
        return file if header.generation == self.header.generation else None


@dataclass(slots=True)
class Cut:
    """The logs of a store at one moment.

    ``is_of_one_moment`` is False where this user may not lock them: then each is whole, as it was about then.
    """

    logs: list[CutLog] = field(default_factory=list)
    failures: dict[str, CheckpointError] = field(default_factory=dict)
    is_of_one_moment: bool = True
    cut_us: int = 0

    @property
    def names(self) -> set[str]:
        """The names of the files of all logs, without suffix, of those that cannot be cut, too."""
        failed = {os.path.basename(path).removesuffix(LOG_SUFFIX) for path in self.failures}
        return failed | {log.paths.name for log in self.logs}


def take_cut(directory: StoreDirectory, timeout_s: float | None) -> Cut:
    """Return where all logs end at one moment; a torn end of one is cut off before, as the next writer would do.

    A log that cannot be cut is in ``failures``, by its path.

    Raises:
        LockTimeoutError: a lock was held elsewhere for ``timeout_s`` seconds.
        ReadFailedError: this process may not open so many files. And what listing the store raises.
    """
    if directory.read_only:
        return _without_locks(directory)
    process.refuse_reentry()
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    damaged: dict[str, CheckpointError] = {}
    for _ in range(_TRIES):
        try:
            cut, unclean = _of_one_moment(directory, timeout_s, deadline, damaged)
        except StoreAccessError:
            return _without_locks(directory)
        if not unclean:
            return cut
        for paths in unclean:
            try:
                repair_end(process.writer(directory.identity, paths), _left(deadline))
            except LockTimeoutError:
                raise
            except CheckpointError as error:
                damaged[paths.log] = error
    raise ReadFailedError(
        f"a log of {directory.base} was torn again and again while its end was looked for; try again",
        path=directory.path,
        reason="torn again and again",
    )


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _of_one_moment(
    directory: StoreDirectory,
    timeout_s: float | None,
    deadline: float | None,
    damaged: dict[str, CheckpointError],
) -> tuple[Cut, list[LogPaths]]:
    """Return the cut, and the logs that do not end with a whole batch.

    A writer may be stopped with its lock, and the others must go on. So while locks are held another one is waited for
    a moment only: then all are given back, the store lock too, that one alone is waited for, and all begins anew.

    Why it ends: a round fails only where somebody held a lock for all of the round's patience, and the next one begins
    after that lock was free. Patience grows to a thousand times what a writer needs: so only writers that are stopped
    again and again, each time after the last one went on, keep a cut from its end; and no longer than ``timeout_s``.
    Rejected: to keep the lock that was waited for. The store lock comes before append locks, and must not be waited for
    under one; and to hold the store lock while we wait would keep logs from being made and compacted.
    """
    patience_s = _PATIENCE_S
    while True:
        cut, unclean = Cut(failures=dict(damaged)), list[LogPaths]()
        until_s = time.monotonic() + patience_s
        busy = _under_locks(directory, _left(deadline), until_s, cut, unclean)
        if busy is None:
            return cut, unclean
        left_s = _left(deadline)
        if left_s == 0:
            raise timed_out(busy, timeout_s)
        _wait_for(busy, left_s, timeout_s)
        patience_s = min(2 * patience_s, _LONGEST_PATIENCE_S)


def _under_locks(
    directory: StoreDirectory, timeout_s: float | None, until_s: float, cut: Cut, unclean: list[LogPaths]
) -> LogPaths | None:
    """Make the cut, and return None; or return a log whose lock was held elsewhere until then.

    Under the store lock too: a log that is made while we wait for the locks could hold the cause of a record that is in
    the cut.
    """
    locks = AppendLocks()
    with ExitStack() as held:
        with translated("locking", directory.path):
            held.enter_context(directory.locked(timeout_s))
        try:
            found = [paths for paths in _listed(directory, cut) if paths.log not in cut.failures]
            busy = locks.try_take_all(found, until_s)
            if busy is not None:
                return busy
            cut.cut_us = system.now_us()
            unclean += [paths for paths in found if _look(paths, cut)]
            locks.require_held()
        finally:
            try:
                locks.give_back()
            except BaseException:  # a Ctrl-C in there: every step of it can be done again
                locks.give_back()
                raise
    return None


def _wait_for(paths: LogPaths, left_s: float | None, timeout_s: float | None) -> None:
    """Wait until an append lock is free, with no other lock held.

    Raises:
        LockTimeoutError: it was held elsewhere for so long.
    """
    lock = AppendLocks()
    try:
        with translated("locking", paths.lock):
            lock.take(paths, left_s)
    except LockTimeoutError as error:
        raise timed_out(paths, timeout_s) from error
    finally:
        try:
            lock.give_back()
        except BaseException:  # a Ctrl-C in there, as above
            lock.give_back()
            raise


def _listed(directory: StoreDirectory, cut: Cut) -> Iterator[LogPaths]:
    """Yield the logs, in the order of their keys; put those whose key cannot be told into ``cut.failures``."""
    log_keys: list[str] = []
    for path, found in directory.listing():
        if isinstance(found, str):
            log_keys.append(found)
        else:
            cut.failures[path] = found
    for log_key in sorted(log_keys):
        yield LogPaths.of(directory.path, log_key)


def _look(paths: LogPaths, cut: Cut) -> bool:
    """Add a log to the cut; return True instead if it does not end with a whole batch, and can be repaired.

    Requires: its append lock, if the cut is to be of one moment.
    """
    try:
        with translated("reading", paths.log, is_read=True):
            file = system.open_file(paths.log)
            header = read_header(file.fd, paths.log, log_key=paths.log_key)
            end = clean_end(file.fd, header)
            if end is None and not cut.is_of_one_moment:
                end = _scanned_end(file.fd, header, paths)
    except CheckpointError as error:
        if is_shortage(error):
            raise
        cut.failures[paths.log] = error
        return False
    if end is None:
        return True
    keep = len(cut.logs) < system.most_open_files() // _SHARE
    cut.logs.append(CutLog(paths, header, end, file if keep else None))
    return False


def _without_locks(directory: StoreDirectory) -> Cut:
    """Return the logs as each is found: of a user who may not lock them.

    Raises:
        UnfinishedBackupError: the store is half restored.
    """
    refuse_unfinished(directory.path)
    cut = Cut(is_of_one_moment=False, cut_us=system.now_us())
    for paths in _listed(directory, cut):
        _look(paths, cut)
    refuse_unfinished(directory.path)  # a restore may have begun meanwhile
    return cut


def _scanned_end(fd: int, header: Header, paths: LogPaths) -> EndState:
    """Return the end of the last whole batch, which a write in progress or a torn end follows."""
    end = header.end
    for result in replay(fd, header.end):
        end = result.end
        if result.damage is not None:
            known = vouched_durable(paths.page, header.generation, fd)
            broken = Broken(result.damage, result.broken_at, result.broken_crc)
            require_torn(fd, broken, paths, known_durable=known)
    return end
