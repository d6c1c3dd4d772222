"""Back up a store that is no directory: its logs as one moment has them, made into the files of a store.

All is as with a backup of a directory, by the same journal, but that a log that has changed since the last backup is
made anew, since there are no bytes of it that could be added to.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint import _system as system
from mpcheckpoint._backup.backing_up import BackedUpLog, Backup
from mpcheckpoint._backup.copying import CopyPace
from mpcheckpoint._backup.journal import Journal, write_journal
from mpcheckpoint._backup.marker import Marker, SavedEnd, read_marker
from mpcheckpoint._backup.place import AgainError, BackupPlace
from mpcheckpoint._logfile.faults import translated
from mpcheckpoint._logfile.header import read_header
from mpcheckpoint._logfile.ownership import create_log, temporary_name
from mpcheckpoint._logfile.paths import LogPaths
from mpcheckpoint._store.file_moving import write_adopted
from mpcheckpoint._store.log_end import clean_end
from mpcheckpoint._store.moving import is_copy_of
from mpcheckpoint.errors import ReadFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpcheckpoint._format.control import Header
    from mpcheckpoint._store.moving import LogCut
    from mpcheckpoint._store.protocol import Store

_TRIES = 5


class _Step(NamedTuple):
    """What a log of the backup needs.

    Attributes:
        size_bytes: how long it is there; None if it is not.
    """

    log: LogCut
    paths: LogPaths
    size_bytes: int | None
    is_done: bool


def make_backup(
    store: Store,
    directory: str | os.PathLike[str],
    *,
    timeout_s: float | None,
    limit_rate: int | None,
    on_progress: Callable[[int], None] | None,
) -> Backup:
    """Back a store up into ``directory``. See ``Checkpoint.backup``."""
    pace = CopyPace(limit_rate, on_progress)
    for _ in range(_TRIES):
        try:
            place = BackupPlace(directory, None)
            with store.cut(timeout_s) as logs, ExitStack() as held:
                return _made(place, logs, held, timeout_s, pace)
        except AgainError:
            continue
    raise ReadFailedError(
        f"the backup in {os.fspath(directory)} was replaced again and again; try again. Nothing was changed",
        path=os.fspath(directory),
        reason="replaced again and again",
    )


def _made(
    place: BackupPlace, logs: Sequence[LogCut], held: ExitStack, timeout_s: float | None, pace: CopyPace
) -> Backup:
    cut_us = system.now_us()
    if not place.is_new:
        place.lock(held, timeout_s)
        place.settle()
    made = _made_before(place)
    steps = [_step(place, log, made) for log in logs]
    names = {step.paths.name for step in steps}
    kept = [] if place.is_new else place.kept(names)
    if kept and len(kept) == len(place.kept(set())) and steps:
        raise place.refusal("is a backup of another store: they have no log in common")
    sizes = {step.paths.log: step.size_bytes or 0 for step in steps}
    todo = [step for step in steps if not step.is_done]
    if todo or place.is_new:
        sizes |= place.change(held, timeout_s, lambda: _write(place, todo, made, cut_us, pace))
    done = tuple(_of(step, sizes[step.paths.log]) for step in steps)
    return Backup(place.base, cut_us, is_of_one_moment=True, logs=done, kept=tuple(kept))


def _made_before(place: BackupPlace) -> dict[str, SavedEnd]:
    marker = None if place.is_new else read_marker(place.path)
    return {} if marker is None else marker.made


def _step(place: BackupPlace, log: LogCut, made: dict[str, SavedEnd]) -> _Step:
    """Return what a log of the backup needs.

    Raises:
        BackupPlaceError: what is there was not made of this log, or somebody has written to it, or it is newer.
    """
    paths = LogPaths.of(place.path, log.header.log_key)
    known = made.get(os.path.basename(paths.log))
    with translated("reading", paths.log, is_read=True):
        try:
            file = system.open_file(paths.log)
        except FileNotFoundError:
            return _Step(log, paths, None, is_done=False)
        header = read_header(file.fd, paths.log, log_key=paths.log_key)
        end = clean_end(file.fd, header)
        size_bytes = system.size_of(file.fd)
    if known is None or not _is_of(header, log):
        raise place.refusal(f"is a backup of another store: its log {paths.log_key!r} is another one")
    if end is None or SavedEnd(header.generation, end.offset, end.stored_crc) != known:
        raise place.refusal(f"holds a log {paths.log_key!r} that was written to since it was backed up")
    if header.restored[-1].cut_us > log.last_us:
        raise place.refusal(f"holds a log {paths.log_key!r} that is newer than the store's")
    return _Step(log, paths, size_bytes, is_done=is_copy_of(header, log))


def _is_of(header: Header, log: LogCut) -> bool:
    """Return whether a log was made of an earlier state of another one."""
    source = header.restored[-1].to if header.restored else ""
    return source in (log.header.generation, *log.header.previous) or header.lineage == log.header.lineage


def _write(
    place: BackupPlace, todo: list[_Step], made: dict[str, SavedEnd], cut_us: int, pace: CopyPace
) -> dict[str, int]:
    """Write the logs under temporary names, then have them take theirs; return how long each is, by path."""
    write_journal(place.path, Journal(doing="backup"))
    there = place.kept(set())
    made = {name: end for name, end in made.items() if name in there}
    renames, sizes = dict[str, str](), dict[str, int]()
    for log, paths, *_ in todo:
        temporary, name = temporary_name(paths.log), os.path.basename(paths.log)
        file = create_log(temporary, place.path)
        copy = write_adopted(log, paths, temporary, file, pace.advance)
        file.close()
        made[name] = SavedEnd(copy.generation, copy.end.offset, copy.end.stored_crc)
        renames[os.path.basename(temporary)] = name
        sizes[paths.log] = copy.end.offset
    place.write_end(Marker(cut_us=cut_us, made=made), renames)
    return sizes


def _of(step: _Step, size_bytes: int) -> BackedUpLog:
    log_key = step.paths.log_key
    if step.is_done:
        return BackedUpLog(log_key, "unchanged", size_bytes, 0)
    return BackedUpLog(log_key, "new" if step.size_bytes is None else "copied anew", size_bytes, size_bytes)
