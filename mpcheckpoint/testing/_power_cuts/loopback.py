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
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, get_args

from mpcheckpoint.testing._power_cuts.mounts import force_unmount, run, unmount

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
_MKFS = {
    "ext4": (
        "mkfs.ext4",
        "-q",
        "-F",
        "-b",
        "4096",
    ),  # as on any disk of some size; it would choose 1024 for ours
    "xfs": ("mkfs.xfs", "-q", "-f"),
}


class LoopFileSystem:
    """Make a file system whose power can be cut, and mount it inside the ``with`` block.

    Put what is under test below ``mountpoint``, let processes work there and report outside what they were told is
    durable; then ``cut_power()``, end or await those processes, ``restore()``, and look at what is left::

        with LoopFileSystem("ext4", directory) as disk:
            worker = start(work, disk.mountpoint / "data", report)
            acknowledged = report.so_far()  # before the cut begins: only this must be there afterwards
            disk.cut_power()
            worker.join()
            disk.restore()
            assert set(acknowledged) <= set(read(disk.mountpoint / "data"))

    A cut takes whatever the kernel has not handed to the disk: every write no sync covers may be lost, and so may the
    name of every file and directory whose own directory was not synced. It may as well have survived.

    Requires root, loop devices and mkfs of the file system: see `why_no_power_cut`. What holds ``directory`` needs room
    for all that is written: a loop device calls a write done of which a full file system took a part.

    Crash: a process that is killed with SIGKILL inside the block leaves the mount, the loop device and the image
    behind, as nothing else does. ``umount MOUNTPOINT; losetup --detach DEVICE; rm IMAGE`` clears them away, with the
    device from ``losetup --associated IMAGE``.

    Concurrency: other processes work on the file system as they like. The methods are one process's at a time.

    Attributes:
        fstype: "ext4" or "xfs".
        mountpoint: where the file system is mounted: a new directory inside ``directory``, gone after the block.
        image: the file that stands for the disk, next to it: sparse, and gone after the block.
        size_bytes: the size of the disk.
        cuts: how many times its power was cut and came back.
    """

    def __init__(self, fstype: FsType, directory: str | os.PathLike[str], size_bytes: int = 0) -> None:
        """Plan a disk; entering the block makes it.

        Args:
            fstype: "ext4" or "xfs".
            directory: where the image is made and mounted. It exists, and has no other disk of this ``fstype``.
            size_bytes: how large the disk is; 0, or less than ``fstype`` can be, for the smallest that works (64 MiB
                and 300 MiB).
        """
        self.fstype = fstype
        self.image = Path(directory).resolve() / f"{fstype}.image"
        self.mountpoint = self.image.with_name(f"{fstype}.mounted")
        self.size_bytes = max(size_bytes, _MIN_SIZE_BYTES[fstype])
        self.cuts = 0
        self._device = ""
        self._is_cut = False

    def __enter__(self) -> Self:
        self.mountpoint.mkdir()  # outside the `try`: one that is there already is somebody else's
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
                unmount(self.mountpoint)  # whoever leaves a file open here is told so
        finally:
            self._clean_up()

    def cut_power(self) -> None:
        """Let nothing more reach the disk; every process that goes on writing gets EIO from now on.

        Only what was acknowledged before this call began must be there after `restore`: the kernel races with syncs
        that are under way, and reports some of them as done that are lost.
        """
        descriptor = os.open(self.mountpoint, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _WITHOUT_FLUSHING_THE_LOG))
        finally:
            os.close(descriptor)
        self._is_cut = True

    def restore(self) -> None:
        """Mount what is on the disk, after a cut or without one.

        Requires: no process has anything open on it or works in it, this one included.

        Raises:
            BusyMountError: somebody has; the message names the processes and their files. Once they have let go,
                this can be called again.
            OSError: the file system cannot be mounted any more.
        """
        unmount(self.mountpoint)
        self._mount()
        if self._is_cut:
            self.cuts += 1
            self._is_cut = False

    def _make(self) -> None:
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
        try:
            self.mountpoint.rmdir()
        except OSError:
            pass  # somebody wrote below it while nothing was mounted there: theirs to look at


@cache
def why_no_power_cut(fstype: FsType) -> str:
    """Return what stands in the way of a power cut of this file system here, "" if nothing does.

    It is found out by cutting one's power, once in a process. Something to skip a test by.
    """
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "this is not root"
    with tempfile.TemporaryDirectory() as directory:
        try:
            with LoopFileSystem(fstype, directory) as file_system:
                file_system.cut_power()
        except OSError as error:
            return str(error)
    return ""
