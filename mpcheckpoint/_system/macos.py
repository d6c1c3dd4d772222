"""macOS. Written for it, and never run there. fsync does not reach the medium; F_FULLFSYNC does."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import sys

from mpcheckpoint._system.mount import Mount
from mpcheckpoint._system.words import PolledWord

# sys/mount.h, with 64-bit inodes: flags, then the names of type, mount point and device.
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


def mount_of(path: str) -> Mount | None:
    """Return the mount that holds ``path``; None if the system does not tell."""
    buffer = ctypes.create_string_buffer(_STATFS.size)
    try:
        library = ctypes.CDLL(None)
        # Intel machines have two layouts; this is the later one, and the only one of other machines.
        statfs = getattr(library, "statfs$INODE64", None) or library.statfs
        failed = statfs(os.fsencode(os.path.realpath(path)), buffer)
    except (OSError, AttributeError):
        return None
    return None if failed else mount_in(buffer.raw)


def mount_in(data: bytes) -> Mount:
    """Return the mount that a ``struct statfs`` describes."""
    flags, kind, mount_point, source = _STATFS.unpack(data)
    options = [name for bit, name in _FLAGS if flags & bit]
    is_called_remote = _IS_LOCAL not in options
    return Mount(_text(mount_point), _text(kind), _text(source), tuple(options), is_called_remote)


def _text(field: bytes) -> str:
    return os.fsdecode(field.partition(b"\0")[0])
