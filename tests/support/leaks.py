"""Calls that leave no memory behind: none that Python counts, none that C took, no reference too many.

A test makes CALLS of them, times the intensity: ``pytest --intensity 10 -k memory_behind -s`` makes a million, and says
what memory was taken before and after.
"""

from __future__ import annotations

import gc
import os
import sys
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CALLS = 100_000
# What chance may take. However many the calls are: so the more they are, the rarer a leak may be and is still seen.
# Of 16 bytes of C's memory, one in 4 calls is seen among CALLS, one in 16 among ten times as many.
_MOST_RESIDENT_BYTES = 512 * 1024
_MOST_TRACED_BYTES = 64 * 1024
_MOST_REFERENCES = CALLS // 10


def require_no_leak(
    call: Callable[[], object],
    shared: Sequence[object] = (),
    *,
    calls: int,
    most_bytes: int = 0,
    chance_bytes: int = _MOST_RESIDENT_BYTES,
) -> None:
    """Call that often; require memory and the references to what the calls share to stay as they are.

    Args:
        call: what is called.
        shared: what all calls use.
        calls: how often.
        most_bytes: what the calls may keep all the same.
        chance_bytes: what chance may take of the memory that is resident.
    """
    for _ in range(calls // 10):
        call()
    gc.collect()
    references, resident = [sys.getrefcount(each) for each in shared], _resident_bytes()
    for _ in range(calls):
        call()
    gc.collect()
    resident_after = _resident_bytes()
    sys.stdout.write(f"{calls:,} calls: {resident:,} bytes resident before, {resident_after:,} after\n")
    assert resident_after - resident < chance_bytes + most_bytes
    changes = [sys.getrefcount(each) - count for each, count in zip(shared, references, strict=True)]
    assert max(map(abs, changes), default=0) < _MOST_REFERENCES, changes
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
    assert after - before < _MOST_TRACED_BYTES + most_bytes


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
