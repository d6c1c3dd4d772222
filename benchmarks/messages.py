"""How many round trips to a server things take: counted in this process, so they do not depend on the machine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mpcheckpoint._postgres.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpcheckpoint.checkpoint import Checkpoint

_LOGS = 20


class Messages:
    """Counts what the sessions of this process send and wait for."""

    def __init__(self) -> None:
        self.sent = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count inside the block."""
        call = Session.call

        def counting(session: Session, *calls: Any, **options: Any) -> Any:
            self.sent += 1
            return call(session, *calls, **options)

        Session.call = counting  # type: ignore[method-assign]
        try:
            yield
        finally:
            Session.call = call  # type: ignore[method-assign]

    def of(self, work: Callable[[], object]) -> int:
        """Return how many it takes."""
        before = self.sent
        work()
        return self.sent - before


def message_counts(checkpoint: Checkpoint, items: int) -> Iterator[tuple[str, float, int]]:
    """Yield of each thing how many round trips it takes, and how many it may."""
    messages = Messages()
    with messages.counted(), ThreadPoolExecutor(1) as threads:
        log = checkpoint.log("a")
        log.append("x", 0)

        def claim(object_key: str) -> None:
            with log.claim(object_key):
                pass

        claim("before")
        log.count("x")
        counts = {
            "append": (messages.of(lambda: log.append("x", 1)), 1),
            "append with a condition": (messages.of(lambda: log.append("x", 2, expected_count=2)), 2),
            "claim and give back": (messages.of(lambda: claim("y")), 4),
        }
        numbers = checkpoint.log("map")
        list(numbers.map(abs, range(3), key=str, executor=threads))
        some = range(3, 3 + items)
        taken = messages.of(lambda: list(numbers.map(abs, some, key=str, executor=threads)))
        counts["map item"] = (taken / items, 6)
        for number in range(_LOGS - 2):
            checkpoint.log(f"log {number}").append("x", number)
        checkpoint.get("x")
        counts[f"read over {_LOGS} logs"] = (messages.of(lambda: checkpoint.get("x")), 1)
    for work, (count, most) in counts.items():
        yield work, count, most
