"""A thousand logs must not need a thousand descriptors: the least recently used give theirs back."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Protocol
from weakref import ref


class DescriptorUser(Protocol):
    """Something that holds a descriptor it can open again."""

    def forget_descriptor(self) -> None:
        """Let the file be closed as soon as nobody is using it."""


class DescriptorPool:
    """Bound how many files readers keep open.

    Invariant: at most ``limit`` holders keep a descriptor (held by tests/crash/test_process_limits.py). A
    holder that is forgotten in mid-read keeps the file open through the reference it reads by.
    """

    def __init__(self, limit: int = 48) -> None:
        self._limit = limit
        self._mutex = threading.RLock()
        self._recent: OrderedDict[int, ref[DescriptorUser]] = OrderedDict()

    def touch(self, holder: DescriptorUser) -> None:
        """Take note that ``holder`` uses its descriptor now."""
        with self._mutex:
            key = id(holder)
            known = self._recent.get(key)
            if known is not None and known() is holder:
                self._recent.move_to_end(key)
                return
            self._recent[key] = ref(holder)
            if len(self._recent) <= self._limit:
                return
            _, oldest = self._recent.popitem(last=False)
        stale = oldest()
        if stale is not None:
            stale.forget_descriptor()

    def reset_after_fork(self) -> None:
        """Start anew in a child, where the mutex may be held by a thread that does not exist."""
        self._mutex = threading.RLock()
        self._recent = OrderedDict()


pool = DescriptorPool()
