"""Threads that wait for commands: as many as there is work for."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


class BusyThreads(Executor):
    """Run calls in up to ``most`` threads. A thread ends when there is nothing left to do.

    Rejected: ThreadPoolExecutor. Its idle threads stay. Where processes are short, they take the places that the
    commands need: with a limit of three it starts two threads, and then no command, ever.

    Invariant: each queued call has a thread, up to ``most``: a new one, or one that is done and about to look for more.
    ``_lock`` guards all fields.
    """

    def __init__(self, most: int, before: Callable[[], None] = lambda: None) -> None:
        self._most = most
        self._before = before  # each call
        self._lock = threading.Lock()
        self._queue: deque[Callable[[], None]] = deque()
        self._threads: set[threading.Thread] = set()
        self._free = 0  # threads that are not in a call

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call.

        Raises:
            RuntimeError: no thread can be started for it. It was not queued.
        """
        future: Future[T] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                self._set_free()
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - the caller gets it from the future
                self._set_free()
                future.set_exception(error)
            else:
                self._set_free()
                future.set_result(result)

        with self._lock:
            if self._free <= len(self._queue) and len(self._threads) < self._most:
                self._start()
            self._queue.append(call)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Return when all that was queued is done."""
        del cancel_futures  # the caller holds the futures
        while wait:
            with self._lock:
                thread = next(iter(self._threads), None)
            if thread is None:
                return
            thread.join()

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name="command")
        self._threads.add(thread)
        self._free += 1
        try:
            thread.start()
        except BaseException:
            self._threads.discard(thread)
            self._free -= 1
            raise

    def _set_free(self) -> None:
        """Count a thread as free before the future tells anybody, who may submit the next call."""
        with self._lock:
            self._free += 1

    def _work(self) -> None:
        while True:
            with self._lock:
                self._free -= 1
                if not self._queue:
                    self._threads.discard(threading.current_thread())
                    return
                call = self._queue.popleft()
            self._before()  # the call may be taken back meanwhile
            call()
            del call  # let go of the item before the next one comes
