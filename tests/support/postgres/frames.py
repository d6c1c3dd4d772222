"""The messages of the PostgreSQL protocol, as far as they have to be told apart in what passes by."""

from __future__ import annotations

import struct
from typing import NamedTuple

_SSL_REQUEST, _GSS_REQUEST, _CANCEL_REQUEST = 80877103, 80877104, 80877102
_HEADER_BYTES = 5
_CLIENT_NAMES = {
    b"B": "Bind",
    b"C": "Close",
    b"D": "Describe",
    b"E": "Execute",
    b"F": "FunctionCall",
    b"H": "Flush",
    b"P": "Parse",
    b"Q": "Query",
    b"S": "Sync",
    b"X": "Terminate",
    b"c": "CopyDone",
    b"d": "CopyData",
    b"f": "CopyFail",
    b"p": "Password",
}
# The server answers each of these with ReadyForQuery.
SYNCS = frozenset({b"Q", b"S", b"F"})
READY = b"Z"
# The server sends these when it pleases: a notice, a notification, a parameter that changed.
UNASKED = frozenset({b"N", b"A", b"S"})
STARTUP = b""  # the type of what a client begins with, which has none


class Frame(NamedTuple):
    """One message: its type, and all of its bytes."""

    kind: bytes
    data: bytes

    def described(self) -> str:
        """Return the name of a client's message, with the statement where it holds one."""
        name = _CLIENT_NAMES.get(self.kind, "Startup" if self.kind == STARTUP else repr(self.kind))
        text = self.data[_HEADER_BYTES:].split(b"\0")
        statement = {b"Q": text[:1], b"P": text[1:2]}.get(self.kind, [])
        return " ".join([name, *(part.decode(errors="replace") for part in statement)])


class ClientStream:
    """What a client sends: first what it begins with, then messages with types."""

    def __init__(self) -> None:
        self.is_begun = False
        self.answers_of_one_byte = 0
        self._rest = b""

    def feed(self, data: bytes) -> list[Frame]:
        """Return the messages that are complete with these bytes."""
        self._rest += data
        frames = []
        while (length := self._length()) is not None and len(self._rest) >= length:
            whole, self._rest = self._rest[:length], self._rest[length:]
            if self.is_begun:
                frames.append(Frame(whole[:1], whole))
                continue
            (code,) = struct.unpack_from("!I", whole, 4)
            self.is_begun = code not in {_SSL_REQUEST, _GSS_REQUEST, _CANCEL_REQUEST}
            self.answers_of_one_byte += code in {_SSL_REQUEST, _GSS_REQUEST}
            frames.append(Frame(STARTUP, whole))
        return frames

    def _length(self) -> int | None:
        begin = 1 if self.is_begun else 0
        if len(self._rest) < begin + 4:
            return None
        (length,) = struct.unpack_from("!I", self._rest, begin)
        return begin + int(length)


class ServerStream:
    """What the server sends to a client."""

    def __init__(self, client: ClientStream) -> None:
        self._client = client
        self._rest = b""

    def feed(self, data: bytes) -> list[Frame]:
        """Return the messages that are complete with these bytes."""
        self._rest += data
        frames = []
        while self._rest:
            if self._client.answers_of_one_byte:  # to the question whether to encrypt
                self._client.answers_of_one_byte -= 1
                length = 1
            elif len(self._rest) >= _HEADER_BYTES:
                length = 1 + int(struct.unpack_from("!I", self._rest, 1)[0])
            else:
                break
            if len(self._rest) < length:
                break
            whole, self._rest = self._rest[:length], self._rest[length:]
            frames.append(Frame(whole[:1] if length > 1 else STARTUP, whole))
        return frames
