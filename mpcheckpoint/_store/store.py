"""The storage of a handle: a directory of log files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from weakref import ref

from mpcheckpoint import _system as system
from mpcheckpoint._logfile.append_group import append_group, group_made_durable
from mpcheckpoint._logfile.compaction import Compactor
from mpcheckpoint._logfile.faults import NOT_CHANGED, translated
from mpcheckpoint._logfile.opened import Appended
from mpcheckpoint._logfile.quarantine import list_repairs, remove_repairs
from mpcheckpoint._logfile.read import LogReader
from mpcheckpoint._logfile.recovery import is_poisoned, recover
from mpcheckpoint._store.directory import StoreDirectory
from mpcheckpoint._store.durability import Durability, Mode
from mpcheckpoint._store.file_moving import adopt_into_directory, cut_of_directory
from mpcheckpoint._store.notifier import StoreNotifier, mark_followed
from mpcheckpoint._store.process import process
from mpcheckpoint._store.workers import WorkerFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._logfile.append import LogWriter
    from mpcheckpoint._logfile.compaction import Compacted, Pace
    from mpcheckpoint._logfile.paths import LogPaths
    from mpcheckpoint._logfile.selected import Selection
    from mpcheckpoint._store.file_moving import FileCut
    from mpcheckpoint._store.moving import LogCut
    from mpcheckpoint._store.protocol import Reader
    from mpcheckpoint._types import Position, Repair
    from mpcheckpoint.errors import CheckpointError


class DirectoryLog:
    """One log file of a store. See ``StoredLog`` in ``_store.protocol``."""

    longest_pause_s = 0.02

    def __init__(self, directory: StoreDirectory, paths: LogPaths) -> None:
        self.log_key = paths.log_key
        self._directory = directory
        self._paths = paths
        # Kept from append to append, and not kept alive: a thousand logs must not need a thousand descriptors.
        self._known_writer: Callable[[], LogWriter | None] = _nobody
        self._epoch: object = None

    def append(
        self,
        payloads: list[Payload],
        *,
        durability: Durability,
        timeout_s: float | None,
        guard: Callable[[], Position | None] | None = None,
    ) -> Position:
        writer = self._writer_that_locks()
        is_always = durability.mode is Mode.ALWAYS
        appended = writer.append(payloads, timeout_s=timeout_s, guard=guard, is_durable=is_always)
        if not process.flushes_at_exit and appended.log.has_padding:
            process.flush_at_exit()
        if appended.is_durable:
            return writer.position_of(appended)
        if appended.log.state.is_followed:
            self._notify()
        if is_always:
            return writer.wait_durable(appended)
        if durability.mode is Mode.INTERVAL:
            process.flush_at_exit()
            process.interval.schedule(writer, appended, durability.interval_s)
        return writer.position_of(appended)

    def append_group(
        self, batches: Sequence[list[Payload]], *, durability: Durability, timeout_s: float | None
    ) -> list[Position | CheckpointError]:
        """Append each of these batches by itself, by one write and one sync; return what came of each."""
        writer = self._writer_that_locks()
        group = append_group(writer, batches, timeout_s)
        written = [each for each in group if isinstance(each, Appended)]
        if not written:
            return group_made_durable(writer, group)
        if not process.flushes_at_exit and (durability.mode is Mode.INTERVAL or written[-1].log.has_padding):
            process.flush_at_exit()
        if written[-1].log.state.is_followed:
            self._notify()
        if durability.mode is Mode.ALWAYS:
            return group_made_durable(writer, group)
        if durability.mode is Mode.INTERVAL:
            process.interval.schedule(writer, written[-1], durability.interval_s)
        return [writer.position_of(each) if isinstance(each, Appended) else each for each in group]

    def _notify(self) -> None:
        notifier = process.notifier(self._directory.identity, self._directory.path)
        if notifier is not None:
            notifier.notify()

    def reader(self, *, resumes: bool = False) -> LogReader:
        return LogReader(self._paths, self._known_durable, resumes=resumes)

    def subscribe(self, seconds: float) -> StoreNotifier | None:
        """Have appends to this log notify for so long; None if this handle must create nothing."""
        if self._directory.read_only:
            return None
        mark_followed(self._paths.page, seconds)
        return process.notifier(self._directory.identity, self._directory.path)

    def flush(self, timeout_s: float | None) -> None:
        """Return when all that the log holds now is durable, and what this process appended with ``interval``.

        Raises:
            OutcomeUnknownError: also of an append that is not in the log any more: a restore took it out.
        """
        # What is scheduled may be in a generation that a restore took out: syncing the one that is there does not tell.
        process.interval.flush(self._paths.log)
        self._writer().sync(timeout_s)

    def finish(self) -> None:
        """Sync what the ``interval`` setting has not synced yet, and cut off the padding after the end."""
        process.interval.flush(self._paths.log)
        self._writer().release_padding()

    def recover(self, timeout_s: float | None) -> None:
        """Copy the records into a new generation, durably, so that the log takes appends again."""
        with translated("recovering", self._paths.log, left=NOT_CHANGED), self._directory.locked(timeout_s):
            recover(self._writer(), timeout_s)

    def compact(
        self,
        selection: Selection,
        *,
        timeout_s: float | None,
        pace: Pace,
        is_dry_run: bool = False,
        purges: bool = False,
        waits: bool = True,
    ) -> Compacted:
        self._directory.require_locking()
        directory = self._directory
        compactor = Compactor(
            self._writer(), directory.locked, timeout_s, pace, directory.remove_stale_files, waits=waits
        )
        compacted = compactor.run(selection, is_dry_run=is_dry_run)
        if purges and not is_dry_run:
            with translated("purging", self._paths.log), self._directory.locked(timeout_s):
                remove_repairs(self._paths)
                self._directory.remove_stale_files()
        return compacted

    def size_bytes(self) -> int:
        """Return the length of the log's file, without asking for its times."""
        with translated("reading", self._paths.log, is_read=True):
            return system.path_status(self._paths.log).size_bytes

    def repairs(self) -> list[Repair]:
        """Return what repairs have cut off, oldest generation and lowest offset first."""
        with translated("listing", self._paths.quarantine, is_read=True):
            return list_repairs(self._paths)

    def stats(self) -> dict[str, object]:
        """Return the log's size in bytes, what this process did to it, and who holds its append lock."""
        writer = self._writer()
        with translated("reading", self._paths.log, is_read=True):
            size = system.stat_path(self._paths.log).st_size
            poisoned = is_poisoned(writer)
        lock = system.lock_status(self._paths.lock)
        return {
            "path": self._paths.log,
            "size_bytes": size,
            "appends": writer.appends,
            "syncs": writer.syncs,
            "repairs": len(self.repairs()),
            "is_poisoned": poisoned,
            "lock": lock.state.value,
            "holder_pid": None if lock.holder is None else lock.holder.pid,
            "holder_command": None if lock.holder is None else lock.holder.command,
            "is_holder_stopped": None if lock.holder is None else lock.holder.is_stopped,
            "waiters": lock.waiters,
        }

    def _writer_that_locks(self) -> LogWriter:
        """Return the writer. Few calls: each append asks."""
        writer = self._known_writer()
        if writer is None or self._epoch is not process.writers_epoch:
            self._directory.require_locking()
            writer = self._writer()
        return writer

    def _writer(self) -> LogWriter:
        writer = self._known_writer()
        if writer is None or self._epoch is not process.writers_epoch:
            writer = process.writer(self._directory.identity, self._paths)
            self._known_writer, self._epoch = ref(writer), process.writers_epoch
        return writer

    def _known_durable(self, generation: str) -> int:
        return process.known_durable(self._directory.identity, self._paths.name, generation)


def _nobody() -> None:
    return None


class DirectoryStore:
    """The logs in one ``.checkpoint`` directory. See ``Store`` in ``_store.protocol``."""

    def __init__(self, base: str | os.PathLike[str], *, create: bool, read_only: bool) -> None:
        self.directory = StoreDirectory(base, create=create, read_only=read_only)
        self.path = self.directory.path
        self.workers = WorkerFiles(self.path)
        self._arguments = (self.directory.base, create, read_only)

    def log_keys(self) -> list[str]:
        return self.directory.log_keys()

    def change_token(self) -> object | None:
        return self.directory.change_token()

    def look(self, readers: Sequence[Reader]) -> bool:
        """Return False: each reader looks at its own file, which costs no more than to look at all of them."""
        return False

    def find_log(self, log_key: str) -> DirectoryLog:
        return DirectoryLog(self.directory, self.directory.find_log(log_key))

    def open_log(self, log_key: str, *, create: bool, timeout_s: float | None) -> DirectoryLog:
        paths = self.directory.open_log(log_key, create=create, timeout_s=timeout_s)
        return DirectoryLog(self.directory, paths)

    def cut(self, timeout_s: float | None) -> AbstractContextManager[Sequence[FileCut]]:
        return cut_of_directory(self.directory, timeout_s)

    def adopt_log(self, log: LogCut, *, timeout_s: float | None, pace: Callable[[int], None]) -> None:
        adopt_into_directory(self.directory, log, timeout_s, pace)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DirectoryStore) and other._arguments == self._arguments

    def __hash__(self) -> int:
        return hash(self._arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, self._arguments


def _reopen(base: str, create: bool, read_only: bool) -> DirectoryStore:
    return DirectoryStore(base, create=create, read_only=read_only)
