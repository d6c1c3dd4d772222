"""Put another generation of a log in the place of the present one.

Used by recovery after a failed sync: what reads well in the poisoned file need not be on disk, and a second sync of it
would succeed without writing. A copy is new bytes. A compaction, whose copy leaves records out, ends in the same way.

Order, and what is on disk if we die:
1. store lock and append lock, held from before the last line is copied: nobody writes, nobody else switches.
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
from mpcheckpoint._format.columns import Lines
from mpcheckpoint._format.control import (
    CONTROLS_OF_A_GENERATION,
    COPIED,
    Header,
    control_payload,
    encode_header,
)
from mpcheckpoint._format.frame import (
    MAX_BATCH_BYTES,
    MAX_LINE_BYTES,
    Payload,
    batch_bytes_bound,
    encode_batch,
)
from mpcheckpoint._format.recode import DROP, KEEP, LEFT, recoded
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._logfile.faults import NOT_CHANGED, translated
from mpcheckpoint._logfile.file_bytes import write_whole
from mpcheckpoint._logfile.header import known_control
from mpcheckpoint._logfile.ownership import create_log_like, create_successor, temporary_name
from mpcheckpoint._logfile.page import vouched_durable
from mpcheckpoint._logfile.quarantine import keep_bytes
from mpcheckpoint._logfile.replay import replay
from mpcheckpoint._logfile.torn_or_corrupt import Broken, refuse_shortened, require_torn
from mpcheckpoint.errors import CheckpointError, LimitExceededError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mpcheckpoint._format.columns import Column
    from mpcheckpoint._format.frame import Line
    from mpcheckpoint._format.scan import Scan
    from mpcheckpoint._logfile.opened import OpenLog
    from mpcheckpoint._logfile.paths import LogPaths

_FLUSH_BYTES = 1024 * 1024
_LEADING_LINES_A_BATCH = 100
_LEADING_BYTES_A_BATCH = 64 * 1024 * 1024


def switch_generation(paths: LogPaths, old: OpenLog) -> None:
    """Copy the log into a new generation, make that durable, and put it in the old one's place.

    Requires: the store lock, and the append lock with ``old`` as the current generation.

    Raises:
        CorruptLogError, FormatVersionError: the log holds what cannot be copied. Nothing was changed.
        StoreAccessError: somebody who may write the log could not write the copy. Nothing was changed.
        WriteFailedError: the copy could not be written. Nothing was changed.
    """
    temporary = temporary_name(paths.log)
    with translated("copying", paths.log, left=NOT_CHANGED):
        try:
            copy = GenerationCopy(paths, temporary, old.end.header)
            _take(copy, paths, old)
            put_in_place(copy, paths, old)
        except BaseException:
            system.remove(temporary)
            raise
    with translated("making the new generation durable in", paths.directory):
        system.sync_directory(paths.directory)


def put_in_place(copy: GenerationCopy, paths: LogPaths, old: OpenLog) -> None:
    """Make a whole copy durable and give it the log's name. The directory is still to be synced.

    Requires: as ``switch_generation``; and ``copy.finish`` was called under these locks.
    """
    system.sync_data(copy.fd)
    old.require_lock()  # else others have appended to what was copied, and had it acknowledged
    try:
        old.seal(copy.generation, copy.seal_us)
    except CheckpointError as error:
        old.file.notices.append(f"could not seal the old generation of log {paths.log_key!r}: {error}")
    system.replace(copy.path, paths.log)


def _take(copy: GenerationCopy, paths: LogPaths, old: OpenLog) -> None:
    """Copy the records of ``old``, and move ``old.end`` to where they end."""
    for result in replay(old.file.fd, old.end.header.end):
        copy.add(old.file.fd, result.lines)
        old.end.move_to(result.end)
        if result.damage is not None:
            _keep_torn_end(paths, old, result)
    refuse_shortened(old.file.fd, old.state.end.offset, paths, known_durable=old.end.known_durable)
    copy.finish(covers_us=old.state.end.stamp_us)


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

    Attributes:
        generation: its name.
        path: the temporary name.
        descriptor, fd: the open file.
        end: where the copy ends.
        records: how many were copied.
        seal_us: the stamp for the seal of the old generation. ``finish`` draws it.
    """

    def __init__(
        self,
        paths: LogPaths,
        temporary: str,
        old: Header,
        leading: Sequence[Payload] = (),
        *,
        users_of: str | None = None,
        file: system.Descriptor | None = None,
    ) -> None:
        """Begin a copy of the generation ``old``, for the users of the log.

        Args:
            leading: control lines that are to stand after the header, before all that is copied.
            users_of: for the users of this log of another directory instead: nobody has the log yet.
            file: what was made under the temporary name, if something was.
        """
        self.generation = uuid.uuid4().hex
        self.path = temporary
        self._paths = paths
        self._old = old
        batches = _in_batches(leading)
        # All that is copied is younger than the old header; what is led in takes stamps below that.
        stamp_us = old.end.stamp_us - len(batches)
        line, self.end = encode_header(
            paths.log_key,
            self.generation,
            # By it the newer of two generations is told, also where the clock was set back.
            max(clock.next(old.end.stamp_us), old.created_us + 1),
            stamp_us=stamp_us,
            previous=(*old.previous, old.generation),
            lineage=old.lineage or uuid.uuid4().hex,  # a log from before there were any gets one now
            restored=old.restored,
        )
        # Crash: whose it is to be is settled before the log has it.
        self.descriptor = file or (
            create_successor(temporary, paths.log)
            if users_of is None
            else create_log_like(temporary, paths.directory, users_of)
        )
        self.fd = self.descriptor.fd
        self._buffer = bytearray(line)
        self._written = self.records = self.seal_us = 0
        for batch in batches:
            self._batch(batch, self.end.stamp_us + 1)

    def add(
        self,
        fd: int,
        lines: Sequence[Line],
        fates: bytes | bytearray | None = None,
        payloads: Mapping[int, Payload] | None = None,
        read: tuple[bytes, int] | None = None,
    ) -> None:
        """Copy whole batches, but for what the old generation says of itself.

        Args:
            fd: the file that the lines were read from.
            fates, payloads: what becomes of each; see ``recoded``. None: all are copied.
            read: the bytes that the lines are in, and their offset, if the caller has them.
        """
        lines = Lines.of(lines)
        if not lines:
            return
        if fates is None:
            fates = self._carried(lines)
        data, base = read or (system.read_at(fd, lines.stop - lines.start, lines.start), lines.start)
        made, self.end = recoded(data, base, lines, fates, self.end, payloads)
        if len(made) > MAX_BATCH_BYTES:
            _require_readable(made, lines.mores, fates)
        self._buffer += made
        controls = sum(fates[index] not in (DROP, LEFT) for index, _ in lines.controls())
        self.records += len(fates) - fates.count(DROP) - fates.count(LEFT) - controls
        if len(self._buffer) > _FLUSH_BYTES:
            self.flush()

    def add_anew(self, lines: Lines) -> None:
        """Write what whole batches say, with their stamps, wherever they were read.

        Requires: none of the lines says anything of a generation.
        """
        keys: dict[str | None, bytes] = {None: b"null"}
        batch: list[Payload] = []
        for line in lines:
            object_key = keys.get(line.object_key)
            if object_key is None:
                assert line.object_key is not None
                object_key = keys[line.object_key] = encode_key(line.object_key)
            batch.append(Payload(object_key, line.event, line.meta))
            self.records += line.object_key is not None
            if not line.more:
                before = self.end.offset
                self._batch(batch, line.stamp_us)
                batch = []
                if self.end.offset - before > MAX_BATCH_BYTES:
                    raise LimitExceededError(
                        f"a batch would take more than the {MAX_BATCH_BYTES} bytes that one holds at most here. "
                        "Nothing was changed",
                        reason="batch too large",
                    )
        assert not batch
        if len(self._buffer) > _FLUSH_BYTES:
            self.flush()

    def finish(self, *notes: Payload, covers_us: int) -> None:
        """End the copied part, with ``notes`` before the line that says so. Not synced yet.

        Args:
            covers_us: the stamp of the last line of the old generation: all up to that was copied, or left out on
                purpose.
        """
        # Drawn before the stamps of what follows here.
        self.seal_us = clock.next(max(self.end.stamp_us, covers_us))
        copied = control_payload(
            COPIED, **{"from": self._old.generation}, records=self.records, covers_us=covers_us
        )
        for payload in (*notes, copied):
            self._batch([payload], clock.next(self.seal_us))
        self.flush()

    def flush(self) -> None:
        """Write what was copied so far. Not synced yet."""
        write_whole(self.fd, bytes(self._buffer), self._written)
        self._written += len(self._buffer)
        self._buffer.clear()

    def _carried(self, lines: Lines) -> bytearray:
        """Return what becomes of lines where nothing is to be left out."""
        fates = bytearray([KEEP]) * len(lines)
        for index, line in lines.controls():
            # Requires of a writer that such a line is a batch of its own. Left out of a larger one, it would leave a
            # hole in the count of the lines to come, and with that cut off all that follows.
            is_alone = not line.more and (not index or not lines.mores[index - 1])
            if is_alone and known_control(line, self._paths.log) in CONTROLS_OF_A_GENERATION:
                fates[index] = DROP
        return fates

    def _batch(self, payloads: list[Payload], stamp_us: int) -> None:
        data, self.end = encode_batch(payloads, end=self.end, stamp_us=stamp_us, durable=self.end.offset)
        self._buffer += data


def _in_batches(payloads: Sequence[Payload]) -> list[list[Payload]]:
    """Return lines in batches that are not too long.

    Raises:
        LimitExceededError: a line is too long: there is an object key of that length, which other programs wrote.
    """
    batches: list[list[Payload]] = []
    length = 0
    for payload in payloads:
        line_bytes = batch_bytes_bound([payload])
        if line_bytes > MAX_LINE_BYTES:
            raise LimitExceededError(
                f"an object key is too long: what was dropped of it takes {line_bytes} bytes; a line holds at most "
                f"{MAX_LINE_BYTES}. Nothing was changed",
                reason="object key too long",
            )
        length += line_bytes
        if not batches or len(batches[-1]) == _LEADING_LINES_A_BATCH or length > _LEADING_BYTES_A_BATCH:
            batches.append([])
            length = line_bytes
        batches[-1].append(payload)
    return batches


def _require_readable(made: bytes, mores: Column, fates: bytes | bytearray) -> None:
    """Return if no batch became so long that no reader takes it: what holds a place, or was folded, may be longer than
    what was there.

    Raises:
        LimitExceededError: one did.
    """
    length, start = 0, 0
    for more, fate in zip(mores, fates, strict=True):
        if fate:
            stop = made.index(b"\n", start) + 1
            length, start = length + stop - start, stop
        if length > MAX_BATCH_BYTES:
            raise LimitExceededError(
                f"a batch would become longer than the {MAX_BATCH_BYTES} bytes that one holds at most, by what holds "
                "the places of dropped records, or by what others were folded into. Nothing was changed",
                reason="batch too large",
            )
        if not more:
            length = 0
