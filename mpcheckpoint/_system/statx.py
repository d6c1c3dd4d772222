"""Which file this is and how long, without asking for its times.

Linux 6.13 and later mark a file's times as seen when a process asks for them, and the next append then writes the inode
as well: 126 us instead of 90 for a durable append on ext4. statx(2) asks for single facts. Python has no function for
it before 3.15, so it is called through the C library. Where that has none, or a filter of system calls forbids it,
fstat has to do.

Source: statx(2), and struct statx in the kernel's include/uapi/linux/stat.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from typing import NamedTuple

from mpcheckpoint import _core

_AT_FDCWD, _AT_SYMLINK_NOFOLLOW, _AT_EMPTY_PATH = -100, 0x100, 0x1000
_NLINK, _INO, _SIZE, _BTIME = 0x4, 0x100, 0x200, 0x800
_WANTED = _NLINK | _INO | _SIZE | _BTIME
# Mask of the fields that are there, links, inode, size, birth in seconds and nanoseconds, device in two parts.
_STATX = struct.Struct("<I12xI12xQQ32xqI44xII112x")
_unpack = _STATX.unpack
# Of the same: inode and size, time of birth, device.
_MARK_AT = 32
_mark_in = struct.Struct("<16s32x16s40x8s").unpack_from
_words_in = struct.Struct("<QQ").unpack
_Buffer = ctypes.c_char * _STATX.size
_FORBIDDEN = frozenset({errno.ENOSYS, errno.EPERM})
_NS = 1_000_000_000
_ENCODING = sys.getfilesystemencoding()
_tuple_new = tuple.__new__  # a NamedTuple is made by a function in Python


class FileStatus(NamedTuple):
    """Which file this is, and how long.

    Attributes:
        device, inode: which file, for as long as it exists.
        links: how many names it has.
        size_bytes: its length.
        born_ns: when it was made, in nanoseconds since 1970; 0 where the file system or the kernel does not tell.
            With the inode it tells a file from every other one, removed ones included.
    """

    device: int
    inode: int
    links: int
    size_bytes: int
    born_ns: int

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode."""
        return self[:2]


def _find_statx() -> ctypes._NamedFuncPointer | None:
    if sys.platform != "linux" or sys.byteorder != "little":
        return None
    try:
        # No types are given for its arguments: to check them takes a third of a call. Ours are ints of 32 bits, bytes
        # and a reference, which are passed as they are.
        return ctypes.CDLL(None, use_errno=True).statx
    except (OSError, AttributeError):  # a C library from before 2018
        return None


_statx = _find_statx()
# The native core's, which takes a third of the time.
_file_facts = getattr(_core.native, "file_facts", None)
# Buffers to be used again, each with a reference to it: to make one takes another third of a call.
_idle: list[tuple[ctypes.Array[ctypes.c_char], object]] = []


def has_statx() -> bool:
    """Return whether statx is there, as far as this process has learned."""
    return _file_facts is not None or _statx is not None


def path_mark(path: str) -> tuple[object, ...]:
    """Return what is another value once another file is at ``path``, or a longer or shorter one.

    Each poll of each log asks: this costs half of ``path_status``.
    """
    file_facts, statx = _file_facts, _statx  # another thread may just be learning that it is forbidden
    if file_facts is not None:
        facts = file_facts(_AT_FDCWD, path.encode(_ENCODING, "surrogateescape"), _AT_SYMLINK_NOFOLLOW)
        return facts if type(facts) is tuple else path_status(path)  # which raises what it should
    try:
        idle = _idle.pop()
        buffer, reference = idle
        encoded = path.encode(_ENCODING, "surrogateescape")
        if statx is None or statx(_AT_FDCWD, encoded, _AT_SYMLINK_NOFOLLOW, _WANTED, reference) != 0:
            return path_status(path)  # which raises what it should
    except (IndexError, ctypes.ArgumentError):  # no buffer, and that leaves one; or too deep a stack
        return path_status(path)
    mark: tuple[object, ...] = _mark_in(buffer, _MARK_AT)
    _idle.append(idle)
    return mark


def has_grown(before: tuple[object, ...], now: tuple[object, ...]) -> bool:
    """Return whether two marks are of one file, which got longer from the first one to the second."""
    if len(before) == len(now) == len(FileStatus._fields):
        shorter, longer = FileStatus._make(before), FileStatus._make(now)
        is_same = shorter.identity == longer.identity and shorter.born_ns == longer.born_ns
        return is_same and shorter.size_bytes < longer.size_bytes
    first, second = before[0], now[0]
    if not (isinstance(first, bytes) and isinstance(second, bytes)) or before[1:] != now[1:]:
        return False
    (inode, size_bytes), (other, longer_bytes) = _words_in(first), _words_in(second)
    return bool(inode == other and size_bytes < longer_bytes)


def path_status(path: str) -> FileStatus:
    """Return what stands at a path; of a symbolic link, the link itself."""
    return file_status(_AT_FDCWD, path, _AT_SYMLINK_NOFOLLOW)


def file_status(fd: int, path: str = "", flags: int = _AT_EMPTY_PATH) -> FileStatus:
    """Return what an open file is. ``path`` and ``flags`` are for ``path_status``."""
    file_facts, statx = _file_facts, _statx  # another thread may just be learning that it is forbidden
    if file_facts is not None:
        facts = file_facts(fd, path.encode(_ENCODING, "surrogateescape"), flags)
        return _tuple_new(FileStatus, facts) if type(facts) is tuple else _failed(facts, fd, path)
    if statx is None:
        return _without_statx(fd, path)
    try:
        buffer, reference = _idle.pop()  # one step: no other thread has it meanwhile
    except IndexError:
        buffer = _Buffer()
        reference = ctypes.byref(buffer)
    try:
        result = statx(fd, path.encode(_ENCODING, "surrogateescape"), flags, _WANTED, reference)
    except ctypes.ArgumentError:  # so ctypes calls a deep stack, which os.stat can do with
        return _without_statx(fd, path)
    if result != 0:
        return _failed(ctypes.get_errno(), fd, path)
    mask, links, inode, size_bytes, born_s, born_ns, major, minor = _unpack(buffer)
    _idle.append((buffer, reference))
    born = max(0, born_s * _NS + born_ns) if mask & _BTIME else 0
    return _tuple_new(FileStatus, (os.makedev(major, minor), inode, links, size_bytes, born))


def _failed(code: int, fd: int, path: str) -> FileStatus:
    """Raise the error that this code names, unless it forbids the call: what is forbidden once stays so."""
    global _statx, _file_facts  # noqa: PLW0603 - each try costs a call
    if code not in _FORBIDDEN:
        raise OSError(code, os.strerror(code), *([path] if path else []))
    _statx = _file_facts = None
    return _without_statx(fd, path)


def _without_statx(fd: int, path: str) -> FileStatus:
    status = os.lstat(path) if path else os.fstat(fd)
    born_s = getattr(status, "st_birthtime", 0.0)  # BSD and macOS
    return FileStatus(status.st_dev, status.st_ino, status.st_nlink, status.st_size, int(born_s * _NS))
