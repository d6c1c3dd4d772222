"""One log file, open for append: where it ends, and what of it is durable, found out from its own bytes.

Everything here but ``sync`` requires the append lock; ``writer`` sees to that.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import (
    CLOSING_BYTES,
    PADDING,
    EndState,
    Line,
    closing,
)
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._logfile.first_use import trusted_start
from mpcheckpoint._logfile.header import known_control, read_header
from mpcheckpoint._logfile.page import Page, vouched_durable
from mpcheckpoint._logfile.places import places
from mpcheckpoint._logfile.quarantine import keep_bytes, write_whole
from mpcheckpoint._logfile.replay import replay
from mpcheckpoint._logfile.torn_or_corrupt import Broken, refuse_shortened, require_torn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from mpcheckpoint._logfile.paths import LogPaths
    from mpcheckpoint._logfile.poison import Poison
    from mpcheckpoint._types import Repair

_REWRITE_BYTES = 1024 * 1024
_NOBODY = bytes(8)
# A sync that takes longer is told of, but not each one of a slow disk.
SLOW_SYNC_S = 1.0
_TELL_SLOW_EVERY_S = 60.0


class EstablishedLog:
    """A generation of a log as this process knows it that appends to it.

    Invariant: every byte below ``durable`` is on disk: it was covered by a sync that returned, in this process or in
    one that said so, in a line this process validated or in the page. ``durable`` lies behind a whole batch.

    Invariant: ``end`` is behind a whole batch. Every byte between ``durable`` at the first use and ``end`` was
    validated by this process, or its end left in the page by the writer that had validated all before it, and borne
    out by the log's own bytes.
    """

    def __init__(self, paths: LogPaths, poison: Poison, sync_mutex: AbstractContextManager[object]) -> None:
        self._paths = paths
        self._poison = poison
        self._sync_mutex = sync_mutex
        self._descriptor = system.open_file(paths.log, write=True)
        self.fd = self._descriptor.fd
        self.header = read_header(self.fd, paths.log, log_key=paths.log_key)
        self.status = system.file_status(self.fd)
        self.identity = self.status.identity
        self.end = self.header.end
        self.durable = self.header.end.offset
        self.page: Page | None = None
        # Another object whenever the end was established from the header on.
        self.beginning = object()
        self.is_poisoned = False
        self.syncs = 0
        # What there is to tell, once no lock is held: a handler of log messages is user code.
        self.notices: list[str] = []
        # Returns if the append lock is held still: who closed one descriptor may have closed its one, too.
        self.require_lock: Callable[[], None] = _lock_is_held
        self._told_slow_s = -_TELL_SLOW_EVERY_S
        # What was known to be durable before the file was found changed.
        self._floor = 0
        self._is_used = False
        self._is_sealed = False
        # Up to where there is padding, for all we know, and up to where this process has seen it.
        self._allocated = 0
        self._seen_padding = 0

    @property
    def known_durable(self) -> int:
        """The offset below which this process knows the bytes to be durable, also while it begins anew."""
        return max(self.durable, self._floor)

    def is_intact(self) -> bool:
        """Return whether the descriptor is that of the log still: somebody may have closed it, and reused its number.

        Asked whenever the log's bytes, or the page, are not what this process expects, before it writes to the one or
        calls the other damaged; and after each sync, which would have been that of another file.
        """
        return self._descriptor.is_intact()

    def _open_again(self) -> None:
        """Open the log's file anew, since somebody has closed the descriptor. Requires: the append lock.

        Nobody told the new descriptor of syncs that failed meanwhile: what is not known to be durable is written once
        more, as in a process that has just begun.
        """
        self.require_lock()
        self.notices.append(
            f"somebody closed the open file of log {self._paths.log_key!r}; it was opened again ({self._paths.log})"
        )
        self._descriptor = system.open_file(self._paths.log, write=True)
        self.fd = self._descriptor.fd
        self.status = system.file_status(self.fd)
        self.identity = self.status.identity

    def reopen_if_lost(self) -> None:
        """See to it that the descriptor is that of the log, for those who take the log as it is.

        Requires: the append lock.
        """
        if not self.is_intact():
            self._open_again()
            self._is_used = False

    def close(self) -> None:
        """Close the file, in a forked child; elsewhere the last thread to let go of this object does."""
        self._descriptor.close()
        if self.page is not None:
            self.page.close()

    def establish_end(self) -> Repair | None:
        """Bring ``end`` up to date from the log's own bytes, repairing a torn end.

        Requires: the append lock.

        Raises:
            CorruptLogError, PoisonedLogError: nothing was changed.
            OSError: nothing was cut.
        """
        if self.is_poisoned:
            raise self._poison.refusal("an earlier sync by this process failed")
        if not self.is_intact():
            self._open_again()
            return self._start_again()
        self._poison.refuse(self.header.generation)
        self._open_page()
        if not self._is_used:
            return self._first_use()
        repair = self._catch_up()
        self._reset_page()
        return repair

    def _reset_page(self) -> None:
        """See to it that no stale word, or end, stands in the page when the log grows past it: it would be believed.

        Requires: the append lock, and that ``end`` is established.
        """
        if self.page is not None:
            self.page.publish_end(self.end, self._allocated, _NOBODY, self.durable)

    def bears_out(self, end: EndState) -> bool:
        """Return whether a line of the log ends there, with that crc."""
        return self._bytes_at(end.offset - CLOSING_BYTES, CLOSING_BYTES) == closing(end.stored_crc)

    def _bytes_at(self, offset: int, length: int) -> bytes:
        """Return bytes of the log; none where they cannot be read, be it that somebody closed the file."""
        try:
            return system.read_at(self.fd, length, offset)
        except OSError:
            return b""

    def _open_page(self) -> None:
        """Open the page that others find now. Without one everything takes longer, and nothing else."""
        if self.page is not None and self.page.is_at(self._paths.page):
            return
        try:
            self.page = Page(self._paths.page, self.header.generation, self.status)
        except OSError:
            self.page = None

    # --- the end of the log ----------------------------------------------------------------------------------

    def _catch_up(self) -> Repair | None:
        fd = self.fd
        data = system.read_at(fd, CLOSING_BYTES + 1, self.end.offset - CLOSING_BYTES)
        if data[:CLOSING_BYTES] != closing(self.end.stored_crc):
            return self._start_again()
        behind = data[CLOSING_BYTES:]
        # A write begins right behind the end. So if there is still padding of which all was seen, nothing was written.
        if not behind or (behind == PADDING and self.end.offset < self._seen_padding):
            return None
        for result in replay(fd, self.end):
            self._take_note(result.lines)
            self.end = result.end
            if result.damage is not None:
                return self._repair(Broken(result.damage, result.broken_at, result.broken_crc))
        self._allocated = self._seen_padding = system.size_of(fd)
        return None

    def _first_use(self) -> Repair | None:
        """Prove and make durable what this process finds before it appends for the first time.

        What reads well need not be on disk: its writer may have died before its sync, and pages that somebody's failed
        sync marked clean read well, sync "successfully", and are lost with the power. So every byte of which no valid
        line says that it is durable is validated, written once more in place, and synced. On ext4 a sync into
        preallocated space does not carry the log's name with it, so the directories come first.

        The cost is the unsynced part of the log; without a page that vouches for it, one pass over its bytes.
        """
        fd = self.fd
        system.sync_directory(self._paths.directory)
        places.make_names_durable(self._paths.directory)
        start, notices = trusted_start(fd, self.header, self._paths)
        self.notices += notices
        self.durable, self.end = start.offset, start
        repair = self._catch_up()
        refuse_shortened(
            fd,
            self.end.offset,
            known_durable=self._floor,
            path=self._paths.log,
            log_key=self._paths.log_key,
        )
        self._rewrite(fd, start.offset, self.end.offset)
        self.durable = self.end.offset
        self._reset_page()
        self._is_used = True
        return repair

    def _start_again(self) -> Repair | None:
        """Establish the end from the header on: before it stand other bytes than this process validated.

        Somebody changed the file by hand. To append at the old end would leave a hole, or lines that nothing leads to.
        """
        header = read_header(self.fd, self._paths.log, log_key=self._paths.log_key)
        self._is_used = False  # a first use that fails is to be done again, floor and all
        self._poison.refuse(header.generation)
        is_same = header.generation == self.header.generation  # of another one nothing is known
        self._floor = max(self._floor, self.durable) if is_same else 0
        self.header = header
        self.beginning = object()
        self.page = None  # it may be about another generation
        self._open_page()
        return self._first_use()

    def _rewrite(self, fd: int, start: int, end: int) -> None:
        """Make validated bytes dirty again and sync them: only now are they known to be durable.

        Crash: the same bytes in the same place; a disk with powersafe overwrite keeps them whatever happens.
        """
        if start == end:
            return
        for offset in range(start, end, _REWRITE_BYTES):
            write_whole(fd, system.read_at(fd, min(_REWRITE_BYTES, end - offset), offset), offset)
        self.sync()

    def _repair(self, broken: Broken) -> Repair | None:
        """Cut a torn end off, and keep the bytes.

        Why this loses nothing: we hold the append lock, so no write is in progress; the bytes are judged
        torn, so no one was ever told that they are safe; and they are durable in quarantine before they leave the log.
        """
        fd, offset = self.fd, broken.damage.offset
        vouched = vouched_durable(self._paths.page, self.header.generation, fd)
        require_torn(
            fd,
            broken,
            known_durable=max(self.durable, self._floor, vouched),
            path=self._paths.log,
            log_key=self._paths.log_key,
        )
        repair = keep_bytes(fd, self._paths, self.header.generation, offset)
        # Crash: before the truncation both copies exist, and the next writer repairs again; after it,
        # unsynced, the torn bytes may come back with the power, and the next writer repairs again.
        self.require_lock()
        system.truncate(fd, offset)
        self._allocated = self._seen_padding = offset
        self.sync()
        return repair

    def _take_note(self, lines: Sequence[Line]) -> None:
        for line in lines:
            self._is_sealed = False
            if line.object_key is None:
                self._is_sealed = known_control(line, self._paths.log) == "sealed"
        if lines:
            clock.observe(lines[-1].stamp_us)

    # --- durability -------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Make everything durable that was written so far.

        Raises:
            OSError: the sync failed, which is final; or, EBADF, somebody had closed the file, which is not.
        """
        with self._sync_mutex:
            began_s = time.monotonic()
            self.sync_file()
            self.syncs += 1
            self.note_duration(time.monotonic() - began_s)

    def sync_file(self) -> None:
        """Sync the log's file, and nobody else's.

        A failed sync is final: Linux drops the dirty pages, reports it once, and a second sync would succeed.

        Raises:
            OSError: the sync failed, and ``is_poisoned`` is set; or, EBADF, somebody had closed the file.
        """
        try:
            system.sync_data(self.fd)
        except OSError as error:
            if not self.is_intact():
                raise self._lost() from error
            self.is_poisoned = True
            raise
        if not self.is_intact():
            raise self._lost()  # synced was another file

    def is_lost(self, error: OSError) -> bool:
        """Return whether a write failed since somebody closed the file; then the next use opens it anew."""
        # EBADF, and yet the log: its number was given to a descriptor that is open for reading only.
        if error.errno != errno.EBADF and self.is_intact():
            return False
        self._lost()
        return True

    def _lost(self) -> OSError:
        """Return the error for an open file that somebody closed. Whoever establishes the end next opens it anew."""
        # Also where the number stands for a copy of the log, or for a descriptor of it that takes no write: to whoever
        # reads there, all is as it should be.
        self._is_used = False
        self._descriptor.abandon()
        return OSError(errno.EBADF, "somebody closed the open file of the log")

    def note_duration(self, sync_s: float) -> None:
        """Have it told, once no lock is held, that a sync took so long, if that is long, and was not told lately."""
        if sync_s < SLOW_SYNC_S:
            return
        now_s = time.monotonic()
        if now_s - self._told_slow_s >= _TELL_SLOW_EVERY_S:
            self._told_slow_s = now_s
            self.notices.append(
                f"a sync of log {self._paths.log_key!r} took {sync_s:.1f} s; the disk is slow, or busy "
                f"({self._paths.log})"
            )

    def mark_poisoned(self, error: OSError) -> None:
        """Tell every process that a sync failed: beside the log, and in the page as a shortcut."""
        if self.page is not None:
            self.page.publish_poison()
        notice = self._poison.mark(self.header.generation, error)
        if notice is not None:
            self.notices.append(notice)


def _lock_is_held() -> None:
    return None
