"""One client of a proxy, and the connection to the server that was made for it."""

from __future__ import annotations

import socket
import struct
from collections import deque
from typing import TYPE_CHECKING

from support.postgres.frames import ClientStream, Frame, ServerStream

if TYPE_CHECKING:
    from support.postgres.cuts import How, Sides

_READ_BYTES = 1 << 16
_MOST_UNSENT_BYTES = 1 << 20
_LAST_WORDS_S = 5.0
OTHER = {"client": "server", "server": "client"}


class Link:
    """Two sockets that do not block, and what is between them.

    Invariant: what is said to one end arrives there in the order in which it was said; nothing is dropped but by
    `harm`.
    """

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.ends = {"client": client, "server": server}
        self.open = {"client", "server"}
        self.is_ready = False  # it has logged in
        self.is_held = False
        self.is_harmed = False
        self.has_turn = False  # the client sent last
        self.asked = 0  # how many syncs went to the server
        self.answered = 0
        self.answer = b""  # the part that has come of an answer that is to be cut
        # Messages by the end they come from, with the time before which they are not looked at; None: it was closed.
        self.waiting: dict[str, deque[tuple[float, Frame | None]]] = {"client": deque(), "server": deque()}
        self._unsent = {"client": b"", "server": b""}
        client_stream = ClientStream()
        self._streams: dict[str, ClientStream | ServerStream] = {}
        self._streams |= {"client": client_stream, "server": ServerStream(client_stream)}
        for end in self.ends.values():
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def reads(self, side: str) -> bool:
        """Return whether to read there: not while the other end takes nothing, which its sender is to notice."""
        is_full = len(self._unsent[OTHER[side]]) > _MOST_UNSENT_BYTES
        return side in self.open and not (self.is_harmed or is_full)

    def writes(self, side: str) -> bool:
        """Return whether something is to be sent there."""
        return side in self.open and bool(self._unsent[side]) and not self.is_held

    def read(self, side: str, due_s: float) -> None:
        """Take what has come from there, to be looked at from ``due_s`` on."""
        try:
            data = self.ends[side].recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.waiting[side] += [(due_s, frame) for frame in self._streams[side].feed(data)]
        if not data:
            self.waiting[side].append((due_s, None))
            self.close(side, "close")

    def say(self, to: str, data: bytes) -> None:
        """Send there, now or as soon as it goes."""
        self._unsent[to] += data
        self.write(to)

    def write(self, to: str) -> None:
        """Send there what goes now."""
        while self.writes(to):
            try:
                sent = self.ends[to].send(self._unsent[to])
            except BlockingIOError:
                return
            except OSError:
                self._unsent[to] = b""
                return  # it is gone; reading tells
            self._unsent[to] = self._unsent[to][sent:]

    def close(self, side: str, how: How) -> None:
        """Close one end, after what was said to it was sent."""
        if side not in self.open:
            return
        end = self.ends[side]
        if self._unsent[side]:
            end.settimeout(_LAST_WORDS_S)
            try:
                end.sendall(self._unsent[side])
            except OSError:
                pass  # it does not want them
        if how == "reset":
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.close()
        self.open.discard(side)

    def harm(self, how: How, sides: Sides, *, to: str = "client", data: bytes = b"", passes: int = 0) -> None:
        """Let so many bytes of a message pass, and then cut: what is left of it is lost, or held back."""
        self.say(to, data[:passes])
        if how == "hold":
            self.is_held = True
            self._unsent[to] += data[passes:]
            return
        self.is_harmed = True
        for waiting in self.waiting.values():
            waiting.clear()
        for side in OTHER if sides == "both" else (sides,):
            self.close(side, how)
