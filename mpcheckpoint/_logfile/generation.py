"""A generation of a log that is appended to, by many processes: each leaves the others where it ends."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._format.control import control_payload
from mpcheckpoint._format.frame import CLOSING_BYTES, PADDING, EndState, Payload, encode_batch
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._logfile.established import EstablishedLog
from mpcheckpoint._logfile.faults import typed
from mpcheckpoint._logfile.padding import Padding
from mpcheckpoint._logfile.page import FOLLOWED_PART, NOBODY
from mpcheckpoint._logfile.quarantine import write_whole
from mpcheckpoint.errors import CheckpointError, CorruptLogError, FormatVersionError, WrongLogError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from mpcheckpoint._logfile.paths import LogPaths
    from mpcheckpoint._logfile.poison import Poison
    from mpcheckpoint._types import Repair


# Who writes alone tells nobody of so many appends: who comes then reads them.
_MOST_UNTOLD = 15


class Generation(EstablishedLog):
    """Adds to what a process knows of a log's end what other writers leave in the page, and appends.

    ``establish_end`` and ``append`` run under the append lock, and cold: whoever was woken from a sync, or has waited
    for the lock, finds nothing of this process in the caches of its core. Each call that they leave out counts twice.
    """

    def __init__(
        self, paths: LogPaths, poison: Poison, sync_mutex: AbstractContextManager[object], writer_id: bytes
    ) -> None:
        super().__init__(paths, poison, sync_mutex)
        self._writer_id = writer_id
        # Whether nobody else wrote between the last two appends of this process.
        self.is_alone = False
        # Whether somebody waits to be woken by the next append.
        self.is_followed = False
        # What this process left in the page, and how often it has appended since without telling.
        self._left = b""
        self._untold = 0
        self._padding = Padding()

    @property
    def has_padding(self) -> bool:
        """Whether there is padding behind the end, as far as this process knows."""
        return self._allocated > self.end.offset

    # --- where it ends ----------------------------------------------------------------------------------------

    def establish_end(self) -> Repair | None:
        """Bring ``end`` up to date, repairing a torn end.

        Requires: the append lock.

        Raises:
            CorruptLogError, PoisonedLogError: nothing was changed.
            OSError: nothing was cut.
        """
        page = self.page
        if page is not None and self._is_used and not self.is_poisoned:
            look = page.look()
            # If the page is as this process left it, nobody wrote since.
            self.is_alone = look.startswith(self._left) and self._left != b"" and not page.is_poisoned(look)
            if self.is_alone or self._takes_over(look):
                self.is_followed = look[FOLLOWED_PART] != NOBODY and page.is_followed(look)
                # A write begins right behind the end. If there is no byte, or padding, nothing was written.
                closes = b'"%08x"]\n' % self.end.stored_crc
                data = self._bytes_at(self.end.offset - CLOSING_BYTES, CLOSING_BYTES + 1)
                if data == closes + PADDING or data == closes:
                    return None
        self.is_alone = False
        try:
            repair = super().establish_end()
        except (CorruptLogError, FormatVersionError, WrongLogError) as error:
            if self.is_intact():
                raise
            raise self._lost() from error  # what is no sound log is somebody else's file
        self.require_lock()  # that may have taken long
        self.is_followed = self.page is not None and self.page.is_followed(self.page.look())
        return repair

    def _takes_over(self, look: bytes) -> bool:
        """Take over what another writer left in the page, if the log's own bytes bear it out.

        Return False if it has to be read from the last end that this process is sure of.
        """
        page = self.page
        assert page is not None
        hints = page.hints_in(look)
        end = hints.end
        # An end before ours: an old page, or somebody changed the log by hand.
        if end is None or hints.is_poisoned or end.offset < self.end.offset:
            return False
        if end != self.end:
            if end.offset == self.end.offset or not self.bears_out(end):
                return False
            self._is_sealed = False  # whoever seals a generation leaves no end in the page
            self.end = end
        self._allocated = hints.allocated
        if hints.durable > end.offset:
            self._reset_page()
        else:
            self.durable = max(self.durable, hints.durable)
        self.is_alone = hints.writer == self._writer_id
        return True

    # --- append ----------------------------------------------------------------------------------------------

    def append(self, payloads: list[Payload]) -> EndState:
        """Write one batch behind the end; return the end state behind it. Visible then, not durable.

        Requires: the append lock, and ``establish_end`` since it was taken.

        Raises:
            WriteFailedError: nothing was appended.
        """
        if self._is_sealed:
            # Whoever sealed this generation died before it put the next one in its place: we hold the append lock,
            # which a switch holds throughout, and this file is still the log.
            self._write([control_payload("unsealed")])
            self._is_sealed = False
        end = self._write(payloads)
        if self.is_alone and self._untold < _MOST_UNTOLD:
            self._untold += 1
        elif self.page is not None:
            # Who writes alone tells with the next record how far the last one's sync reached: a write less.
            durable = self.durable if self.is_alone else None
            self._left = self.page.publish_end(end, self._allocated, self._writer_id, durable)
            self._untold = 0
        return end

    def seal(self, successor: str) -> None:
        """Say at the end of this generation which one follows. Best effort: a full disk must not stop a switch.

        The page is not told: should we die now, the next writer has to read the seal.
        """
        self._write([control_payload("sealed", next=successor)])
        self._is_sealed = True

    def cut_padding(self) -> None:
        """Cut off the padding behind the end. Requires: the append lock, and ``establish_end`` since it was taken."""
        if system.size_of(self.fd) > self.end.offset:
            # Crash: the padding is back, or zeros in its place, which the next writer takes for a torn end.
            system.truncate(self.fd, self.end.offset)
        self._allocated = self._seen_padding = self.end.offset
        if self.page is not None:
            self._left = self.page.publish_end(self.end, self._allocated, self._writer_id, None)

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
                if system.write_at(self.fd, data, before.offset) != len(data):
                    # From the start: the same bytes in the same place.
                    write_whole(self.fd, data, before.offset)
            except BaseException as error:
                self._settle_interrupted(data, end, error)
                if isinstance(error, OSError) and not isinstance(error, CheckpointError):
                    raise typed(error, doing="appending to", path=self._paths.log) from error
                raise
        self.end = end
        return end

    def _is_written_with_padding(self, data: bytes, end: EndState) -> bool:
        """Write a batch and padding behind it; return False if that is not wanted, or there is no room for both, and
        neither is there."""
        padding_bytes = self._padding.wanted_bytes(self.fd)
        if not padding_bytes:
            return False
        try:
            write_whole(self.fd, data + PADDING * padding_bytes, self.end.offset)
        except BaseException as error:
            self._settle_interrupted(data, end, error)
            if isinstance(error, OSError):
                return self.end is end  # to have no padding is no error
            raise
        self._allocated = self._seen_padding = end.offset + padding_bytes
        return True

    def _settle_interrupted(self, data: bytes, end: EndState, error: BaseException) -> None:
        """Truncate back an incomplete write; leave a complete one, which others may have seen already.

        Rejected: quarantine for these bytes. They are our own, nobody was told of them, and on a full disk
        there would be no room to keep them. If the truncation fails too, the next writer finds a torn end
        and repairs it.
        """
        if isinstance(error, OSError) and error.errno == errno.EBADF:
            return  # somebody closed the file: nothing was written, and nothing can be undone
        fd, offset = self.fd, self.end.offset
        try:
            if system.read_at(fd, len(data), offset) == data:
                self.end = end
                error.add_note(
                    f"mpcheckpoint: the record was written; it ends at {end.offset} in {self._paths.log}"
                )
            elif self.is_intact():  # else it is not our file that would be cut
                system.truncate(fd, offset)
                self._allocated = self._seen_padding = offset
        except OSError as undo_error:
            self.notices.append(f"could not undo a partial write to {self._paths.log}: {undo_error}")
