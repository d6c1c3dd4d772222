"""The name of whoever runs an item, in its outcome."""

from __future__ import annotations

import itertools
import os
import threading


class _Thread(threading.local):
    """The number of a thread among those of its process that have run items, from 1."""

    number = 0


_numbers = itertools.count(1)
_thread = _Thread()


def worker_name() -> str:
    """Return how outcomes name whoever runs an item: "4711", a process, or "4711/2", a thread that is not its first.

    Rejected: the id of the worker. A command has a worker of its own, so there is one an item, and nobody can tell
    which of them ran one after the other.
    """
    if threading.current_thread() is threading.main_thread():
        return str(os.getpid())
    if not _thread.number:
        _thread.number = next(_numbers)
    return f"{os.getpid()}/{_thread.number}"
