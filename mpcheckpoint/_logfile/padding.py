"""Newlines behind the last line, written ahead of need: an append that overwrites them leaves the file's size alone.

A sync then has no change of the size to write down, which on file systems with a journal is a commit less: 1.0 to 1.4
times the rate of appends (docs/decisions.md). The log stays valid JSON Lines; whoever releases it cuts them off.
"""

from __future__ import annotations

from mpcheckpoint import _system as system

_FIRST_BYTES = 4 * 1024
_MOST_BYTES = 256 * 1024
# A process that appends a few records leaves no padding behind, however it ends.
_EXTENSIONS_BEFORE = 64
# On a file system with less room than so many times what is asked for, none is made.
_ROOM_FACTOR = 256


class Padding:
    """How much padding one process makes in one generation."""

    def __init__(self) -> None:
        self._extensions = 0
        self._size_bytes = _FIRST_BYTES

    def wanted_bytes(self, fd: int) -> int:
        """Return how much padding to write behind a line that makes the open log ``fd`` longer; 0 for none."""
        self._extensions += 1
        if self._extensions <= _EXTENSIONS_BEFORE:
            return 0
        size_bytes = self._size_bytes
        try:
            if system.free_bytes(fd) < size_bytes * _ROOM_FACTOR:
                return 0
        except OSError:
            return 0
        self._size_bytes = min(size_bytes * 2, _MOST_BYTES)
        return size_bytes
