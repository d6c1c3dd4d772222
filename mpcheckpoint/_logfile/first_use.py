"""The first append of a process to a log: from where on it validates the log, and how it makes that durable.

A line states an offset as durable, so that much was on disk once. That is no proof that it stands in this file: a log
that was copied or restored may have holes, and no reader gets to what is appended after a hole. So the first writer of
a file validates all of it, once, and leaves in the page of hints how far that goes, for this file only. Later writers
validate what came since: opening does not depend on the length of the log.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import CLOSING_BYTES, MAX_LINE_BYTES, EndState, Line
from mpcheckpoint._format.resync import last_line
from mpcheckpoint._logfile.file_bytes import write_whole
from mpcheckpoint._logfile.page import stated_durable
from mpcheckpoint._logfile.replay import is_chain

if TYPE_CHECKING:
    from mpcheckpoint._format.control import Header
    from mpcheckpoint._logfile.paths import LogPaths

_FIRST_LOOK_BACK_BYTES = 64 * 1024
_LARGEST_LOOK_BACK_BYTES = 2 * MAX_LINE_BYTES
_LONG_VALIDATION_S = 1.0
_REWRITE_BYTES = 1024 * 1024


def trusted_start(fd: int, header: Header, paths: LogPaths) -> tuple[EndState, list[str]]:
    """Return the end state from which on an open log has to be validated line by line, and what there is to tell.

    That is what the last line states as durable, if every byte before it is sound; else the end of the header, from
    which validation finds out what is not.

    Requires: the append lock.
    """
    notices: list[str] = []
    last = _look_back(fd, header, system.size_of(fd))
    validated = _validated_end(fd, header, paths, notices)
    if last is None or last.durable <= header.end.offset:
        return header.end, notices
    found = _end_at(fd, header, last.durable)
    if found is None or not _is_sound(fd, validated, found, paths, notices):
        # No line ends there, or other bytes stand before it: damage in the durable part.
        return header.end, notices
    return found, notices


def _validated_end(fd: int, header: Header, paths: LogPaths, notices: list[str]) -> EndState:
    """Return how far somebody has validated this very file, as the page says; the end of the header if it does not."""
    status = system.file_status(fd)
    stated = stated_durable(paths.page, header.generation, status)
    if stated > status.size_bytes:
        # No damage: no crash takes durable bytes away, so somebody did, and may have meant to.
        notices.append(
            f"log {paths.log_key!r} has {status.size_bytes:,} bytes, and {stated:,} were durable once: it was cut off, "
            f"or a copy was written over it. It goes on from what is there ({paths.log})"
        )
        return header.end
    return (_end_at(fd, header, stated) if stated > header.end.offset else None) or header.end


def _is_sound(fd: int, validated: EndState, end: EndState, paths: LogPaths, notices: list[str]) -> bool:
    """Return whether every byte between two ends is what the writers of this log wrote there."""
    if end.offset <= validated.offset:
        return True
    began_s = time.monotonic()
    is_sound = is_chain(fd, validated, end)
    took_s = time.monotonic() - began_s
    if is_sound and took_s >= _LONG_VALIDATION_S:
        notices.append(
            f"validated {end.offset - validated.offset:,} bytes of log {paths.log_key!r} in {took_s:.1f} s, since "
            f"nothing vouched for them: it was copied or restored, or its page of hints was lost ({paths.log})"
        )
    return is_sound


def _end_at(fd: int, header: Header, offset: int) -> EndState | None:
    """Return the end state at an offset, as the last line before it has it; None if no batch ends there."""
    line = _look_back(fd, header, offset)
    if line is None or line.end != offset or line.more:
        return None
    return EndState(offset, line.stored_crc, line.stamp_us)


def _look_back(fd: int, header: Header, size: int) -> Line | None:
    """Return the last line below ``size`` that fits the crc field of the line before it."""
    first = header.end.offset - CLOSING_BYTES
    length = _FIRST_LOOK_BACK_BYTES
    while True:
        start = max(first, size - length)
        data = system.read_at(fd, size - start, start)
        line = last_line(data, base=start)
        if line is not None or start == first or length >= _LARGEST_LOOK_BACK_BYTES:
            return line
        length = min(length * 8, _LARGEST_LOOK_BACK_BYTES)


def write_again(fd: int, start: int, end: int) -> None:
    """Make validated bytes dirty again, to be synced: only then are they known to be durable.

    Crash: the same bytes in the same place; a disk with powersafe overwrite keeps them whatever happens.
    """
    for offset in range(start, end, _REWRITE_BYTES):
        write_whole(fd, system.read_at(fd, min(_REWRITE_BYTES, end - offset), offset), offset)
