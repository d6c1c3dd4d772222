"""One log file, open for append: its end, what of it is durable, and how bytes become so.

Everything here but ``cover`` requires the append lock; ``writer`` sees to that.
"""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._format.control import control_payload
from mpcheckpoint._format.frame import (
    CLOSING_BYTES,
    MAX_LINE_BYTES,
    EndState,
    Line,
    Payload,
    closing,
    encode_batch,
    stored_crc_before,
)
from mpcheckpoint._format.salvage import last_line
from mpcheckpoint._storage.clock import clock
from mpcheckpoint._storage.faults import typed
from mpcheckpoint._storage.header import known_control, read_header
from mpcheckpoint._storage.judge import Broken, refuse_shortened, require_torn
from mpcheckpoint._storage.places import places
from mpcheckpoint._storage.repair import keep_bytes, write_whole
from mpcheckpoint._storage.replay import FIRST_READ_BYTES, replay
from mpcheckpoint.errors import CheckpointError, OutcomeUnknownError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpcheckpoint._storage.paths import LogPaths
    from mpcheckpoint._types import Position, Repair

_FIRST_LOOK_BACK_BYTES = 64 * 1024
_LARGEST_LOOK_BACK_BYTES = 2 * MAX_LINE_BYTES
_REWRITE_BYTES = 1024 * 1024


class Generation:
    """A generation of a log that this process appends to.

    Invariant: every byte below ``durable`` is on disk: it was covered by a sync that returned, in this
    process or in one that said so in a line this process validated. ``durable`` lies behind a whole batch.

    Invariant: ``end`` is behind a whole batch, and this process has validated every byte between ``durable`` at its
    first use and ``end``.
    """

    def __init__(self, paths: LogPaths) -> None:
        self._paths = paths
        self._descriptor = system.open_file(paths.log, write=True)
        self.header = read_header(self._descriptor.fd, paths.log, log_key=paths.log_key)
        status = system.stat_fd(self._descriptor.fd)
        self.identity = (status.st_dev, status.st_ino)
        self.end = self.header.end
        self.durable = self.header.end.offset
        self.is_poisoned = False
        self.syncs = 0
        # What there is to tell, once no lock is held: a handler of log messages is user code.
        self.notices: list[str] = []
        # What was known to be durable before the file was found changed.
        self._floor = 0
        self._is_used = False
        self._is_sealed = False
        # An RLock: a signal handler that appends may run in the thread that is syncing.
        self._sync_mutex = threading.RLock()

    @property
    def fd(self) -> int:
        """The open file's descriptor, for whoever holds this object."""
        return self._descriptor.fd

    @property
    def known_durable(self) -> int:
        """The offset below which this process knows the bytes to be durable, also while it begins anew."""
        return max(self.durable, self._floor)

    def close(self) -> None:
        """Close the file, in a forked child; elsewhere the last thread to let go of this object does."""
        self._descriptor.close()

    def establish_end(self) -> Repair | None:
        """Bring ``end`` up to date, repairing a torn end.

        Requires: the append lock.

        Raises:
            CorruptLogError: nothing was changed.
            OSError: nothing was cut.
        """
        if self._is_used:
            return self._catch_up()
        return self._first_use()

    # --- the end of the log ----------------------------------------------------------------------------------

    def _catch_up(self) -> Repair | None:
        fd = self._descriptor.fd
        data = system.read_at(fd, CLOSING_BYTES + FIRST_READ_BYTES, self.end.offset - CLOSING_BYTES)
        if data[:CLOSING_BYTES] != closing(self.end.stored_crc):
            return self._start_again()
        if len(data) == CLOSING_BYTES:
            return None
        for result in replay(fd, self.end, data[CLOSING_BYTES:]):
            self._take_note(result.lines)
            self.end = result.end
            if result.damage is not None:
                return self._repair(Broken(result.damage, result.broken_at, result.broken_crc))
        return None

    def _first_use(self) -> Repair | None:
        """Prove and make durable what this process finds before it appends for the first time.

        What reads well need not be on disk: its writer may have died before its sync, and pages that somebody's failed
        sync marked clean read well, sync "successfully", and are lost with the power. So every byte of which no valid
        line says that it is durable is validated, written once more in place, and synced. On ext4 a sync into
        preallocated space does not carry the log's name with it, so the directories come first.

        The cost is the unsynced part of the log, not its length.
        """
        fd = self._descriptor.fd
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
        self._is_used = True
        return repair

    def _start_again(self) -> Repair | None:
        """Establish the end from the header on: before it stand other bytes than this process validated.

        Somebody changed the file by hand. To append at the old end would leave a hole, or lines that nothing leads to.
        """
        header = read_header(self._descriptor.fd, self._paths.log, log_key=self._paths.log_key)
        self._is_used = False  # a first use that fails is to be done again, floor and all
        is_same = header.generation == self.header.generation  # of another one nothing is known
        self._floor = max(self._floor, self.durable) if is_same else 0
        self.header = header
        return self._first_use()

    def _trusted_start(self) -> EndState:
        """Return the end state at the offset that the last line states as durable."""
        fd, start = self._descriptor.fd, self.header.end
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
            data = system.read_at(self._descriptor.fd, size - start, start)
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
        self._sync(fd)

    def _repair(self, broken: Broken) -> Repair | None:
        """Cut a torn end off, and keep the bytes.

        Why this loses nothing: we hold the append lock, so no write is in progress; the bytes are judged
        torn, so no one was ever told that they are safe; and they are durable in quarantine before they leave the log.
        """
        fd, offset = self._descriptor.fd, broken.damage.offset
        require_torn(
            fd,
            broken,
            known_durable=max(self.durable, self._floor),
            path=self._paths.log,
            log_key=self._paths.log_key,
        )
        repair = keep_bytes(fd, self._paths, self.header.generation, offset)
        # Crash: before the truncation both copies exist, and the next writer repairs again; after it,
        # unsynced, the torn bytes may come back with the power, and the next writer repairs again.
        system.truncate(fd, offset)
        self._sync(fd)
        return repair

    def _take_note(self, lines: Sequence[Line]) -> None:
        for line in lines:
            self._is_sealed = False
            if line.object_key is None:
                self._is_sealed = known_control(line, self._paths.log) == "sealed"
        if lines:
            clock.observe(lines[-1].stamp_us)

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
        return self._write(payloads)

    def seal(self, successor: str) -> None:
        """Say at the end of this generation which one follows. Best effort: a full disk must not stop a switch."""
        self._write([control_payload("sealed", next=successor)])
        self._is_sealed = True

    def _write(self, payloads: list[Payload]) -> EndState:
        stamp_us = clock.next(self.end.stamp_us)
        data, end = encode_batch(
            payloads, end=self.end, stamp_us=stamp_us, durable=min(self.durable, self.end.offset)
        )
        try:
            write_whole(self._descriptor.fd, data, self.end.offset)
        except BaseException as error:
            self._settle_interrupted(data, end, error)
            if isinstance(error, OSError) and not isinstance(error, CheckpointError):
                raise typed(error, doing="appending to", path=self._paths.log) from error
            raise
        self.end = end
        return end

    def _settle_interrupted(self, data: bytes, end: EndState, error: BaseException) -> None:
        """Truncate back an incomplete write; leave a complete one, which others may have seen already.

        Rejected: quarantine for these bytes. They are our own, nobody was told of them, and on a full disk
        there would be no room to keep them. If the truncation fails too, the next writer finds a torn end
        and repairs it.
        """
        fd, offset = self._descriptor.fd, self.end.offset
        try:
            if system.read_at(fd, len(data), offset) == data:
                self.end = end
                error.add_note(
                    f"mpcheckpoint: the record was written; it ends at {end.offset} in {self._paths.log}"
                )
            else:
                system.truncate(fd, offset)
        except OSError as undo_error:
            self.notices.append(f"could not undo a partial write to {self._paths.log}: {undo_error}")

    # --- durability: the one place where bytes become durable -------------------------------------------------

    def cover(self, offset: int) -> None:
        """Return when every byte below ``offset`` is durable.

        Threads that arrive during a sync share the next one. Holds no lock that a reader, a fork or an
        append waits for.

        Requires: ``offset`` is an ``end`` that this process established.

        Raises:
            OSError: the sync failed; the generation is poisoned.
        """
        if self.durable >= offset and not self.is_poisoned:
            return
        with self._sync_mutex:
            if self.is_poisoned:
                raise OSError(errno.EIO, "an earlier sync of this log failed")
            if self.durable >= offset:
                return
            # Read before the sync begins: what is written later may not be covered by it.
            end = self.end.offset
            self._sync(self._descriptor.fd)
            if self.is_poisoned:  # a sync nested in this one failed, and took the error with it
                raise OSError(errno.EIO, "an earlier sync of this log failed")
            self.durable = max(self.durable, end)

    def _sync(self, fd: int) -> None:
        """A failed sync is final: Linux drops the dirty pages, reports it once, and a second sync would succeed."""
        try:
            system.sync_data(fd)
        except OSError:
            self.is_poisoned = True
            raise
        self.syncs += 1


def outcome_unknown(paths: LogPaths, cause: str, position: Position | None) -> OutcomeUnknownError:
    """Return the error for a record that was written and could not be made durable."""
    return OutcomeUnknownError(
        f"the record was written to {paths.log}, but it is not known whether it is durable: {cause}. "
        "Append it again with the same record_id once the log is recovered (Log.recover()).",
        position=position,
        path=paths.log,
        reason=cause,
    )
