"""Linux: syncs, words to wait on, and which file systems are reached over a network."""

from __future__ import annotations

import os
from pathlib import Path

from mpcheckpoint._system.futex import FutexWord, has_futex
from mpcheckpoint._system.words import PolledWord

# Locks there are emulated or local to one host, and appends are not atomic.
NETWORK_FILE_SYSTEMS = frozenset(
    [
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "fuse.ceph",
        "fuse.glusterfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "gfs2",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "smb3",
        "smbfs",
        "virtiofs",
    ]
)
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


def network_file_system(path: str) -> str | None:
    """Return the type of the network file system that holds ``path``, or None if it is local or not known."""
    try:
        table = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    file_system = _type_of_mount(table, os.path.realpath(path))
    return file_system if file_system in NETWORK_FILE_SYSTEMS else None


def _type_of_mount(table: str, path: str) -> str:
    """Return the type of the mount that ``path`` lies under: the longest mount point, of equal ones the last."""
    best, file_system = -1, ""
    for line in table.splitlines():
        fields, _, kind = line.partition(" - ")
        mount_point = _unescape(fields.split()[4])
        prefix = mount_point.rstrip("/") + "/"
        if (path + "/").startswith(prefix) and len(prefix) >= best:
            best, file_system = len(prefix), kind.split()[0]
    return file_system


def _unescape(field: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, char)
    return field
