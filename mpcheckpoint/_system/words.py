"""A 32-bit word in a file that processes wait on: where the system cannot wake them, by looking again and again."""

from __future__ import annotations

import time

_PAUSE_S = 0.0005


class PolledWord:
    """A word whose waiters look again by themselves after a short pause."""

    address = 0  # it is not mapped

    def __init__(self, fd: int, offset: int) -> None:
        """Take the word at ``offset`` of an open file."""
        del fd, offset

    def wait(self, value: int, timeout_s: float) -> None:
        """Return after a moment, whether or not the word has changed: the caller looks again."""
        del value
        time.sleep(min(_PAUSE_S, timeout_s))

    def wake(self, most: int = 0) -> None:
        """Do nothing: waiters look again by themselves."""

    def close(self) -> None:
        """Do nothing: nothing is held."""
