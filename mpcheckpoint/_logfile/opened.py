"""A log that this process has open for append: where it ends, what of it is durable, and how a batch is written to it.

``find_end`` and ``write`` run cold: the process was just woken from a sync, or from waiting for the lock, and finds
nothing of its own in the caches of its core. Each call that they spare counts twice.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._format.control import control_payload
from mpcheckpoint._format.frame import CLOSING_BYTES, PADDING, EndState, Payload, closing, encode_batch
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._logfile.faults import typed
from mpcheckpoint._logfile.file_bytes import write_whole
from mpcheckpoint._logfile.first_use import trusted_start, write_again
from mpcheckpoint._logfile.header import known_control, read_header
from mpcheckpoint._logfile.log_file import LogFile
from mpcheckpoint._logfile.notices import repaired
from mpcheckpoint._logfile.padding import Padding
from mpcheckpoint._logfile.page import FOLLOWED_PART, NOBODY, Page, vouched_durable
from mpcheckpoint._logfile.places import places
from mpcheckpoint._logfile.quarantine import keep_bytes
from mpcheckpoint._logfile.replay import replay
from mpcheckpoint._logfile.torn_or_corrupt import Broken, refuse_shortened, require_torn
from mpcheckpoint.errors import CheckpointError, CorruptLogError, FormatVersionError, WrongLogError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from mpcheckpoint._format.frame import Line
    from mpcheckpoint._logfile.paths import LogPaths
    from mpcheckpoint._logfile.poison import Poison
    from mpcheckpoint._system import FileStatus
    from mpcheckpoint._types import Repair

# A process that writes alone publishes the end at every 16th append only: whoever comes then reads the others.
_MOST_UNPUBLISHED = 15


class OpenLog:
    """One generation of a log, as this process appends to it.

    Invariant: every byte below ``durable`` is on disk: a sync covered it that returned, in this process or in one that
    said so, in a line that this process validated or in the page. A whole batch ends at ``durable``.

    Invariant: a whole batch ends at ``end``. Every byte between ``durable`` at the first use and ``end`` was validated:
    by this process, or by the writer that left the end in the page, where the log's own bytes bear that out.

    Concurrency: under the append lock, but for ``sync``, ``bears_out`` and reading attributes.
    """

    def __init__(
        self,
        paths: LogPaths,
        poison: Poison,
        *,
        sync_turn: AbstractContextManager[object],
        require_lock: Callable[[], None],
        writer_id: bytes,
    ) -> None:
        """Open the log at ``paths``.

        Args:
            sync_turn: held for a sync under the append lock: of two syncs of one descriptor only one hears of a
                failure.
            require_lock: raises an OSError if the append lock was lost: who closed one descriptor may have closed more.
            writer_id: by which a process knows its own entries in the page.

        Raises:
            OSError, CorruptLogError, FormatVersionError, WrongLogError
        """
        self._paths = paths
        self._poison = poison
        self._sync_turn = sync_turn
        self.require_lock = require_lock
        self._writer_id = writer_id
        self.file = LogFile(paths)
        self.header = read_header(self.file.fd, paths.log, log_key=paths.log_key)
        self.end = self.header.end
        self.durable = self.header.end.offset
        self.page: Page | None = None
        # Another object whenever the end was found from the header on: the file was opened, or read, anew.
        self.beginning = object()
        # Whether nobody else wrote between the last two appends of this process.
        self.is_alone = False
        # Whether a follower waits to be woken by the next append.
        self.is_followed = False
        # What was known to be durable before the file was found changed.
        self._floor = 0
        self._is_used = False
        self._is_sealed = False
        # Up to where there is padding, for all we know, and up to where this process has seen it.
        self._allocated = 0
        self._seen_padding = 0
        self._padding = Padding()
        # What this process left in the page, and how often it has appended since without publishing.
        self._left = b""
        self._unpublished = 0

    @property
    def known_durable(self) -> int:
        """The offset below which this process knows the bytes to be durable, also while it begins anew."""
        return max(self.durable, self._floor)

    @property
    def has_padding(self) -> bool:
        """Whether there is padding after the end, as far as this process knows."""
        return self._allocated > self.end.offset

    # --- where it ends ----------------------------------------------------------------------------------------

    def find_end(self) -> Repair | None:
        """Bring ``end`` up to date, repairing a torn end.

        Raises:
            CorruptLogError, PoisonedLogError: nothing was changed.
            OSError: nothing was cut.
        """
        page, file = self.page, self.file
        if page is not None and self._is_used and not (file.is_poisoned or file.is_lost):
            look = page.look()
            # If the page is as this process left it, nobody wrote since.
            self.is_alone = look.startswith(self._left) and self._left != b"" and not page.is_poisoned(look)
            if self.is_alone or self._takes_over(page, look):
                self.is_followed = look[FOLLOWED_PART] != NOBODY and page.is_followed(look)
                # A write begins right after the end. If there is no byte, or padding, nothing was written.
                closes = closing(self.end.stored_crc)
                data = self._bytes_at(self.end.offset - CLOSING_BYTES, CLOSING_BYTES + 1)
                if data == closes + PADDING or data == closes:
                    return None
        self.is_alone = False
        try:
            repair = self._find_end_in_log()
        except (CorruptLogError, FormatVersionError, WrongLogError) as error:
            if file.is_intact():
                raise
            raise file.lose() from error  # what is no sound log is somebody else's file
        self.require_lock()  # that may have taken long
        self.is_followed = self.page is not None and self.page.is_followed(self.page.look())
        return repair

    def _takes_over(self, page: Page, look: bytes) -> bool:
        """Take over what another writer left in the page, if the log's own bytes bear it out.

        Return False if it has to be read from the last end that this process is sure of.
        """
        hints = page.hints_in(look)
        end = hints.end
        # An end before ours: an old page, or somebody changed the log by hand.
        if end is None or hints.is_poisoned or end.offset < self.end.offset:
            return False
        if end != self.end:
            if end.offset == self.end.offset or not self.bears_out(end):
                return False
            self._is_sealed = False  # a writer that seals a generation leaves no end in the page
            self.end = end
        self._allocated = hints.allocated
        if hints.durable > end.offset:
            self._reset_page()
        else:
            self.durable = max(self.durable, hints.durable)
        self.is_alone = hints.writer == self._writer_id
        return True

    def bears_out(self, end: EndState) -> bool:
        """Return whether a line of the log ends there, with that crc."""
        return self._bytes_at(end.offset - CLOSING_BYTES, CLOSING_BYTES) == closing(end.stored_crc)

    def _bytes_at(self, offset: int, length: int) -> bytes:
        """Return bytes of the log; none where they cannot be read, be it that somebody closed the file."""
        try:
            return system.read_at(self.file.fd, length, offset)
        except OSError:
            return b""

    def _find_end_in_log(self) -> Repair | None:
        """Bring ``end`` up to date from the log's own bytes alone."""
        if self.file.is_poisoned:
            raise self._poison.refusal("an earlier sync by this process failed")
        if not self.file.is_intact():
            self.require_lock()
            self.file.reopen()
            return self._start_again()
        self._poison.refuse(self.header.generation)
        self._open_page()
        if not self._is_used:
            return self._first_use()
        repair = self._catch_up()
        self._reset_page()
        return repair

    def _catch_up(self) -> Repair | None:
        """Validate what others wrote after ``end``."""
        fd = self.file.fd
        data = system.read_at(fd, CLOSING_BYTES + 1, self.end.offset - CLOSING_BYTES)
        if data[:CLOSING_BYTES] != closing(self.end.stored_crc):
            return self._start_again()
        rest = data[CLOSING_BYTES:]
        # A write begins right after the end. So if there is still padding of which all was seen, nothing was written.
        if not rest or (rest == PADDING and self.end.offset < self._seen_padding):
            return None
        for result in replay(fd, self.end):
            self._take_note(result.lines)
            self.end = result.end
            if result.damage is not None:
                return self._cut_torn_end(Broken(result.damage, result.broken_at, result.broken_crc))
        self._allocated = self._seen_padding = system.size_of(fd)
        return None

    def _take_note(self, lines: Sequence[Line]) -> None:
        for line in lines:
            self._is_sealed = False
            if line.object_key is None:
                self._is_sealed = known_control(line, self._paths.log) == "sealed"
        if lines:
            clock.observe(lines[-1].stamp_us)

    def _first_use(self) -> Repair | None:
        """Prove and make durable what this process finds before it appends for the first time.

        What reads well need not be on disk: its writer may have died before its sync, and pages that a failed sync
        marked clean read well, sync "successfully", and are lost with the power. So every byte of which no valid line
        says that it is durable is validated, written once more in place, and synced. On ext4 a sync into preallocated
        space does not carry the log's name with it, so the directories come first.

        The cost is the unsynced part of the log; without a page that vouches for it, one pass over its bytes.
        """
        fd = self.file.fd
        system.sync_directory(self._paths.directory)
        places.make_names_durable(self._paths.directory)
        start, notices = trusted_start(fd, self.header, self._paths)
        self.file.notices += notices
        self.durable, self.end = start.offset, start
        repair = self._catch_up()
        refuse_shortened(
            fd,
            self.end.offset,
            known_durable=self._floor,
            path=self._paths.log,
            log_key=self._paths.log_key,
        )
        if start.offset < self.end.offset:
            write_again(fd, start.offset, self.end.offset)
            self._sync_in_turn()
        self.durable = self.end.offset
        self._reset_page()
        self._is_used = True
        return repair

    def _start_again(self) -> Repair | None:
        """Find the end from the header on: other bytes stand before it than this process validated.

        Somebody changed the file by hand. To append at the old end would leave a hole, or lines that nothing leads to.
        """
        header = read_header(self.file.fd, self._paths.log, log_key=self._paths.log_key)
        self._is_used = False  # a first use that fails is to be done again, floor and all
        self._poison.refuse(header.generation)
        is_same = header.generation == self.header.generation  # of another one nothing is known
        self._floor = max(self._floor, self.durable) if is_same else 0
        self.header = header
        self.beginning = object()
        self.page = None  # it may be about another generation
        self._open_page()
        return self._first_use()

    def reopen_if_lost(self) -> None:
        """See to it that the descriptor is that of the log, for a recovery, which takes the log as it is."""
        if not self.file.is_intact():
            self.require_lock()
            self.file.reopen()
            self._is_used = False

    def _cut_torn_end(self, broken: Broken) -> Repair | None:
        """Cut a torn end off, and keep the bytes.

        Why this loses nothing: we hold the append lock, so no write is in progress; the bytes are judged torn, so no
        one was ever told that they are safe; and they are durable in quarantine before they leave the log.
        """
        fd, offset = self.file.fd, broken.damage.offset
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
        self._sync_in_turn()
        if repair is not None:
            self.file.notices.append(repaired(repair))
        return repair

    # --- the page ---------------------------------------------------------------------------------------------

    def _open_page(self) -> None:
        """Open the page that others find now. Without one everything takes longer, and nothing else."""
        if self.page is not None and self.page.is_at(self._paths.page):
            return
        try:
            self.page = Page(self._paths.page, self.header.generation, self.file.status)
        except OSError:
            self.page = None

    def _reset_page(self) -> None:
        """See to it that no stale word, or end, stands in the page when the log grows past it: it would be believed."""
        if self.page is not None:
            self.page.publish_end(self.end, self._allocated, NOBODY, self.durable)

    def _publish_end(self) -> None:
        if self.is_alone and self._unpublished < _MOST_UNPUBLISHED:
            self._unpublished += 1
        elif self.page is not None:
            # A sole writer publishes its durable offset with its next record, which saves a write.
            durable = self.durable if self.is_alone else None
            self._left = self.page.publish_end(self.end, self._allocated, self._writer_id, durable)
            self._unpublished = 0

    # --- write ------------------------------------------------------------------------------------------------

    def append(self, payloads: list[Payload]) -> EndState:
        """Write one batch after the end; return the end state after it. Visible then, not durable.

        Requires: ``find_end`` since the append lock was taken.

        Raises:
            WriteFailedError: nothing was appended.
        """
        if self._is_sealed:
            # The process that sealed this generation died before it put the next one in its place: we hold the append
            # lock, which a switch holds throughout, and this file is still the log.
            self._write([control_payload("unsealed")])
            self._is_sealed = False
        end = self._write(payloads)
        self._publish_end()
        return end

    def _write(self, payloads: list[Payload]) -> EndState:
        before = self.end
        data, end = encode_batch(
            payloads,
            end=before,
            stamp_us=clock.next(before.stamp_us),
            durable=min(self.durable, before.offset),
        )
        if end.offset <= self._allocated or not self._is_written_with_padding(data, end):
            try:
                if system.write_at(self.file.fd, data, before.offset) != len(data):
                    # From the start: the same bytes in the same place.
                    write_whole(self.file.fd, data, before.offset)
            except BaseException as error:
                self._settle_interrupted(data, end, error)
                if isinstance(error, OSError) and not isinstance(error, CheckpointError):
                    raise typed(error, doing="appending to", path=self._paths.log) from error
                raise
        self.end = end
        return end

    def _is_written_with_padding(self, data: bytes, end: EndState) -> bool:
        """Write a batch and padding after it; return False if that is not wanted, or there is no room for both, and
        neither is there."""
        padding_bytes = self._padding.wanted_bytes(self.file.fd)
        if not padding_bytes:
            return False
        try:
            write_whole(self.file.fd, data + PADDING * padding_bytes, self.end.offset)
        except BaseException as error:
            self._settle_interrupted(data, end, error)
            if isinstance(error, OSError):
                return self.end is end  # to have no padding is no error
            raise
        self._allocated = self._seen_padding = end.offset + padding_bytes
        return True

    def _settle_interrupted(self, data: bytes, end: EndState, error: BaseException) -> None:
        """Truncate back an incomplete write; leave a complete one, which others may have seen already.

        Rejected: quarantine for these bytes. They are our own, nobody was told of them, and on a full disk there would
        be no room to keep them. If the truncation fails too, the next writer finds a torn end and repairs it.
        """
        if isinstance(error, OSError) and error.errno == errno.EBADF:
            return  # somebody closed the file: nothing was written, and nothing can be undone
        fd, offset = self.file.fd, self.end.offset
        try:
            if system.read_at(fd, len(data), offset) == data:
                self.end = end
                error.add_note(
                    f"mpcheckpoint: the record was written; it ends at {end.offset} in {self._paths.log}"
                )
            elif self.file.is_intact():  # else it is not our file that would be cut
                system.truncate(fd, offset)
                self._allocated = self._seen_padding = offset
        except OSError as undo_error:
            self.file.notices.append(f"could not undo a partial write to {self._paths.log}: {undo_error}")

    def seal(self, successor: str) -> None:
        """Say at the end of this generation which one follows. Best effort: a full disk must not stop a switch.

        The page is not told: should we die now, the next writer has to read the seal.
        """
        self._write([control_payload("sealed", next=successor)])
        self._is_sealed = True

    def cut_padding(self) -> None:
        """Cut off the padding after the end. Requires: ``find_end`` since the append lock was taken."""
        if system.size_of(self.file.fd) > self.end.offset:
            # Crash: the padding is back, or zeros in its place, which the next writer takes for a torn end.
            system.truncate(self.file.fd, self.end.offset)
        self._allocated = self._seen_padding = self.end.offset
        if self.page is not None:
            self._left = self.page.publish_end(self.end, self._allocated, self._writer_id, None)

    # --- the one place where bytes become durable ---------------------------------------------------------------

    def sync(self, end: int) -> FileStatus:
        """Make all below ``end`` durable; return what the file is then.

        A failed sync is final. So the poison is there before any other process can lead a sync; a process that has the
        log open gets the error from its own next sync, too.

        Requires: it was written, and ``end`` read, before this is called.

        Raises:
            OSError: a sync failed, and the log is poisoned; or, EBADF, somebody had closed the file.
        """
        beginning = self.beginning
        try:
            status = self.file.sync()
        except OSError as error:
            if self.file.is_poisoned:
                self._mark_poisoned(error)
            raise
        if self.file.is_poisoned:  # a sync nested in this one failed, and took the error with it
            raise sync_failed()
        if self.beginning is beginning:  # else somebody put other bytes into the file meanwhile
            self.durable = max(self.durable, end)
        return status

    def _sync_in_turn(self) -> None:
        with self._sync_turn:
            self.sync(0)

    def _mark_poisoned(self, error: OSError) -> None:
        """Tell every process that a sync failed: beside the log, and in the page as a shortcut."""
        if self.page is not None:
            self.page.publish_poison()
        notice = self._poison.mark(self.header.generation, error)
        if notice is not None:
            self.file.notices.append(notice)

    def close(self) -> None:
        """Close the files, in a forked child; elsewhere the last thread to let go of this object does."""
        self.file.close()
        if self.page is not None:
            self.page.close()


def sync_failed() -> OSError:
    """Return the error for an append to a log of which this process knows that a sync failed."""
    return OSError(errno.EIO, "an earlier sync of this log failed")
