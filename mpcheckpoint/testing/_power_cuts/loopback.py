"""A real file system in an image file, whose power can be cut.

The cut is the shutdown ioctl of ext4 and XFS, told not to flush the journal: from then on nothing reaches the image,
and what the kernel held in memory is gone once the file system is unmounted. Earlier writes that reached the image
stay. So a write without a sync may or may not survive; a synced one must.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Literal, Self, get_args

from mpcheckpoint.testing._power_cuts.mounts import force_unmount, mounts_below, run, unmount

FsType = Literal["ext4", "xfs"]
FS_TYPES: tuple[FsType, ...] = get_args(FsType)

# _IOR('X', 125, __u32) as most architectures lay it out, x86 and ARM among them.
_SHUTDOWN = 2 << 30 | 4 << 16 | ord("X") << 8 | 125
_WITHOUT_FLUSHING_THE_LOG = 2
# How long a process that is just ending may hold what was unmounted.
_LONGEST_HELD_S, _PAUSE_S = 5.0, 0.01

# Sparse: mkfs.xfs refuses less, but uses little of it.
_MIN_SIZE_BYTES = {"ext4": 64 << 20, "xfs": 300 << 20}
# Blocks of 4096 bytes as on any larger disk: for one of this size, mkfs.ext4 would choose 1024.
_MKFS = {"ext4": ("mkfs.ext4", "-q", "-F", "-b", "4096"), "xfs": ("mkfs.xfs", "-q", "-f")}


class LoopFileSystem:
    """Make a file system whose power can be cut, and mount it inside the ``with`` block.

    Let processes work below ``mountpoint``, and report elsewhere what was acknowledged as durable; then
    ``cut_power()``, end or await those processes, ``restore()``, and look at what is left::

        with LoopFileSystem("ext4", directory) as disk:
            worker = start(work, disk.mountpoint / "data", report)
            acknowledged = report.so_far()  # before the cut begins: only this must be there after it
            disk.cut_power()
            worker.join()
            disk.restore()
            assert set(acknowledged) <= set(read(disk.mountpoint / "data"))

    A cut takes what the kernel has not handed to the disk. Every write that no sync covers may be lost or not, and so
    may the name of every file and directory whose parent was not synced.

    Requires root, loop devices and mkfs of the file system: see `why_no_power_cut`. The file system that holds
    ``directory`` needs room for all that is written: on a full one, a loop device calls half a write done.

    Crash: only a process killed with SIGKILL inside the block leaves the mount, the loop device and the image. ``umount
    MOUNTPOINT; losetup --detach DEVICE; rm IMAGE`` removes them; ``losetup --associated IMAGE`` tells the device.

    Concurrency: other processes may work on the file system. One process at a time may call the methods.

    Attributes:
        fstype: "ext4" or "xfs".
        mountpoint: where the file system is mounted: a new directory inside ``directory``, gone after the block.
        image: the file next to it that is the disk: sparse, and gone after the block.
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
        self.image: Path = Path(directory).resolve() / f"{fstype}.image"
        self.mountpoint: Path = self.image.with_name(f"{fstype}.mounted")
        self.size_bytes = max(size_bytes, _MIN_SIZE_BYTES[fstype])
        self.cuts: int = 0
        self._device = ""
        self._is_cut = False

    def __enter__(self) -> Self:
        self.mountpoint.mkdir()  # outside the `try`: one that exists already is not ours to remove
        try:
            self._make()
            self._mount()
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._unmount()  # raises if a file is still open there
        finally:
            self._clean_up()

    def cut_power(self) -> None:
        """Let nothing more reach the disk; every write gets EIO from now on.

        Only what was acknowledged before this call began must be there after `restore`: of the syncs in progress, the
        kernel reports some as done that are lost.
        """
        descriptor = os.open(self.mountpoint, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _WITHOUT_FLUSHING_THE_LOG))
        finally:
            os.close(descriptor)
        self._is_cut = True

    def restore(self) -> None:
        """Mount what is on the disk, after a cut or without one.

        Requires: no process, this one included, has a file open on it or its working directory there.

        Raises:
            BusyMountError: some process has; the message names the processes and their files. Once they are gone, this
                can be called again.
            OSError: the file system cannot be mounted any more. With EBUSY, a process that has mounts of its own holds
                it; once that is gone, this can be called again.
        """
        self._unmount()
        self._mount()
        if self._is_cut:
            self.cuts += 1
            self._is_cut = False

    def _make(self) -> None:
        with self.image.open("xb") as file:
            file.truncate(self.size_bytes)
        run(*_MKFS[self.fstype], self.image)
        # One device for all mounts: freed and taken anew for each, it could be found half freed.
        self._device = run("losetup", "--find", "--show", self.image).strip()

    def _mount(self) -> None:
        self._await_release()
        run("mount", "-t", self.fstype, self._device, self.mountpoint)

    def _unmount(self) -> None:
        if self.mountpoint in mounts_below(self.mountpoint):  # else an earlier `restore` came no further
            unmount(self.mountpoint)

    def _await_release(self) -> None:
        """Wait until no file system is on the device any more.

        As long as a process holds the one that was unmounted, be it in its own copy of the mounts, a new mount of the
        device would show that one: shut down as it is, and with what is in memory only. The kernel opens a device that
        a file system is on for nobody else who wants it exclusively.
        """
        until_s = time.monotonic() + _LONGEST_HELD_S
        while True:
            try:
                os.close(os.open(self._device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > until_s:
                    raise OSError(
                        error.errno,
                        f"{self.mountpoint} cannot be mounted anew: some process still holds the file system as it was",
                    ) from error
            else:
                return
            time.sleep(_PAUSE_S)

    def _clean_up(self) -> None:
        force_unmount(self.mountpoint)
        if self._device:
            run("losetup", "--detach", self._device)
            self._device = ""
        self.image.unlink(missing_ok=True)
        try:
            self.mountpoint.rmdir()
        except OSError:
            pass  # a process wrote there while nothing was mounted: these files are left


@cache
def why_no_power_cut(fstype: FsType) -> str:
    """Return why the power of this file system cannot be cut here, "" if it can: a reason to skip a test.

    It is found out by doing it, once in a process.
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
