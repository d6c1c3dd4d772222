"""The process of a proxy: takes orders over a pipe, and forwards message by message. See `proxy` and `cuts`."""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from support.postgres.cuts import Counts, Cut
from support.postgres.forwarder_link import OTHER, Link
from support.postgres.frames import READY, SYNCS, UNASKED, Frame

if TYPE_CHECKING:
    from support.postgres.cuts import How, Sides

_MOST_HEARD = 10_000
_CONNECT_S = 10.0


class Forwarder:
    """Forwards until the other end of the pipe is closed, or its owner is dead."""

    def __init__(self, control: Connection, owner: int) -> None:
        self._control = control
        self._owner_end = os.pidfd_open(owner)
        self._listener: socket.socket | None = None
        self._server = ("", 0)
        self._latency_s = 0.0
        self._links: list[Link] = []
        self._counts = Counts()
        self._heard: list[str] = []
        self._cut: Cut | None = None
        self._passed = 0  # syncs or messages since the cut was ordered
        self._awaited: tuple[Link, int] | None = (
            None  # the answer that is to be cut: on which link, the how many-th
        )
        self._is_cut = False
        self._is_held = False
        self._is_refusing = False

    def run(self) -> None:
        """Forward, and do what is ordered."""
        while True:
            ready = self._wait()
            if self._owner_end in ready or (self._control.fileno() in ready and not self._obey()):
                return
            if self._listener is not None and self._listener.fileno() in ready:
                self._accept(self._listener)
            for (
                side
            ) in OTHER:  # the client first: what it has sent counts before the answer to what it sent earlier
                for link in self._links:
                    if side in link.open and link.ends[side].fileno() in ready and not self._stands(link):
                        link.write(side)
                        if link.reads(side):
                            link.read(side, time.monotonic() + (self._latency_s if side == "server" else 0.0))
            for link in self._links:
                self._pass_on(link)
            self._links = [link for link in self._links if link.open]

    def _wait(self) -> set[int]:
        poll = select.poll()
        poll.register(self._owner_end, select.POLLIN)
        poll.register(self._control.fileno(), select.POLLIN)
        if self._listener is not None:
            poll.register(self._listener.fileno(), select.POLLIN)
        due_s = []
        for link in self._links:
            if self._stands(link):
                continue  # not read either: whoever sends on finds out that nobody takes it
            for side in link.open:
                wanted = (select.POLLIN if link.reads(side) else 0) | (
                    select.POLLOUT if link.writes(side) else 0
                )
                if wanted:
                    poll.register(link.ends[side].fileno(), wanted)
            due_s += [waiting[0][0] for waiting in link.waiting.values() if waiting]
        limit_ms = int(max(0.0, min(due_s) - time.monotonic()) * 1000) + 1 if due_s else None
        return {fd for fd, _ in poll.poll(limit_ms)}

    def _stands(self, link: Link) -> bool:
        return self._is_held or link.is_held

    def _accept(self, listener: socket.socket) -> None:
        client, _ = listener.accept()
        try:
            if self._is_refusing:
                raise ConnectionRefusedError
            server = socket.create_connection(self._server, timeout=_CONNECT_S)
        except OSError:
            Link(client, client).close("client", "reset")
        else:
            self._links.append(Link(client, server))

    # --- orders ----------------------------------------------------------------------------------------------

    def _obey(self) -> bool:
        try:
            name, arguments = self._control.recv()
        except (EOFError, ConnectionResetError):
            return False
        try:
            answer: tuple[bool, Any] = (True, getattr(self, f"order_{name}")(*arguments))
        except Exception as error:  # noqa: BLE001  # it belongs to the one who gave the order
            answer = (False, error)
        self._control.send(answer)
        return True

    def order_listen(self, server: tuple[str, int], latency_s: float) -> int:
        """Listen for clients of that server; return the port."""
        self._server, self._latency_s = server, latency_s
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        return int(self._listener.getsockname()[1])

    def order_counts(self) -> Counts:
        """Return what passed."""
        return self._counts

    def order_take_heard(self) -> list[str]:
        """Return the clients' messages since the last call, of very many the first."""
        heard, self._heard = self._heard, []
        return heard

    def order_arm(self, cut: Cut) -> None:
        """Cut where that says."""
        self._cut, self._passed, self._awaited, self._is_cut = cut, 0, None, False

    def order_is_cut(self) -> bool:
        """Return whether that was done."""
        return self._is_cut

    def order_cut_all(self, how: How, sides: Sides) -> int:
        """Cut all links now; return how many."""
        whole = [link for link in self._links if not link.is_harmed]
        for link in whole:
            link.harm(how, sides)
        return len(whole)

    def order_hold(self) -> None:
        """Let nothing pass."""
        self._is_held = True

    def order_release(self) -> None:
        """Let everything pass."""
        self._is_held = False
        for link in self._links:
            link.is_held = False
            for side in OTHER:
                link.write(side)

    def order_refuse(self, is_refusing: bool) -> None:
        """Refuse clients, or no longer."""
        self._is_refusing = is_refusing

    # --- what passes -----------------------------------------------------------------------------------------

    def _pass_on(self, link: Link) -> None:
        for side, other in OTHER.items():
            waiting = link.waiting[side]
            while waiting and waiting[0][0] <= time.monotonic() and not self._stands(link):
                _, frame = waiting.popleft()
                if frame is None:
                    link.close(other, "close")
                elif side == "client":
                    self._from_client(link, frame)
                else:
                    self._from_server(link, frame)

    def _from_client(self, link: Link, frame: Frame) -> None:
        if not link.is_ready or frame.kind == b"X":
            link.say("server", frame.data)
            return
        is_sync = frame.kind in SYNCS
        link.asked += is_sync
        self._count(link, frame, is_sync)
        cut = self._cut
        if cut is not None and (is_sync or cut.unit == "message"):
            self._passed += 1
            if self._passed == cut.nth and cut.when.endswith("request"):
                self._make(cut, link, "server", frame.data)
                return
            if self._passed == cut.nth:
                self._awaited = (link, link.asked)
        link.say("server", frame.data)

    def _from_server(self, link: Link, frame: Frame) -> None:
        is_answer = link.is_ready and frame.kind == READY
        if self._awaited == (link, link.answered + 1):
            link.answer += frame.data
            if is_answer and self._cut is not None:
                self._make(self._cut, link, "client", link.answer)
        else:
            link.has_turn = link.has_turn and frame.kind in UNASKED
            link.say("client", frame.data)
        link.answered += is_answer
        if frame.kind == READY and not link.is_ready:
            link.is_ready = True
            self._counts = replace(self._counts, connections=self._counts.connections + 1)

    def _count(self, link: Link, frame: Frame, is_sync: bool) -> None:
        self._counts = replace(
            self._counts,
            messages=self._counts.messages + 1,
            syncs=self._counts.syncs + is_sync,
            round_trips=self._counts.round_trips + (not link.has_turn),
        )
        link.has_turn = True
        if len(self._heard) < _MOST_HEARD:
            self._heard.append(frame.described())

    def _make(self, cut: Cut, link: Link, to: str, data: bytes) -> None:
        """Cut a link, at a message that is about to go to one end of it."""
        passes = {"before": 0, "within": len(data) // 2, "after": len(data)}[cut.when.split()[0]]
        self._cut, self._awaited, self._is_cut = None, None, True
        link.answer = b""
        link.has_turn = link.has_turn and to == "server"
        link.harm(cut.how, cut.sides, to=to, data=data, passes=passes)


if __name__ == "__main__":
    Forwarder(Connection(int(sys.argv[1])), int(sys.argv[2])).run()
