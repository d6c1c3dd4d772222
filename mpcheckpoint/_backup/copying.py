"""Copy whole batches from one log file to another, each proven before it is written."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._format.count import count
from mpcheckpoint._format.frame import Mismatch
from mpcheckpoint._format.scan import Stop, scan
from mpcheckpoint._logfile.file_bytes import CHUNK_BYTES, write_whole
from mpcheckpoint._logfile.replay import LARGEST_READ_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpcheckpoint._format.frame import EndState

_PAUSES_A_SECOND = 10
_LONGEST_PAUSE_S = 0.5


class BrokenSourceError(Exception):
    """What was to be copied is not what was to be there. ``damage`` says where, and what."""

    def __init__(self, damage: Mismatch) -> None:
        super().__init__(damage)
        self.damage = damage


class CopyPace:
    """How fast bytes are copied, and who is told of them."""

    def __init__(self, limit_rate: int | None, on_progress: Callable[[int], None] | None) -> None:
        """Copy at most ``limit_rate`` bytes a second; None for any number."""
        self._limit_rate = limit_rate
        self._on_progress = on_progress
        self._begun_s = time.monotonic()
        self.copied_bytes = 0
        self.chunk_bytes = CHUNK_BYTES
        if limit_rate is not None:
            self.chunk_bytes = max(4096, min(CHUNK_BYTES, limit_rate // _PAUSES_A_SECOND))

    def advance(self, size: int) -> None:
        """Take note of bytes that were copied; pause if that went too fast."""
        self.copied_bytes += size
        if self._on_progress is not None:
            self._on_progress(size)
        if self._limit_rate is None:
            return
        due_s = self._begun_s + self.copied_bytes / self._limit_rate
        while (left_s := due_s - time.monotonic()) > 0:
            time.sleep(min(left_s, _LONGEST_PAUSE_S))


def copy_batches(source: int, target: int, start: EndState, stop: EndState, pace: CopyPace) -> None:
    """Copy the batches from ``start`` to ``stop`` to the same offsets of ``target``. Not synced.

    Raises:
        BrokenSourceError: they are not whole, or do not end with that crc. What precedes the damage was written.
        OSError: some of it may have been written.
    """
    for data, offset in whole_batches(source, start, stop, pace.chunk_bytes):
        write_whole(target, data, offset)
        pace.advance(len(data))


def whole_batches(
    source: int, start: EndState, stop: EndState, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[tuple[bytes, int]]:
    """Yield the bytes of whole batches from ``start`` to ``stop``, each time with their offset, once they are proven.

    Raises:
        BrokenSourceError: they are not whole, or do not end with that crc.
    """
    end, size = start, chunk_bytes
    while end.offset < stop.offset:
        wanted = min(size, stop.offset - end.offset)
        data = system.read_at(source, wanted, end.offset)
        proven, damage = _proven(data, end)
        if proven.offset > end.offset:
            yield data[: proven.offset - end.offset], end.offset
            end, size = proven, chunk_bytes
        elif damage is not None or len(data) < wanted or wanted < size or size >= LARGEST_READ_BYTES:
            raise BrokenSourceError(damage or Mismatch(end.offset, "a whole batch", "no end of it"))
        else:
            size = min(max(size * 8, CHUNK_BYTES), LARGEST_READ_BYTES)
    if end != stop:
        raise BrokenSourceError(Mismatch(stop.offset, f"crc {stop.stored_crc:08x}", f"{end.stored_crc:08x}"))


def _proven(data: bytes, end: EndState) -> tuple[EndState, Mismatch | None]:
    """Return the end of the whole batches at the start of ``data``, and what is wrong if there are none."""
    counted = count(data, end)
    if counted is not None and counted.end.offset > end.offset:
        return counted.end, None
    found = scan(data, end)
    is_damage = found.stop in (Stop.DAMAGED, Stop.PADDING)
    damage = found.damage or Mismatch(found.end.offset, "a line", "padding")
    return found.end, damage if is_damage and found.end.offset == end.offset else None
