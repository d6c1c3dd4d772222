"""Mounting and unmounting, with errors that name the processes in the way."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

COMMAND_TIMEOUT_S = 30


class BusyMountError(OSError):
    """A file system cannot be unmounted: it is in use."""


def run(*argv: str | Path) -> str:
    """Run a command of the system and return what it printed.

    Raises:
        OSError: it is not installed, failed (the message carries what it said), or takes longer than
            ``COMMAND_TIMEOUT_S``.
    """
    command = " ".join(map(str, argv))
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise TimeoutError(errno.ETIMEDOUT, f"{command!r} still ran after {COMMAND_TIMEOUT_S} s") from None
    if done.returncode != 0:
        raise OSError(errno.EIO, f"{command!r} failed with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def mounts_below(directory: Path) -> list[Path]:
    """Return the mount points at or below ``directory``, innermost first."""
    try:
        table = Path("/proc/self/mounts").read_bytes()
    except FileNotFoundError:
        return []
    # The kernel writes blanks in paths as octal escapes; this codec undoes those too.
    points = [
        Path(os.fsdecode(line.split()[1].decode("unicode_escape").encode("latin-1")))
        for line in table.splitlines()
    ]
    return sorted((point for point in points if point.is_relative_to(directory)), reverse=True)


def unmount(mountpoint: Path) -> None:
    """Unmount, or raise BusyMountError naming the processes in the way.

    Rejected: falling back to a lazy unmount. The file system would live on as long as a process uses it, and the next
    mount of the same image would show that one, power cut and all, not what is on the disk.
    """
    try:
        run("umount", mountpoint)
    except OSError as error:
        holders = _holders(mountpoint)
        if not holders:
            raise
        raise BusyMountError(errno.EBUSY, f"{mountpoint} is in use by {'; '.join(holders)}") from error


def force_unmount(mountpoint: Path) -> None:
    """Unmount although it may be in use: the last resort of a clean-up. No error if it is gone."""
    if mountpoint in mounts_below(mountpoint):
        run("umount", "--lazy", mountpoint)


def _holders(mountpoint: Path) -> list[str]:
    holders = []
    for process in Path("/proc").glob("[0-9]*"):
        used = [path for path in _paths_in_use(process) if path.is_relative_to(mountpoint)]
        if used:
            holders.append(f"process {process.name} ({', '.join(sorted(set(map(str, used))))})")
    return holders


def _paths_in_use(process: Path) -> list[Path]:
    try:
        of_files = [*(process / "fd").iterdir(), *(process / "map_files").iterdir()]
    except OSError:
        return []  # it just died
    paths = []
    for link in (process / "cwd", process / "root", *of_files):
        try:
            paths.append(Path(link.readlink()))
        except OSError:
            pass  # closed in the meantime
    return paths
