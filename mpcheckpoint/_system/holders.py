"""Who holds a lock: read from the kernel's table, without taking any lock.

Linux shows the table in /proc. Elsewhere, or where it may leave out processes, the answer is "unknown". A lock that may
be held is never called free.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from enum import Enum
from typing import NamedTuple

from mpcheckpoint._system.command_line import shown_command

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_READ_BYTES = 1 << 20
# The first name space of processes (PROC_PID_INIT_INO). In any other the table leaves out locks of processes outside.
_FIRST_PID_NAMESPACE = "pid:[4026531836]"
_STOPPED = "tT"
_LONGEST_COMMAND_BYTES = 4096


class LockState(Enum):
    """What can be told of a lock."""

    FREE = "free"
    HELD = "held"
    UNKNOWN = "unknown"


class LockHolder(NamedTuple):
    """A process that took a lock.

    Attributes:
        pid: its id.
        command: its command line, without the passwords in it; None if the process is gone, or hidden from us. If it is
            gone, a process that it forked has the lock.
        is_stopped: whether it is stopped, as by SIGSTOP or Ctrl-Z.
    """

    pid: int
    command: str | None
    is_stopped: bool


class LockStatus(NamedTuple):
    """Who holds a lock, and how many wait for it.

    Attributes:
        state: whether it is held.
        holder: who holds it; None if nobody does, or that is unknown.
        waiters: how many processes and threads wait for it in the kernel; None if unknown.
    """

    state: LockState
    holder: LockHolder | None
    waiters: int | None


_FREE = LockStatus(LockState.FREE, None, 0)
_UNKNOWN = LockStatus(LockState.UNKNOWN, None, None)


def lock_status(path: str) -> LockStatus:
    """Return who holds the flock lock of the file at ``path``. Takes no lock, and raises nothing."""
    try:
        fd = os.open(path, _FLAGS)
    except FileNotFoundError:
        return _FREE  # a lock on an unlinked file locks out nobody
    except OSError:
        return _UNKNOWN
    try:
        name = _name_in_table(fd)
        # The table may change between the pieces in which the kernel hands it out: one look can miss a line, not two.
        status = _found(name) if name else None
        if name and status is None:
            status = _found(name)
        if status is None and name and os.readlink("/proc/self/ns/pid") == _FIRST_PID_NAMESPACE:
            return _FREE
    except (OSError, ValueError, IndexError):
        return _UNKNOWN
    finally:
        os.close(fd)
    return status or _UNKNOWN


def openers(paths: Collection[str]) -> dict[str, list[LockHolder]]:
    """Return which processes have each of these files open, as far as we may see that; the oldest first.

    A lock belongs to an open file, and so to all processes that inherited it; the table of locks names only the one
    that took it. Read from the links of descriptors in /proc: no file is opened or looked at. Raises nothing.
    """
    found: dict[str, list[LockHolder]] = {path: [] for path in paths}
    names = {_without_links(path): path for path in paths}
    for pid in _processes() if names else ():
        for name in _open_files(pid) & names.keys():
            found[names[name]].append(_process(pid))
    return found


def _without_links(path: str) -> str:
    """Return a path as the links in /proc have it. Its last part is no link, and may be a log: it is not looked at."""
    directory, name = os.path.split(path)
    return os.path.join(os.path.realpath(directory), name)


def _processes() -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    except OSError:
        return []


def _open_files(pid: int) -> set[str]:
    directory = f"/proc/{pid}/fd"
    try:
        names = os.listdir(directory)
    except OSError:
        return set()  # of another user, or gone
    found = set()
    for name in names:
        try:
            found.add(os.readlink(f"{directory}/{name}"))
        except OSError:
            continue  # just closed
    return found


def _name_in_table(fd: int) -> str | None:
    """Return what stands for an open file in the table; None if unknown.

    Rejected: what stat says. On btrfs and overlayfs it has other device or inode numbers than the table.
    """
    fields = dict(line.split(":", 1) for line in _read(f"/proc/self/fdinfo/{fd}").splitlines() if ":" in line)
    inode = int(fields["ino"]) if "ino" in fields else os.fstat(fd).st_ino  # not told before Linux 5.14
    mount_id = fields.get("mnt_id", "").strip()
    for line in _read("/proc/self/mountinfo").splitlines():
        mount = line.split(maxsplit=3)
        if mount[0] == mount_id:
            major, minor = mount[2].split(":")
            return f"{int(major):02x}:{int(minor):02x}:{inode}"
    return None


def _found(name: str) -> LockStatus | None:
    holder: int | None = None
    waiters = 0
    for line in _read("/proc/locks").splitlines():
        if name not in line:
            continue
        fields = line.split()[1:]  # the first one numbers the locks
        is_waiting = fields[0] == "->"
        kind, _, _, pid, file = fields[is_waiting : is_waiting + 5]
        if kind == "FLOCK" and file == name:
            waiters += is_waiting
            holder = holder if is_waiting else int(pid)
    if holder is None:
        return None
    return LockStatus(LockState.HELD, _process(holder) if holder > 0 else None, waiters)


def _process(pid: int) -> LockHolder:
    try:
        line = _read(f"/proc/{pid}/cmdline", _LONGEST_COMMAND_BYTES)
        is_cut = len(line) >= _LONGEST_COMMAND_BYTES and not line.endswith("\0")
        command = shown_command(line.rstrip("\0").split("\0"), is_cut=is_cut).strip()
        # The state follows the name, which stands in brackets and may hold anything.
        name, _, rest = _read(f"/proc/{pid}/stat").partition("(")[2].rpartition(")")
    except OSError:
        return LockHolder(pid, None, is_stopped=False)
    return LockHolder(pid, command or name, is_stopped=rest.strip()[:1] in _STOPPED and bool(rest))


def _read(path: str, most_bytes: int = 1 << 30) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while most_bytes > 0 and (data := os.read(fd, min(_READ_BYTES, most_bytes))):
            parts.append(data)
            most_bytes -= len(data)
    finally:
        os.close(fd)
    return b"".join(parts).decode(errors="backslashreplace")
