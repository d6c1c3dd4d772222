"""What wakes the followers of a store's logs: a word in the file ``bell``, on which they wait. Writers of followed logs
change it.

All logs share one, since a process can wait on one word only. Nothing depends on it: a follower that is not woken polls
again after a while, as it does where there is none.
"""

from __future__ import annotations

import os
import time

from mpcheckpoint import _system as system
from mpcheckpoint._logfile.ownership import open_in_store
from mpcheckpoint._logfile.page import FOLLOWED_AT, PAGE_BYTES, followed_until

_NAME = "bell"
_WORD_BYTES = 4


class StoreNotifier:
    """The ``bell`` file of one store, as one process has it open."""

    # Records that it did not announce are rare, and each poll costs processor time.
    longest_pause_s = 0.05
    shortest_pause_s = 0.0

    def __init__(self, directory: str) -> None:
        """Open the file, making it if there is none.

        Raises:
            OSError: there can be none here.
        """
        self._descriptor = open_in_store(os.path.join(directory, _NAME))
        if system.size_of(self._descriptor.fd) < PAGE_BYTES:
            system.write_at(self._descriptor.fd, bytes(PAGE_BYTES), 0)
        self._word = system.shared_word(self._descriptor.fd, 0)

    def is_intact(self) -> bool:
        """Return whether this is the file still, and not another one that was opened on its number."""
        return self._descriptor.is_intact()

    def value(self) -> int:
        """Return what changes at each notification. Read it before a poll, and wait with it after that."""
        try:
            return int.from_bytes(system.read_at(self._descriptor.fd, _WORD_BYTES, 0), "little")
        except OSError:
            return 0  # most likely not the value: so the wait ends at once

    def wait(self, value: int, timeout_s: float) -> None:
        """Return when somebody notified since the value was ``value``, when the time is over, or for no reason."""
        self._word.wait(value, timeout_s)

    def notify(self) -> None:
        """Wake all that wait. Where this fails, they wake a little later."""
        # Not one more than it was: if two notify at once, one of them would not change it.
        value = time.monotonic_ns() & 0xFFFFFFFF
        try:
            system.write_at(self._descriptor.fd, value.to_bytes(_WORD_BYTES, "little"), 0)
        except OSError:
            pass
        self._word.wake()

    def close(self) -> None:
        """Close it, in a forked child. Elsewhere it closes with its last reference."""
        self._descriptor.close()
        self._word.close()


def mark_followed(page_path: str, seconds: float) -> None:
    """Ask the writers of a log to notify, for so many seconds. Does nothing if the log has no page."""
    try:
        page = system.open_file(page_path, write=True)
        if system.size_of(page.fd) >= PAGE_BYTES:
            system.write_at(page.fd, followed_until(time.monotonic_ns() + int(seconds * 1e9)), FOLLOWED_AT)
    except OSError:
        pass
