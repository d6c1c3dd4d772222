"""What an import reads: a file, a pipe or standard input, in pieces of whole lines and bounded memory."""

from __future__ import annotations

import os
import select
import stat
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import MAX_LINE_BYTES
from mpcheckpoint._logfile.paths import refuse_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PIECE_BYTES = 1024 * 1024
# A longer line is no record. It is passed over without being held in memory.
MOST_LINE_BYTES = MAX_LINE_BYTES
_READ_BYTES = 256 * 1024


class SourcePiece(NamedTuple):
    """Bytes of a source: whole lines, or the rest after the last newline, or a part of a line that is too long."""

    data: bytes
    is_of_long_line: bool = False


class Source:
    """One source, open for reading. For one thread.

    Attributes:
        identity: device and inode.
        is_file: whether the next import finds the same bytes at the same path.
        size_bytes: how many bytes there are in all; None if that cannot be known.
        offset: how many were read so far.
    """

    def __init__(self, source: str | os.PathLike[str] | int) -> None:
        """Open a source.

        Args:
            source: a path, or an open descriptor, which is read from its current place and not closed.

        Raises:
            OSError: it cannot be read.
        """
        if not isinstance(source, int):
            refuse_url(source, what="source", advice="it is read from a file or a pipe: give its path")
        self._opened = None if isinstance(source, int) else system.open_source(os.fspath(source))
        self._fd = source if isinstance(source, int) else self._opened.fd if self._opened else -1
        status = system.stat_fd(self._fd)
        self.identity = status.st_dev, status.st_ino
        # A given descriptor may stand anywhere in its file: the next import would not find the same beginning.
        self.is_file = self._opened is not None and stat.S_ISREG(status.st_mode)
        # What is appended while we read is for the next import. The source may be a log that we write to.
        self.size_bytes = status.st_size if self.is_file else None
        self.offset = 0

    def bytes_before(self, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes of a file that end at ``offset``, or at its end; nothing of a pipe."""
        start = max(0, offset - size)
        return system.read_at(self._fd, offset - start, start) if self.is_file else b""

    def crc_below(self, offset: int) -> int | None:
        """Skip the bytes up to ``offset`` and return their CRC-32; None if there are fewer bytes."""
        crc = 0
        while self.offset < offset:
            data = self._read(min(_READ_BYTES, offset - self.offset))
            if not data:
                return None
            crc = crc32(data, crc)
        return crc

    def crcs_below(self, offsets: Sequence[int]) -> list[int]:
        """Return the CRC-32 of a file's bytes below each offset. Requires: the offsets rise and are in the file."""
        crcs, crc, at = [], 0, 0
        for offset in offsets:
            while at < offset and (data := system.read_at(self._fd, min(_READ_BYTES, offset - at), at)):
                crc = crc32(data, crc)
                at += len(data)
            crcs.append(crc)
        return crcs

    def pieces(self) -> Iterator[SourcePiece]:
        """Yield the rest in whole lines: about ``PIECE_BYTES`` at a time, or what a pipe has at this moment.

        Bytes after the last newline are the last piece.
        """
        splitter = _LineSplitter()
        while data := self._read(_READ_BYTES):
            yield from splitter.add(data)
            if splitter.held_bytes >= PIECE_BYTES or not self._has_more_now():
                yield from splitter.take_whole()
        yield from splitter.take_whole()
        yield from splitter.take_rest()

    def close(self) -> None:
        """Close what was opened here."""
        if self._opened is not None:
            self._opened.close()

    def _read(self, size: int) -> bytes:
        if self.size_bytes is None:
            data = system.read_next(self._fd, size)
        else:
            data = system.read_at(self._fd, min(size, self.size_bytes - self.offset), self.offset)
        self.offset += len(data)
        return data

    def _has_more_now(self) -> bool:
        return self.is_file or bool(select.select([self._fd], [], [], 0)[0])


class _LineSplitter:
    """Cut what is read after newlines.

    Attributes:
        held_bytes: how many bytes were read and not given out yet.
    """

    def __init__(self) -> None:
        self.held_bytes = 0
        self._parts: list[bytes] = []
        self._has_whole_line = False
        self._is_in_long_line = False

    def add(self, data: bytes) -> Iterator[SourcePiece]:
        """Add what was read next; yield the part that belongs to a line that is too long."""
        if self._is_in_long_line:
            newline = data.find(b"\n")
            end = newline + 1 if newline >= 0 else len(data)
            self._is_in_long_line = newline < 0
            yield SourcePiece(data[:end], is_of_long_line=True)
            data = data[end:]
        self._parts.append(data)
        self.held_bytes += len(data)
        self._has_whole_line = self._has_whole_line or b"\n" in data

    def take_whole(self) -> Iterator[SourcePiece]:
        """Yield the whole lines, and the first part of a line that is too long."""
        if not self._has_whole_line and self.held_bytes <= MOST_LINE_BYTES:
            return  # joining the parts each time would take quadratic time
        data = b"".join(self._parts)
        end = data.rfind(b"\n") + 1
        rest = data[end:]
        if end:
            yield SourcePiece(data[:end])
        if len(rest) > MOST_LINE_BYTES:
            yield SourcePiece(rest, is_of_long_line=True)
            rest, self._is_in_long_line = b"", True
        self._parts, self.held_bytes, self._has_whole_line = [rest], len(rest), False

    def take_rest(self) -> Iterator[SourcePiece]:
        """Yield the bytes after the last newline, if there are any."""
        rest = b"".join(self._parts)
        if rest:
            yield SourcePiece(rest)
