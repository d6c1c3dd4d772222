"""Linux: syncs, words to wait on, and which file system holds a path."""

from __future__ import annotations

import os
from pathlib import Path

from mpcheckpoint._system.futex import FutexWord, has_futex
from mpcheckpoint._system.mount import Mount
from mpcheckpoint._system.words import PolledWord

_MOUNTS = Path("/proc/self/mountinfo")

# Make a file's bytes and size durable.
sync_data = os.fdatasync


def sync_directory(path: str) -> None:
    """Make the entries of a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def shared_word(fd: int, offset: int) -> FutexWord | PolledWord:
    """Return the 32-bit word at ``offset`` of an open file, for processes to wait on.

    Raises:
        OSError: the file cannot be mapped.
    """
    return FutexWord(fd, offset) if has_futex() else PolledWord(fd, offset)


def mount_of(path: str) -> Mount | None:
    """Return the mount that holds ``path``; None if the system does not tell."""
    try:
        table = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    return _mount_in(table, os.path.realpath(path))


def _mount_in(table: str, path: str) -> Mount | None:
    """Return the mount above ``path``: the one of the longest mount point, and of equal ones the last."""
    best, found = -1, None
    for line in table.splitlines():
        fields, _, kind = line.partition(" - ")
        mount_point = _unescape(fields.split()[4])
        prefix = mount_point.rstrip("/") + "/"
        if (path + "/").startswith(prefix) and len(prefix) >= best:
            best, found = len(prefix), (mount_point, fields.split()[5], kind.split())
    if found is None:
        return None
    mount_point, of_mount, (file_system, source, *of_file_system) = found
    options = dict.fromkeys(",".join([of_mount, *of_file_system]).split(","))
    return Mount(mount_point, file_system, _unescape(source), tuple(options))


def _unescape(field: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, char)
    return field
