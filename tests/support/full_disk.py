"""A disk that promises more room than it has, so that its file system finds out only when it writes."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

from mpcheckpoint.testing._power_cuts.loopback import FsType, LoopFileSystem
from mpcheckpoint.testing._power_cuts.mounts import run
from support.tmpfs import TmpFileSystem

if TYPE_CHECKING:
    from types import TracebackType

# For the whole image of ext4, of which all that is not in use is given back; and for what little of XFS's is written,
# most of it the log, by mkfs.
_HOST_BYTES = {"ext4": 80 << 20, "xfs": 100 << 20}
_STEPS_BYTES = (1 << 20, 4096)


class ThinDisk:
    """A file system in a sparse image on a small RAM disk, mounted inside the ``with`` block. Needs root.

    Without room, a write of blocks that the image does not hold yet goes well, for it goes to memory; the sync of it
    fails with ENOSPC. What the file system keeps for itself was written before, so it stays in use.

    Unless ``journal_has_room``: then ext4 cannot write its journal. The sync fails with EIO, and the file system is
    read-only until it is mounted again. For one process: the kernel, shutting the file system down, calls a last sync
    of another one done that is lost, as it does in a power cut.
    """

    def __init__(self, fstype: FsType, directory: Path, *, journal_has_room: bool = True) -> None:
        self._host = TmpFileSystem(directory, size_bytes=_HOST_BYTES[fstype])
        self._disk = LoopFileSystem(fstype, self._host.mountpoint)
        self._filler = self._host.mountpoint / "filler"
        self._mounted = ExitStack()
        self._journal_has_room = journal_has_room
        self.mountpoint = self._disk.mountpoint

    def __enter__(self) -> Self:
        with ExitStack() as mounted:
            mounted.enter_context(self._host)
            mounted.enter_context(self._disk)
            self._write_page_by_page()
            if self._disk.fstype == "ext4" and self._journal_has_room:  # mkfs.xfs writes all of its log
                with self._disk.image.open("r+b") as image:
                    os.posix_fallocate(image.fileno(), 0, self._disk.size_bytes)
                run("fstrim", self.mountpoint)
            self._mounted = mounted.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_room()  # else the file system could not be unmounted in peace
        self._mounted.__exit__(kind, error, trace)

    def _write_page_by_page(self) -> None:
        # A loop device takes a write that its host took in part for a whole one, and calls it done. A page has room or
        # has none, so no write may be larger.
        device = run("losetup", "--noheadings", "--output", "NAME", "--associated", self._disk.image).strip()
        Path("/sys/block", Path(device).name, "queue/max_sectors_kb").write_text("4")

    def take_room(self) -> None:
        """Leave no room for a single block."""
        fill(self._filler)

    def give_room(self) -> None:
        """Give back what `take_room` took."""
        self._filler.unlink(missing_ok=True)

    def mount_anew(self) -> None:
        """Forget what is in memory only. Requires: no process has anything open on it."""
        self._disk.restore()


def fill(path: Path) -> None:
    """Let a file take all the room that its file system has."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    size = os.fstat(descriptor).st_size
    try:
        for step in _STEPS_BYTES:
            while _grows(descriptor, size, step):
                size += step
    finally:
        os.close(descriptor)


def _grows(descriptor: int, size: int, by: int) -> bool:
    try:
        os.posix_fallocate(descriptor, size, by)
    except OSError:
        return False
    return True
