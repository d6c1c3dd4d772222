"""Read the first line of a log file, and prove by it that this is the right log."""

from __future__ import annotations

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
from mpcheckpoint.errors import CorruptLogError, FormatVersionError, WrongLogError

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
