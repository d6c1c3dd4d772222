"""A model of a disk that forgets: what survives a loss of power at any given sync.

It watches the functions of `mpcheckpoint._system`. A file's bytes are durable as they were at its last sync, a
directory's entries likewise; everything else may be there or not. Modelled for one process that plays several.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

LOST = "lost"
KEPT = "kept"
WITH_A_HOLE = "with a hole"
BLOCK_BYTES = 4096


@dataclass
class _Disk:
    """What would be there: file contents by inode, directory entries (name to inode) by inode."""

    files: dict[int, bytes] = field(default_factory=dict)
    directories: dict[int, dict[str, int]] = field(default_factory=dict)


class DurableModel:
    """Remembers what each sync made durable, up to the ``cut_at``-th; the process goes on, unaware."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path, *, cut_at: int) -> None:
        self._root = root
        self._cut_at = cut_at
        self._syncs = 0
        self._durable = _Disk()
        self._visible = _Disk()
        self.is_cut = False
        self._sync_data = system.sync_data
        self._sync_directory = system.sync_directory
        monkeypatch.setattr(system, "sync_data", self._on_sync_data)
        monkeypatch.setattr(system, "sync_directory", self._on_sync_directory)

    def _on_sync_data(self, fd: int) -> None:
        self._sync_data(fd)
        if self._is_covered():
            status = os.fstat(fd)
            self._durable.files[status.st_ino] = os.pread(fd, status.st_size, 0)

    def _on_sync_directory(self, path: str) -> None:
        self._sync_directory(path)
        if self._is_covered():
            self._durable.directories[os.stat(path).st_ino] = _entries(path)

    def _is_covered(self) -> bool:
        """Count a sync; return whether it came before the cut."""
        self._syncs += 1
        if self._syncs == self._cut_at:
            self._visible = _disk_below(self._root)
            self.is_cut = True
        return not self.is_cut

    def build(self, place: Path, unsynced: str) -> None:
        """Write to ``place`` what is there after the cut: what was not synced is LOST, KEPT, or KEPT WITH_A_HOLE where
        its first block should be. Names in a directory that was never synced are lost in any case.
        """
        if not self.is_cut:
            self._visible = _disk_below(self._root)
        root = os.stat(self._root).st_ino
        self._durable.directories.setdefault(root, self._visible.directories[root])
        self._build(place, root, unsynced)

    def _build(self, place: Path, directory: int, unsynced: str) -> None:
        place.mkdir()
        for name, inode in self._durable.directories.get(directory, {}).items():
            if inode in self._visible.directories:
                self._build(place / name, inode, unsynced)
            else:
                (place / name).write_bytes(self._content(inode, unsynced))

    def _content(self, inode: int, unsynced: str) -> bytes:
        durable = self._durable.files.get(inode, b"")
        visible = self._visible.files.get(inode, durable)
        if unsynced == LOST or visible == durable:
            return durable
        if unsynced == KEPT:
            return visible
        same = next(
            (at for at, (a, b) in enumerate(zip(durable, visible, strict=False)) if a != b), len(durable)
        )
        same = min(same, len(visible))
        hole_end = min(len(visible), (same // BLOCK_BYTES + 1) * BLOCK_BYTES)
        return visible[:same] + bytes(hole_end - same) + visible[hole_end:]


class DirtyPages:
    """What of one file is on the disk, of a kernel that forgets which pages are dirty when a sync fails.

    A sync that succeeds then writes only what was written since, though the rest reads well (Linux does this).
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self._inode = path.stat().st_ino
        self._on_disk = bytearray(path.read_bytes())
        self._dirty: list[tuple[int, bytes]] = []
        self._fails_next = False
        self._write_at = system.write_at
        self._sync_data = system.sync_data
        monkeypatch.setattr(system, "write_at", self._on_write_at)
        monkeypatch.setattr(system, "sync_data", self._on_sync_data)

    def fail_next_sync(self) -> None:
        """Let the next sync fail, and with it be forgotten what it should have written."""
        self._fails_next = True

    def on_disk(self) -> bytes:
        """Return what a loss of power would leave."""
        return bytes(self._on_disk)

    def _on_write_at(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        written = self._write_at(fd, data, offset)
        if os.fstat(fd).st_ino == self._inode:
            self._dirty.append((offset, bytes(data[:written])))
        return written

    def _on_sync_data(self, fd: int) -> None:
        if os.fstat(fd).st_ino != self._inode:
            return self._sync_data(fd)
        dirty, self._dirty = self._dirty, []
        if self._fails_next:
            self._fails_next = False
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        for offset, data in dirty:
            self._on_disk.extend(bytes(max(0, offset - len(self._on_disk))))
            self._on_disk[offset : offset + len(data)] = data
        return None


def _disk_below(root: Path) -> _Disk:
    disk = _Disk()
    for directory, _, names in os.walk(root):
        disk.directories[os.stat(directory).st_ino] = _entries(directory)
        for name in names:
            path = os.path.join(directory, name)
            with open(path, "rb") as file:
                disk.files[os.stat(path).st_ino] = file.read()
    return disk


def _entries(directory: str) -> dict[str, int]:
    with os.scandir(directory) as entries:
        return {entry.name: entry.stat(follow_symlinks=False).st_ino for entry in entries}
