"""Shrink a log: write its next generation beside it, without what is to be dropped, and put it in its place.

What is dropped is decided once, of the lines below the end that the log had at the start; later ones are copied as they
are. Steps, and what is on disk if we die:
1. The compaction lock of the log, held throughout: one compaction at a time. Nobody else waits for it.
2. *start*: under the append lock, where the log ends.
3. *plan*: one pass over the log, without a lock. Callers' code runs here and in step 4 only.
4. *copy*: a second pass, without a lock, to a temporary file that belongs to the users of the log and is locked, so
   that who cleans up spares it; then what was appended meanwhile, in passes, each synced.
                                                     Crash: a stale temporary file, which nobody has locked.
5. *switch*: under store lock and append lock, once the log is shown to be the one that was copied: the last few lines,
   then as ``generations`` says.                     Crash: the old log or the new one, each whole.
6. The page is told where the new generation ends, so that no writer has to validate it under its lock.
                                                     Crash: the first writer validates it whole.

Nobody waits long: under the locks only what came since the last pass is copied and synced, and the old file, which may
take long to free, is closed after they were given back.
"""

from __future__ import annotations

import errno
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mpcheckpoint import _system as system
from mpcheckpoint._format.columns import Lines
from mpcheckpoint._logfile.chunk import Origin
from mpcheckpoint._logfile.faults import NOT_CHANGED, translated
from mpcheckpoint._logfile.generations import GenerationCopy, put_in_place
from mpcheckpoint._logfile.ownership import open_beside_log, temporary_name
from mpcheckpoint._logfile.replay import replay
from mpcheckpoint._logfile.selected import blocks_up_to, planned_bytes
from mpcheckpoint._system.locks import store_locks
from mpcheckpoint.errors import CompactionError, LockTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from mpcheckpoint._format.control import Header
    from mpcheckpoint._format.frame import EndState
    from mpcheckpoint._logfile.append import LogWriter
    from mpcheckpoint._logfile.opened import OpenLog
    from mpcheckpoint._logfile.paths import LogPaths
    from mpcheckpoint._logfile.selected import Selection

_SPARE_BYTES = 1024 * 1024
# Copied under the locks: what takes a few milliseconds.
_MOST_UNDER_LOCK_BYTES = 256 * 1024
_MOST_PASSES = 30
_MOST_BEGINNINGS = 5


class Pace(Protocol):
    """Told how far a compaction is: it may wait, to keep to a rate, or raise, which ends it with nothing changed."""

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        """Take note. Called without any lock."""


class Compacted(NamedTuple):
    """What a compaction did.

    Attributes:
        generation: the new one; None if nothing was to be dropped.
        bytes_before, bytes_after: the length of the log, without padding.
        longest_wait_s: how long, at most, appends were kept waiting.
        passes: how often it was copied what others had appended meanwhile.
    """

    generation: str | None
    bytes_before: int
    bytes_after: int
    longest_wait_s: float = 0.0
    passes: int = 0


class _Start(NamedTuple):
    """The log as it was at the start."""

    file: system.Descriptor
    header: Header
    end: EndState


class _OvertakenError(Exception):
    """The log was given another generation meanwhile, or other lines than those that the decision was made for."""


class Compactor:
    """One compaction of one log.

    Concurrency: for one thread. Locking rules: the compaction lock, then the store lock, then the append lock.
    """

    def __init__(
        self,
        writer: LogWriter,
        store_locked: Callable[[float | None], AbstractContextManager[None]],
        timeout_s: float | None,
        pace: Pace,
        clear: Callable[[], None],
        *,
        waits: bool = True,
    ) -> None:
        """Prepare to compact the log of ``writer``.

        Args:
            store_locked: holds the store lock for a block.
            timeout_s: how long to wait for each lock.
            clear: removes what killed processes left unfinished, such as an earlier copy. Called under the store lock.
            waits: for another compaction, too; else none.
        """
        self._writer = writer
        self._paths: LogPaths = writer.paths
        self._store_locked = store_locked
        self._timeout_s = timeout_s
        self._pace = pace
        self._clear = clear
        self._is_out_of_date: Callable[[Lines], bool] = lambda lines: False
        self._others_timeout_s = timeout_s if waits else 0.0
        self._longest_wait_s = 0.0
        self._passes = 0

    def run(self, selection: Selection, *, is_dry_run: bool = False) -> Compacted:
        """Compact the log.

        Raises:
            LockTimeoutError: another compaction, or writers, held a lock for too long.
            CorruptLogError, PoisonedLogError, FormatVersionError, LogNotFoundError: the log cannot be compacted.
            StoreAccessError: a user who may write the log could not write the copy.
            WriteFailedError, ReadFailedError: there is no room, or a disk failed.
            CompactionError: the log was given another generation again and again, or grew faster than it was copied.
            And what ``selection`` and ``pace`` raise. After any of them the log is as it was.
        """
        with translated("compacting", self._paths.log, left=NOT_CHANGED):
            open_beside_log(self._paths.compaction).close()  # for all users of the log
        with translated("compacting", self._paths.log, left=NOT_CHANGED), self._alone():
            for _ in range(_MOST_BEGINNINGS):
                try:
                    return self._run(selection, is_dry_run=is_dry_run)
                except _OvertakenError:
                    continue
        raise CompactionError(
            f"the log {self._paths.log_key!r} was given another generation {_MOST_BEGINNINGS} times while it was being "
            "copied; nothing was changed",
            path=self._paths.log,
            reason="overtaken",
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the compaction lock."""
        path = self._paths.compaction
        try:
            with system.store_lock(path, self._others_timeout_s):
                yield
        except TimeoutError as error:
            if isinstance(error, LockTimeoutError):
                raise
            raise LockTimeoutError(
                f"another process compacted the log {self._paths.log_key!r} for {abs(self._others_timeout_s or 0):g} s "
                f"({path})",
                path=path,
                reason="lock timeout",
                advice="try again later",
            ) from error

    # --- plan -------------------------------------------------------------------------------------------------

    def _run(self, selection: Selection, *, is_dry_run: bool) -> Compacted:
        start = self._begin()
        self._is_out_of_date = selection.is_out_of_date
        header = start.header
        selection.begin(start.end.stamp_us, Origin(header.log_key, header.generation, header.lineage))
        total, done = 2 * (start.end.offset - start.header.end.offset), 0
        for lines, _ in self._lines(start):
            selection.look(lines)
            done += lines.stop - lines.start
            self._pace(done, total)
        before = start.end.offset
        if not selection.decide():
            return Compacted(None, before, before, self._longest_wait_s)
        most_bytes = min(before * selection.most_kept, self._free_bytes(start))
        if is_dry_run or before > most_bytes:
            total += 0 if is_dry_run else total // 2
            after = self._planned_bytes(start, selection, done, total)
            if is_dry_run or after > before * selection.most_kept:
                return Compacted(None, before, after, self._longest_wait_s)
            if after > most_bytes:
                raise OSError(
                    errno.ENOSPC,
                    f"a copy needs {after:,} bytes, and {max(0, most_bytes):,} are free on its file system",
                )
            done = total - total // 3
            selection.decide()  # once more: it was asked for the fates
        temporary, copy = temporary_name(self._paths.log), None
        try:
            copy = self._created(temporary, start, selection)
            for lines, data in self._lines(start):
                copy.add(start.file.fd, lines, *selection.fates(lines), data)
                done += lines.stop - lines.start
                self._pace(done, total)
            self._finish(copy, start)
        except BaseException:
            # Only while it has its own name: else it is the log. It may be there though the interrupted call that made
            # it has not returned.
            system.remove(temporary)
            raise
        finally:
            # Crash: until here a process that cleans up finds it locked.
            if copy is not None:
                store_locks.files.discard(copy.descriptor)
        return Compacted(copy.generation, before, copy.end.offset, self._longest_wait_s, self._passes)

    def _begin(self) -> _Start:
        """Return where the log ends now, repaired if need be."""
        begun_s = time.perf_counter()

        def look(log: OpenLog | None) -> _Start:
            log = log or self._writer.opened()
            self._writer.establish(log)
            file = system.open_file(self._paths.log)
            if file.identity != log.file.identity:
                raise _OvertakenError
            return _Start(file, log.end.header, log.state.end)

        start = self._writer.exclusive(self._timeout_s, look)
        self._note_wait(begun_s)
        return start

    def _note_wait(self, begun_s: float) -> None:
        self._longest_wait_s = max(self._longest_wait_s, time.perf_counter() - begun_s)

    def _lines(self, start: _Start) -> Iterator[tuple[Lines, tuple[bytes, int]]]:
        """Yield all lines that the log held at the start, but for its header, with the bytes they are in, and where."""
        for scan, data in blocks_up_to(start.file, start.header.end, start.end, self._paths):
            if scan.lines:
                yield Lines.of(scan.lines), data

    def _planned_bytes(self, start: _Start, selection: Selection, done: int, total: int) -> int:
        """Return how long the copy would be."""

        def told() -> Iterator[tuple[Lines, tuple[bytes, int]]]:
            read = done
            for lines, data in self._lines(start):
                yield lines, data
                read += lines.stop - lines.start
                self._pace(read, total)

        return planned_bytes(start.header.end, told(), selection)

    def _free_bytes(self, start: _Start) -> int:
        """Return how long a copy may be that does not fill the disk, where others write too."""
        return system.free_bytes(start.file.fd) - _SPARE_BYTES

    # --- copy -------------------------------------------------------------------------------------------------

    def _created(self, temporary: str, start: _Start, selection: Selection) -> GenerationCopy:
        """Return the copy, begun. Its file is locked before anybody who cleans up can see it."""
        leading = selection.leading()
        with self._store_locked(self._timeout_s):
            self._clear()
            copy = GenerationCopy(self._paths, temporary, start.header, leading)
            store_locks.files.add(copy.descriptor)  # closed in forked children, which would share the lock
            if not system.try_lock(copy.fd):
                raise OSError(errno.EAGAIN, "a file that was just made is already locked", copy.path)
        return copy

    def _finish(self, copy: GenerationCopy, start: _Start) -> None:
        """Copy what was appended since, and put the copy in the log's place."""
        copied = start.end
        for _ in range(_MOST_PASSES):
            copied = self._catch_up(copy, start, copied)
            copy.flush()
            system.sync_data(copy.fd)
            if self._is_switched(copy, start, copied):
                return
        raise CompactionError(
            f"the log {self._paths.log_key!r} grew faster than it was copied, {_MOST_PASSES} times in a row; nothing "
            "was changed",
            path=self._paths.log,
            reason="outrun",
            advice="try again when less is appended",
        )

    def _catch_up(self, copy: GenerationCopy, start: _Start, copied: EndState) -> EndState:
        """Copy what stands after ``copied`` by now. A write that is in progress is left to the next pass."""
        self._passes += 1
        for result in replay(start.file.fd, copied):
            lines = Lines.of(result.lines)
            if lines and self._is_out_of_date(lines):
                raise _OvertakenError
            copy.add(start.file.fd, lines)
            copied = result.end
        return copied

    def _is_switched(self, copy: GenerationCopy, start: _Start, copied: EndState) -> bool:
        """Put the copy in the log's place; return False if too much is left to copy for others to wait."""
        with self._store_locked(self._timeout_s):
            begun_s = time.perf_counter()
            is_switched = self._writer.exclusive(
                self._timeout_s, lambda log: self._switch(copy, start, copied, log or self._writer.opened())
            )
            self._note_wait(begun_s)
        return is_switched

    def _switch(self, copy: GenerationCopy, start: _Start, copied: EndState, old: OpenLog) -> bool:
        self._writer.establish(old)
        start.file.require_intact()
        # What was copied is what the log holds: the crc there follows from every byte before.
        if old.file.identity != start.file.identity or old.generation != start.header.generation:
            raise _OvertakenError
        if not old.end.bears_out(copied) or old.state.end.offset < copied.offset:
            raise _OvertakenError
        if old.state.end.offset - copied.offset > _MOST_UNDER_LOCK_BYTES:
            return False
        self._passes -= 1
        copied = self._catch_up(copy, start, copied)
        if copied != old.state.end:
            raise _OvertakenError
        copy.finish(covers_us=old.state.end.stamp_us)
        put_in_place(copy, self._paths, old)
        with translated("making the new generation durable in", self._paths.directory):
            system.sync_directory(self._paths.directory)
        self._writer.opened().adopt(copy.end)
        return True
