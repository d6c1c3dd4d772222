"""What was acknowledged, kept where no kill and no power cut reaches it: in the memory of the process that judges.

Children report through a named pipe. A write of up to PIPE_BUF bytes to a pipe is there whole or not at all, also if
the process is killed in it, and every kind of process can open the name: forked, spawned, or a command.
"""

from __future__ import annotations

import json
import os
import select
import threading
from dataclasses import dataclass, field
from typing import Any, Self

Acknowledgement = tuple[Any, ...]

_READ_BYTES = 1 << 20


@dataclass
class AcknowledgementWriter:
    """The writing end. It pickles, and forked children and several threads may use it."""

    fifo: str
    _descriptor: int = field(default=-1, repr=False, compare=False)

    def acknowledge(self, *values: Any) -> None:
        """Report ``values``. Once this returns, the journal has them, whatever happens then.

        Args:
            values: JSON values; as one line they must fit into PIPE_BUF bytes (4096 on Linux).

        Raises:
            ValueError: they do not fit, so the acknowledgement could tear.
        """
        line = json.dumps(values).encode() + b"\n"
        if len(line) > select.PIPE_BUF:
            raise ValueError(
                f"an acknowledgement of {len(line)} bytes could tear; the limit is {select.PIPE_BUF}"
            )
        if self._descriptor < 0:
            self._descriptor = os.open(self.fifo, os.O_WRONLY | os.O_CLOEXEC)
        os.write(self._descriptor, line)

    def close(self) -> None:
        """Close this process's end, if it was ever used."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __reduce__(self) -> tuple[Any, ...]:
        return AcknowledgementWriter, (self.fifo,)


class AcknowledgementJournal:
    """Collect, inside the ``with`` block, what any process acknowledges through ``writer``.

    Locking: `_arrived` guards everything below it; a thread that holds it waits for nothing else.
    """

    def __init__(self, fifo: str | os.PathLike[str]) -> None:
        """Make a named pipe at ``fifo``, where nothing is yet. It stays when the block ends."""
        os.mkfifo(fifo)
        self.writer = AcknowledgementWriter(os.fspath(fifo))
        # For reading and writing, so that no writer waits for a reader, and the reader meets no end of file.
        self._descriptor = os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._arrived = threading.Condition()
        self._rest_of_read = b""
        self._acknowledged: list[Acknowledgement] = []
        self._is_closed = False
        # Without it a child would block, once the pipe is full, until `acknowledged` is called.
        self._collector = threading.Thread(target=self._collect, name="acknowledgements", daemon=True)

    def __enter__(self) -> Self:
        self._collector.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._arrived:
            self._is_closed = True
        os.write(self._descriptor, b"\n")  # wakes the collector
        self._collector.join()
        self.writer.close()
        os.close(self._descriptor)

    def acknowledged(self, since: int = 0) -> list[Acknowledgement]:
        """Return all acknowledgements made before this call began, in the order of their arrival, after the first
        ``since``. Values are what JSON makes of them: a tuple comes back as a list.
        """
        with self._arrived:
            self._drain()
            return self._acknowledged[since:]

    def wait_for(self, count: int, timeout_s: float = 60) -> list[Acknowledgement]:
        """Return as `acknowledged` does, once there are ``count``. Raises TimeoutError."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self._acknowledged) >= count, timeout_s):
                raise TimeoutError(
                    f"{len(self._acknowledged)} acknowledgements of {count} after {timeout_s} s"
                )
            return list(self._acknowledged)

    def _collect(self) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        while True:
            poll.poll()
            with self._arrived:
                self._drain()
                if self._is_closed:
                    return

    def _drain(self) -> None:
        while True:
            try:
                read = os.read(self._descriptor, _READ_BYTES)
            except BlockingIOError:
                break
            *lines, self._rest_of_read = (self._rest_of_read + read).split(b"\n")
            self._acknowledged += [tuple(json.loads(line)) for line in lines if line]
        self._arrived.notify_all()
