"""Newlines after the last line, written ahead of need: an append that overwrites them does not change the file's size.

Its sync then has no new size to write, which saves a commit on file systems with a journal: 1.0 to 1.4 times the rate
of appends (docs/decisions.md). The log stays valid JSON Lines; a writer that releases it cuts the padding off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpcheckpoint import _system as system

if TYPE_CHECKING:
    from mpcheckpoint._logfile.append_state import PureAppendState

_FIRST_BYTES = 4 * 1024
_MOST_BYTES = 256 * 1024
# A process that appends only a few records leaves no padding, however it ends.
_EXTENSIONS_BEFORE = 64
# None is made on a file system with less room than so many times the padding.
_ROOM_FACTOR = 256


class Padding:
    """How much padding one process makes in one generation."""

    def __init__(self, state: PureAppendState) -> None:
        self._state = state
        self._size_bytes = _FIRST_BYTES

    @property
    def extensions_before(self) -> int:
        """How many lines without padding may make the log longer, before one gets padding after it."""
        return _EXTENSIONS_BEFORE

    def wanted_bytes(self, fd: int) -> int:
        """Return how much padding to write after a line that makes the open log ``fd`` longer; 0 for none."""
        state = self._state
        state.extensions = min(state.extensions + 1, _EXTENSIONS_BEFORE + 1)
        if state.extensions <= _EXTENSIONS_BEFORE:
            return 0
        size_bytes = self._size_bytes
        try:
            if system.free_bytes(fd) < size_bytes * _ROOM_FACTOR:
                return 0
        except OSError:
            return 0
        self._size_bytes = min(size_bytes * 2, _MOST_BYTES)
        return size_bytes
