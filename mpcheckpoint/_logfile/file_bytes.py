"""The bytes of an open file, however many: read chunk by chunk, written whole."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import PADDING, is_padding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    # Reads so many bytes from an offset; fewer only at the end of the file.
    Read = Callable[[int, int], bytes]

CHUNK_BYTES = 1024 * 1024


def reading(fd: int) -> Read:
    """Return what reads an open file."""
    return lambda size, offset: system.read_at(fd, size, offset)


def chunks_of(read: Read, start: int, stop: int | None = None) -> Iterator[bytes]:
    """Yield the bytes of a file from ``start`` to ``stop``, or to its end."""
    while stop is None or start < stop:
        data = read(CHUNK_BYTES if stop is None else min(CHUNK_BYTES, stop - start), start)
        if not data:
            return
        yield data
        start += len(data)


def is_padding_from(read: Read, offset: int) -> bool:
    """Return whether a file holds nothing but padding from ``offset`` on."""
    first = read(len(PADDING), offset)  # most often nothing: to read a chunk, a buffer of a chunk is made
    if first != PADDING:
        return not first
    return all(map(is_padding, chunks_of(read, offset)))


def write_whole(fd: int, data: bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset``, going on after short writes.

    Raises:
        OSError: some of it may have been written.
    """
    written = system.write_at(fd, data, offset)
    if written == len(data):
        return
    view = memoryview(data)
    count = written
    while written < len(view):
        if count <= 0:
            raise OSError(errno.EIO, "a write took no bytes")
        count = system.write_at(fd, view[written:], offset + written)
        written += count
