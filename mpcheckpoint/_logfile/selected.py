"""What a compaction reads of a log up to an end, and what a selection leaves of that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mpcheckpoint import _system as system
from mpcheckpoint._format.blocks import scan_block
from mpcheckpoint._format.frame import MIN_LINE_BYTES
from mpcheckpoint._format.recode import recoded
from mpcheckpoint._logfile.replay import replay
from mpcheckpoint._logfile.torn_or_corrupt import Broken, require_torn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mpcheckpoint._format.columns import Lines
    from mpcheckpoint._format.frame import EndState, Payload
    from mpcheckpoint._format.scan import Scan
    from mpcheckpoint._logfile.chunk import Origin
    from mpcheckpoint._logfile.paths import LogPaths


class Selection(Protocol):
    """What is to be dropped. Asked by one thread, without any lock."""

    def begin(self, newest_us: int, origin: Origin) -> None:
        """Begin, or begin anew: the newest line that will be looked at has this stamp; all are read there."""

    def look(self, lines: Lines) -> None:
        """Look at the next whole batches of the log."""

    # Nothing is dropped where more than this part of the log would be kept, in bytes.
    most_kept: float

    def decide(self) -> bool:
        """Decide, having looked at all; return whether anything is to be dropped. The lines may be asked for after each
        call of this."""

    def leading(self) -> Sequence[Payload]:
        """Return the lines that say what was dropped. Requires: ``decide``."""

    def is_out_of_date(self, lines: Lines) -> bool:
        """Return whether these lines, appended since the start, make the decision wrong. Asked under locks, too.

        Requires: ``leading``.
        """

    def fates(self, lines: Lines) -> tuple[bytes | bytearray, Mapping[int, Payload]]:
        """Return what becomes of the next whole batches, as ``recoded`` wants it. Requires: ``decide``."""


def blocks_up_to(
    file: system.Descriptor, begin: EndState, stop: EndState, paths: LogPaths
) -> Iterator[tuple[Scan, tuple[bytes, int]]]:
    """Yield what a log holds between these two, the latter of which is known to be an end of it, proven: with the bytes
    that the lines are in, and the offset of those.

    Raises:
        CorruptLogError: it is damaged.
    """
    latest = b"", 0

    def read(size: int, offset: int) -> bytes:
        nonlocal latest
        data = system.read_at(file.fd, max(0, min(size, stop.offset - offset)), offset)
        latest = (data, offset) if data else latest
        return data

    for result in replay(file.fd, begin, read=read, scan=scan_block):
        if result.damage is not None:
            file.require_intact()
            broken = Broken(result.damage, result.broken_at, result.broken_crc)
            # Which it is not, below that end.
            require_torn(file.fd, broken, paths, known_durable=stop.offset)
        yield result, latest


def planned_bytes(
    begin: EndState, all_lines: Iterable[tuple[Lines, tuple[bytes, int]]], selection: Selection
) -> int:
    """Return how long a copy would be of what ``selection`` leaves of these lines, after a header that ends like this;
    but for a few bytes of its header and of the line that ends it.

    The share of lines that are kept does not tell: what leaves a batch leaves a line in its place.

    Requires: ``selection`` has decided; it must decide once more before it is asked for the fates again.
    """
    leading = sum(len(payload.event) + MIN_LINE_BYTES for payload in selection.leading())
    end = begin._replace(offset=begin.offset + leading)
    for lines, (data, base) in all_lines:
        fates, payloads = selection.fates(lines)
        _, end = recoded(data, base, lines, fates, end, payloads)
    return end.offset
