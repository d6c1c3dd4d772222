"""Event loops of tests, and cancellations at each ``await`` of a call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

T = TypeVar("T")

LIMIT_S = 60.0


def run(main: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns, in an event loop of its own; no longer than a minute."""

    async def limited() -> T:
        async with asyncio.timeout(LIMIT_S):
            return await main

    return asyncio.run(limited())


async def until(is_true: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until that is true."""
    try:
        async with asyncio.timeout(LIMIT_S / 2):
            while not await is_true():
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise AssertionError(f"not so after {LIMIT_S / 2} s: {what}") from None


class CancelledAt:
    """Awaits something, and cancels it at its n-th ``await`` that waits, from 0, as the cancellation of a task does.

    Attributes:
        has_come: whether there was such an ``await``.
    """

    def __init__(self, call: Coroutine[Any, Any, T], at: int, *, is_late: bool) -> None:
        """``is_late``: what is awaited has come just when the cancellation comes."""
        self._call: Coroutine[Any, Any, Any] = call
        self._at = at
        self._is_late = is_late
        self.has_come = False

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._call.__await__()
        number = 0
        try:
            future = inner.send(None)
            while True:
                is_here = number == self._at
                number += 1
                if not is_here:
                    yield future
                    future = inner.send(None)
                    continue
                self.has_come = True
                if self._is_late and future is not None:
                    future._asyncio_future_blocking = False
                    yield from asyncio.wait([future]).__await__()
                elif future is not None:
                    future.cancel()
                future = inner.throw(asyncio.CancelledError())
        except StopIteration as stop:
            return stop.value
