"""How items reach a worker process, one ahead of the one that runs, and how they are taken back.

Each item goes through a pipe under a number. A byte with that number lies in a second pipe, from which both sides read.
The worker takes it out when it begins the item; the process that sent it takes it out to give the item to another
worker. The kernel gives each byte to one of them, so an item is begun or withdrawn, never both, whoever dies meanwhile.

Rejected: to send an item only to a worker that is idle. It then waits for us after each item. Rejected, too: to have
the log decide, by the claim: a worker that begins what was given to another one leaves that one waiting for it.
"""

from __future__ import annotations

import os
import select
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NamedTuple

from mpcheckpoint._work.messages import receive, send

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

_NUMBERS = 256
_MOST_RIGHTS = 64


class WorkerEnd(NamedTuple):
    """The ends of the pipes that a worker process gets: of items and reports, and of the rights to begin items."""

    pipe: Connection
    rights: Connection


class ItemSender:
    """The end of the process that gives out items. Its worker's reports come out of ``pipe``."""

    def __init__(self, context: BaseContext) -> None:
        """Open the pipes.

        Raises:
            OSError: the machine is short of something; nothing is left open.
        """
        self._number = 0
        self.pipe, theirs = context.Pipe()
        self.worker_end: WorkerEnd | None = None
        try:
            reading, self._writing = context.Pipe(duplex=False)
        except BaseException:
            self.pipe.close()
            theirs.close()
            raise
        try:
            # Another object on the same pipe: after a fork the child closes ours, and keeps its own.
            self._reading: Any = Connection(os.dup(reading.fileno()), writable=False)
            os.set_blocking(reading.fileno(), False)  # at both ends: they share it
        except BaseException:
            for each in (self.pipe, theirs, reading, self._writing):
                each.close()
            raise
        self.worker_end = WorkerEnd(theirs, reading)

    def close_worker_end(self) -> None:
        """Close what the worker process has by now."""
        end, self.worker_end = self.worker_end, None
        if end is not None:
            end.pipe.close()
            end.rights.close()

    def next_number(self) -> int:
        """Return a number for an item: none that is on its way has it."""
        self._number = (self._number + 1) % _NUMBERS
        return self._number

    def send(self, number: int, message: bytes) -> None:
        """Send an item. The right to begin it goes first: without it, the item counts as withdrawn.

        Raises:
            BrokenPipeError, ConnectionResetError: the worker has died.
        """
        os.write(self._writing.fileno(), bytes((number,)))
        send(self.pipe, bytes((number,)) + message)

    def withdraw(self) -> int | None:
        """Take back an item that was not begun; return its number, or None if there is none."""
        return _right(self._reading)

    def close(self) -> None:
        """Close our ends: the worker ends as soon as it has nothing to do, and begins no item. Twice is fine."""
        if not self._reading.closed:
            for _ in range(_MOST_RIGHTS):
                if self.withdraw() is None:
                    break
        self.forget()

    def forget(self) -> None:
        """Close our ends, in a forked child: the worker is not ours."""
        for each in (self.pipe, self._reading, self._writing):
            each.close()


class ItemReceiver:
    """The end of a worker process."""

    def __init__(self, end: WorkerEnd) -> None:
        self._pipe = end.pipe
        self._rights = end.rights
        # Rejected: ``Connection.poll``, which makes a selector at each call.
        self._poll = select.poll()
        self._poll.register(end.pipe.fileno(), select.POLLIN)
        self._right: int | None = None  # taken out of the pipe, for an item that has not come yet

    def wait(self) -> bytes:
        """Return the next item that is to begin; wait for it.

        Raises:
            EOFError, OSError: the other side is gone.
        """
        while True:
            message = self._admitted(receive(self._pipe))
            if message is not None:
                return message

    def next(self) -> bytes | None:
        """Return the next item that is to begin, if there is one now and the other side is there."""
        try:
            while self._poll.poll(0):
                message = self._admitted(receive(self._pipe))
                if message is not None:
                    return message
        except (EOFError, OSError):
            pass  # what has run is recorded first
        return None

    def _admitted(self, data: bytes) -> bytes | None:
        """Return an item whose right was there; None if it was withdrawn."""
        if self._right is None:
            self._right = _right(self._rights)
        if self._right != data[0]:
            return None  # rights come in the order of the items, and this one's is gone
        self._right = None
        return data[1:]


def _right(pipe: Connection) -> int | None:
    try:
        found = os.read(pipe.fileno(), 1)
    except BlockingIOError:
        return None
    return found[0] if found else None
