"""Read one log: what is new since the last poll, without a lock, and without ever writing.

What a poll costs where nothing is new: one statx of the path and, if the file is open, one read of the bytes around the
log's end. Never a stat that returns times: since Linux 6.13 that makes the next append cost a third more (see
``_system.statx``).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._format.columns import Lines
from mpcheckpoint._format.control import COPIED, FORGET, Copied, copied_of
from mpcheckpoint._format.frame import CLOSING_BYTES, PADDING, EndState, closing
from mpcheckpoint._format.resync import last_line
from mpcheckpoint._format.scan import Stop, batches_before
from mpcheckpoint._logfile.chunk import Told
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._logfile.descriptors import pool
from mpcheckpoint._logfile.faults import translated
from mpcheckpoint._logfile.header import after_what_was_restored, known_control, read_header, require_position
from mpcheckpoint._logfile.judged import Seen
from mpcheckpoint._logfile.near_end import Rest, batch_near_end, length_and_crc, look_at_rest
from mpcheckpoint._logfile.new_lines import written_after
from mpcheckpoint._logfile.replay import FIRST_READ_BYTES, replay
from mpcheckpoint._logfile.torn_or_corrupt import refuse_shortened
from mpcheckpoint._logfile.vouched import vouched_for
from mpcheckpoint._system.statx import has_grown
from mpcheckpoint._types import Position
from mpcheckpoint.errors import CorruptLogError, FormatVersionError, LogNotFoundError, WrongLogError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mpcheckpoint._format.control import Header
    from mpcheckpoint._format.scan import Scan
    from mpcheckpoint._logfile.chunk import Chunk
    from mpcheckpoint._logfile.paths import LogPaths

_LOOK_BACK_BYTES = 64 * 1024
_REOPEN_LIMIT = 100
# The closing of the last line, and the first byte after it.
_END_BYTES = CLOSING_BYTES + len(PADDING)


class LogReader:
    """Read one log incrementally. See ``Reader`` in ``_store.protocol``.

    Invariant: nothing after ``_end`` is kept from poll to poll. It may be a write in progress, or be cut off by a
    repair, so each poll reads it anew.

    Concurrency: for one thread at a time.
    """

    def __init__(
        self,
        paths: LogPaths,
        known_durable: Callable[[str], int] = lambda generation: 0,
        *,
        resumes: bool = False,
    ) -> None:
        """Read the log at ``paths`` from its start.

        Args:
            known_durable: returns how many bytes of a generation this process knows to be durable.
            resumes: when another generation replaces the log, go on after what was read; else load it anew and say so
                (``Chunk.is_reset``).
        """
        self._paths = paths
        self._resumes = resumes
        self._known_durable = known_durable
        self._descriptor: system.Descriptor | None = None
        self._header: Header | None = None
        self._end = EndState(0, 0, 0)
        self._durable = 0
        self._skip = (-1, 0)
        self._is_reset = False
        # What follows the end, if a poll judged it to be torn or in progress: offset, length and CRC.
        self._judged_torn: tuple[int, int, int] | None = None
        # The end, and the size of the file, when all after that end was padding.
        self._padded = (-1, 0)
        # What was at the path when the latest poll began that read on, and when one began that came to the end of the
        # file; what stood around the end then; and whether the mark alone tells that nothing is new.
        self._latest_mark: tuple[object, ...] | None = None
        self._mark: tuple[object, ...] | None = None
        self._around_end, self._around_end_at = b"", 0
        self._is_told_by_mark = False
        # What the line says that ends what was copied into this generation, once it was read.
        self.copied: Copied | None = None
        # A file that was replaced, until the next poll: to close it may free it, and we may be under an append lock.
        self._replaced: system.Descriptor | None = None
        # How many chunks were given out. Counted before anything moves on: a caller that was interrupted and took fewer
        # chunks must take a new reader.
        self.given = 0

    # --- poll -------------------------------------------------------------------------------------------------

    def poll(self) -> Iterable[Chunk]:
        """Return what was appended since the last poll; the first poll returns the whole log.

        Raises:
            CorruptLogError, FormatVersionError, WrongLogError, LogNotFoundError: what was read before stays valid.
        """
        # Why nothing is missed: valid lines are never cut off, so an append makes the file longer or overwrites
        # padding, and a new generation is another file, by its inode or its time of birth. The closing of the last line
        # tells of a log that was overwritten by hand.
        mark = self._replaced = None
        try:
            mark = system.path_mark(self._paths.log)
            if mark == self._mark:
                descriptor = self._descriptor
                if descriptor is None:
                    if self._is_told_by_mark:
                        return ()
                elif system.read_once(descriptor.fd, _END_BYTES, self._around_end_at) == self._around_end:
                    return ()
                else:
                    return self._read_new(descriptor, mark)
            elif self._mark and self._descriptor and has_grown(self._mark, mark):
                return self._read_new(self._descriptor, mark)
        except OSError:
            pass  # reading on meets the same, and says what it means
        self._latest_mark = mark
        return self._read_on()

    def _read_new(self, descriptor: system.Descriptor, mark: tuple[object, ...]) -> Iterator[Chunk]:
        """Yield what is new in the file of the last poll, which is no shorter; in one step if all of it is usual."""
        before, header, found, known = self._end, self._header, None, 0
        padded_to = self._padded[1] if mark == self._mark and self._padded[0] == before.offset else 0
        if header is not None and not self._is_reset and self._skip[0] <= before.stamp_us:
            known = self._known_durable(header.generation)
            found = written_after(descriptor.fd, before, padded_to)
        self._latest_mark = mark
        if found is None or header is None or found.end.offset < known:
            yield from self._read_on()
            return
        self.given += 1
        self._end, self._durable = found.end, max(self._durable, found.durable)
        self._judged_torn, self._padded = None, (found.end.offset if found.padded_to else -1, found.padded_to)
        self._around_end, self._around_end_at = found.around_end()
        self._mark, self._is_told_by_mark = mark, False
        clock.observe(found.end.stamp_us)
        pool.touch(self)
        yield found.chunk(header, self._durable, self._begun_us())

    def _read_on(self) -> Iterator[Chunk]:
        with translated("reading", self._paths.log, is_read=True):
            for _ in range(_REOPEN_LIMIT):
                descriptor, status = self._current()
                try:
                    yield from self._read_file(descriptor, status)
                except (OSError, CorruptLogError, FormatVersionError, WrongLogError):
                    if descriptor.is_intact():
                        raise
                    self.release()  # somebody closed it, and we read another file: nothing is wrong with ours
                else:
                    return
            raise OSError(errno.EBADF, "the open file of the log is closed by somebody again and again")

    def _read_file(self, descriptor: system.Descriptor, status: system.FileStatus) -> Iterator[Chunk]:
        """Yield what is new in an open file. ``status`` is of the path, from before."""
        assert self._header is not None
        fd, generation = descriptor.fd, self._header.generation
        # Asked before the bytes are read: another thread may append and sync in between.
        known = self._known_durable(generation)
        # What was called durable before this poll began: a write in progress cannot be below it.
        vouched = known
        while True:
            # Read before the bytes: a write may end in between, and must not be remembered as torn.
            rest = None
            if self._judged_torn is not None and self._judged_torn[0] == self._end.offset:
                rest = (self._end.offset, *length_and_crc(fd, self._end.offset))
            data = self._bytes_after_end(descriptor)
            if self._header.generation != generation:  # in the same file: what is known is of the one before
                yield from self._read_on()
                return
            if not self._is_reset and self._end.offset >= known:
                if not data:
                    self._remember(descriptor, status, is_padded=False)
                    return
                if rest is not None and rest == self._judged_torn:
                    return
            # Appends overwrite padding from its first byte on: what is left of it is padding still.
            padded_from, padded_to = self._padded
            padded_to = padded_to if 0 <= padded_from <= self._end.offset else 0
            for scan in replay(fd, self._end, data, padded_to=padded_to):
                yield from self._admitted(scan, generation)
                if self._end.offset > status.size_bytes and scan.damage is None:
                    return  # all that was there at the start was given: writers may be faster than we are
            if scan.damage is None:
                refuse_shortened(fd, self._end.offset, self._paths, known_durable=known)
                self._remember(descriptor, status, is_padded=scan.stop is Stop.PADDING)
                return
            descriptor.require_intact()
            vouched = vouched_for(fd, scan, vouched, self._paths, generation)
            if vouched <= scan.damage.offset:
                # The first time only the place is remembered: the next poll scans the bytes, too.
                is_same = rest is not None and rest[0] == scan.damage.offset
                self._judged_torn = rest if is_same else (scan.damage.offset, 0, 0)
                return

    def _bytes_after_end(self, descriptor: system.Descriptor) -> bytes:
        """Return the first bytes after the end; of the header, if somebody overwrote what was before the end."""
        fd, offset = descriptor.fd, self._end.offset
        data = system.read_at(fd, CLOSING_BYTES + FIRST_READ_BYTES, offset - CLOSING_BYTES)
        if data[:CLOSING_BYTES] != closing(self._end.stored_crc):
            descriptor.require_intact()
            self._restart(read_header(fd, self._paths.log, log_key=self._paths.log_key))
            return system.read_at(fd, FIRST_READ_BYTES, self._end.offset)
        return data[CLOSING_BYTES:]

    def _remember(self, descriptor: system.Descriptor, status: system.FileStatus, *, is_padded: bool) -> None:
        """Remember by what the next polls know that nothing is new.

        Requires: ``status`` was taken before the bytes were read, and after the end there is nothing, or padding.
        """
        if status.identity != descriptor.identity:
            return  # replaced meanwhile
        self._mark, end = self._latest_mark, self._end
        self._around_end = closing(end.stored_crc) + (PADDING if is_padded else b"")
        self._around_end_at = end.offset - CLOSING_BYTES
        # Without a time of birth a new generation with the inode number of a removed one would look the same.
        self._is_told_by_mark = status.born_ns > 0 and not is_padded and status.size_bytes == end.offset
        if is_padded:
            self._padded = end.offset, status.size_bytes

    def _admitted(self, scan: Scan, generation: str) -> Iterator[Chunk]:
        """Move on to the end of a scan; yield what it found, if that is anything."""
        if not scan.lines and not self._is_reset:
            return
        lines, told, known = Lines.of(scan.lines), Told(), self.copied
        for before, (index, line) in enumerate(lines.controls()):
            try:
                control = known_control(line, self._paths.log)
            except FormatVersionError as refusal:
                # The batches before it are given out first: where a read happened to end must not decide about them.
                yield from self._admitted(batches_before(scan, index, self._end), generation)
                raise refusal
            if control == COPIED:
                self.copied = copied_of(line)
            # Where it goes on in another generation, it was told of earlier ones.
            elif control != FORGET or line.stamp_us > self._skip[0]:
                told.take(control, line, index - before)
        self._durable = max(self._durable, max(lines.durables, default=0))
        records, passed = lines.records(), 0
        # Stamps rise, so what is to be skipped comes first.
        while passed < len(records) and (records.stamps_us[passed], -records.mores[passed]) <= self._skip:
            passed += 1
        if passed:
            records = records[passed:]
        is_reset = self._is_reset
        is_new = bool(records or told.notes or told.forgets or is_reset or self.copied is not known)
        self.given += is_new
        self._end = scan.end
        self._is_reset = False
        clock.observe(scan.end.stamp_us)
        if is_new:
            assert self._header is not None
            begun_us, lineage = self._begun_us(), self._header.lineage
            yield told.chunk(
                records, generation, lineage, self._durable, passed, is_reset=is_reset, begun_us=begun_us
            )

    def _begun_us(self) -> int:
        return 0 if self.copied is None else self.copied.stamp_us

    # --- where to begin ---------------------------------------------------------------------------------------

    def seek(self, position: Position) -> None:
        """Go on after ``position``, in whichever generation the log is now.

        Raises:
            InvalidPositionError: it is no position of this log.
        """
        with translated("reading", self._paths.log, is_read=True):
            descriptor, _ = self._current(is_believed=True)
            header = self._header
            assert header is not None
            require_position(position, header, self._paths)
            self._skip = (position.stamp_us, -position.more)
            self._end = header.end
            if position.generation != header.generation or position.offset <= header.end.offset:
                return
            # Invariant: stamps rise along a log. If the bytes at the offset do not fit (a power cut took records that
            # were visible, not durable), reading from the start and skipping by stamp gives the same answer. Another
            # line can end at the same offset by chance, so the one that ends there must not be younger.
            start = max(header.end.offset - CLOSING_BYTES, position.offset - _LOOK_BACK_BYTES)
            line = last_line(system.read_at(descriptor.fd, position.offset - start, start), base=start)
            if line is None or line.more or line.end != position.offset or line.stamp_us > position.stamp_us:
                return
            self._end = EndState(line.end, line.stored_crc, line.stamp_us)

    def begin_near_end(self, length_bytes: int) -> int | None:
        """Have the first ``poll`` begin at a batch about so many bytes before the end of the log, or at an earlier one.

        Returns:
            The stamp of the batch before it, or None if reading begins at the start.
        """
        with translated("reading", self._paths.log, is_read=True):
            descriptor, status = self._current(is_believed=True)
            assert self._header is not None
            self._end = self._header.end
            line = batch_near_end(descriptor.fd, self._end.offset, status.size_bytes, length_bytes)
            if line is None:
                return None
            self._end = EndState(line.end, line.stored_crc, line.stamp_us)
            self._durable = max(self._durable, line.durable)
            return line.stamp_us

    def position(self) -> Position:
        header, end = self._header, self._end
        assert header is not None
        return Position(
            self._paths.log_key, header.generation, end.offset, end.stamp_us, lineage=header.lineage
        )

    def holds(self, position: Position) -> bool:
        """Return whether no restore took out what stood there. Requires: as ``position``."""
        return self._header is not None and self._header.holds(position.generation, position.stamp_us)

    def seen(self) -> Seen | None:
        """Return what was read so far, if that is a log from its start; None before the first ``poll``."""
        return None if self._header is None else Seen(self._header.generation, self._end)

    def rest(self) -> Rest | None:
        offset = self._end.offset
        if self._judged_torn is None or self._judged_torn[0] != offset:
            return None
        with translated("reading", self._paths.log, is_read=True):
            descriptor, _ = self._current(is_believed=True)
            rest = look_at_rest(descriptor.fd, offset, self._paths.lock)
            if rest is not None and (self._current()[0] is not descriptor or self._end.offset != offset):
                return rest._replace(is_torn=False)  # replaced meanwhile
            return rest

    # --- the open file ----------------------------------------------------------------------------------------

    def release(self) -> None:
        """Close the file; the next poll opens it again and goes on where this one ended."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            descriptor.close()

    def forget_descriptor(self) -> None:
        """Let the file be closed as soon as nobody is reading from it."""
        self._descriptor = None

    def _current(self, *, is_believed: bool = False) -> tuple[system.Descriptor, system.FileStatus]:
        """Return the open file of the log that is at the path now, and the status of the path.

        The caller keeps the Descriptor, not its number: the pool may make this reader forget it. ``is_believed``: the
        caller believes what it reads, so make sure that nobody has closed the file.
        """
        if is_believed and self._descriptor is not None and not self._descriptor.is_intact():
            self.release()
        try:
            status = system.path_status(self._paths.log)
        except FileNotFoundError:
            raise LogNotFoundError(
                f"there is no log {self._paths.log_key!r} at {self._paths.log}",
                path=self._paths.log,
                reason="no such log",
            ) from None
        descriptor = self._descriptor
        if descriptor is None or descriptor.identity != status.identity:
            self._replaced, descriptor = descriptor, system.open_file(self._paths.log)
            header = read_header(descriptor.fd, self._paths.log, log_key=self._paths.log_key)
            # A generation is known by its name: a new file can have the inode number of a deleted one.
            if self._header is None or self._header.generation != header.generation:
                self._restart(header)
            # Last: after a Ctrl-C in there the next poll does all of it again.
            self._descriptor = descriptor
        pool.touch(self)
        return descriptor, status

    def _restart(self, header: Header) -> None:
        if self._header is not None and self._resumes:
            self._skip = max(self._skip, (self._end.stamp_us, 0))
            if not header.holds(self._header.generation, self._skip[0]):
                raise after_what_was_restored(self.position(), self._paths)
        elif self._header is not None:
            self._is_reset = True
        end = header.end
        # From here on nothing is called, so that no Ctrl-C comes between.
        self._header, self._end, self._durable = header, end, end.offset
        self._judged_torn = self._mark = self.copied = None
        self._padded = (-1, 0)
        clock.observe(end.stamp_us)
