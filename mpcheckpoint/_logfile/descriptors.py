"""A thousand logs must not need a thousand descriptors: the least recently used are closed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Protocol
from weakref import ref


class DescriptorUser(Protocol):
    """Something that holds a descriptor it can open again."""

    def forget_descriptor(self) -> None:
        """Let the file be closed as soon as nobody uses it."""


class DescriptorPool:
    """Bound how many files readers keep open.

    Invariant: at most ``limit`` users keep a descriptor (held by tests/crash/test_process_limits.py). A
    user that is forgotten in mid-read keeps the file open through the reference it reads by.
    """

    def __init__(self, limit: int = 48) -> None:
        self._limit = limit
        self._mutex = threading.RLock()
        self._recent: OrderedDict[int, ref[DescriptorUser]] = OrderedDict()

    def touch(self, user: DescriptorUser) -> None:
        """Note that ``user`` uses its descriptor now."""
        with self._mutex:
            key = id(user)
            known = self._recent.get(key)
            if known is not None and known() is user:
                self._recent.move_to_end(key)
                return
            self._recent[key] = ref(user)
            if len(self._recent) <= self._limit:
                return
            _, oldest = self._recent.popitem(last=False)
        stale = oldest()
        if stale is not None:
            stale.forget_descriptor()

    def reset_after_fork(self) -> None:
        """Start anew in a child, where a thread that does not exist may hold the mutex."""
        self._mutex = threading.RLock()
        self._recent = OrderedDict()


pool = DescriptorPool()
