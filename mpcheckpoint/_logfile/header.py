"""Read the first line of a log file, and prove by it that this is the right log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._format.control import (
    MAX_HEADER_BYTES,
    Header,
    UnknownControlError,
    UnknownVersion,
    control_name,
    parse_header,
)
from mpcheckpoint._format.frame import FORMAT_VERSION, Line
from mpcheckpoint.errors import CorruptLogError, FormatVersionError, InvalidPositionError, WrongLogError

if TYPE_CHECKING:
    from mpcheckpoint._logfile.paths import LogPaths
    from mpcheckpoint._types import Position

_USUAL_HEADER_BYTES = 1024


def read_header(fd: int, path: str, *, log_key: str | None) -> Header:
    """Return the header of an open log.

    Damage of it is always corruption: it was durable before the log had a name.

    Args:
        log_key: the key the log must have; None accepts any.

    Raises:
        FormatVersionError, WrongLogError, CorruptLogError: nothing was changed.
    """
    data = system.read_at(fd, _USUAL_HEADER_BYTES, 0)
    if len(data) == _USUAL_HEADER_BYTES and b"\n" not in data:
        data = system.read_at(fd, MAX_HEADER_BYTES, 0)
    header = parse_header(data)
    if isinstance(header, UnknownVersion):
        raise FormatVersionError(
            f"{path} has format version {header.version!r}; this release reads version {FORMAT_VERSION}. "
            "Use a newer release of mpcheckpoint.",
            path=path,
            reason="newer format version",
        )
    if not isinstance(header, Header):
        raise CorruptLogError(
            path, header.offset, expected=header.expected, found=header.found, log_key=log_key
        )
    if log_key is not None and header.log_key != log_key:
        raise wrong_log(path, header.log_key, repr(log_key))
    return header


def wrong_log(path: str, found: str, expected: str) -> WrongLogError:
    """Return the error for a log file whose header and name contradict each other."""
    return WrongLogError(
        f"{path} holds the log {found!r}, not {expected}; was a file renamed or copied? Give it its name back.",
        path=path,
        reason="another log key",
    )


def require_position(position: Position, header: Header, paths: LogPaths) -> None:
    """Return if a position is of the log with this header, and names a place that is still in it.

    Raises:
        InvalidPositionError: it is not.
    """
    is_ours = header.continues(position.generation, position.lineage)
    if position.log_key != paths.log_key or not is_ours:
        raise no_position(position, paths.log_key, paths.log, "of another log")
    if not header.holds(position.generation, position.stamp_us):
        raise after_what_was_restored(position, paths)


def no_position(position: Position, log_key: str, place: str, reason: str) -> InvalidPositionError:
    """Return the error for a position that is none of the log of that key at ``place``."""
    what = f"no position of the log {log_key!r} as it stands"
    if position.log_key != log_key:
        what = f"a position in the log {position.log_key!r}, not in {log_key!r}"
    message = f"{position} is {what} in {place}"
    return InvalidPositionError(message, path=place, offset=position.offset, reason=reason)


def after_what_was_restored(position: Position, paths: LogPaths) -> InvalidPositionError:
    """Return the error for a position after the end of the backup from which a log was restored."""
    return InvalidPositionError(
        f"{position} is after what a backup had of the log {paths.log_key!r} when it was restored from it: what was "
        "recorded there is gone, and other records come in its place",
        path=paths.log,
        offset=position.offset,
        reason="after what was restored",
        advice="begin anew: read the log from its start, or follow it from its end",
    )


def known_control(line: Line, path: str) -> str:
    """Return the name of a control line.

    Raises:
        FormatVersionError: it is unknown and must not be ignored.
    """
    try:
        return control_name(line)
    except UnknownControlError as error:
        raise FormatVersionError(
            f"{path} holds {error} at offset {line.offset}, which this release does not know. "
            "Use a newer release of mpcheckpoint.",
            path=path,
            offset=line.offset,
            reason="unknown control line",
        ) from None
