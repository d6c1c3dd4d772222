"""Back a store up: the cut, what the backup lacks of it, and all of that copied, or nothing."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mpcheckpoint import _system as system
from mpcheckpoint._backup.compacted import SPARE_BYTES, compacted_copy
from mpcheckpoint._backup.copying import BrokenSourceError, CopyPace, copy_batches
from mpcheckpoint._backup.journal import Journal, write_journal
from mpcheckpoint._backup.marker import CompactedFrom, Marker, SavedEnd, read_marker
from mpcheckpoint._backup.place import AgainError, BackupPlace, LogStep
from mpcheckpoint._logfile.faults import translated
from mpcheckpoint._logfile.file_bytes import write_whole
from mpcheckpoint._logfile.ownership import create_copy, temporary_name
from mpcheckpoint._logfile.recovery import repair_end
from mpcheckpoint._store.cut import Cut, CutLog, take_cut
from mpcheckpoint._store.process import process
from mpcheckpoint.errors import CheckpointError, CorruptLogError, ReadFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._logfile.selected import Selection
    from mpcheckpoint._store.directory import StoreDirectory

_TRIES = 5


@dataclass(frozen=True, slots=True)
class BackedUpLog:
    """What a backup did to one log.

    Attributes:
        log_key: its key.
        action: "unchanged"; "extended": what was appended since was added; "new": it was not in the backup before;
            "copied anew": the store's got another generation since, or the backup's file has another name too, as
            cp -l gives it, and what goes by that must not change; or it was compacted then; "compacted": it was copied
            without what was to be dropped.
        size_bytes: how long it is in the backup; copied_bytes: how many of them were written now.
    """

    log_key: str
    action: Literal["unchanged", "extended", "new", "copied anew", "compacted"]
    size_bytes: int
    copied_bytes: int


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup did.

    Attributes:
        directory: where it is.
        cut_us: the moment whose state it holds, in microseconds since 1970. If nothing had changed, the store still had
            this state then, and nothing was written.
        is_of_one_moment: whether all logs are as they were at one moment. False where this user may not lock the
            store's logs: then each log is whole, and they may not belong together. (If they are what an earlier backup
            found at one moment, they do.)
        logs: what was done to each, in the order of their keys.
        left_out: why other logs were left out, as ``skip_damaged`` allowed; the backup has them as it had them before.
        kept: files of logs that the store no longer has; the backup keeps them.
    """

    directory: str
    cut_us: int
    is_of_one_moment: bool
    logs: tuple[BackedUpLog, ...]
    left_out: tuple[CheckpointError, ...] = ()
    kept: tuple[str, ...] = ()

    @property
    def copied_bytes(self) -> int:
        """How many bytes were written."""
        return sum(log.copied_bytes for log in self.logs)


def back_up_store(
    store: StoreDirectory,
    directory: str | os.PathLike[str],
    *,
    timeout_s: float | None,
    limit_rate: int | None,
    skip_damaged: bool,
    on_progress: Callable[[int], None] | None,
    select: Callable[[], Selection] | None = None,
) -> Backup:
    """Back a store up into ``directory``. See ``Checkpoint.backup``.

    Args:
        select: makes what tells what is dropped from a log, if anything is to be.
    """
    with translated("backing up", store.path, is_read=True):
        wanted = _Wanted(timeout_s, skip_damaged, CopyPace(limit_rate, on_progress), select)
        return _backed_up(store, directory, wanted)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """How to back up."""

    timeout_s: float | None
    skip_damaged: bool
    pace: CopyPace
    select: Callable[[], Selection] | None


def _backed_up(store: StoreDirectory, directory: str | os.PathLike[str], wanted: _Wanted) -> Backup:
    damaged: dict[str, CheckpointError] = {}
    for _ in range(_TRIES):
        try:
            place = BackupPlace(directory, store)
            with ExitStack() as held:
                return _tried(store, place, held, wanted, damaged)
        except AgainError:
            continue
        except _BrokenLogError as broken:
            _judge(store, broken, damaged, wanted.timeout_s)
    if damaged and not wanted.skip_damaged:
        raise damaged[min(damaged)]
    raise ReadFailedError(
        f"a log of {store.base}, or the backup in {os.fspath(directory)}, was replaced again and again while it was "
        "backed up; try again. Nothing was changed",
        path=store.path,
        reason="replaced again and again",
    )


def _tried(
    store: StoreDirectory,
    place: BackupPlace,
    held: ExitStack,
    wanted: _Wanted,
    damaged: dict[str, CheckpointError],
) -> Backup:
    timeout_s = wanted.timeout_s
    if not place.is_new:
        place.lock(held, timeout_s)
        place.settle()
    cut = take_cut(store, timeout_s)
    cut.failures.update(damaged)
    if cut.failures and not wanted.skip_damaged:
        raise cut.failures[min(cut.failures)]
    cut.logs = [log for log in cut.logs if log.paths.log not in damaged]
    with translated("reading", store.path, is_read=True):
        steps = place.steps(cut)
    todo = [step for step in steps if wanted.select is not None or not step.is_done]
    if not todo and not place.is_new:
        known = read_marker(place.path)
        is_known = known is not None and known.is_of_one_moment and bool(known.cut_us)
        if not place.lacks_logs() and (is_known or not cut.is_of_one_moment or cut.failures):
            return _done(place, cut, steps, is_known=is_known)
    _make_durable(store, cut, todo, timeout_s, damaged)
    compacted = _write(place, cut, todo, wanted, held)
    return _done(place, cut, steps, compacted)


class _BrokenLogError(Exception):
    """A log of the store is not whole up to where it was cut."""

    def __init__(self, log: CutLog, cause: BrokenSourceError, *, is_locked: bool) -> None:
        super().__init__(log.paths.log)
        self.log, self.cause, self.is_locked = log, cause, is_locked


def _make_durable(
    store: StoreDirectory,
    cut: Cut,
    todo: list[LogStep],
    timeout_s: float | None,
    damaged: dict[str, CheckpointError],
) -> None:
    """Make what is to be copied durable in the store: a backup must hold nothing that the store can lose.

    Raises:
        AgainError: that cannot be done for a log, which is among ``damaged`` then. Or a log is shorter than when it was
            cut: by its last lines it was whole, but there was a hole further up, so it was torn, and is repaired.
    """
    if not cut.is_of_one_moment:
        return
    before, is_shorter = len(damaged), False
    for step in todo:
        try:
            durable = process.writer(store.identity, step.cut.paths).sync(timeout_s)
            is_shorter |= durable < step.cut.end.offset
        except TimeoutError:
            raise
        except CheckpointError as error:
            damaged[step.cut.paths.log] = error
    if is_shorter or len(damaged) > before:
        raise AgainError


def _judge(
    store: StoreDirectory,
    broken: _BrokenLogError,
    damaged: dict[str, CheckpointError],
    timeout_s: float | None,
) -> None:
    """Find out whether a log that is not whole is corrupt; if it is torn, cut that off, as the next writer would do."""
    paths, damage = broken.log.paths, broken.cause.damage
    found = CorruptLogError(
        paths.log, damage.offset, expected=damage.expected, found=damage.found, log_key=paths.log_key
    )
    if not broken.is_locked:
        damaged[paths.log] = found
        return
    try:
        if repair_end(process.writer(store.identity, paths), timeout_s) is None:
            damaged[paths.log] = found  # its end is as it was: the damage is in what was validated before
    except TimeoutError:
        raise
    except CheckpointError as error:
        damaged[paths.log] = error


# --- written -------------------------------------------------------------------------------------------------


def _write(
    place: BackupPlace, cut: Cut, todo: list[LogStep], wanted: _Wanted, held: ExitStack
) -> dict[str, int]:
    """Bring the backup to the cut, whole or not at all; return the sizes of what was compacted, by path."""

    def write() -> dict[str, int]:
        if wanted.select is None:
            _require_room(place, todo)
        return _write_logs(place, cut, todo, wanted)

    return place.change(held, wanted.timeout_s, write)


def _write_logs(place: BackupPlace, cut: Cut, todo: list[LogStep], wanted: _Wanted) -> dict[str, int]:
    lengths = {os.path.basename(step.path): step.start.offset for step in todo if step.start is not None}
    write_journal(place.path, Journal(doing="backup", lengths=lengths))
    written = {os.path.basename(step.path) for step in todo}
    compacted = {name: known for name, known in place.compacted.items() if name not in written}
    ends = place.other_ends(written)
    renames, sizes = dict[str, str](), dict[str, int]()
    for step in todo:
        source = step.cut.opened()
        if source is None:
            raise AgainError  # it was replaced
        name, temporary, copy = os.path.basename(step.path), temporary_name(step.path), None
        end, header = step.cut.end, step.cut.header
        ends[name] = SavedEnd(header.generation, end.offset, end.stored_crc)
        try:
            if wanted.select is not None:
                copy = compacted_copy(step.cut, source, temporary, wanted.select(), wanted.pace)
                if copy is None:
                    _require_room(place, [step])
            if copy is not None:
                compacted[name] = CompactedFrom(
                    copy.generation, header.generation, end.offset, end.stored_crc
                )
                ends[name] = SavedEnd(copy.generation, copy.end.offset, copy.end.stored_crc)
                sizes[step.path] = copy.end.offset
            elif step.start is None:
                _copy(step, source.fd, temporary, wanted.pace)
            elif not step.is_done:
                _extend(step, source.fd, wanted.pace)
            if step.start is None or copy is not None:
                renames[os.path.basename(temporary)] = name
        except BrokenSourceError as error:
            raise _BrokenLogError(step.cut, error, is_locked=cut.is_of_one_moment) from error
        step.cut.file = None  # closed: there may be many
    is_of_one_moment = cut.is_of_one_moment and not cut.failures
    marker = Marker(cut_us=cut.cut_us, is_of_one_moment=is_of_one_moment, compacted=compacted, ends=ends)
    place.write_end(marker, renames)
    return sizes


def _require_room(place: BackupPlace, todo: list[LogStep]) -> None:
    """Refuse to fill the disk before anything is written."""
    needed = SPARE_BYTES + sum(
        step.cut.end.offset - (0 if step.start is None else step.start.offset) for step in todo
    )
    free = system.space_at(place.path).free_bytes
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed, and {free:,} are free there")


def _extend(step: LogStep, source: int, pace: CopyPace) -> None:
    assert step.start is not None
    target = system.open_file(step.path, write=True)
    if system.size_of(target.fd) != step.start.offset:
        raise OSError(errno.EBUSY, "somebody writes to the backup", step.path)
    copy_batches(source, target.fd, step.start, step.cut.end, pace)
    system.sync_data(target.fd)


def _copy(step: LogStep, source: int, temporary: str, pace: CopyPace) -> None:
    """Copy a log under a temporary name, for the users of the store's log."""
    header = step.cut.header
    target = create_copy(temporary, step.cut.paths.log)
    write_whole(target.fd, system.read_at(source, header.end.offset, 0), 0)
    pace.advance(header.end.offset)
    copy_batches(source, target.fd, header.end, step.cut.end, pace)
    system.sync_data(target.fd)


def _done(
    place: BackupPlace,
    cut: Cut,
    steps: list[LogStep],
    compacted: dict[str, int] | None = None,
    *,
    is_known: bool = False,
) -> Backup:
    """Return what was done. ``is_known``: all is as an earlier backup left it, which was of one moment."""
    logs = tuple(_of(step, (compacted or {}).get(step.path)) for step in steps)
    return Backup(
        place.base,
        cut.cut_us,
        (is_known or cut.is_of_one_moment) and not cut.failures,
        logs,
        tuple(cut.failures[path] for path in sorted(cut.failures)),
        tuple(place.kept(cut.names)),
    )


def _of(step: LogStep, compacted_bytes: int | None) -> BackedUpLog:
    if compacted_bytes is not None:
        return BackedUpLog(step.cut.paths.log_key, "compacted", compacted_bytes, compacted_bytes)
    size = step.cut.end.offset
    if step.is_done:
        return BackedUpLog(step.cut.paths.log_key, "unchanged", size, 0)
    if step.start is not None:
        return BackedUpLog(step.cut.paths.log_key, "extended", size, size - step.start.offset)
    return BackedUpLog(step.cut.paths.log_key, "new" if step.is_new else "copied anew", size, size)
