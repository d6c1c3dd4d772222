"""One worker process of a pool, and the items that it was given."""

from __future__ import annotations

import sys
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpcheckpoint._work.inputs import Input
    from mpcheckpoint._work.item_pipe import ItemSender
    from mpcheckpoint._work.memory_watch import OverMemory
    from mpcheckpoint.errors import InvalidItemError

TERMINATE_S = 5.0
# What is sent to a worker that is busy has to fit into its pipe, which holds 8 KiB somewhere, or it would hold us up.
_MOST_AHEAD_BYTES = 4096


class Given:
    """An item that was given out.

    Attributes:
        message: the item as it is sent; or why it cannot be.
        number: under which it was sent to a worker process; None if it waits for one.
    """

    def __init__(self, entry: Input, message: bytes | InvalidItemError) -> None:
        self.entry = entry
        self.message = message
        self.number: int | None = None

    def __len__(self) -> int:
        """Return how many bytes are sent; more than fit if it cannot be."""
        return len(self.message) if isinstance(self.message, bytes) else sys.maxsize


class Member:
    """One worker process, as seen by the process that started it."""

    def __init__(self, process: Any, sender: ItemSender) -> None:
        self.process = process
        self.sender = sender
        self.pipe = sender.pipe
        self.given: deque[Given] = deque()  # the first one runs, or is about to; the others are ahead
        self.has_started = False
        self.is_ready = False  # its initializer has returned, if there is one
        self.over_memory: OverMemory | None = None
        self._unread_bytes = 0  # sent since its last report, and perhaps not read
        # While its item's function runs: when to tell it to end; once it was told, when to kill it.
        self.due_s: float | None = None
        self.is_late = False

    def has_room_ahead(self, given: Given, most: int) -> bool:
        """Return whether an item may be sent while another one runs, if there may be ``most`` ahead."""
        is_small = self._unread_bytes + len(given) <= _MOST_AHEAD_BYTES
        return is_small and 1 <= len(self.given) <= most and not self.is_late

    def send(self, given: Given) -> None:
        """Send an item.

        Raises:
            InvalidItemError: it cannot be sent.
            BrokenPipeError, ConnectionResetError: the process has died.
        """
        if not isinstance(given.message, bytes):
            raise given.message
        given.number = self.sender.next_number()
        self._unread_bytes += len(given) if self.given else 0
        self.given.append(given)  # before it is sent: an interrupt in between must not hide it
        self.sender.send(given.number, given.message)

    def withdraw(self) -> Given | None:
        """Take back an item that was not begun; None if there is none."""
        number = self.sender.withdraw()
        found = next((each for each in self.given if each.number == number), None)
        if found is not None:
            self.given.remove(found)
            found.number = None
        return found

    def finished(self) -> Given:
        """Take note of a report; return the item that it is about."""
        done = self.given.popleft()
        if len(self.given) <= 1:
            self._unread_bytes = 0  # it has read all, or all but what it may be about to begin
        return done

    def end_if_due(self, now_s: float) -> None:
        """If its item's time is up, tell the process to end; kill it if it has not after a moment."""
        if self.due_s is None or now_s < self.due_s:
            return
        if self.is_late:
            self.process.kill()
            self.due_s = None
        elif not self.pipe.poll():  # else it says, in time, that the item has ended
            self.is_late = True
            self.process.terminate()
            self.due_s = now_s + TERMINATE_S
