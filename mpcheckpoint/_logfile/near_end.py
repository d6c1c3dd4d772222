"""The end of a log, looked at by those who do not read all before it, and what stands behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import CLOSING_BYTES, MAX_LINE_BYTES, PADDING
from mpcheckpoint._format.resync import first_end
from mpcheckpoint._logfile.file_bytes import chunks_of, reading

if TYPE_CHECKING:
    from mpcheckpoint._format.frame import Line

_FIRST_LOOK_BYTES = 64 * 1024
_LARGEST_LOOK_BYTES = 4 * MAX_LINE_BYTES


class Rest(NamedTuple):
    """What stands behind the last whole batch of a log.

    Attributes:
        offset, length_bytes: where, and how much.
        is_torn: whether it is known that nobody writes it any more. Else it may be a write in progress.
    """

    offset: int
    length_bytes: int
    is_torn: bool


def look_at_rest(fd: int, offset: int, lock_path: str) -> Rest | None:
    """Return what stands behind ``offset``, where a look found what is no line; None if nothing, or padding, does now.

    Why it may be called torn without taking the append lock: at a moment between two looks nobody held that, so
    a write that the first of them met has ended, and would have left other bytes to the second.
    """
    found = length_and_crc(fd, offset)
    lock = system.lock_status(lock_path)
    is_same = length_and_crc(fd, offset) == found
    if behind_last_byte(fd, offset + found[0]) <= offset:
        return None
    return Rest(offset, found[0], is_same and lock.state is system.LockState.FREE)


def batch_near_end(fd: int, first: int, size: int, length_bytes: int) -> Line | None:
    """Return the last line of a batch that ends about so many bytes before the end of a log, proven by the crc field
    before it; None if that would be before ``first``, or none is found.

    Args:
        first: where the first line behind the header begins.
        size: of the file, in bytes.
    """
    start = behind_last_byte(fd, size) - length_bytes
    look = _FIRST_LOOK_BYTES
    while start > first - CLOSING_BYTES and look <= _LARGEST_LOOK_BYTES:
        line = first_end(system.read_at(fd, look, start), base=start)
        if line is not None:
            return line
        # A long line, or damage: begin earlier, and look at more.
        start, look = start - look, look * 8
    return None


def behind_last_byte(fd: int, size: int) -> int:
    """Return the offset behind the last byte of a file of ``size`` bytes that is no newline."""
    while size:
        start = max(0, size - _FIRST_LOOK_BYTES)
        kept = system.read_at(fd, size - start, start).rstrip(PADDING)
        if kept:
            return start + len(kept)
        size = start
    return 0


def length_and_crc(fd: int, offset: int) -> tuple[int, int]:
    """Return how many bytes stand behind ``offset``, and their CRC."""
    length = crc = 0
    for data in chunks_of(reading(fd), offset):
        crc = crc32(data, crc)
        length += len(data)
    return length, crc
