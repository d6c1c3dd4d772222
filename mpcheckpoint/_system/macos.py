"""macOS: written for, and not tested. fsync there does not reach the medium; F_FULLFSYNC does."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import sys

from mpcheckpoint._system.file_systems import file_system_kind
from mpcheckpoint._system.mount import Mount
from mpcheckpoint._system.words import PolledWord

# sys/mount.h, with 64-bit inodes: flags, then the names of the type, of the place and of the device.
_STATFS = struct.Struct("=64x I 4x 16s 1024s 1024s 32x")
_IS_LOCAL = "local"
_FLAGS = ((0x00000001, "ro"), (0x00001000, _IS_LOCAL), (0x00000002, "sync"), (0x00000040, "async"))


def sync_data(fd: int) -> None:
    """Make a file's bytes and size durable."""
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        raise NotImplementedError


def sync_directory(path: str) -> None:
    """Make the entries of a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_data(fd)
    finally:
        os.close(fd)


def shared_word(fd: int, offset: int) -> PolledWord:
    """Return the 32-bit word at ``offset`` of an open file, for processes to wait on."""
    return PolledWord(fd, offset)


def network_file_system(path: str) -> str | None:
    """Return the type of the file system that holds ``path`` if it is remote, by its name or as the system says."""
    mount = mount_of(path)
    if mount is None or (file_system_kind(mount) != "remote" and _IS_LOCAL in mount.options):
        return None
    return mount.kind


def unknown_file_system(path: str) -> str | None:
    """Return the type of the file system that holds ``path`` if nothing is known of it."""
    mount = mount_of(path)
    return mount.kind if mount is not None and file_system_kind(mount) == "unknown" else None


def mount_of(path: str) -> Mount | None:
    """Return the mount that holds ``path``, or None if that is not known."""
    buffer = ctypes.create_string_buffer(_STATFS.size)
    try:
        library = ctypes.CDLL(None)
        # Of the two layouts of Intel machines the later one; others have had only that.
        statfs = getattr(library, "statfs$INODE64", None) or library.statfs
        failed = statfs(os.fsencode(os.path.realpath(path)), buffer)
    except (OSError, AttributeError):
        return None
    return None if failed else mount_in(buffer.raw)


def mount_in(data: bytes) -> Mount:
    """Return what a ``struct statfs`` says."""
    flags, kind, mount_point, source = _STATFS.unpack(data)
    options = [name for bit, name in _FLAGS if flags & bit]
    return Mount(_text(mount_point), _text(kind), _text(source), tuple(options))


def _text(field: bytes) -> str:
    return os.fsdecode(field.partition(b"\0")[0])
