"""A proxy in front of a server, in a process of its own, that counts messages and loses them on demand."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from multiprocessing.connection import Pipe
from typing import TYPE_CHECKING, Any, Self

from support.postgres.addresses import HOST, PASSWORD, USER, address_of
from support.postgres.cuts import Counts, Cut, How, Sides, Unit, When

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_WAIT_S = 30.0
_STEP_S = 0.002


class Counted:
    """What passed by inside a ``with proxy.counting()`` block: valid after it."""

    counts = Counts()
    heard: list[str] = []  # noqa: RUF012  # replaced, never changed


class Proxy:
    """Listens inside the ``with`` block, on ``port`` of this machine, and forwards to one server.

    What passes is not encrypted. Both ends have a connection to a program on this machine that lives: keepalives and
    time-outs of TCP never tell them that nothing passes. For that a link has to be cut, see `support.postgres.link`.
    """

    def __init__(self, host: str, port: int, *, latency_s: float = 0.0) -> None:
        """Forward to that server; what it says arrives ``latency_s`` later."""
        self.port = 0
        self._server = (host, port)
        self._latency_s = latency_s

    def __enter__(self) -> Self:
        self._control, theirs = Pipe()
        with theirs:
            fd = theirs.fileno()
            command = [sys.executable, "-m", "support.postgres.forwarder", str(fd), str(os.getpid())]
            self._process = subprocess.Popen(command, pass_fds=[fd], start_new_session=True)
        self.port = self._ask("listen", self._server, self._latency_s)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._control.close()

    def address(self, database: str = "postgres", *, user: str = USER, password: str = PASSWORD) -> str:
        """Return the address of a database by way of this proxy."""
        return address_of([(HOST, self.port)], database, user=user, password=password)

    def counts(self) -> Counts:
        """Return what has passed by until now."""
        counts: Counts = self._ask("counts")
        return counts

    @contextmanager
    def counting(self) -> Iterator[Counted]:
        """Count what passes inside the block."""
        counted = Counted()
        before = self.counts()
        self._ask("take_heard")
        yield counted
        counted.counts = self.counts() - before
        counted.heard = self._ask("take_heard")

    def cut(
        self, nth: int, when: When, how: How = "reset", *, unit: Unit = "sync", sides: Sides = "both"
    ) -> None:
        """Have one connection cut, once; see `Cut`. Replaces a cut that was not made yet."""
        self._ask("arm", Cut(nth, when, how, unit, sides))

    def is_cut(self) -> bool:
        """Return whether the last `cut` was made."""
        return bool(self._ask("is_cut"))

    def wait_cut(self) -> None:
        """Wait until the last `cut` was made. Raises TimeoutError."""
        deadline = time.monotonic() + _WAIT_S
        while not self.is_cut():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no connection was cut in {_WAIT_S} s")
            time.sleep(_STEP_S)

    def cut_all(self, how: How = "reset", *, sides: Sides = "both") -> int:
        """Cut all connections now; return how many there were."""
        number: int = self._ask("cut_all", how, sides)
        return number

    def hold(self) -> None:
        """Let nothing pass any more, on connections that are made later, too, until `release`."""
        self._ask("hold")

    def release(self) -> None:
        """Let pass what is held back, by `hold` or by cuts, and what comes."""
        self._ask("release")

    def refuse(self, is_refusing: bool = True) -> None:
        """Reset whoever connects from now on, or no longer."""
        self._ask("refuse", is_refusing)

    def _ask(self, name: str, *arguments: object) -> Any:
        self._control.send((name, arguments))
        if not self._control.poll(_WAIT_S):
            raise TimeoutError(f"the proxy does not answer to {name} within {_WAIT_S} s")
        is_ok, answer = self._control.recv()
        if not is_ok:
            raise answer
        return answer
