"""Calls that leave no memory behind: none that Python counts, none that C took, no reference too many."""

from __future__ import annotations

import gc
import os
import sys
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Below what one object, or one piece of C's memory, a call would come to.
_LEAST_BYTES_A_CALL = 8


def require_no_leak(call: Callable[[], object], shared: Sequence[object], *, calls: int) -> None:
    """Call that often; require memory and the references to what the calls share to stay as they are."""
    for _ in range(calls // 10):
        call()
    gc.collect()
    references, resident = [sys.getrefcount(each) for each in shared], _resident_bytes()
    for _ in range(calls):
        call()
    gc.collect()
    assert _resident_bytes() - resident < max(2 * 2**20, _LEAST_BYTES_A_CALL * calls)
    changes = [sys.getrefcount(each) - count for each, count in zip(shared, references, strict=True)]
    assert max(map(abs, changes)) < calls // 10, changes
    tracemalloc.start()
    try:
        call()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(calls // 10):
            call()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < _LEAST_BYTES_A_CALL * (calls // 10)


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
