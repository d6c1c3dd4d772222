"""Torn or corrupt: one rule, for readers and writers alike.

Let S be the highest offset that anything trustworthy calls durable. Damage below S hit bytes that were once durable, so
no crash of a correct writer explains it: corrupt. Damage at or above S hit bytes of which nobody was ever
told that they are safe: torn. ``durable`` is stated by every line and never above the line's own offset, so
a line behind the damage vouches for what lies before it.

The verdict needs no lock. A line states an offset as durable only after a sync of the bytes below it has returned, so
whoever has read that line and then still finds the damage is not looking at a write in progress.
"""

from __future__ import annotations

from typing import NamedTuple

from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import MAX_LINE_BYTES, Damage
from mpcheckpoint._format.salvage import lines_behind
from mpcheckpoint.errors import CorruptLogError

_CHUNK_BYTES = 1024 * 1024


class Broken(NamedTuple):
    """Where the chain of lines breaks: the damage, and the place and running CRC behind the last valid line."""

    damage: Damage
    at: int
    crc: int


def vouched_offset(fd: int, broken: Broken, *, above: int) -> int:
    """Return the highest ``durable`` that the lines behind the damage state, or the first one found above ``above``.

    Reads at most to the end of the file, in bounded memory.
    """
    offset, data, highest = broken.at, b"", 0
    first_chunk = True
    while True:
        news = system.read_at(fd, _CHUNK_BYTES, offset + len(data))
        data += news
        cut = len(data) if len(news) < _CHUNK_BYTES else data.rfind(b"\n") + 1
        if not cut and len(data) <= MAX_LINE_BYTES:
            continue
        is_one_endless_line = cut == 0
        cut = cut or len(data)
        # Only the first chunk begins with the damaged line and a running CRC that is known. Later ones begin behind a
        # newline; the line before is kept, for its crc field seeds the next.
        for line in lines_behind(data[:cut], base=offset, crc=broken.crc if first_chunk else 0):
            highest = max(highest, line.durable)
            if highest > above:
                return highest
        if len(news) < _CHUNK_BYTES:
            return highest
        keep = len(data) if is_one_endless_line else data.rfind(b"\n", 0, cut - 1) + 1
        offset, data, first_chunk = offset + keep, data[keep:], False


def require_torn(fd: int, broken: Broken, *, known_durable: int, path: str, log_key: str) -> None:
    """Return if the damage is what a dying writer leaves at the end of a log.

    Raises:
        CorruptLogError: if it hit bytes that were once durable. Nothing was changed.
    """
    damage = broken.damage
    if known_durable <= damage.offset:
        known_durable = vouched_offset(fd, broken, above=damage.offset)
    if known_durable > damage.offset:
        raise CorruptLogError(
            path, damage.offset, expected=damage.expected, found=damage.found, log_key=log_key
        )
