"""Where a log file ends that nobody writes to at the moment, found from its last bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import CLOSING_BYTES, MAX_LINE_BYTES, PADDING, EndState, closing
from mpcheckpoint._format.resync import last_line
from mpcheckpoint._logfile.near_end import end_without_padding
from mpcheckpoint._logfile.replay import replay

if TYPE_CHECKING:
    from mpcheckpoint._format.control import Header

# Most lines are short, and there may be a thousand logs.
_FIRST_LOOK_BYTES = 2048


def clean_end(fd: int, header: Header) -> EndState | None:
    """Return the end of the last batch, if nothing but padding follows it; None if something else does.

    It is not proven that the lines before the last one are whole.
    """
    stop = _stop(fd, system.size_of(fd))
    if stop == header.end.offset:
        return header.end
    look = _FIRST_LOOK_BYTES
    while True:
        start = max(header.end.offset - CLOSING_BYTES, stop - look)
        line = last_line(system.read_at(fd, stop - start, start), base=start)
        if line is not None:
            is_end = line.end == stop and line.more == 0
            return EndState(line.end, line.stored_crc, line.stamp_us) if is_end else None
        if start < header.end.offset or look > MAX_LINE_BYTES:
            return None
        look *= 8


def whole_end(fd: int, header: Header) -> EndState:
    """Return the end of the last batch before the first damage. Reads the whole log."""
    end = header.end
    for result in replay(fd, header.end):
        end = result.end
    return end


def last_stamp(fd: int) -> int:
    """Return the stamp of the last line that can be told near the end, whatever the file holds; 0 if there is none."""
    stop, look = _stop(fd, system.size_of(fd)), _FIRST_LOOK_BYTES
    while True:
        start = max(0, stop - look)
        line = last_line(system.read_at(fd, stop - start, start), base=start)
        if line is not None or start == 0 or look > MAX_LINE_BYTES:
            return 0 if line is None else line.stamp_us
        look *= 8


def bears_out(fd: int, end: EndState) -> bool:
    """Return whether a line ends there with that crc, so that all before it is what was written there.

    The crc runs from the header on, which has a random id.
    """
    return system.read_at(fd, CLOSING_BYTES, end.offset - CLOSING_BYTES) == closing(end.stored_crc)


def _stop(fd: int, size: int) -> int:
    """Return the offset after the last line, without the padding that follows it."""
    last = system.read_at(fd, CLOSING_BYTES, max(0, size - CLOSING_BYTES))
    if last[-2:] == b"]\n":
        return size
    stop = end_without_padding(fd, size)
    return min(size, stop + len(PADDING))
