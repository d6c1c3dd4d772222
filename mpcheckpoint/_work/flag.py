"""A flag that threads wait for, which a Ctrl-C leaves sound."""

from __future__ import annotations

from queue import Empty, SimpleQueue


class Flag:
    """As ``threading.Event``.

    The methods of that one are code of Python that takes a lock: a Ctrl-C at the wrong instant leaves it taken, and the
    next call hangs. A SimpleQueue is code of C.

    Attributes:
        is_set: whether it was set. It is not unset.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._token: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Wake all that wait. Setting it twice is fine."""
        self.is_set = True
        self._token.put(None)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is set, or for so long; return whether it is."""
        try:
            self._token.get(timeout=timeout_s)
        except Empty:
            return self.is_set
        self._token.put(None)  # for the next one that waits
        return True
