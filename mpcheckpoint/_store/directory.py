"""A store's directory: opened, checked, its logs listed, created and recovered.

The directory is the truth. ``logs`` is a list of names that only ever grows, so that a reader learns of new logs by
comparing its size; it is rebuilt from the directory where it is missing.
"""

from __future__ import annotations

import logging
import os
import shlex
import stat
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._format.control import encode_header
from mpcheckpoint._format.names import LOG_SUFFIX, older_name
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._logfile.faults import translated
from mpcheckpoint._logfile.file_bytes import write_whole
from mpcheckpoint._logfile.header import read_header, wrong_log
from mpcheckpoint._logfile.ownership import (
    create_log,
    is_temporary,
    make_directory_for,
    make_store_directory,
    missing_directories,
    open_in_store,
    temporary_name,
    users_of_new_directory,
)
from mpcheckpoint._logfile.paths import (
    STORE_DIRECTORY,
    STORE_LOCK,
    LogPaths,
    store_directory,
)
from mpcheckpoint._logfile.places import places
from mpcheckpoint._logfile.unfinished import is_unfinished, refuse_unfinished
from mpcheckpoint._store.name_list import NAME_LIST, add_name, is_named
from mpcheckpoint.errors import (
    CheckpointError,
    LockTimeoutError,
    LockUnsupportedError,
    LogNotFoundError,
    NetworkFileSystemError,
    NotAStoreError,
    StoreAccessError,
    StoreNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ALLOW_NETWORK = "MPCHECKPOINT_ALLOW_NETWORK"
_MOST_PROBES = 20

# The second is a logger of its own, below "mpcheckpoint", so that an import of those files can turn it off.
logger = logging.getLogger("mpcheckpoint")
older_files_logger = logging.getLogger("mpcheckpoint.older_files")


class StoreDirectory:
    """The ``.checkpoint`` directory of a store.

    Locking: creating and recovering logs happens under the store lock; listing needs none.
    """

    def __init__(
        self,
        base: str | os.PathLike[str],
        *,
        create: bool,
        read_only: bool,
        is_unfinished_taken: bool = False,
        users_of: str | None = None,
    ) -> None:
        """Open the store below ``base``.

        Args:
            base: the directory that ``.checkpoint`` lies in.
            create: whether to make what is missing.
            read_only: never write anything.
            is_unfinished_taken: also one that a backup or a restore left half done.
            users_of: what is made is for the users of this directory, whose store comes here, as far as the system lets
                us.

        Raises:
            UnknownSchemeError, StoreNotFoundError, NotAStoreError, StoreAccessError, UnfinishedBackupError
        """
        self.base = store_directory(base)
        self.path = os.path.join(self.base, STORE_DIRECTORY)
        self.read_only = read_only
        self._is_unfinished_taken = is_unfinished_taken
        self._store_lock = os.path.join(self.path, STORE_LOCK)
        self._names = os.path.join(self.path, NAME_LIST)
        self._keys: dict[str, str] = {}
        with translated("opening the store", self.path, is_read=read_only):
            self._is_new = self._create(users_of) if create and not read_only else False
            self.identity = self._checked_identity()
            if not is_unfinished_taken:
                refuse_unfinished(self.path)
            self._warn_of_older_files()

    # --- opening ----------------------------------------------------------------------------------------------

    def _create(self, users_of: str | None) -> bool:
        """Create what is missing of the path; return whether the store is new."""
        is_new = False
        for path in reversed(missing_directories(self.path) or [self.path]):
            users = None if users_of is None else users_of_new_directory(users_of)
            parent = os.path.dirname(path)
            try:
                if path == self.path:
                    is_new = make_store_directory(path, users)
                elif path == self.base and users is not None:
                    is_new = make_directory_for(path, users)
                else:
                    is_new = system.make_directory(path)
            except FileNotFoundError:
                if not os.path.isdir(parent or os.curdir):
                    raise  # it was removed meanwhile
                raise StoreAccessError(
                    f"{path} cannot be made: {parent} takes no new directories; choose another place",
                    path=path,
                    reason="no new directories there",
                ) from None
            if is_new:
                # Crash: a directory whose parent was not synced can be gone after a power cut, with all it held.
                system.sync_directory(os.path.dirname(path))
        return is_new

    def _checked_identity(self) -> tuple[int, int]:
        try:
            status = system.stat_path(self.path)
        except FileNotFoundError:
            raise StoreNotFoundError(
                f"there is no store at {self.base} (no directory {STORE_DIRECTORY} in it)",
                path=self.path,
                reason="no store",
            ) from None
        if not stat.S_ISDIR(status.st_mode):
            raise NotAStoreError(
                f"{self.path} is a {'symbolic link' if stat.S_ISLNK(status.st_mode) else 'file'}, not a directory; "
                "nothing in a store is opened through a link: move it away or choose another place",
                path=self.path,
                reason="not a directory",
            )
        return status.st_dev, status.st_ino

    def stands(self) -> bool:
        """Return whether the directory is the one that was opened: it was not removed, nor another put there."""
        try:
            return self._checked_identity() == self.identity
        except (CheckpointError, OSError):
            return False

    def require_locking(self) -> None:
        """Prove, before the first write, that files can really be locked here.

        Raises:
            LockUnsupportedError, NetworkFileSystemError, StoreAccessError
        """
        if self.identity in places.locking:
            return
        with translated("looking up the file system of", self.path):
            kind = system.network_file_system(self.path)
            unknown = None if kind is not None else system.unknown_file_system(self.path)
        if kind is not None and not os.environ.get(ALLOW_NETWORK):
            raise NetworkFileSystemError(
                f"{self.path} lies on {kind}, a file system of a network, a cluster or another system, where locks "
                f"and appends cannot be relied on; keep the store on a local one, or set {ALLOW_NETWORK}=1 to take the "
                "risk",
                path=self.path,
                reason=f"network file system {kind}",
            )
        with translated("trying locks in", self.path):
            proof = self._lock_proof()
        if proof.works is False:
            raise LockUnsupportedError(
                f"the file system of {self.path} does not lock files as it must: {proof.cause}; keep the store "
                "elsewhere",
                path=self.path,
                reason=proof.cause,
            )
        places.locking.add(self.identity)
        if unknown is not None and not os.environ.get(ALLOW_NETWORK):
            logger.warning(
                "%s lies on a file system of a type that is not known to this release: %s. Locks were tried there and "
                "work; if it is a local one all is well, if it is shared between machines keep the store elsewhere "
                "(mpcheckpoint doctor %s tries more)",
                self.path,
                unknown,
                shlex.quote(self.base),
            )
        if proof.works is None:
            logger.warning(
                "it was not proven that locks keep processes apart in %s: %s. They keep two descriptors of this "
                "process apart, so the store is used. To try again: mpcheckpoint doctor %s",
                self.path,
                proof.cause,
                shlex.quote(self.base),
            )

    def _lock_proof(self) -> system.LockProof:
        for _ in range(_MOST_PROBES - 1):
            # Before it is locked it may be taken for that of a killed process, and removed: then another one.
            with suppress(FileNotFoundError):
                return self._proof_by_one()
        return self._proof_by_one()

    def _proof_by_one(self) -> system.LockProof:
        probe = temporary_name(os.path.join(self.path, "probe"))
        descriptor = system.open_file(probe, write=True, create=True, exclusive=True)
        try:
            return system.prove_locking(probe, with_child=self._is_new)
        finally:
            descriptor.close()
            system.remove(probe)

    def _warn_of_older_files(self) -> None:
        names = [name for name in system.list_directory(self.path) if older_name(name) is not None]
        if names:
            base = shlex.quote(self.base)
            older_files_logger.warning(
                "%s holds %d %s of the older checkpoint tool (%s ...), left alone and not read. To have their records "
                "here: mpcheckpoint import --store %s %s; move the files away then",
                self.path,
                len(names),
                "file" if len(names) == 1 else "files",
                min(names),
                base,
                base,
            )

    # --- listing ----------------------------------------------------------------------------------------------

    def change_token(self) -> tuple[int, int] | None:
        """Return a value that changes when a log is added; None if only listing can tell."""
        try:
            status = system.stat_path(self._names)
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_size

    def log_keys(self) -> list[str]:
        """Return the keys of all logs, sorted.

        Raises:
            CorruptLogError, FormatVersionError: the header of a log cannot be read.
        """
        with translated("listing", self.path, is_read=True):
            names = [name for name in system.list_directory(self.path) if name.endswith(LOG_SUFFIX)]
            self._keys = {name: self._keys.get(name) or self._key_in(name) for name in names}
        return sorted(self._keys.values())

    def listing(self) -> Iterator[tuple[str, str | CheckpointError]]:
        """Yield the path of each log file, in order, with its key or the error that keeps it unknown."""
        with translated("listing", self.path, is_read=True):
            names = sorted(name for name in system.list_directory(self.path) if name.endswith(LOG_SUFFIX))
        for name in names:
            path = os.path.join(self.path, name)
            found: str | CheckpointError
            try:
                with translated("reading", path, is_read=True):
                    found = self._key_in(name)
            except CheckpointError as error:
                found = error
            yield path, found

    def _key_in(self, name: str) -> str:
        path = os.path.join(self.path, name)
        descriptor = system.open_file(path)
        log_key = read_header(descriptor.fd, path, log_key=None).log_key
        if LogPaths.of(self.path, log_key).log != path:
            # A copy of a log under another name would show every record twice.
            raise wrong_log(path, log_key, f"one whose file name is {name}")
        return log_key

    # --- creating and recovering ------------------------------------------------------------------------------

    @contextmanager
    def locked(self, timeout_s: float | None) -> Iterator[None]:
        """Hold the store lock.

        Raises:
            LockTimeoutError: if another process held it for ``timeout_s`` seconds.
            UnfinishedBackupError: a backup or a restore has left the store half done, and that is not ours to settle.
        """
        if self._checked_identity() != self.identity:
            raise StoreNotFoundError(
                f"the store {self.base} was removed, and another stands in its place; open it anew",
                path=self.path,
                reason="store removed",
            )
        try:
            if not system.exists(self._store_lock):
                open_in_store(self._store_lock).close()  # for all users of the store, not for its maker alone
            with system.store_lock(self._store_lock, timeout_s):
                if not self._is_unfinished_taken:
                    # A handle that was open before, or that waited for whoever was killed. What it would make, copy or
                    # remove now, the journal does not know of.
                    refuse_unfinished(self.path)
                yield
        except TimeoutError as error:
            if isinstance(error, LockTimeoutError):
                raise
            raise LockTimeoutError(
                f"the store {self.base} was locked by another process for {abs(timeout_s or 0):g} s "
                f"({self._store_lock})",
                path=self._store_lock,
                reason="lock timeout",
                advice="try again, or give a longer lock_timeout_s",
                shell_advice="try again, or give a longer --lock-timeout",
            ) from error

    def find_log(self, log_key: str) -> LogPaths:
        """Return the files of a log that exists, for reading: takes no lock, changes nothing.

        Raises:
            InvalidKeyError, LogNotFoundError, WrongLogError, FormatVersionError, CorruptLogError
        """
        paths = LogPaths.of(self.path, log_key)
        with translated("opening the log", paths.log, is_read=True):
            try:
                descriptor = system.open_file(paths.log)
            except FileNotFoundError:
                raise LogNotFoundError(
                    f"the store {self.base} has no log {log_key!r}",
                    path=paths.log,
                    reason="no such log",
                    log_key=log_key,
                ) from None
            read_header(descriptor.fd, paths.log, log_key=log_key)
        return paths

    def open_log(self, log_key: str, *, create: bool, timeout_s: float | None) -> LogPaths:
        """Return the files of a log that exists, for writing, creating it if need be.

        Raises:
            InvalidKeyError, LogNotFoundError, LockTimeoutError, WrongLogError, FormatVersionError, CorruptLogError
        """
        paths = LogPaths.of(self.path, log_key)
        with translated("opening the log", paths.log):
            if create and not system.exists(paths.log):
                self.require_locking()
                with self.locked(timeout_s):
                    self._create_log(paths)
            self.find_log(log_key)
            # Before anything is appended, so that readers learn of the log before its records.
            if not self.read_only and not is_named(self.path, paths.name):
                self.require_locking()
                with self.locked(timeout_s):
                    add_name(self.path, paths.name)
        return paths

    def _create_log(self, paths: LogPaths) -> None:
        """Publish a log with a durable header. Requires: the store lock."""
        self.remove_stale_files()
        if system.exists(paths.log):
            return
        temporary = temporary_name(paths.log)
        created_us = clock.next(0)
        header, _ = encode_header(
            paths.log_key, uuid.uuid4().hex, created_us, stamp_us=created_us, lineage=uuid.uuid4().hex
        )
        descriptor = create_log(temporary, self.path)
        try:
            write_whole(descriptor.fd, header, 0)
            system.sync_data(descriptor.fd)
        except BaseException:
            system.remove(temporary)
            raise
        # Crash: before the name is there, no log; after it, a log whose header is durable. The name itself is durable
        # with the directory, at the latest when the first writer's first use syncs it.
        system.publish(temporary, paths.log)
        system.sync_directory(self.path)

    def remove_stale_files(self) -> None:
        """Remove what killed processes left unfinished. Requires: the store lock.

        Whatever makes or repairs a log holds it too. A writer that makes another file without it makes it again.
        """
        if is_unfinished(self.path):
            return  # the journal names some of them: without these a restore would be done by half
        for name in system.list_directory(self.path):
            if not is_temporary(name):
                continue
            path = os.path.join(self.path, name)
            try:
                if system.is_directory(path):
                    system.remove_directory(path)
                elif not system.is_locked(path):  # by a compaction that is still at work on it
                    system.remove(path)
            except (FileNotFoundError, PermissionError):
                pass  # finished meanwhile; or another user's, in a directory where that is no business of ours
