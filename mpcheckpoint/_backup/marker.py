"""What a backup says of itself: the file ``backup`` in it, and how its logs differ from what that says."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

import msgspec

from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import EndState
from mpcheckpoint._logfile.faults import translated
from mpcheckpoint._logfile.paths import BACKUP_MARKER
from mpcheckpoint._store.log_end import bears_out
from mpcheckpoint.errors import BackupPlaceError

if TYPE_CHECKING:
    from mpcheckpoint._format.control import Header

MARKER_FORMAT = "mpcheckpoint backup"
# Some hundred bytes a log.
_MOST_BYTES = 64 * 1024 * 1024

Change = Literal["none", "longer", "shorter", "damaged", "another"]


class CompactedFrom(msgspec.Struct, frozen=True):
    """What a log of a backup was compacted from.

    Attributes:
        generation: its own.
        source: the generation of the store's log.
        offset, crc: where that was cut.
    """

    generation: str
    source: str
    offset: int
    crc: int


class SavedEnd(msgspec.Struct, frozen=True):
    """A log of a backup as it was backed up.

    Attributes:
        generation: its own.
        offset, crc: its end then; elsewhere, somebody has written to it, or it was cut short.
    """

    generation: str
    offset: int
    crc: int


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup says of itself: when its logs were cut, and whether all at one moment. 0: it holds none yet.

    A backup of one moment is that also if the next one, by a user who may not lock the logs, finds nothing new.

    By the names of their files, ``compacted``: of which logs it has no copy byte by byte. ``made``: which it made of
    logs on another storage, and how. ``ends``: how all others were backed up; None in one of an earlier release.
    """

    format: str = MARKER_FORMAT
    version: int = 1
    cut_us: int = 0
    is_of_one_moment: bool = True
    compacted: dict[str, CompactedFrom] = {}
    made: dict[str, SavedEnd] = {}
    ends: dict[str, SavedEnd] | None = None

    @property
    def logs(self) -> dict[str, SavedEnd] | None:
        """How each log was backed up; None if that is not known."""
        return self.made or self.ends


def read_marker(directory: str) -> Marker | None:
    """Return what a backup says of itself; None if there is no backup in a store's directory.

    Raises:
        BackupPlaceError: it cannot be read, or is of a newer version.
    """
    path = os.path.join(directory, BACKUP_MARKER)
    with translated("reading", path, is_read=True):
        try:
            file = system.open_file(path)
        except FileNotFoundError:
            return None
        data = system.read_at(file.fd, min(system.size_of(file.fd), _MOST_BYTES), 0)
    try:
        marker = msgspec.json.decode(data, type=Marker)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BackupPlaceError(
            f"{path} cannot be read: {error}", path=path, reason="unreadable marker"
        ) from error
    if marker.format != MARKER_FORMAT or marker.version != 1:
        raise BackupPlaceError(
            f"{path} is of version {marker.version} of {marker.format!r}, which this release does not know",
            path=path,
            reason="newer version",
        )
    return marker


def change_of(fd: int, header: Header, end: EndState | None, known: SavedEnd) -> Change:
    """Return how a log of a backup, of which ``clean_end`` is ``end``, differs from what was backed up.

    As far as its end tells: what precedes that is not read.
    """
    if header.generation != known.generation:
        return "another"
    size = system.size_of(fd)
    if size < known.offset or (end is not None and end.offset < known.offset):
        return "shorter"
    is_end = end is not None and (end.offset, end.stored_crc) == (known.offset, known.crc)
    if size == known.offset:
        return "none" if is_end else "damaged"
    return "longer" if is_end or bears_out(fd, EndState(known.offset, known.crc, 0)) else "another"
