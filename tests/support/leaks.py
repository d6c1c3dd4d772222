"""Calls that leave no memory behind: none that Python counts, none that C took, no reference too many.

A test makes CALLS of them, times the intensity: ``pytest --intensity 10 -k memory_behind -s`` makes a million, and says
what memory was taken before and after.
"""

from __future__ import annotations

import ctypes
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
_MOST_BYTES = 512 * 1024
_MOST_TRACED_BYTES = 64 * 1024
_MOST_REFERENCES = CALLS // 10


def require_no_leak(
    call: Callable[[], object],
    shared: Sequence[object] = (),
    *,
    calls: int,
    most_bytes: int = 0,
    chance_bytes: int = _MOST_BYTES,
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
    references = [sys.getrefcount(each) for each in shared]
    taken, resident = _taken_bytes(), _resident_bytes()
    for _ in range(calls):
        call()
    gc.collect()
    taken_after, resident_after = _taken_bytes(), _resident_bytes()
    sys.stdout.write(f"{calls:,} calls: {taken:,} bytes of C's memory before, {taken_after:,} after\n")
    sys.stdout.write(f"{calls:,} calls: {resident:,} bytes resident before, {resident_after:,} after\n")
    assert taken_after - taken < _MOST_BYTES + most_bytes
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


class _MallocInfo(ctypes.Structure):
    """``struct mallinfo2`` of the GNU C library."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks")),
        *((name, ctypes.c_size_t) for name in ("fsmblks", "uordblks", "fordblks", "keepcost")),
    )


def _taken_bytes() -> int:
    """Return how much memory C has given out, and has not got back; 0 where it does not tell.

    What is resident does not show all of a leak: it takes what earlier tests gave back, and that stays resident.
    """
    try:
        ask = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return 0
    ask.restype = _MallocInfo
    info = ask()
    return int(info.uordblks + info.hblkhd)


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
