"""Messages through a pipe of ``multiprocessing``, as its connections frame them, in a third of the calls.

Each item takes two of them. Everything else goes through ``Connection``, which finds what it expects.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_HEAD_BYTES = 4
_LONG_HEAD_BYTES = 8
# A longer message has another head, and is not copied to stand after it.
_MOST_BYTES = 16 * 1024


def send(pipe: Connection, message: bytes) -> None:
    """Send a message, as ``send_bytes`` does."""
    size = len(message)
    if size > _MOST_BYTES:
        pipe.send_bytes(message)
        return
    fd, data = pipe.fileno(), size.to_bytes(_HEAD_BYTES, "big") + message
    while (written := os.write(fd, data)) < len(data):
        data = data[written:]


def receive(pipe: Connection) -> bytes:
    """Return the next message, as ``recv_bytes`` does.

    Raises:
        EOFError: the other side is gone.
        OSError: it has gone in the middle of a message, or the pipe is broken.
    """
    fd = pipe.fileno()
    head = os.read(fd, _HEAD_BYTES)
    if not head:
        raise EOFError
    if len(head) < _HEAD_BYTES:
        head += _exactly(fd, _HEAD_BYTES - len(head))
    size = int.from_bytes(head, "big", signed=True)
    if size == -1:
        size = int.from_bytes(_exactly(fd, _LONG_HEAD_BYTES), "big")
    if size < 0:
        raise OSError("a message of a worker process has no length")
    data = os.read(fd, size) if size else b""
    return data if len(data) == size else data + _exactly(fd, size - len(data))


def _exactly(fd: int, size: int) -> bytes:
    parts: list[bytes] = []
    while size:
        data = os.read(fd, size)
        if not data:
            raise OSError("the other side has gone in the middle of a message")
        parts.append(data)
        size -= len(data)
    return b"".join(parts)
