"""Files and directories, alike on every POSIX system. Nothing is opened through a symbolic link."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import stat
from contextlib import suppress
from typing import NamedTuple
from weakref import WeakValueDictionary

from mpcheckpoint._system.statx import file_status

_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_MANY_FILES = 4096
_FIRST_FD = 3  # after standard input, output and error
# O_NONBLOCK: opening a pipe that stands where a file should does not wait for its writer.
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Descriptor:
    """An open file that is closed when nothing refers to it any more.

    Invariant: a descriptor that a thread is syncing is not closed under it, since that thread holds a reference; else
    the number could be given to another file in mid-sync (held by tests/process/test_descriptors.py).

    The program may close the number, as programs do that become daemons, and another file may get it. ``is_intact``
    tells; ask it before a write, and before a verdict on what was read.

    Invariant: of two objects with one number the younger one owns it. The system has given the number out anew, so it
    had been closed, and the older object must not close it once more.
    """

    __slots__ = ("__weakref__", "fd", "identity")

    def __init__(self, fd: int) -> None:
        """Take over an open file."""
        self.fd = -1  # for __del__, should the next lines raise
        try:
            self.identity = file_status(fd).identity
        except BaseException:
            os.close(fd)
            raise
        stale = _owners.get(fd)
        if stale is not None:
            stale.fd = -1
        self.fd = fd
        _owners[fd] = self

    def is_intact(self) -> bool:
        """Return whether this is still the file that was opened."""
        return self._is_at(self.fd)

    def require_intact(self) -> None:
        """Return if this is the file that was opened. Asked before what was read of it is judged.

        Raises:
            OSError: EBADF, somebody closed it, and another file may have its number.
        """
        if not self.is_intact():
            raise OSError(errno.EBADF, "somebody closed the open file")

    def _is_at(self, fd: int) -> bool:
        try:
            return fd >= 0 and file_status(fd).identity == self.identity
        except OSError:
            return False

    def close(self) -> None:
        """Close the file without unlocking: an unlock would free a lock shared with a parent process.

        If the number stands for another file by now, that one stays open.
        """
        fd, self.fd = self.fd, -1
        if self._is_at(fd):
            os.close(fd)

    def abandon(self) -> None:
        """Give up the number: it stands for another file now."""
        self.fd = -1

    def __del__(self) -> None:
        if getattr(self, "fd", -1) >= 0:  # a Ctrl-C may have come before there was one
            self.close()


_owners: WeakValueDictionary[int, Descriptor] = WeakValueDictionary()


def open_file(
    path: str, *, write: bool = False, create: bool = False, exclusive: bool = False, mode: int = 0o666
) -> Descriptor:
    """Open a file; never with O_APPEND, with which Linux ignores the offset of a positioned write.

    A new file gets the permission bits ``mode``, less the umask.
    """
    flags = _FLAGS | (os.O_RDWR if write else os.O_RDONLY)
    if create:
        flags |= os.O_CREAT
    if exclusive:
        flags |= os.O_EXCL
    return Descriptor(open_above_streams(path, flags, mode))


def open_above_streams(path: str, flags: int, mode: int = 0o666) -> int:
    """Open a file; return a descriptor above 2, also where standard streams are closed.

    With the number of a standard stream, the file would get what the process or a C library prints.
    """
    fd = os.open(path, flags, mode)
    if fd >= _FIRST_FD:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FD)
    finally:
        os.close(fd)


def open_source(path: str) -> Descriptor:
    """Open a file outside of any store, to read it: through links, and waiting for the writer of a pipe."""
    return Descriptor(open_above_streams(path, os.O_RDONLY | os.O_CLOEXEC))


# Return the next bytes of an open file or pipe, as many as are ready; none at its end.
read_next = os.read


# Return up to ``size`` bytes from an offset of an open file; perhaps fewer than there are.
read_once = os.pread


def read_at(fd: int, size: int, offset: int) -> bytes:
    """Return up to ``size`` bytes from ``offset``; fewer only at the end of the file."""
    data = os.pread(fd, size, offset)
    if not data or len(data) == size:
        return data
    parts = [data]
    missing = size - len(data)
    while missing and (data := os.pread(fd, missing, offset + size - missing)):
        parts.append(data)
        missing -= len(data)
    return b"".join(parts)


# Write bytes once at an offset of an open file; return how many were written, which may be fewer.
write_at = os.pwrite


def open_files_limit() -> int | None:
    """Return how many files this process may have open at once; None for any number."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def most_open_files() -> int:
    """Return how many files this process should have open at most: what it may, but no more than a few thousand."""
    limit = open_files_limit()
    return _MANY_FILES if limit is None else min(limit, _MANY_FILES)


def size_of(fd: int) -> int:
    """Return the size of an open file, in bytes."""
    return file_status(fd).size_bytes


def free_bytes(fd: int) -> int:
    """Return how many bytes this user may still write to the file system of an open file."""
    status = os.fstatvfs(fd)
    return status.f_bavail * status.f_frsize


class Space(NamedTuple):
    """What room a file system has left for this user: bytes, and files; None where it does not count files."""

    free_bytes: int
    free_files: int | None


def space_at(path: str) -> Space:
    """Return what room the file system that holds ``path`` has left."""
    status = os.statvfs(path)
    return Space(status.f_bavail * status.f_frsize, status.f_favail if status.f_files else None)


# Return the status of an open file.
stat_fd = os.fstat

# Return the status of what stands at a path; of a symbolic link, of the link itself.
stat_path = os.lstat

# Cut an open file to a number of bytes.
truncate = os.ftruncate

# Put a finished file in the place of another, atomically.
replace = os.replace

# Return the names in a directory, in no order.
list_directory = os.listdir


def make_directory(path: str) -> bool:
    """Create a directory; return False if anything, a link included, stands there already."""
    try:
        os.mkdir(path, 0o777)
    except FileExistsError:
        return False
    return True


def publish(temporary: str, path: str, *, is_alone: bool = True) -> bool:
    """Give a finished file its name without replacing anything; return False if the name is taken.

    Requires: the store lock is held, so that on file systems without hard links looking first is enough. Where it is
    not, pass ``is_alone=False``: on those the system's refusal is raised, and the file keeps its temporary name.
    """
    try:
        os.link(temporary, path, follow_symlinks=False)
    except FileExistsError:
        os.unlink(temporary)
        return False
    except OSError as error:
        if not is_alone or error.errno not in _NO_HARD_LINKS or os.path.lexists(path):
            raise
        os.rename(temporary, path)
        return True
    os.unlink(temporary)
    return True


def touch(path: str) -> None:
    """Set the times of a file to now.

    Raises:
        FileNotFoundError: it is gone.
    """
    os.utime(path)


def remove(path: str) -> None:
    """Remove a file; no error if there is none."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def remove_directory(path: str) -> None:
    """Remove an empty directory; no error if there is none."""
    with suppress(FileNotFoundError):
        os.rmdir(path)


def exists(path: str) -> bool:
    """Return whether anything stands at ``path``, a dangling link included; cheaper than an exception for each no."""
    return os.access(path, os.F_OK, follow_symlinks=False)


def is_directory(path: str) -> bool:
    """Return whether a directory stands at ``path``; a link to one is none."""
    return stat.S_ISDIR(os.lstat(path).st_mode)
