"""The end of a log, found without reading all before it, and the bytes after it."""

from __future__ import annotations

from typing import NamedTuple
from zlib import crc32

from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import CLOSING_BYTES, MAX_LINE_BYTES, PADDING, Line
from mpcheckpoint._format.resync import first_end
from mpcheckpoint._logfile.file_bytes import chunks_of, reading

_FIRST_LOOK_BYTES = 64 * 1024
_LARGEST_LOOK_BYTES = 4 * MAX_LINE_BYTES


class Rest(NamedTuple):
    """The bytes after the last whole batch of a log.

    Attributes:
        offset, length_bytes: where, and how many.
        is_torn: whether it is known that no process still writes them. Else they may be a write in progress.
    """

    offset: int
    length_bytes: int
    is_torn: bool


def look_at_rest(fd: int, offset: int, lock_path: str) -> Rest | None:
    """Return the bytes after ``offset`` that are no line; None if only padding, or nothing, is left.

    They are called torn without taking the append lock: if the bytes are the same at two moments and the lock was free
    in between, a write that was in progress at the first moment would have changed them by the second.
    """
    found = length_and_crc(fd, offset)
    lock = system.lock_status(lock_path)
    is_same = length_and_crc(fd, offset) == found
    if end_without_padding(fd, offset + found[0]) <= offset:
        return None
    return Rest(offset, found[0], is_same and lock.state is system.LockState.FREE)


def batch_near_end(fd: int, first: int, size: int, length_bytes: int) -> Line | None:
    """Return the last line of a batch that ends about ``length_bytes`` before the end of a log; None if there is none.

    The crc field before the line proves it.

    Args:
        first: where the first line after the header begins; no line before it is returned.
        size: of the file, in bytes.
    """
    start = end_without_padding(fd, size) - length_bytes
    look = _FIRST_LOOK_BYTES
    while start > first - CLOSING_BYTES and look <= _LARGEST_LOOK_BYTES:
        line = first_end(system.read_at(fd, look, start), base=start)
        if line is not None:
            return line
        # A long line, or damage: begin earlier, and read more.
        start, look = start - look, look * 8
    return None


def end_without_padding(fd: int, size: int) -> int:
    """Return the offset after the last byte that is no newline, in a file of ``size`` bytes."""
    while size:
        start = max(0, size - _FIRST_LOOK_BYTES)
        kept = system.read_at(fd, size - start, start).rstrip(PADDING)
        if kept:
            return start + len(kept)
        size = start
    return 0


def length_and_crc(fd: int, offset: int) -> tuple[int, int]:
    """Return how many bytes follow ``offset``, and their CRC."""
    length = crc = 0
    for data in chunks_of(reading(fd), offset):
        crc = crc32(data, crc)
        length += len(data)
    return length, crc
