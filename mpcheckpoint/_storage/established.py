"""One log file, open for append: where it ends, and what of it is durable, found out from its own bytes.

Everything here but ``sync`` requires the append lock; ``writer`` sees to that.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import (
    CLOSING_BYTES,
    MAX_LINE_BYTES,
    PADDING,
    EndState,
    Line,
    closing,
    stored_crc_before,
)
from mpcheckpoint._format.salvage import last_line
from mpcheckpoint._storage.clock import clock
from mpcheckpoint._storage.header import known_control, read_header
from mpcheckpoint._storage.judge import Broken, refuse_shortened, require_torn
from mpcheckpoint._storage.page import Page
from mpcheckpoint._storage.places import places
from mpcheckpoint._storage.repair import keep_bytes, write_whole
from mpcheckpoint._storage.replay import replay

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from mpcheckpoint._storage.paths import LogPaths
    from mpcheckpoint._storage.poison import Poison
    from mpcheckpoint._types import Repair

_FIRST_LOOK_BACK_BYTES = 64 * 1024
_LARGEST_LOOK_BACK_BYTES = 2 * MAX_LINE_BYTES
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
        # For as long as this object lives.
        self.fd = self._descriptor.fd
        self.header = read_header(self.fd, paths.log, log_key=paths.log_key)
        status = system.stat_fd(self.fd)
        self.identity = (status.st_dev, status.st_ino)
        self.end = self.header.end
        self.durable = self.header.end.offset
        self.page: Page | None = None
        # Another object whenever the end was established from the header on.
        self.beginning = object()
        self.is_poisoned = False
        self.syncs = 0
        # What there is to tell, once no lock is held: a handler of log messages is user code.
        self.notices: list[str] = []
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
        before = system.read_at(self.fd, CLOSING_BYTES, end.offset - CLOSING_BYTES)
        return before == closing(end.stored_crc)

    def _open_page(self) -> None:
        """Open the page that others find now. Without one everything takes longer, and nothing else."""
        if self.page is not None and self.page.is_at(self._paths.page):
            return
        try:
            self.page = Page(self._paths.page, self.header.generation)
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

        The cost is the unsynced part of the log, not its length.
        """
        fd = self.fd
        system.sync_directory(self._paths.directory)
        places.make_names_durable(self._paths.directory)
        start = self._trusted_start()
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
        is_same = header.generation == self.header.generation  # of another one nothing is known
        self._floor = max(self._floor, self.durable) if is_same else 0
        self.header = header
        self.beginning = object()
        self.page = None  # it may be about another generation
        self._open_page()
        return self._first_use()

    def _trusted_start(self) -> EndState:
        """Return the end state at the offset that the last line states as durable."""
        fd, start = self.fd, self.header.end
        last = self._look_back(system.size_of(fd))
        if last is None or last.durable <= start.offset:
            return start
        before = system.read_at(fd, CLOSING_BYTES, last.durable - CLOSING_BYTES)
        stored_crc = stored_crc_before(before, len(before))
        if stored_crc is None:
            return start  # no line ends there: damage in the durable part, which a full validation will name
        previous = self._look_back(last.durable)
        if previous is None or previous.end != last.durable or previous.more:
            return start
        return EndState(last.durable, stored_crc, previous.stamp_us)

    def _look_back(self, size: int) -> Line | None:
        """Return the last line below ``size`` that fits the crc field of the line before it."""
        first = self.header.end.offset - CLOSING_BYTES
        length = _FIRST_LOOK_BACK_BYTES
        while True:
            start = max(first, size - length)
            data = system.read_at(self.fd, size - start, start)
            line = last_line(data, base=start)
            if line is not None or start == first or length >= _LARGEST_LOOK_BACK_BYTES:
                return line
            length = min(length * 8, _LARGEST_LOOK_BACK_BYTES)

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
        require_torn(
            fd,
            broken,
            known_durable=max(self.durable, self._floor, self._stated_durable()),
            path=self._paths.log,
            log_key=self._paths.log_key,
        )
        repair = keep_bytes(fd, self._paths, self.header.generation, offset)
        # Crash: before the truncation both copies exist, and the next writer repairs again; after it,
        # unsynced, the torn bytes may come back with the power, and the next writer repairs again.
        system.truncate(fd, offset)
        self._allocated = self._seen_padding = offset
        self.sync()
        return repair

    def _stated_durable(self) -> int:
        """Return what the page calls durable, for whoever judges damage."""
        return 0 if self.page is None else self.page.read().durable

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
            OSError: the sync failed, which is final.
        """
        with self._sync_mutex:
            began_s = time.monotonic()
            try:
                system.sync_data(self.fd)
            except OSError:
                self.is_poisoned = True
                raise
            self.syncs += 1
            self.note_duration(time.monotonic() - began_s)

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
        notice = self._poison.mark(self.header.generation, error)
        if notice is not None:
            self.notices.append(notice)
        if self.page is not None:
            self.page.publish_durable(self.durable, is_poisoned=True)
