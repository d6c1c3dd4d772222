"""Executors that run a map's items where a test wants them."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Late(Executor):
    """Runs each call at once, but not before something else was done."""

    _max_workers = 1

    def __init__(self, first: Callable[[], object]) -> None:
        self._first = first

    def submit(self, fn: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        """Do the other thing, then the call."""
        self._first()
        future = Future[Any]()
        future.set_result(fn(*args, **named))
        return future
