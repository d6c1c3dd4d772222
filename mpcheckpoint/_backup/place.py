"""The directory that takes a backup: whether it may, and what each of its logs needs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

from mpcheckpoint import _system as system
from mpcheckpoint._backup.journal import Journal, settle, write_beside, write_journal
from mpcheckpoint._backup.marker import CompactedFrom, Marker, SavedEnd, change_of, read_marker
from mpcheckpoint._format.frame import EndState
from mpcheckpoint._format.names import LOG_SUFFIX
from mpcheckpoint._logfile.faults import NOT_CHANGED, translated
from mpcheckpoint._logfile.header import read_header
from mpcheckpoint._logfile.ownership import missing_directories
from mpcheckpoint._logfile.paths import BACKUP_MARKER, STORE_DIRECTORY, STORE_LOCK, LogPaths, store_directory
from mpcheckpoint._logfile.places import places
from mpcheckpoint._store.directory import StoreDirectory
from mpcheckpoint._store.log_end import bears_out, clean_end, whole_end
from mpcheckpoint.errors import BackupPlaceError, CheckpointError, NotAStoreError, StoreNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from mpcheckpoint._format.control import Header
    from mpcheckpoint._store.cut import Cut, CutLog

T = TypeVar("T")


class AgainError(Exception):
    """The place, or a log of the store, was changed meanwhile by others: all is to be looked at anew."""


class LogStep(NamedTuple):
    """What a log of the backup needs: lines from ``start`` on (None: a file of its own), up to the end of ``cut``."""

    cut: CutLog
    path: str
    start: EndState | None
    is_new: bool

    @property
    def is_done(self) -> bool:
        """Whether it is there already."""
        return self.start == self.cut.end


class BackupPlace:
    """The directory that takes a backup.

    Requires of its callers: the store lock of the directory is held while anything in it is changed.
    """

    def __init__(self, base: str | os.PathLike[str], store: StoreDirectory | None) -> None:
        """Prove that ``base`` may take backups of ``store``; of one that is no directory, if that is None.

        Nothing is changed.

        Raises:
            BackupPlaceError: it is the store, lies in it, holds it, or is another one.
            UnknownSchemeError, NotAStoreError
        """
        self.base = store_directory(base)
        self.path = os.path.join(self.base, STORE_DIRECTORY)
        self._store = store
        # What the marker says of logs, by the names of their files. ``None``: one of an earlier release says no ends.
        self.compacted: dict[str, CompactedFrom] = {}
        self._saved: dict[str, SavedEnd] | None = None
        self._directory: StoreDirectory | None = None
        self._refuse_overlap()
        if os.path.lexists(self.base) and not os.path.isdir(self.base):
            raise NotAStoreError(
                f"{self.base} is not a directory: a backup is one; choose another place",
                path=self.base,
                reason="not a directory",
            )
        # The directories that are to be made, the innermost first: they go again if the first backup fails.
        self.made = missing_directories(self.path)
        self.is_new = bool(self.made) or not self._is_backup()

    def _refuse_overlap(self) -> None:
        if self._store is None:
            return
        here, there = os.path.realpath(self.base), os.path.realpath(self._store.base)
        if here == there:
            what = "is the store itself"
        elif here.startswith(os.path.join(there, "")):
            what = f"lies inside the store {self._store.base}"
        elif there.startswith(os.path.join(here, "")):
            what = f"contains the store {self._store.base}"
        else:
            return
        raise self.refusal(what)

    def refusal(self, what: str) -> BackupPlaceError:
        """Return the error that says why this place cannot take the backup."""
        return BackupPlaceError(
            f"{self.base} {what}; choose another directory for the backup. Nothing was changed",
            path=self.base,
            reason=what,
        )

    def _is_backup(self) -> bool:
        """Return whether a backup stands there; False if there is a store without logs."""
        if read_marker(self.path) is not None:
            return True
        if self._names():
            raise self.refusal("is a store that no backup made")
        return False

    def _names(self) -> list[str]:
        with translated("listing", self.path, is_read=True):
            try:
                names = system.list_directory(self.path)
            except FileNotFoundError:
                return []
        return [name for name in names if name.endswith(LOG_SUFFIX)]

    def opened(self) -> StoreDirectory:
        """Return the directory, made if need be, for the users of the store as far as the system lets us."""
        users_of = None if self._store is None else self._store.path
        return StoreDirectory(
            self.base, create=True, read_only=False, is_unfinished_taken=True, users_of=users_of
        )

    def lock(self, held: ExitStack, timeout_s: float | None) -> None:
        """Hold the store lock of the directory, made if need be.

        Raises:
            AgainError: another first backup failed, and removed what it had made.
        """
        try:
            self._directory = self.opened()
            held.enter_context(self._directory.locked(timeout_s))
        except (FileNotFoundError, StoreNotFoundError) as error:
            raise AgainError from error
        if not self.is_new and not self._is_backup():
            raise AgainError

    def settle(self) -> None:
        """Finish, or undo, what an interrupted backup left, and clear away what a killed one did.

        Requires: it is locked.
        """
        assert self._directory is not None
        with translated("finishing an interrupted backup in", self.path):
            settle(self.path)
            self._directory.remove_stale_files()

    def mark(self) -> None:
        """Have a new place say that it is a backup, durably: before there is anything else in it.

        Raises:
            AgainError: another backup into it was made, or a store.
        """
        if self._names() or read_marker(self.path) is not None:
            raise AgainError
        path = os.path.join(self.path, BACKUP_MARKER)
        system.replace(write_beside(path, msgspec.json.encode(Marker())), path)
        system.sync_directory(self.path)

    def change(self, held: ExitStack, timeout_s: float | None, write: Callable[[], T]) -> T:
        """Bring the backup to another state, whole or not at all, by ``write``, which leaves a written journal.

        Requires: the place is new, or locked and settled.
        """
        if self.is_new:
            try:
                self.lock(held, timeout_s)
            except BaseException:
                # With nothing in it: what is there may be another backup's by now.
                self._remove_made(self.made[1:])
                raise
        owner = os.getpid()
        with translated("backing up into", self.path, left=NOT_CHANGED):
            try:
                if self.is_new:
                    self.settle()
                    self.mark()
                    places.make_names_durable(self.path)
                written = write()
            except BaseException:
                # A child that was forked meanwhile, by ``on_progress`` perhaps, must not undo what its parent goes on
                # with.
                if os.getpid() == owner:
                    self._give_up()
                raise
            settle(self.path)
        return written

    def _give_up(self) -> None:
        """Undo what was done. If that fails, too, the journal stays, and the next backup does it."""
        try:
            self.settle()
        except (OSError, CheckpointError):
            return
        if not self.holds_logs():
            self.unmake()

    def write_end(self, marker: Marker, renames: dict[str, str]) -> None:
        """Write the journal that has files, and the marker, take their names. All that it names is synced."""
        path = os.path.join(self.path, BACKUP_MARKER)
        renames[os.path.basename(write_beside(path, msgspec.json.encode(marker)))] = BACKUP_MARKER
        write_journal(self.path, Journal(doing="backup", is_written=True, renames=renames))

    def unmake(self) -> None:
        """Remove what the first backup made, which holds nothing."""
        if not self.is_new:
            return
        system.remove(os.path.join(self.path, BACKUP_MARKER))
        if self.made:
            system.remove(os.path.join(self.path, STORE_LOCK))
        self._remove_made(self.made)

    def _remove_made(self, made: list[str]) -> None:
        for path in made:
            try:
                system.remove_directory(path)
            except OSError:
                return  # somebody put something into it

    def steps(self, cut: Cut) -> list[LogStep]:
        """Return what each log needs.

        Raises:
            AgainError: one of them got another generation since it was cut.
            BackupPlaceError: a log of the backup is not what the store's was once.
            CorruptLogError, FormatVersionError, ReadFailedError: a log of the backup cannot be read.
        """
        # What is in a new place by now is another backup's, which has it locked.
        names, steps = [] if self.is_new else self._names(), list[LogStep]()
        if names and cut.logs and not cut.names & {name.removesuffix(LOG_SUFFIX) for name in names}:
            raise self.refusal("is a backup of another store: they have no log in common")
        known = None if self.is_new else read_marker(self.path)
        self.compacted = {} if known is None else known.compacted
        self._saved = None if known is None else known.logs
        for name in names:
            if self._saved is not None and name not in self._saved:
                raise self.refusal(f"was written to: no backup made its {name}")
        for log in cut.logs:
            source = log.opened()
            if source is None:
                raise AgainError
            steps.append(self._step(log, source.fd))
        return steps

    def lacks_logs(self) -> bool:
        """Return whether the marker names logs of which the files are gone. Requires: ``steps`` was called."""
        return self._saved is not None and not self._saved.keys() <= set(self._names())

    def other_ends(self, written: set[str]) -> dict[str, SavedEnd]:
        """Return how the logs that are there were backed up, but for those of these names.

        What an earlier release has backed up is taken as it is found. Requires: ``steps`` was called.
        """
        saved = self._saved
        names = [name for name in self._names() if name not in written]
        return {name: self._found_end(name) if saved is None else saved[name] for name in names}

    def _found_end(self, name: str) -> SavedEnd:
        path = os.path.join(self.path, name)
        file = system.open_file(path)
        try:
            header = read_header(file.fd, path, log_key=None)
        except CheckpointError:
            return SavedEnd("", system.size_of(file.fd), 0)  # who restores it is told of the damage
        end = clean_end(file.fd, header) or whole_end(file.fd, header)
        return SavedEnd(header.generation, end.offset, end.stored_crc)

    def _step(self, log: CutLog, source: int) -> LogStep:
        path = LogPaths.of(self.path, log.paths.log_key).log
        if self.is_new:
            return LogStep(log, path, None, is_new=True)
        with translated("reading", path, is_read=True):
            try:
                file = system.open_file(path)
            except FileNotFoundError:
                return LogStep(log, path, None, is_new=True)
            header = read_header(file.fd, path, log_key=log.paths.log_key)
            end = clean_end(file.fd, header)
            self._require_as_saved(log, file.fd, header, end)
            known, copied = self.compacted.get(os.path.basename(path)), header.generation
            if known is not None and known.generation == header.generation:
                copied = known.source
                if copied == log.header.generation:
                    self._require_prefix(log, EndState(known.offset, known.crc, 0), source)
                    return LogStep(log, path, None, is_new=False)
            elif copied == log.header.generation:
                is_whole = end is not None and end.offset == system.size_of(file.fd)
                self._require_prefix(log, end if is_whole else None, source)
                # A file that has other names too is not extended: by those it is another backup (cp -al, rsync
                # --link-dest), which must stay what it is.
                is_linked = end != log.end and system.path_status(path).links > 1
                return LogStep(log, path, None if is_linked else end, is_new=False)
        if not log.header.continues(copied, header.lineage):
            raise self.refusal(f"is a backup of another store: its log {log.paths.log_key!r} is another one")
        # A compacted copy was made when it was backed up: where the store was compacted meanwhile, after the header of
        # what that makes was written. So the times tell only where neither generation names the other.
        is_earlier = copied not in log.header.previous and header.created_us > log.header.created_us
        if is_earlier or log.header.generation in header.previous:
            raise self.refusal(f"holds a log {log.paths.log_key!r} that is newer than the store's")
        return LogStep(log, path, None, is_new=False)

    def _require_as_saved(self, log: CutLog, fd: int, header: Header, end: EndState | None) -> None:
        """Return if nobody has written to a log, as far as is known. One that was cut short is made whole again."""
        name = os.path.basename(log.paths.log)
        if self._saved is None:
            return
        if change_of(fd, header, end, self._saved[name]) not in ("none", "shorter"):
            raise self.refusal(
                f"holds a log {log.paths.log_key!r} that is not as it was backed up: it was written to, or is damaged"
            )

    def _require_prefix(self, log: CutLog, end: EndState | None, source: int) -> None:
        if end is None or end.offset > log.end.offset or not bears_out(source, end):
            raise self.refusal(
                f"holds a log {log.paths.log_key!r} that is no beginning of the store's: it was written to, or the "
                "store was put back to an earlier state"
            )

    def holds_logs(self) -> bool:
        """Return whether there are logs in it."""
        return bool(self._names())

    def kept(self, known: set[str]) -> list[str]:
        """Return the names of logs in the backup that the store does not have, of which ``known`` are the names."""
        return sorted(name for name in self._names() if name.removesuffix(LOG_SUFFIX) not in known)
