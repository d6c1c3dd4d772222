"""A log that this process has open for append: where it ends, what of it is durable, and how a batch is written to it.

``find_end`` and ``write`` run cold: the process was just woken from a sync, or from waiting for the lock, and finds
nothing of its own in the caches of its core. Each call that they spare counts twice.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NoReturn

import msgspec

from mpcheckpoint import _system as system
from mpcheckpoint._format.control import control_payload
from mpcheckpoint._format.frame import CLOSING_BYTES, PADDING, EndState, Payload, encode_batch
from mpcheckpoint._logfile.append_state import AppendState
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._logfile.end import LogEnd
from mpcheckpoint._logfile.faults import typed
from mpcheckpoint._logfile.file_bytes import write_whole
from mpcheckpoint._logfile.log_file import LogFile
from mpcheckpoint._logfile.padding import Padding
from mpcheckpoint._logfile.page import FOLLOWED_PART, NO_POISON, NOBODY, POISON_PART, Page
from mpcheckpoint._logfile.partial_write import PartialWrite
from mpcheckpoint.errors import CheckpointError, CorruptLogError, FormatVersionError, WrongLogError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from mpcheckpoint._logfile.page import Hints
    from mpcheckpoint._logfile.paths import LogPaths
    from mpcheckpoint._logfile.poison import Poison
    from mpcheckpoint._system import FileStatus
    from mpcheckpoint._types import Position, Repair

# A sole writer publishes the end at every 16th append only; who comes then reads the others, which takes long. So one
# is alone after as many appends in a row: where two take turns, each now and then appends twice.
_MOST_UNPUBLISHED = 15
_OTHERS_SYNC = 3  # ``enum failure`` in native/commit.c, as is what LogFile.fail_sync knows


class Appended(msgspec.Struct, gc=False):
    """What an append left under its lock: where the log ends.

    ``beginning`` is the log's then: another one tells that the file was opened, or read, anew since.
    ``found`` is the position of the record that made writing needless, or None if something was written.
    ``is_durable`` tells that it is durable already, and that the log was not replaced; ``failure`` that a sync failed.
    """

    log: OpenLog
    end: EndState
    beginning: int
    found: Position | None = None
    is_durable: bool = False
    failure: OSError | None = None


class OpenLog:
    """One generation of a log, as this process appends to it.

    Concurrency: under the append lock, but for ``sync`` and reading attributes.
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
        self.paths = paths
        self._poison = poison
        self._sync_turn = sync_turn
        self.require_lock = require_lock
        self._writer_id = writer_id
        self.state = AppendState(EndState)
        self.file = LogFile(paths)
        self.end = LogEnd(paths, self.file, self.state, require_lock)
        self.page: Page | None = None
        self._padding = Padding(self.state)

    @property
    def generation(self) -> str:
        """Which generation of the log this is."""
        return self.end.header.generation

    @property
    def has_padding(self) -> bool:
        """Whether there is padding after the end, as far as this process knows."""
        return self.state.allocated > self.state.end.offset

    # --- where it ends ----------------------------------------------------------------------------------------

    def find_end(self) -> Repair | None:
        """Bring ``end`` up to date, repairing a torn end; return what was cut off, if anything.

        Raises:
            CorruptLogError, PoisonedLogError: nothing was changed.
            OSError: nothing was cut.
        """
        page, file, state = self.page, self.file, self.state
        if page is not None and self.end.is_used and not (file.is_poisoned or file.is_lost):
            look = page.look()
            # If the page is as this process left it, nobody wrote since.
            is_as_left = look.startswith(state.left) and state.left != b""
            state.is_alone = is_as_left and (look[POISON_PART] == NO_POISON or not page.is_poisoned(look))
            hints = None if state.is_alone else page.hints_in(look)
            end = state.end if hints is None else self._end_in(hints)
            if end is not None:
                # Believed only where a line of the log ends there, with that crc.
                closes = b'"%08x"]\n' % end.stored_crc
                data = self.end.bytes_at(end.offset - CLOSING_BYTES, CLOSING_BYTES + 1)
                if hints is not None and data[:CLOSING_BYTES] == closes:
                    self._take_over(end, hints)
                # A write begins right after the end. If there is no byte, or padding, nothing was written.
                if data == closes + PADDING or data == closes:
                    state.is_followed = look[FOLLOWED_PART] != NOBODY and page.is_followed(look)
                    return None
        state.is_alone = False
        try:
            repair = self._find_end_in_log()
        except (CorruptLogError, FormatVersionError, WrongLogError) as error:
            if file.is_intact():
                raise
            raise file.lose() from error  # what is no sound log is somebody else's file
        self.require_lock()  # that may have taken long
        state.is_followed = self.page is not None and self.page.is_followed(self.page.look())
        return repair

    def _end_in(self, hints: Hints) -> EndState | None:
        """Return the end that another writer left in the page; None if the log has to be read instead."""
        end, own = hints.end, self.state.end
        # An end before ours: an old page, or somebody changed the log by hand.
        if end is None or hints.is_poisoned or end.offset < own.offset:
            return None
        return end if end.offset > own.offset or end == own else None

    def _take_over(self, end: EndState, hints: Hints) -> None:
        self.end.take_over(end, hints.allocated, hints.durable)
        if hints.durable > end.offset:
            self._reset_page()
        self.state.is_alone = hints.writer == self._writer_id

    def _find_end_in_log(self) -> Repair | None:
        """Bring ``end`` up to date from the log's own bytes alone."""
        end = self.end
        if self.file.is_poisoned:
            raise self._poison.refusal("an earlier sync by this process failed")
        if not self.file.is_intact():
            self.require_lock()
            self.file.reopen()
        if self.file.is_lost or (end.is_used and not end.bears_out(self.state.end)):
            end.begin_again()
            self.page = None  # it may be about another generation
            self.file.regain()
        self._poison.refuse(self.generation)
        self._open_page()
        repair = (end.catch_up if end.is_used else end.first_use)(self._sync_in_turn)
        self._reset_page()
        return repair

    def reopen_if_lost(self) -> None:
        """See to it that the descriptor is that of the log, for a recovery, which takes the log as it is."""
        if not self.file.is_intact():
            self.require_lock()
            self.file.reopen()
            self.end.distrust()

    def adopt(self, end: EndState) -> None:
        """Take over a file that this process has just written and made durable whole, name and all, up to ``end``.

        Requires: the append lock, held since before it got its name.
        """
        self.end.adopt(end)
        self._open_page()
        self._reset_page()

    # --- the page ---------------------------------------------------------------------------------------------

    def _open_page(self) -> None:
        """Open the page that others find now. Without one everything takes longer, and nothing else."""
        if self.page is not None and self.page.is_at(self.paths.page):
            return
        try:
            self.page = Page(self.paths.page, self.generation, self.file.status, self.state)
        except OSError:
            self.page = None

    def _reset_page(self) -> None:
        """See to it that no stale word, or end, stands in the page when the log grows past it: it would be believed."""
        if self.page is not None:
            state = self.state
            self.page.publish_end(state.end, state.allocated, NOBODY, state.durable)

    # --- write ------------------------------------------------------------------------------------------------

    def append(self, batches: Sequence[list[Payload]], ends: list[EndState]) -> None:
        """Write batches after the end, by one write: visible then, not durable.

        Args:
            batches: each gets a stamp of its own.
            ends: gets the end states after each, before they are written.

        Requires: ``find_end`` since the append lock was taken.

        Raises:
            WriteFailedError: not all was written. The batches up to ``end`` were, if that is in ``ends``; else none.
        """
        if self.end.is_sealed:
            # The process that sealed this generation died before it put the next one in its place: we hold the append
            # lock, which a switch holds throughout, and this file is still the log.
            self._write([[control_payload("unsealed")]], [])
        self._write(batches, ends)
        self.publish()

    def publish(self) -> None:
        """Leave in the page where the log ends now; a sole writer does so at every 16th append only."""
        state = self.state
        if state.is_alone and 0 <= state.unpublished < _MOST_UNPUBLISHED:
            state.unpublished += 1
        elif self.page is not None:
            # A sole writer publishes its durable offset with its next record, which saves a write.
            durable = state.durable if state.is_alone else None
            state.left = self.page.publish_end(state.end, state.allocated, self._writer_id, durable)
            state.unpublished = min(0, state.unpublished + 1) if state.is_alone else -_MOST_UNPUBLISHED

    def _write(
        self, batches: Sequence[list[Payload]], ends: list[EndState], stamp_us: int | None = None
    ) -> None:
        state = self.state
        before = after = state.end
        lines = []
        for payloads in batches:
            line, after = encode_batch(
                payloads,
                end=after,
                stamp_us=clock.next(after.stamp_us) if stamp_us is None else stamp_us,
                durable=min(state.durable, after.offset),
            )
            lines.append(line)
            ends.append(after)
        data = b"".join(lines)
        if after.offset > state.allocated and self._is_written_with_padding(data, before, ends):
            return
        try:
            if system.write_at(self.file.fd, data, before.offset) != len(data):
                # From the start: the same bytes in the same place.
                write_whole(self.file.fd, data, before.offset)
            self.end.move_to(after)  # in here: a Ctrl-C can come at the start of this call
        except BaseException as error:
            self.settle_failed(PartialWrite(data, before, ends), error)
            raise

    def _is_written_with_padding(self, data: bytes, before: EndState, ends: list[EndState]) -> bool:
        """Write batches and padding after them; return False if that is not wanted, or there is no room for all of it:
        then the batches are to be written again, in the same place."""
        padding_bytes = self._padding.wanted_bytes(self.file.fd)
        if not padding_bytes:
            return False
        try:
            write_whole(self.file.fd, data + PADDING * padding_bytes, before.offset)
            self.end.move_to(ends[-1], ends[-1].offset + padding_bytes)
        except BaseException as error:
            PartialWrite(data, before, ends).settle(self.file, self.end, self.paths.log, error)
            if isinstance(error, OSError):
                return self.state.end is ends[-1]  # to have no padding is no error
            raise
        return True

    def settle_failed(self, write: PartialWrite, error: BaseException) -> None:
        """Settle a write that failed, and raise the error that says so, unless ``error`` is none of the system's."""
        write.settle(self.file, self.end, self.paths.log, error)
        if isinstance(error, OSError) and not isinstance(error, CheckpointError):
            raise typed(error, doing="appending to", path=self.paths.log) from error

    def seal(self, successor: str, stamp_us: int | None = None) -> None:
        """Say at the end of this generation which one follows. Best effort: a full disk must not stop a switch.

        The page is not told: should we die now, the next writer has to read the seal.

        Args:
            stamp_us: above that of the last line, and below those that the successor will take: a reader that has read
                the seal goes on in the successor after this stamp.
        """
        self._write([[control_payload("sealed", next=successor)]], [], stamp_us)
        self.end.seal()

    def cut_padding(self) -> None:
        """Cut off the padding after the end. Requires: ``find_end`` since the append lock was taken."""
        end = self.state.end
        if system.size_of(self.file.fd) > end.offset:
            # Crash: the padding is back, or zeros in its place, which the next writer takes for a torn end.
            system.truncate(self.file.fd, end.offset)
        self.end.move_to(end, end.offset)
        if self.page is not None:
            self.state.left = self.page.publish_end(end, end.offset, self._writer_id, None)

    # --- by native code ---------------------------------------------------------------------------------------

    def attach(self, *apart: object) -> None:
        """Have native code append from now on, if nothing unusual is known.

        Args:
            apart: what keeps threads and processes apart, as ``AppendLock`` and ``GroupCommit`` tell native code.

        Requires: the append lock, and that an append has just gone well.
        """
        page, file = self.page, self.file
        if page is None or not self.end.is_used or self.end.is_sealed or file.is_broken():
            return
        own = os.fsencode(self.paths.log), *file.for_native(), *page.for_native()
        self.state.attach((*own, self._writer_id, self._padding.extensions_before, clock.highest, *apart))
        self.state.is_ready = not file.is_broken()  # by a sync that has failed just now

    # --- the one place where bytes become durable ---------------------------------------------------------------

    def sync(self, offset: int) -> FileStatus:
        """Make all below ``offset`` durable; return what the file is then.

        A failed sync is final. So the poison is there before any other process can lead a sync; a process that has the
        log open gets the error from its own next sync, too.

        Requires: it was written, and the end found, before this is called.

        Raises:
            OSError: a sync failed, and the log is poisoned; or, EBADF, somebody had closed the file.
        """
        beginning = self.state.beginning
        try:
            status = self.file.sync()
        except OSError as error:
            self._tell_failed_sync(error)
            raise
        self.state.syncs += 1
        if self.file.is_poisoned:  # a sync nested in this one failed, and took the error with it
            raise sync_failed()
        if self.state.beginning == beginning:  # else somebody put other bytes into the file meanwhile
            self.end.note_durable(offset)
        return status

    def fail_sync(self, failure: int, code: int) -> NoReturn:
        """Go on as ``sync`` does where one by native code has failed, and raise what that raises.

        Args:
            failure: ``enum failure`` in native/commit.c.
            code: the number of the error.
        """
        self.state.is_ready = False
        if failure == _OTHERS_SYNC:
            self.file.is_poisoned = True
            raise sync_failed()
        try:
            self.file.fail_sync(failure, OSError(code, os.strerror(code)))
        except OSError as error:
            self._tell_failed_sync(error)
            raise

    def _tell_failed_sync(self, error: OSError) -> None:
        self.state.is_ready = False
        if self.file.is_poisoned:
            self._mark_poisoned(error)

    def _sync_in_turn(self) -> None:
        with self._sync_turn:
            self.sync(0)

    def _mark_poisoned(self, error: OSError) -> None:
        """Tell every process that a sync failed: beside the log, and in the page as a shortcut."""
        if self.page is not None:
            self.page.publish_poison()
        notice = self._poison.mark(self.generation, error)
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
