"""One log, read: news since the last look, without locks and without ever writing."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint import _system as system
from mpcheckpoint._format.columns import Lines
from mpcheckpoint._format.control import CONTROLS_OF_A_GENERATION, Note, note_of
from mpcheckpoint._format.frame import CLOSING_BYTES, PADDING, EndState, closing
from mpcheckpoint._format.resync import last_line
from mpcheckpoint._format.scan import Stop
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._logfile.descriptors import pool
from mpcheckpoint._logfile.faults import translated
from mpcheckpoint._logfile.header import known_control, read_header
from mpcheckpoint._logfile.near_end import Rest, batch_near_end, length_and_crc, look_at_rest
from mpcheckpoint._logfile.page import vouched_durable
from mpcheckpoint._logfile.replay import FIRST_READ_BYTES, replay
from mpcheckpoint._logfile.torn_or_corrupt import Broken, refuse_shortened, require_torn, vouched_offset
from mpcheckpoint._types import Position
from mpcheckpoint.errors import (
    CorruptLogError,
    FormatVersionError,
    InvalidPositionError,
    LogNotFoundError,
    WrongLogError,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    from mpcheckpoint._format.control import Header
    from mpcheckpoint._format.frame import Line
    from mpcheckpoint._format.scan import Scan
    from mpcheckpoint._logfile.paths import LogPaths

_LOOK_BACK_BYTES = 64 * 1024
_TIME_STEP_NS = 50_000_000
_REOPEN_LIMIT = 100
_NOTHING: Iterator[Chunk] = iter(())


class Chunk(NamedTuple):
    """Records that are new to a reader, in file order.

    Attributes:
        lines: the records, whole batches.
        notes: what control lines among them say that other readers may ignore.
        generation: the generation they stand in.
        durable: the highest offset that they, or lines before them, state as durable.
        is_reset: whether the log was loaded anew, so that what was read before is void.
        begun_us: when the generation began: what is older was copied into it.
    """

    lines: Sequence[Line]
    notes: list[Note]
    generation: str
    durable: int
    is_reset: bool
    begun_us: int = 0


class LogReader:
    """Read one log incrementally.

    Invariant: nothing behind ``_end`` is kept between looks. What stands there may be a write in progress, may be cut
    off by a repair, and is looked at afresh each time.

    Concurrency: for one thread at a time; the caller sees to it.
    """

    def __init__(
        self, paths: LogPaths, known_durable: Callable[[str], int] | None = None, *, resumes: bool = False
    ) -> None:
        """Read the log at ``paths`` from its start.

        Args:
            known_durable: what this process knows to be durable of a generation, in bytes.
            resumes: when the log is replaced by another generation, go on behind what was read already; else load it
                anew and say so (``Chunk.is_reset``).
        """
        self._paths = paths
        self._resumes = resumes
        self._known_durable = known_durable
        self._descriptor: system.Descriptor | None = None
        self._identity = (0, 0)
        self._header: Header | None = None
        self._end = EndState(0, 0, 0)
        self._durable = 0
        self._skip = (-1, 0)
        self._is_reset = False
        self._judged_torn = (-2, 0, 0)
        # The end, and the size of the file when all behind that end was seen to be padding.
        self._padded = (-1, 0)
        self._untouched: tuple[int, int, int, int] | None = None
        # How many chunks were given out. Counted up before anything moves on: whoever has taken fewer was interrupted.
        self.given = 0

    def poll(self) -> Iterator[Chunk]:
        """Yield what was appended since the last look; the first look yields the whole log.

        Raises:
            CorruptLogError, FormatVersionError, WrongLogError, LogNotFoundError: what was read before stays valid.
        """
        # Nothing is new if the file is what it was when a look came to its very end; then it need not even be opened.
        # Why nothing is missed: valid lines are never cut off, so an append leaves a larger file or, by way of a new
        # generation, another one. The time of change is there for changes by hand.
        if self._untouched is not None:
            try:
                status = system.stat_path(self._paths.log)
            except OSError:
                return self._look()  # what that means is for a look to say
            if self._untouched == (status.st_size, status.st_ctime_ns, status.st_ino, status.st_dev):
                return _NOTHING
        return self._look()

    def _remember(self, status: os.stat_result, result: Scan | None) -> None:
        """Remember what spares the next looks work: that the file ends behind the last line, or that all behind it is
        padding.

        Args:
            status: the file's, taken before its bytes were read.
            result: what was found behind the end; None for nothing.
        """
        if (status.st_dev, status.st_ino) != self._identity:
            return
        if result is not None and result.stop is Stop.PADDING:
            self._padded = self._end.offset, status.st_size
            return
        # The system counts time in steps. A change by hand in the same step as the last append would not show.
        is_settled = system.now_us() * 1000 - status.st_ctime_ns > _TIME_STEP_NS
        if is_settled and status.st_size == self._end.offset:
            self._untouched = status.st_size, status.st_ctime_ns, status.st_ino, status.st_dev

    def _look(self) -> Iterator[Chunk]:
        with translated("reading", self._paths.log, is_read=True):
            for _ in range(_REOPEN_LIMIT):
                descriptor, generation, status = self._current()
                try:
                    yield from self._look_at(descriptor, generation, status)
                except (OSError, CorruptLogError, FormatVersionError, WrongLogError):
                    if descriptor.is_intact():
                        raise
                    self.release()  # somebody closed it, and what was read was another file: nothing is wrong with ours
                else:
                    return
            raise OSError(errno.EBADF, "the open file of the log is closed by somebody again and again")

    def _look_at(
        self, descriptor: system.Descriptor, generation: str, status: os.stat_result
    ) -> Iterator[Chunk]:
        fd = descriptor.fd
        # Read before the bytes are: another thread may append and sync in between.
        known = self._known_durable(generation) if self._known_durable is not None else 0
        # What was called durable before the look began: a write in progress cannot stand below it.
        vouched = known
        while True:
            # Taken before the bytes are read: a write may end in between, and must not be remembered as torn.
            pending = self._pending(fd)
            data = self._bytes_behind_end(descriptor, status.st_size)
            if self._header is not None and self._header.generation != generation:
                # Somebody copied another generation into the same file: what is known is of the one before.
                yield from self._look()
                return
            if not data and not self._is_reset and self._end.offset >= known:
                self._remember(status, None)
                return
            if known <= self._end.offset and pending == self._judged_torn and not self._is_reset:
                return
            last = None
            # Appends overwrite padding from its first byte on: what is left of it is padding still.
            padded_from, padded_to = self._padded
            padded_to = padded_to if 0 <= padded_from <= self._end.offset else 0
            for last in replay(fd, self._end, data, padded_to=padded_to):
                yield from self._admitted(last, generation)
                if self._end.offset > status.st_size and last.damage is None:
                    return  # what was there when the look began was given: writers may be faster than we are
            assert last is not None
            if last.damage is None:
                refuse_shortened(
                    fd,
                    self._end.offset,
                    known_durable=known,
                    path=self._paths.log,
                    log_key=self._paths.log_key,
                )
                self._remember(status, last)
                return
            _require_intact(descriptor)
            vouched = self._vouched(fd, last, vouched)
            if vouched <= last.damage.offset:
                # At the first look only the place is remembered: the next one scans the bytes, too.
                same = pending[0] == last.damage.offset
                self._judged_torn = pending if same else (last.damage.offset, 0, 0)
                return

    def seek(self, position: Position) -> None:
        """Go on behind ``position``, in whichever generation the log is now.

        Raises:
            InvalidPositionError: if it is no position of this log.
        """
        with translated("reading", self._paths.log, is_read=True):
            _, generation, _ = current = self._surely_current()
            assert self._header is not None
            if position.log_key != self._paths.log_key or position.generation not in (
                generation,
                *self._header.previous,
            ):
                raise InvalidPositionError(
                    f"{position} is no position of the log {self._paths.log_key!r} as it stands in {self._paths.log}",
                    path=self._paths.log,
                    offset=position.offset,
                    reason="of another log",
                )
            self._skip = (position.stamp_us, -position.more)
            self._end = self._header.end
            if position.generation != generation or position.offset <= self._header.end.offset:
                return
            # Invariant: stamps rise along a log. If the bytes at the offset do not fit (a power cut took records that
            # were visible, not durable), reading from the start and skipping by stamp gives the same answer.
            # Another line can end at the same offset by chance, so what ends there must not be younger.
            start = max(self._header.end.offset - CLOSING_BYTES, position.offset - _LOOK_BACK_BYTES)
            line = last_line(system.read_at(current[0].fd, position.offset - start, start), base=start)
            if line is None or line.more or line.end != position.offset or line.stamp_us > position.stamp_us:
                return
            self._end = EndState(line.end, line.stored_crc, line.stamp_us)

    def begin_near_end(self, length_bytes: int) -> int | None:
        """Have the first ``poll`` begin at a batch about so many bytes before the end of the log, or at an earlier one.

        Returns:
            The stamp of the batch before it, or None if reading begins at the start.
        """
        with translated("reading", self._paths.log, is_read=True):
            descriptor, _, status = self._surely_current()
            assert self._header is not None
            self._end = self._header.end
            line = batch_near_end(descriptor.fd, self._end.offset, status.st_size, length_bytes)
            if line is None:
                return None
            self._end = EndState(line.end, line.stored_crc, line.stamp_us)
            self._durable = max(self._durable, line.durable)
            return line.stamp_us

    def rest(self) -> Rest | None:
        """Return what stands behind the last whole batch, as the last look found it; None for nothing, or padding.

        Takes no lock.
        """
        offset = self._end.offset
        if self._judged_torn[0] != offset:
            return None
        with translated("reading", self._paths.log, is_read=True):
            descriptor, _, _ = self._surely_current()
            rest = look_at_rest(descriptor.fd, offset, self._paths.lock)
            if rest is not None and (self._current()[0] is not descriptor or self._end.offset != offset):
                return rest._replace(is_torn=False)  # replaced meanwhile
            return rest

    def position(self) -> Position:
        """Return the place behind what was read so far.

        Requires: ``poll``, ``seek`` or ``begin_near_end`` was called.
        """
        assert self._header is not None
        return Position(self._paths.log_key, self._header.generation, self._end.offset, self._end.stamp_us)

    def release(self) -> None:
        """Close the file; the next look opens it again and goes on where this one ended."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            descriptor.close()

    def forget_descriptor(self) -> None:
        """Let the file be closed as soon as nobody is reading from it."""
        self._descriptor = None

    def _surely_current(self) -> tuple[system.Descriptor, str, os.stat_result]:
        """As ``_current``, for what believes the bytes as they are: nobody has closed the file."""
        if self._descriptor is not None and not self._descriptor.is_intact():
            self.release()
        return self._current()

    def _current(self) -> tuple[system.Descriptor, str, os.stat_result]:
        """Return the open file and the generation of the log that stands at the path now, and what the path said.

        Whoever reads holds on to the Descriptor, not to its number: the pool may make this reader forget it.
        """
        try:
            status = system.stat_path(self._paths.log)
        except FileNotFoundError:
            raise LogNotFoundError(
                f"there is no log {self._paths.log_key!r} at {self._paths.log}",
                path=self._paths.log,
                reason="no such log",
            ) from None
        descriptor = self._descriptor
        if descriptor is None or self._identity != (status.st_dev, status.st_ino):
            descriptor = self._open()
        assert self._header is not None
        pool.touch(self)
        return descriptor, self._header.generation, status

    def _open(self) -> system.Descriptor:
        descriptor = system.open_file(self._paths.log)
        header = read_header(descriptor.fd, self._paths.log, log_key=self._paths.log_key)
        status = system.stat_fd(descriptor.fd)
        self._identity = (status.st_dev, status.st_ino)
        self._descriptor = descriptor
        # Identified by generation, never by inode number, which a deleted file's successor can have.
        if self._header is None or self._header.generation != header.generation:
            self._restart(header)
        return descriptor

    def _restart(self, header: Header) -> None:
        if self._header is not None and self._resumes:
            self._skip = max(self._skip, (self._end.stamp_us, 0))
        elif self._header is not None:
            self._is_reset = True
        self._header = header
        self._end = header.end
        self._judged_torn = (-2, 0, 0)
        self._padded = (-1, 0)
        self._untouched = None
        self._durable = header.end.offset
        clock.observe(header.end.stamp_us)

    def _bytes_behind_end(self, descriptor: system.Descriptor, size: int) -> bytes:
        """Return the first bytes behind the end, or all anew from the header if what stood before it has changed; none
        if all is known to be padding.

        An append overwrites padding from its first byte on: while a newline stands there, nothing was appended.
        """
        assert self._header is not None
        fd, offset = descriptor.fd, self._end.offset - CLOSING_BYTES
        if self._padded == (self._end.offset, size):
            known = closing(self._end.stored_crc) + PADDING
            if system.read_at(fd, len(known), offset) == known:
                return b""
        data = system.read_at(fd, CLOSING_BYTES + FIRST_READ_BYTES, offset)
        if data[:CLOSING_BYTES] != closing(self._end.stored_crc):
            _require_intact(descriptor)
            self._restart(read_header(fd, self._paths.log, log_key=self._paths.log_key))
            return system.read_at(fd, FIRST_READ_BYTES, self._end.offset)
        return data[CLOSING_BYTES:]

    def _admitted(self, result: Scan, generation: str) -> Iterator[Chunk]:
        if not result.lines and not self._is_reset:
            return
        lines, notes = Lines.of(result.lines), list[Note]()
        for index, line in lines.controls():
            try:
                control = known_control(line, self._paths.log)
            except FormatVersionError as refusal:
                # What stands before it is given out first: where a read ended must not decide about that.
                yield from self._admitted(self._cut_off(result, index), generation)
                raise refusal
            if control not in CONTROLS_OF_A_GENERATION:
                notes.append(note_of(line))
        self._durable = max([self._durable, *lines.durables])
        records = self._behind_skip(lines.records())
        is_reset = self._is_reset
        is_news = bool(records or notes or is_reset)
        self.given += is_news
        self._end = result.end
        self._is_reset = False
        clock.observe(result.end.stamp_us)
        if is_news:
            begun_us = 0 if self._header is None else self._header.created_us
            yield Chunk(records, notes, generation, self._durable, is_reset, begun_us)

    def _behind_skip(self, records: Lines) -> Lines:
        """Return the records behind the position that was sought. Stamps rise: the others come first."""
        skip = self._skip
        passed = 0
        while passed < len(records) and (records.stamps_us[passed], -records.mores[passed]) <= skip:
            passed += 1
        return records[passed:] if passed else records

    def _cut_off(self, result: Scan, index: int) -> Scan:
        """Return the whole batches before the one that the line at ``index`` belongs to."""
        while index and result.lines[index - 1].more:
            index -= 1
        lines = result.lines[:index]
        end = EndState(lines[-1].end, lines[-1].stored_crc, lines[-1].stamp_us) if lines else self._end
        return result._replace(lines=lines, end=end)

    def _pending(self, fd: int) -> tuple[int, int, int]:
        """Return what stands behind the end, if an earlier look called it torn: offset, length and CRC."""
        if self._judged_torn[0] != self._end.offset:
            return -1, 0, 0
        return self._end.offset, *length_and_crc(fd, self._end.offset)

    def _vouched(self, fd: int, last: Scan, vouched: int) -> int:
        """Return the offset below which some line calls the bytes durable; at most the damage's, if that is a torn end
        or a write in progress.

        A line that vouches for the damaged bytes is believed at the next look only: at this one they may have been read
        before their write had ended.

        Raises:
            CorruptLogError: ``vouched``, known before the look began, is above the damage.
        """
        damage = last.damage
        assert damage is not None
        broken = Broken(damage, last.broken_at, last.broken_crc)
        if vouched > damage.offset:
            require_torn(fd, broken, known_durable=vouched, path=self._paths.log, log_key=self._paths.log_key)
        assert self._header is not None
        stated = vouched_durable(self._paths.page, self._header.generation, fd)
        return stated if stated > damage.offset else vouched_offset(fd, broken, above=damage.offset)


def _require_intact(descriptor: system.Descriptor) -> None:
    """Return if an open file is the one that was opened: before what was read of it is judged.

    Raises:
        OSError: EBADF, somebody closed it, and another file may have its number.
    """
    if not descriptor.is_intact():
        raise OSError(errno.EBADF, "somebody closed the open file of the log")
