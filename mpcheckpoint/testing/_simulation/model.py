"""What a disk holds, and may hold after a loss of power: kept up to date with every call that reaches it."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpcheckpoint.testing._simulation.images import Choices
from mpcheckpoint.testing._simulation.medium import DirectoryOnDisk, EntryChange, FileOnDisk

if TYPE_CHECKING:
    from mpcheckpoint.testing._simulation.seam import SeamCall

# These change something only if they create something; or never.
_CREATING = frozenset({"open_file", "create_locked", "make_directory"})
_UNCHANGING = frozenset({"prove_locking", "network_file_system", "unknown_file_system"})


class DiskModel:
    """The files and directories below ``root``: the real ones show what is written, this what of it is durable.

    Attributes:
        has_changed: whether the latest call changed, or synced, anything on the disk.
    """

    def __init__(self, root: Path) -> None:
        """Take all that is there for durable."""
        self._root = root
        self.has_changed = False
        self._next_inode = itertools.count(1)
        self._inodes: dict[tuple[int, int], int] = {}
        self._files: dict[int, FileOnDisk] = {}
        self._directories: dict[int, DirectoryOnDisk] = {}
        # How many failed syncs of its file each descriptor has reported: it reports each once.
        self._errors_seen: dict[int, int] = {}
        for directory, names, file_names in os.walk(root):
            inode = self._inode(os.stat(directory))
            entries = {
                name: self._inode(os.lstat(os.path.join(directory, name))) for name in [*names, *file_names]
            }
            self._directories[inode] = DirectoryOnDisk(entries)
            for name in file_names:
                self._files[entries[name]] = FileOnDisk.durable(_content(os.path.join(directory, name)))

    def do(self, call: SeamCall) -> Any:
        """Do what is called for, on the real files and in the model."""
        self.has_changed = False
        modelled = getattr(self, f"_on_{call.name}", None)
        if modelled is None:
            return call.proceed()
        self.has_changed = call.name not in _CREATING | _UNCHANGING
        return modelled(call)

    def fail_to_sync(self, fd: int) -> None:
        """Let a sync of an open file fail: what it should have written no later sync writes."""
        file = self._file_of(fd)
        if self._errors_seen.get(fd, 0) == file.errors:
            file.errors += 1
        file.fail_to_sync()
        self._errors_seen[fd] = file.errors

    def choices(self) -> Choices:
        """Return what a loss of power at this moment may leave."""
        for directory, _, names in os.walk(self._root):
            self._directory(directory).notice_changes_from_outside(self._live_entries(directory))
            for name in names:
                path = os.path.join(directory, name)
                self._files[self._inode(os.lstat(path))].see(_content(path))
        return Choices(self._inode(os.stat(self._root)), self._files, self._directories)

    # --- calls ------------------------------------------------------------------------------------------------

    def _on_prove_locking(self, call: SeamCall) -> Any:
        call.options["with_child"] = False  # starting another process proves nothing about a disk
        return call.proceed()

    def _on_network_file_system(self, call: SeamCall) -> None:
        """Return None: this disk is a local one."""

    _on_unknown_file_system = _on_network_file_system

    def _on_write_at(self, call: SeamCall) -> Any:
        fd, _, offset = call.arguments
        file = self._file_of(fd)
        written = call.proceed()
        file.write(_content(fd), offset, offset + written)
        return written

    def _on_truncate(self, call: SeamCall) -> Any:
        file = self._file_of(call.arguments[0])
        call.proceed()
        file.write(_content(call.arguments[0]), 0, 0)

    def _on_sync_data(self, call: SeamCall) -> Any:
        fd = call.arguments[0]
        file = self._file_of(fd)
        if self._errors_seen.get(fd, 0) < file.errors:
            self.fail_to_sync(fd)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        file.sync()

    def _on_sync_directory(self, call: SeamCall) -> Any:
        path = call.arguments[0]
        self._directory(path).sync(self._live_entries(path))

    def _on_make_directory(self, call: SeamCall) -> Any:
        path = call.arguments[0]
        is_made = call.proceed()
        if is_made:
            self._change(path, self._inode(os.lstat(path)))
        return is_made

    def _on_open_file(self, call: SeamCall) -> Any:
        path = call.arguments[0]
        was_there = os.path.lexists(path)
        opened = call.proceed()
        if opened is not None:
            inode = self._inode(os.stat(opened.fd))
            self._errors_seen[opened.fd] = self._files[inode].errors
            if not was_there:
                self._change(path, inode)
        return opened

    _on_create_locked = _on_open_file

    def _on_publish(self, call: SeamCall) -> Any:
        temporary, path = call.arguments
        inode = self._inode(os.lstat(temporary))
        is_published = call.proceed()
        if is_published:
            self._change(path, inode)
        self._change(temporary, None)
        return is_published

    def _on_replace(self, call: SeamCall) -> Any:
        temporary, path = call.arguments
        inode = self._inode(os.lstat(temporary))
        self._forget(path)
        call.proceed()
        self._change(path, inode, gone=os.path.basename(temporary))

    def _on_remove(self, call: SeamCall) -> Any:
        path = call.arguments[0]
        was_there = os.path.lexists(path)
        self._forget(path)
        is_removed = call.proceed()
        if was_there and not os.path.lexists(path):
            self._change(path, None)
        return is_removed

    _on_remove_unlocked = _on_remove

    # --- files and directories --------------------------------------------------------------------------------

    def _change(self, path: str, inode: int | None, gone: str | None = None) -> None:
        directory = self._directory(os.path.dirname(path))
        directory.changes.append(EntryChange(os.path.basename(path), inode, gone))
        self.has_changed = True

    def _directory(self, path: str) -> DirectoryOnDisk:
        return self._directories[self._inode(os.stat(path))]

    def _file_of(self, fd: int) -> FileOnDisk:
        """Return the model of an open file, with what was done to it outside of the seam."""
        file = self._files[self._inode(os.fstat(fd))]
        file.see(_content(fd))
        return file

    def _inode(self, status: os.stat_result) -> int:
        """Return a number of our own for a file: the system gives the numbers of removed files to new ones."""
        key = (status.st_dev, status.st_ino)
        if key not in self._inodes:
            inode = self._inodes[key] = next(self._next_inode)
            if stat.S_ISDIR(status.st_mode):
                self._directories[inode] = DirectoryOnDisk()
            else:
                self._files[inode] = FileOnDisk()
        return self._inodes[key]

    def _forget(self, path: str) -> None:
        """Take note that a name is about to go. A file without names keeps what is known of it, and its number."""
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return
        inode = self._inode(status)
        if inode in self._files:
            self._files[inode].see(_content(path))
            if status.st_nlink == 1:
                del self._inodes[status.st_dev, status.st_ino]

    def _live_entries(self, path: str | os.PathLike[str]) -> dict[str, int]:
        with os.scandir(path) as entries:
            return {entry.name: self._inode(entry.stat(follow_symlinks=False)) for entry in entries}


def _content(file: int | str) -> bytes:
    if isinstance(file, str):
        return Path(file).read_bytes()
    return os.pread(file, os.fstat(file).st_size, 0)
