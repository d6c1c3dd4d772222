"""A real file system in an image file, whose power can be cut.

The cut is the shutdown ioctl of ext4 and XFS, told not to flush the journal: from that instant nothing more reaches
the image, and what the kernel held in memory is gone once the file system is unmounted. What had been handed to the
image before stays, so a write without a sync may survive as well as not; a synced one must.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, get_args

from support import tally
from support.mounts import force_unmount, run, unmount

if TYPE_CHECKING:
    from types import TracebackType

FsType = Literal["ext4", "xfs"]
FS_TYPES: tuple[FsType, ...] = get_args(FsType)

# _IOR('X', 125, __u32) as most architectures lay it out, x86 and ARM among them.
_SHUTDOWN = 2 << 30 | 4 << 16 | ord("X") << 8 | 125
_WITHOUT_FLUSHING_THE_LOG = 2

_MIN_SIZE_BYTES = {
    "ext4": 64 << 20,
    "xfs": 300 << 20,
}  # sparse: mkfs.xfs refuses less, but little of it is used
_MKFS = {"ext4": ("mkfs.ext4", "-q", "-F"), "xfs": ("mkfs.xfs", "-q", "-f")}


class LoopFileSystem:
    """A freshly made file system, mounted inside the ``with`` block. Needs root.

    Crash: a test process killed with SIGKILL leaves its mount and loop device behind; nothing else does.
    """

    def __init__(self, fstype: FsType, directory: Path, size_bytes: int = 0) -> None:
        self.fstype = fstype
        self.image = directory / f"{fstype}.image"
        self.mountpoint = directory / f"{fstype}.mounted"
        self.size_bytes = max(size_bytes, _MIN_SIZE_BYTES[fstype])
        self._device = ""
        self._is_cut = False

    def __enter__(self) -> Self:
        try:
            self._make()
            self._mount()
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                unmount(self.mountpoint)  # a test that leaves a file open here is told so
        finally:
            self._clean_up()

    def cut_power(self) -> None:
        """Let nothing more reach the disk. Every process that goes on writing gets EIO from now on.

        Only what was acknowledged before this call began must be there after `restore`: the kernel races with syncs
        that are under way.
        """
        descriptor = os.open(self.mountpoint, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _WITHOUT_FLUSHING_THE_LOG))
        finally:
            os.close(descriptor)
        self._is_cut = True

    def restore(self) -> None:
        """Mount what is on the disk. Requires: no process has anything open on it, this one included."""
        unmount(self.mountpoint)
        self._mount()
        if self._is_cut:
            tally.add("power cuts")
            self._is_cut = False

    def _make(self) -> None:
        self.mountpoint.mkdir()
        with self.image.open("xb") as file:
            file.truncate(self.size_bytes)
        run(*_MKFS[self.fstype], self.image)
        # One device for all mounts: freed and taken anew at each of them it can be met half freed.
        self._device = run("losetup", "--find", "--show", self.image).strip()

    def _mount(self) -> None:
        run("mount", "-t", self.fstype, self._device, self.mountpoint)
        self._prove_it_is_alive()

    def _prove_it_is_alive(self) -> None:
        # A mount of a device whose old file system somebody still holds shows that one, shut down as it is.
        probe = self.mountpoint / ".alive"
        try:
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise OSError(
                errno.EBUSY,
                f"{self.mountpoint} shows the file system from before the power cut: who holds it?",
            ) from error

    def _clean_up(self) -> None:
        force_unmount(self.mountpoint)
        if self._device:
            run("losetup", "--detach", self._device)
            self._device = ""
        self.image.unlink(missing_ok=True)
