"""What vouches for bytes in which a reader met damage: the page, or a line after them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpcheckpoint._logfile.page import vouched_durable
from mpcheckpoint._logfile.torn_or_corrupt import Broken, require_torn, vouched_offset

if TYPE_CHECKING:
    from mpcheckpoint._format.scan import Scan
    from mpcheckpoint._logfile.paths import LogPaths


def vouched_for(fd: int, scan: Scan, vouched: int, paths: LogPaths, generation: str) -> int:
    """Return the offset below which a line calls the bytes durable; at most the damage's offset, if that is a torn
    end or a write in progress.

    A line that vouches for the damaged bytes is believed at the second read: the first may have come before their
    write had ended.

    Args:
        scan: the damage, and where it was met.
        vouched: below which offset they were known to be durable before they were read.

    Raises:
        CorruptLogError: ``vouched`` is above the damage.
    """
    damage = scan.damage
    assert damage is not None
    broken = Broken(damage, scan.broken_at, scan.broken_crc)
    if vouched > damage.offset:
        require_torn(fd, broken, paths, known_durable=vouched)
    stated = vouched_durable(paths.page, generation, fd)
    return stated if stated > damage.offset else vouched_offset(fd, broken, above=damage.offset)
