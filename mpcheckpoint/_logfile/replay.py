"""Read a log forward from a known end state to the end of the file, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

from mpcheckpoint._format.frame import (
    CLOSING_BYTES,
    MAX_BATCH_BYTES,
    MAX_LINE_BYTES,
    EndState,
    Mismatch,
    running_crc,
)
from mpcheckpoint._format.scan import Scan, Stop, scan
from mpcheckpoint._logfile.file_bytes import CHUNK_BYTES, chunks_of, is_padding_from, reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpcheckpoint._logfile.file_bytes import Read

FIRST_READ_BYTES = 4096
LARGEST_READ_BYTES = MAX_BATCH_BYTES + MAX_LINE_BYTES


def replay(
    fd: int,
    end: EndState,
    data: bytes | None = None,
    *,
    padded_to: int = 0,
    read: Read | None = None,
    scan: Callable[[bytes, EndState], Scan] = scan,
) -> Iterator[Scan]:
    """Yield what follows ``end``, a chunk a scan; the last one tells what the log ends with.

    The last scan has a ``damage`` wherever something other than padding follows its ``end``: a line that is cut off is
    damage here, and its cause (a write in progress, a torn end, corruption) for the caller to judge.

    Args:
        fd: the open log.
        end: where to begin.
        data: what a read of FIRST_READ_BYTES at ``end.offset`` gave, if that was done already.
        padded_to: an offset up to which everything after the last line was seen to be padding before.
        read: reads the log, in place of what reads ``fd``.
        scan: finds the lines in what was read.
    """
    read = read or reading(fd)
    size = FIRST_READ_BYTES
    if data is None:
        data = read(size, end.offset)
    while True:
        result = scan(data, end)
        if len(data) < size or result.stop in (Stop.DAMAGED, Stop.PADDING):
            yield _settled(read, result, max(end.offset + len(data), padded_to))
            return
        if result.end.offset > end.offset:
            yield result
            end = result.end
            size = CHUNK_BYTES
        elif size >= LARGEST_READ_BYTES:
            damage = Mismatch(end.offset, f"a batch of at most {MAX_BATCH_BYTES} bytes", "no end of it")
            yield result._replace(stop=Stop.DAMAGED, damage=damage)
            return
        else:
            size = min(size * 8, LARGEST_READ_BYTES)
        data = read(size, end.offset)


def is_chain(fd: int, start: EndState, end: EndState) -> bool:
    """Return whether the bytes between two ends are what was written there, every one of them, without parsing them.

    A crc runs over the whole file, so the crc field of the last line follows from the first line's and all bytes
    between. It tells that something is wrong, not what, or where.
    """
    crc, offset, stop = running_crc(start.stored_crc), start.offset, end.offset - CLOSING_BYTES
    for data in chunks_of(reading(fd), offset, stop):
        crc = crc32(data, crc)
        offset += len(data)
    return offset == stop and crc == end.stored_crc


def _settled(read: Read, result: Scan, read_to: int) -> Scan:
    if result.stop is Stop.INCOMPLETE:
        damage = Mismatch(result.end.offset, "a whole line or batch", "the end of the file")
        return result._replace(damage=damage)
    if result.stop is Stop.PADDING and not is_padding_from(read, read_to):
        damage = Mismatch(result.end.offset, "padding to the end of the file", "newlines, then other bytes")
        return result._replace(stop=Stop.DAMAGED, damage=damage)
    return result
