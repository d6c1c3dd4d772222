"""Messages between a map and its worker processes: each end takes what a connection sends, and the other way round."""

from __future__ import annotations

import os
import threading
from multiprocessing import Pipe
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint._work.messages import receive, send

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

SIZES = [0, 1, 4, 255, 4096, 16 * 1024, 16 * 1024 + 1, 3_000_000]
WAYS: dict[str, tuple[Callable[[Connection, bytes], None], Callable[[Connection], bytes]]] = {
    "sent by a connection": (lambda pipe, data: pipe.send_bytes(data), receive),
    "received by a connection": (send, lambda pipe: pipe.recv_bytes()),
    "both": (send, receive),
}


@pytest.mark.parametrize("is_duplex", [True, False])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", SIZES)
def test_message_of_any_size_arrives_whole(size: int, way: str, is_duplex: bool) -> None:
    sending, receiving = WAYS[way]
    reader, writer = Pipe(is_duplex)
    messages = [os.urandom(size), b"after it"]
    with reader, writer:
        thread = threading.Thread(target=lambda: [sending(writer, each) for each in messages])
        thread.start()
        assert [receiving(reader) for _ in messages] == messages
        thread.join()


def test_message_that_comes_byte_by_byte_arrives_whole() -> None:
    reader, writer = Pipe(duplex=False)
    with reader, writer:
        thread = threading.Thread(
            target=lambda: [os.write(writer.fileno(), b"%c" % byte) for byte in b"\x00\x00\x00\x05abcde"]
        )
        thread.start()
        assert receive(reader) == b"abcde"
        thread.join()


def test_long_head_of_a_connection_is_understood() -> None:
    reader, writer = Pipe(duplex=False)
    with reader, writer:
        os.write(writer.fileno(), b"\xff\xff\xff\xff" + (3).to_bytes(8, "big") + b"abc")

        assert receive(reader) == b"abc"


def test_other_side_that_is_gone_is_an_end() -> None:
    reader, writer = Pipe(duplex=False)
    writer.close()

    with reader, pytest.raises(EOFError):
        receive(reader)


@pytest.mark.parametrize(
    "sent", [b"\x00", b"\x00\x00\x00\x05", b"\x00\x00\x00\x05abcd", b"\xff\xff\xff\xff\x00"]
)
def test_other_side_that_is_gone_in_the_middle_of_a_message_is_an_error(sent: bytes) -> None:
    reader, writer = Pipe(duplex=False)
    os.write(writer.fileno(), sent)
    writer.close()

    with reader, pytest.raises(OSError, match="in the middle"):
        receive(reader)


def test_head_that_no_connection_sends_is_refused() -> None:
    reader, writer = Pipe(duplex=False)
    os.write(writer.fileno(), b"\xff\xff\xff\x00")

    with reader, writer, pytest.raises(OSError, match="no length"):
        receive(reader)


def test_closed_pipe_is_an_error_and_no_other_file() -> None:
    reader, writer = Pipe(duplex=False)
    reader.close()
    writer.close()

    with pytest.raises(OSError, match="closed"):
        send(writer, b"x")
    with pytest.raises(OSError, match="closed"):
        receive(reader)
