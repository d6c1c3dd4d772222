"""A network link to a server that can be cut: neither end is told, as when a cable is pulled."""

from __future__ import annotations

import random
import secrets
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from mpcheckpoint.testing._power_cuts.mounts import run
from support.capabilities import has_command, is_root
from support.postgres.addresses import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.postgres.cluster import Cluster

_INSIDE = "eth0"


@cache
def can_link() -> bool:
    """Return whether network name spaces and pairs of interfaces can be made. Needs root, ip, unshare and nsenter."""
    if not (is_root() and all(map(has_command, ("ip", "unshare", "nsenter")))):
        return False
    try:
        run("unshare", "--net", "ip", "link", "add", "a0", "type", "veth", "peer", "name", "b0")
    except OSError:
        return False
    return True


class Link:
    """A pair of interfaces, one of them in the name space of a running server."""

    def __init__(self, name: str, inside: int) -> None:
        self.name = name
        self._inside = inside

    def cut(self) -> None:
        """Let nothing pass any more; no end is told."""
        # The server's interface: if ours went, the system would say at once that there is no way.
        self.run_inside("ip", "link", "set", _INSIDE, "down")

    def mend(self) -> None:
        """Let pass what comes. What was sent meanwhile arrives, too, if its sender tries again, as TCP does."""
        self.run_inside("ip", "link", "set", _INSIDE, "up")

    def run_inside(self, *argv: str) -> str:
        """Run a command in the server's name space; return what it printed."""
        return run("nsenter", f"--net=/proc/{self._inside}/ns/net", *argv)


@contextmanager
def linked(cluster: Cluster) -> Iterator[Link]:
    """Link a running cluster that has a network of its own; inside the block its addresses lead over the link.

    A server that is started again has a new name space, and needs another link.
    """
    guard = cluster.running().guard.pid
    # A network for tests of networks, which nothing else uses (RFC 2544); a part of it of four addresses.
    block = f"198.{random.choice((18, 19))}.{random.randrange(256)}"
    first = 4 * random.randrange(64)
    ours, theirs = f"{block}.{first + 1}", f"{block}.{first + 2}"
    link = Link(f"mpc{secrets.token_hex(5)}", guard)
    run(*f"ip link add {link.name} type veth peer name {_INSIDE} netns {guard}".split())
    try:
        run(*f"ip address add {ours}/30 dev {link.name}".split())
        run(*f"ip link set {link.name} up".split())
        link.run_inside(*f"ip address add {theirs}/30 dev {_INSIDE}".split())
        link.mend()
        cluster.host = theirs
        yield link
    finally:
        cluster.host = HOST
        try:
            run("ip", "link", "delete", link.name)
        except OSError:
            if cluster.is_running and cluster.running().guard.pid == guard:
                raise  # else it went with the server's name space
