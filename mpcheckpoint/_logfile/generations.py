"""Put another generation of a log in the place of the present one, with the same records.

Used by recovery after a failed sync: what reads well in the poisoned file need not be on disk, and a second sync of it
would succeed without writing. A copy is new bytes.

Order, and what is on disk if we die:
1. store lock and append lock, held throughout: nobody writes, nobody else switches.
2. the copy, under a temporary name, synced.       Crash: a stale temporary file; the next creator removes it.
3. ``sealed`` at the end of the old generation.     Crash: the seal is void; the next writer appends ``unsealed``.
4. rename over the old one, directory synced.       Crash: one or the other, each whole.
5. poison removed, directory synced.                Crash: a poison that names the old generation is void.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._format.codec import encode_key
from mpcheckpoint._format.control import CONTROLS_OF_A_GENERATION, Header, control_payload, encode_header
from mpcheckpoint._format.frame import EndState, Line, Payload, encode_line, running_crc
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._logfile.faults import translated
from mpcheckpoint._logfile.file_bytes import write_whole
from mpcheckpoint._logfile.header import known_control
from mpcheckpoint._logfile.ownership import create_successor, temporary_name
from mpcheckpoint._logfile.page import vouched_durable
from mpcheckpoint._logfile.quarantine import keep_bytes
from mpcheckpoint._logfile.replay import replay
from mpcheckpoint._logfile.torn_or_corrupt import Broken, refuse_shortened, require_torn
from mpcheckpoint.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpcheckpoint._format.scan import Scan
    from mpcheckpoint._logfile.opened import OpenLog
    from mpcheckpoint._logfile.paths import LogPaths

_FLUSH_BYTES = 1024 * 1024


def switch_generation(paths: LogPaths, old: OpenLog) -> None:
    """Copy the log into a new generation, make that durable, and put it in the old one's place.

    Requires: the store lock, and the append lock with ``old`` as the current generation.

    Raises:
        CorruptLogError, FormatVersionError: the log holds what cannot be copied. Nothing was changed.
        StoreAccessError: somebody who may write the log could not write the copy. Nothing was changed.
        WriteFailedError: the copy could not be written. Nothing was changed.
    """
    temporary = temporary_name(paths.log)
    with translated("copying", paths.log):
        try:
            copy = GenerationCopy(paths, temporary, old.end.header)
            _take(copy, paths, old)
            system.sync_data(copy.fd)
            old.require_lock()  # else others have appended to what was copied, and had it acknowledged
            try:
                old.seal(copy.generation)
            except CheckpointError as error:
                old.file.notices.append(
                    f"could not seal the old generation of log {paths.log_key!r}: {error}"
                )
            system.replace(temporary, paths.log)
        except BaseException:
            system.remove(temporary)
            raise
    with translated("making the new generation durable in", paths.directory):
        system.sync_directory(paths.directory)


def _take(copy: GenerationCopy, paths: LogPaths, old: OpenLog) -> None:
    """Copy the records of ``old``, and move ``old.end`` to where they end."""
    for result in replay(old.file.fd, old.end.header.end):
        copy.add(result.lines)
        old.end.move_to(result.end)
        if result.damage is not None:
            _keep_torn_end(paths, old, result)
    refuse_shortened(old.file.fd, old.state.end.offset, paths, known_durable=old.end.known_durable)
    copy.finish()


def _keep_torn_end(paths: LogPaths, old: OpenLog, result: Scan) -> None:
    assert result.damage is not None
    broken = Broken(result.damage, result.broken_at, result.broken_crc)
    known = max(old.end.known_durable, vouched_durable(paths.page, old.end.header.generation, old.file.fd))
    require_torn(old.file.fd, broken, paths, known_durable=known)
    repair = keep_bytes(old.file.fd, paths, old.end.header.generation, result.damage.offset)
    if repair is not None:
        old.file.notices.append(
            f"kept {repair.length_bytes} torn byte{'' if repair.length_bytes == 1 else 's'} of log "
            f"{repair.log_key!r} in {repair.path}"
        )


class GenerationCopy:
    """A new generation under a temporary name.

    Every line states its batch's own offset as durable: the whole file is synced before it gets the log's name, like a
    header is, so damage in it is never a torn end.
    """

    def __init__(self, paths: LogPaths, temporary: str, old: Header) -> None:
        self.generation = uuid.uuid4().hex
        self._paths = paths
        self._old = old
        line, self._end = encode_header(
            paths.log_key,
            self.generation,
            clock.next(old.end.stamp_us),
            stamp_us=old.end.stamp_us,
            previous=(*old.previous, old.generation),
        )
        # Crash: whose it is to be is settled before the log has it.
        self._descriptor = create_successor(temporary, paths.log)
        self.fd = self._descriptor.fd
        self._buffer = bytearray(line)
        self._written = self._records = 0

    def add(self, lines: Sequence[Line]) -> None:
        """Copy whole batches, but for what the old generation says of itself."""
        batch_offset = self._end.offset
        is_in_batch = False
        for line in lines:
            # Requires of a writer that such a line is a batch of its own. Left out of a larger one, it would leave a
            # hole in the count of the lines to come, and with that cut off all that follows.
            is_in_batch = is_in_batch or line.more > 0
            if self._is_carried(line) or is_in_batch:
                object_key = b"null" if line.object_key is None else encode_key(line.object_key)
                payload = Payload(object_key, line.event, line.meta)
                self._line(payload, stamp_us=line.stamp_us, durable=batch_offset, more=line.more)
            self._records += line.object_key is not None
            if line.more == 0:
                is_in_batch = False
                batch_offset = self._end.offset
                if len(self._buffer) > _FLUSH_BYTES:
                    self._flush()

    def finish(self, *notes: Payload) -> None:
        """End the copied part, with ``notes`` before the line that says so. Not synced yet."""
        copied = control_payload("copied", **{"from": self._old.generation}, records=self._records)
        for payload in (*notes, copied):
            self._line(payload, stamp_us=clock.next(self._end.stamp_us), durable=self._end.offset, more=0)
        self._flush()

    def _is_carried(self, line: Line) -> bool:
        if line.object_key is not None:
            return True
        return known_control(line, self._paths.log) not in CONTROLS_OF_A_GENERATION

    def _line(self, payload: Payload, *, stamp_us: int, durable: int, more: int) -> None:
        crc = running_crc(self._end.stored_crc)
        line, stored_crc = encode_line(payload, stamp_us=stamp_us, durable=durable, more=more, crc=crc)
        self._buffer += line
        self._end = EndState(self._end.offset + len(line), stored_crc, stamp_us)

    def _flush(self) -> None:
        write_whole(self.fd, bytes(self._buffer), self._written)
        self._written += len(self._buffer)
        self._buffer.clear()
