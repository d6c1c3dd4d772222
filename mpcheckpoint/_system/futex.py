"""A 32-bit word in a file that processes wait on: futex(2), for which Python has no function."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import time
from contextlib import suppress

from mpcheckpoint import _core

_PAGE_BYTES = mmap.PAGESIZE
_FUTEX_WAIT, _FUTEX_WAKE = 0, 1
_ALL_WAITERS = 0x7FFFFFFF
_KEPT_TIMEOUTS = 8
_NO_ERRORS = frozenset({0, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT})
_MAP_FAILED = ctypes.c_void_p(-1).value
_ONLY_READ, _SHARED = 1, 1
# A kernel may run programs of several architectures, each with numbers of its own. Where unknown: no futex.
_NUMBERS = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "ppc64le": 221, "s390x": 238}
_NUMBER = _NUMBERS.get(platform.machine()) if ctypes.sizeof(ctypes.c_void_p) == 8 else None


class _Timespec(ctypes.Structure):
    """Seconds and nanoseconds, as the kernel takes them on 64-bit systems."""

    _fields_ = (("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_int64))


_libc = ctypes.CDLL(None, use_errno=True)
# Every type is given: a pointer passed as a bare int is cut to 32 bits, the call returns at once, and waiters spin.
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int),
    *(ctypes.c_int, ctypes.c_int, ctypes.c_int64),
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.syscall.restype = ctypes.c_long
_libc.syscall.argtypes = (
    *(ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32),
    *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32),
)


_native = _core.native if hasattr(_core.native, "futex_wait") else None


def has_futex() -> bool:
    """Return whether processes can wait on a word here."""
    return _NUMBER is not None


class FutexWord:
    """A word of a file, mapped for reading: the kernel knows the waiters by its page.

    This process never reads through the map, and changes the word by positioned writes: if the file were truncated,
    an access would kill us with SIGBUS. The kernel answers EFAULT instead.

    Rejected: the module ``mmap``. It keeps a duplicate of the descriptor, and gives no address of a read-only map.
    """

    _start: int | None = None  # for __del__, should a Ctrl-C come before all else

    def __init__(self, fd: int, offset: int) -> None:
        """Map the word at ``offset``, a multiple of four within the first page of an open file.

        Raises:
            OSError: it cannot be mapped.
        """
        try:
            start = _libc.mmap(None, _PAGE_BYTES, _ONLY_READ, _SHARED, fd, 0)
        except ctypes.ArgumentError as error:  # raised on a deep stack, and without memory
            raise OSError(errno.ENOMEM, str(error)) from error
        if start == _MAP_FAILED:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._start = start
        self._timeouts: dict[float, _Timespec] = {}
        self.address = start + offset

    def wait(self, value: int, timeout_s: float) -> None:
        """Return when woken, or after ``timeout_s`` seconds; at once if the word is not ``value``.

        It may return earlier for no reason: the caller checks whether what it waits for is there.
        """
        if _native is not None:
            if _native.futex_wait(self.address, value, timeout_s) not in _NO_ERRORS:
                # Waiting is impossible, perhaps because the file was cut off: the caller must not spin.
                time.sleep(timeout_s)
            return
        timeout = self._timeouts.get(timeout_s)
        if timeout is None:
            seconds = int(timeout_s)
            timeout = _Timespec(seconds, int((timeout_s - seconds) * 1e9))
            if len(self._timeouts) < _KEPT_TIMEOUTS:
                self._timeouts[timeout_s] = timeout
        address = ctypes.addressof(timeout)
        try:
            result = _libc.syscall(_NUMBER, self.address, _FUTEX_WAIT, value, address, None, 0)
        except ctypes.ArgumentError:
            time.sleep(timeout_s)
            return
        if result == -1 and ctypes.get_errno() not in _NO_ERRORS:
            time.sleep(timeout_s)

    def wake(self, most: int = _ALL_WAITERS) -> None:
        """Wake so many waiters of this word, in any process."""
        if _native is not None:
            _native.futex_wake(self.address, most)
            return
        with suppress(ctypes.ArgumentError):  # waiters look again by themselves
            _libc.syscall(_NUMBER, self.address, _FUTEX_WAKE, most, None, None, 0)

    def close(self) -> None:
        """Unmap the word. Requires: no other thread waits on it, nor will."""
        start, self._start = self._start, None
        if start is not None:
            _libc.munmap(start, _PAGE_BYTES)

    def __del__(self) -> None:
        self.close()
