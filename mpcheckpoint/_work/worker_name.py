"""The name of whoever runs an item, in its outcome."""

from __future__ import annotations

import itertools
import os
import threading

_numbers = itertools.count(1)
_free: list[int] = []  # of threads that have ended


class _Number:
    """A number that a thread has among those of its process that run items, from 1. The next one gets it after it."""

    def __init__(self) -> None:
        try:
            self.value = _free.pop()
        except IndexError:
            self.value = next(_numbers)

    def __del__(self) -> None:
        _free.append(self.value)


class _Thread(threading.local):
    number: _Number | None = None


_thread = _Thread()


def worker_name() -> str:
    """Return how outcomes name whoever runs an item: "4711", a process, or "4711/2", a thread that is not its first.

    Rejected: the id of the worker. A command has a worker of its own, so there is one an item, and nobody can tell
    which of them ran one after the other.
    """
    if threading.current_thread() is threading.main_thread():
        return str(os.getpid())
    if _thread.number is None:
        _thread.number = _Number()
    return f"{os.getpid()}/{_thread.number.value}"
