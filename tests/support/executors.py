"""Executors that run a map's items where a test wants them."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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


@contextmanager
def workers(kind: str, jobs: int) -> Iterator[dict[str, Any]]:
    """Yield the options of ``map`` for so many workers of some kind."""
    executor: Executor
    if kind == "threads":
        with ThreadPoolExecutor(jobs) as executor:
            yield {"executor": executor, "jobs": jobs}
    elif kind == "pool":
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as executor:
            yield {"executor": executor, "jobs": jobs}
    else:
        yield {"mp_context": multiprocessing.get_context(kind), "jobs": jobs}
