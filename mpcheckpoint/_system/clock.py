"""The wall clock."""

from __future__ import annotations

import time


def now_us() -> int:
    """Return the wall clock, in microseconds since 1970."""
    return time.time_ns() // 1000
