"""Logs of a directory on their way: read up to a cut, and made of the logs of another storage."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._format.columns import Lines
from mpcheckpoint._format.frame import EndState
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._logfile.faults import NOT_CHANGED, translated
from mpcheckpoint._logfile.generations import GenerationCopy
from mpcheckpoint._logfile.ownership import create_log, create_log_like, temporary_name
from mpcheckpoint._logfile.paths import LogPaths
from mpcheckpoint._logfile.selected import blocks_up_to
from mpcheckpoint._store.cut import take_cut
from mpcheckpoint._store.moving import already_there, came_from, content_of, without_controls_of_a_generation
from mpcheckpoint._store.name_list import add_name
from mpcheckpoint._store.process import process
from mpcheckpoint._system.locks import store_locks
from mpcheckpoint.errors import ReadFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mpcheckpoint._format.control import Header
    from mpcheckpoint._store.cut import CutLog
    from mpcheckpoint._store.directory import StoreDirectory
    from mpcheckpoint._store.moving import LogCut


class FileCut:
    """A log file up to where it was cut. See ``LogCut``."""

    def __init__(self, cut: CutLog, *, is_of_one_moment: bool) -> None:
        self._cut = cut
        self.is_of_one_moment = is_of_one_moment
        self.path = cut.paths.log
        self.header: Header = cut.header
        self.last_us = cut.end.stamp_us
        self.size_bytes = cut.end.offset

    def lines(self) -> Iterator[Lines]:
        """Yield what it holds, proven."""
        paths, header, stop = self._cut.paths, self.header, self._cut.end
        with translated("reading", paths.log, is_read=True):
            file, end = self._cut.opened(), header.end
            if file is None:
                raise _replaced(paths.log)
            for scan, _ in blocks_up_to(file, end, stop, paths):
                yield from without_controls_of_a_generation(Lines.of(scan.lines), paths.log)
                end = scan.end
        if end != stop:
            raise _replaced(paths.log)


@contextmanager
def cut_of_directory(directory: StoreDirectory, timeout_s: float | None) -> Iterator[Sequence[FileCut]]:
    """Give all logs of a directory as they were at one moment. See ``Movable.cut``."""
    cut = take_cut(directory, timeout_s)
    if cut.failures:
        raise cut.failures[min(cut.failures)]
    if cut.is_of_one_moment and not directory.read_only:
        for log in cut.logs:
            durable = process.writer(directory.identity, log.paths).sync(timeout_s)
            if durable < log.end.offset:
                raise _replaced(log.paths.log)
    yield [FileCut(log, is_of_one_moment=cut.is_of_one_moment) for log in cut.logs]


def adopt_into_directory(
    directory: StoreDirectory, log: LogCut, timeout_s: float | None, pace: Callable[[int], None]
) -> None:
    """Make a log file of what another log held. See ``Movable.adopt_log``.

    Crash: a temporary file, which nobody has locked, until the log has its name; then the log, durable and whole.
    """
    paths = LogPaths.of(directory.path, log.header.log_key)
    with translated("copying into", paths.log, left=NOT_CHANGED):
        directory.require_locking()
        temporary, made = temporary_name(paths.log), None
        try:
            with directory.locked(timeout_s):
                _require_none(paths)
                directory.remove_stale_files()
                # Locked before anybody who cleans up can see it.
                made = (
                    create_log_like(temporary, directory.path, log.path)
                    if isinstance(log, FileCut)
                    else create_log(temporary, directory.path)
                )
                store_locks.files.add(made)  # closed in forked children, which would share the lock
                if not system.try_lock(made.fd):
                    raise OSError(errno.EAGAIN, "a file that was just made is already locked", temporary)
            write_adopted(log, paths, temporary, made, pace)
            with directory.locked(timeout_s):
                _require_none(paths)
                if not system.publish(temporary, paths.log):
                    raise already_there(paths.log_key, directory.base)
                system.sync_directory(directory.path)
                add_name(directory.path, paths.name)
        except BaseException:
            system.remove(temporary)
            raise
        finally:
            if made is not None:
                store_locks.files.discard(made)
    clock.observe(log.last_us)


def write_adopted(
    log: LogCut, paths: LogPaths, temporary: str, file: system.Descriptor, pace: Callable[[int], None]
) -> GenerationCopy:
    """Write what another log held to the file ``temporary``, synced, as the next generation of that one."""
    leading, begun_us, rest = content_of(log, pace)
    old = came_from(log)._replace(end=EndState(0, 0, begun_us))
    leading_lines = [payload for batch in leading for payload in batch]
    copy = GenerationCopy(paths, temporary, old, leading_lines, file=file)
    for lines in rest:
        copy.add_anew(lines)
    copy.finish(covers_us=log.last_us)
    system.sync_data(copy.fd)
    return copy


def _require_none(paths: LogPaths) -> None:
    if system.exists(paths.log):
        raise already_there(paths.log_key, paths.directory)


def _replaced(path: str) -> ReadFailedError:
    return ReadFailedError(
        f"{path} was replaced by another generation, or repaired, while it was read; try again. Nothing was changed",
        path=path,
        reason="replaced",
    )
