"""Torn or corrupt: one rule, for readers and writers alike.

Let S be the highest offset that anything trustworthy calls durable. Damage below S hit bytes that were durable once, so
no crash of a correct writer explains it: corrupt. Damage at or above S hit bytes that were never acknowledged as safe:
torn. Every line states a ``durable``, never above its own offset, so a line after the damage vouches for the bytes
before it. (A line that states more was written further on: bytes before it were removed, which no crash does.)

The verdict needs no lock. A line states an offset as durable only after a sync of the bytes below it has returned. A
process that has read the line and then still finds the damage does not see a write in progress.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import MAX_LINE_BYTES, Line, Mismatch
from mpcheckpoint._format.resync import lines_after_damage
from mpcheckpoint._logfile.file_bytes import CHUNK_BYTES
from mpcheckpoint._logfile.paths import LogPaths
from mpcheckpoint.errors import CorruptLogError

# If bytes were removed, a line after them may call an offset durable that is above its own now. Lines after damage are
# read as if they were so much further on, where none does.
SHIFT_BYTES = 1 << 50


class Broken(NamedTuple):
    """Where the chain of lines breaks: the damage, and the place and running CRC after the last valid line."""

    damage: Mismatch
    at: int
    crc: int


def vouched_offset(fd: int, broken: Broken, *, above: int) -> int:
    """Return the highest ``durable`` that the lines after the damage state, or the first one found above ``above``."""
    highest = 0
    for line in provable_lines(fd, broken):
        highest = max(highest, line.durable)
        if highest > above:
            break
    return highest


def provable_lines(fd: int, broken: Broken) -> Iterator[Line]:
    """Yield the lines that can be proven after the damage, in file order, in bounded memory.

    SHIFT_BYTES are added to their offsets, and so to what they may call durable.
    """
    offset, data = broken.at, b""
    crc: int | None = broken.crc
    file_bytes = system.size_of(fd)  # now: without the append lock it may grow faster than this reads
    while True:
        size = max(CHUNK_BYTES, len(data))  # doubling: a long line costs time in proportion to its bytes
        news = system.read_at(fd, size, offset + len(data))
        data += news
        is_last = len(news) < size or offset + len(data) >= file_bytes
        cut = len(data) if is_last else data.rfind(b"\n") + 1
        if cut:
            yield from lines_after_damage(data[:cut], base=offset + SHIFT_BYTES, crc=crc)
        if is_last:
            return
        # The next chunk begins with the last whole line of this one: its crc field proves the lines that follow. Of
        # bytes longer than any line, nothing is kept, nor the line before them.
        keep = data.rfind(b"\n", 0, cut - 1) + 1
        if len(data) - cut > MAX_LINE_BYTES:
            keep = cut or len(data)
        if keep:
            offset, data, crc = offset + keep, data[keep:], None


def require_torn(fd: int, broken: Broken, paths: LogPaths, *, known_durable: int) -> None:
    """Return if the damage is what a dying writer leaves at the end of a log.

    Raises:
        CorruptLogError: it hit bytes that were durable once. Nothing was changed.
    """
    damage = broken.damage
    if known_durable <= damage.offset:
        known_durable = vouched_offset(fd, broken, above=damage.offset)
    if known_durable > damage.offset:
        raise CorruptLogError(
            paths.log, damage.offset, expected=damage.expected, found=damage.found, log_key=paths.log_key
        )


def refuse_shortened(fd: int, end_offset: int, paths: LogPaths, *, known_durable: int) -> None:
    """Return if the log does not end before what this process knows to be durable.

    Raises:
        CorruptLogError: it was cut off at the end of a batch, not by a crash. Nothing was changed.
    """
    if end_offset < known_durable:
        raise CorruptLogError(
            paths.log,
            end_offset,
            expected=f"{known_durable} bytes that this process knows to be durable",
            found=f"a log that ends there, in a file of {system.size_of(fd)} bytes",
            log_key=paths.log_key,
            advice="it was cut off, or an older copy was put in its place, while this process knew it: put back what "
            "was there, or start this process anew to go on from what there is",
        )
