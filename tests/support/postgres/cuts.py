"""What a proxy can be told to do, and what it counts. Shared by the tests' side and the process that forwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Within: only the first half of the bytes passes.
When = Literal[
    "before request", "within request", "after request", "before answer", "within answer", "after answer"
]
# reset: both ends are told that the connection is broken. close: that the other one has closed it in order.
# hold: nothing passes any more, and nobody is told, until `release`, when what was held back passes.
How = Literal["reset", "close", "hold"]
# Whose connection is harmed. The other one stays open, and hears nothing more.
Sides = Literal["both", "client", "server"]
Unit = Literal["sync", "message"]


@dataclass(frozen=True)
class Counts:
    """What passed by, over all connections, after each had logged in.

    Attributes:
        connections: clients that logged in.
        messages: messages of clients, without the one with which they leave.
        syncs: those among them that the server answers by saying that it is ready for the next.
        round_trips: how often a client sent something after it could have read what the server said to its last
            messages. Of a client that waits for each answer these are the waits. One that sends on without waiting may
            be answered meanwhile; with a latency it is not, and what it sends in that time is one round trip.
    """

    connections: int = 0
    messages: int = 0
    syncs: int = 0
    round_trips: int = 0

    def __sub__(self, earlier: Counts) -> Counts:
        return Counts(
            self.connections - earlier.connections,
            self.messages - earlier.messages,
            self.syncs - earlier.syncs,
            self.round_trips - earlier.round_trips,
        )


@dataclass(frozen=True)
class Cut:
    """Where a connection is cut: at the ``nth`` sync or message of any client, from 1, from now on."""

    nth: int
    when: When
    how: How = "reset"
    unit: Unit = "sync"
    sides: Sides = "both"

    def __post_init__(self) -> None:
        if self.nth < 1:
            raise ValueError(f"nth is {self.nth}, and counts from 1")
        if self.unit == "message" and self.when.endswith("answer"):
            raise ValueError("only a sync has an answer of its own")
        if self.how == "hold" and self.sides != "both":
            raise ValueError("what is held back is held back from both sides")
