"""What is on the disk, and what may be: files by sectors, directories by entries. Pure; knows no operating system.

The model is that of T. Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014: until it is synced, each
sector of a file, its size, and each change of a directory reaches the disk or does not, independently of the others.
That is more hostile than any one file system. A failed sync is as A. Rebello et al. found it, "Can Applications Recover
from fsync Failures?", ATC 2020: it leaves the pages clean, so that no later sync writes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

SECTOR_BYTES = 512

T = TypeVar("T")


@dataclass
class FileOnDisk:
    """One file: what a reader sees (``live``), and what the disk may hold.

    Invariant: ``versions[sector]`` are the contents that the disk may hold of a sector, oldest first; a sector that is
    not in there is on the disk as ``settled`` has it.
    """

    live: bytes = b""
    settled: bytes = b""
    versions: dict[int, list[bytes]] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=lambda: [0])
    # Sectors that the next sync will write. Others with versions are what a failed sync has left.
    dirty: set[int] = field(default_factory=set)
    # How many syncs have failed.
    errors: int = 0

    @classmethod
    def durable(cls, content: bytes) -> FileOnDisk:
        """Return a file all of which is on the disk."""
        return cls(live=content, settled=content, sizes=[len(content)])

    def write(self, live: bytes, first: int, last: int) -> None:
        """Take note that the bytes from ``first`` to before ``last`` were written; ``live`` is the file now."""
        for sector in range(first // SECTOR_BYTES, (last + SECTOR_BYTES - 1) // SECTOR_BYTES):
            self._change_sector(sector, _sector(live, sector))
        self._become(live)

    def sync(self) -> None:
        """Take note of a sync that succeeded."""
        size = len(self.live)
        self.settled = self.content(size, ((sector, _sector(self.live, sector)) for sector in self.dirty))
        for sector in self.dirty:
            del self.versions[sector]
        self.sizes, self.dirty = [size], set()

    def fail_to_sync(self) -> None:
        """Take note of a sync that failed: its sectors may be on the disk or not, and no later sync writes them."""
        self.dirty = set()

    def see(self, live: bytes) -> None:
        """Take changes made outside of the seam for writes without a sync."""
        if live == self.live:
            return
        for sector in range((len(live) + SECTOR_BYTES - 1) // SECTOR_BYTES):
            if _sector(live, sector) != _sector(self.live, sector):
                self._change_sector(sector, _sector(live, sector))
        self._become(live)

    def choices(self) -> tuple[list[int], list[list[tuple[int, bytes]]]]:
        """Return the possible sizes, and the possible contents of each unsettled sector; the last of each is live."""
        sectors = [
            [(sector, version) for version in _distinct(versions)]
            for sector, versions in sorted(self.versions.items())
        ]
        return _distinct(self.sizes), sectors

    def content(self, size: int, sectors: Iterable[tuple[int, bytes]]) -> bytes:
        """Return the file with this size and these sectors."""
        content = bytearray(self.settled[:size].ljust(size, b"\0"))
        for sector, version in sectors:
            start = sector * SECTOR_BYTES
            if start < size:
                content[start : start + SECTOR_BYTES] = version[: size - start]
        return bytes(content)

    def _change_sector(self, sector: int, version: bytes) -> None:
        self.versions.setdefault(sector, [_sector(self.settled, sector)]).append(version)
        self.dirty.add(sector)

    def _become(self, live: bytes) -> None:
        if len(live) < len(self.live) and len(live) % SECTOR_BYTES:
            end = len(live) // SECTOR_BYTES  # the bytes cut off the last sector read as zeros from now on
            self._change_sector(end, _sector(live, end))
        if len(live) != self.sizes[-1]:
            self.sizes.append(len(live))
        self.live = live


@dataclass(frozen=True)
class EntryChange:
    """One change of a directory: ``name`` gets ``inode``, or none; ``gone`` is the name that a rename removes."""

    name: str
    inode: int | None
    gone: str | None = None


@dataclass
class DirectoryOnDisk:
    """One directory: the entries that are on the disk, and the changes that may have reached it."""

    entries: dict[str, int] = field(default_factory=dict)
    changes: list[EntryChange] = field(default_factory=list)

    def sync(self, live: dict[str, int]) -> None:
        """Take note of a sync that succeeded. A failed one leaves all changes to the next, as journals do."""
        self.entries, self.changes = dict(live), []

    def notice_changes_from_outside(self, live: dict[str, int]) -> None:
        """Take changes made outside of the seam for changes without a sync."""
        seen = self.with_changes([True] * len(self.changes))
        self.changes += [EntryChange(name, None) for name in sorted(set(seen) - set(live))]
        self.changes += [
            EntryChange(name, inode) for name, inode in sorted(live.items()) if seen.get(name) != inode
        ]

    def with_changes(self, survives: list[bool]) -> dict[str, int]:
        """Return the entries if these of the changes reached the disk."""
        entries = dict(self.entries)
        for change, is_there in zip(self.changes, survives, strict=True):
            if not is_there:
                continue
            if change.gone is not None:
                entries.pop(change.gone, None)
            if change.inode is None:
                entries.pop(change.name, None)
            else:
                entries[change.name] = change.inode
        return entries


def _sector(content: bytes, sector: int) -> bytes:
    start = sector * SECTOR_BYTES
    return content[start : start + SECTOR_BYTES].ljust(SECTOR_BYTES, b"\0")


def _distinct(values: list[T]) -> list[T]:
    """Return each value once, in the order of their last occurrences, so that the live one stays the last."""
    return list(dict.fromkeys(reversed(values)))[::-1]
