"""How much memory processes have for themselves."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROC = "/proc"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MOST_PROCESSES = 10_000


def can_tell_memory() -> bool:
    """Return whether this system tells how much memory a process has."""
    return os.path.exists(f"{_PROC}/self/smaps_rollup")


def memory_above(pid: int, limit_bytes: int) -> int | None:
    """Return how many bytes of memory a process and its descendants have for themselves, if that is above a limit.

    What a process shares with the one that forked it does not count, nor do shared files. A process that has ended, or
    is another user's, has none.
    """
    pids = list(_tree(pid))
    # Two reads a process; only what may be above the limit is looked at page table by page table.
    if sum(map(_resident_bytes, pids)) <= limit_bytes:
        return None
    used_bytes = sum(map(_own_bytes, pids))
    return used_bytes if used_bytes > limit_bytes else None


def _tree(pid: int) -> Iterator[int]:
    left, seen = [pid], 0
    while left and seen < _MOST_PROCESSES:
        each = left.pop()
        seen += 1
        yield each
        try:
            threads = os.listdir(f"{_PROC}/{each}/task")
        except OSError:
            continue
        for thread in threads:
            left += map(int, _read(f"{each}/task/{thread}/children").split())


def _resident_bytes(pid: int) -> int:
    fields = _read(f"{pid}/statm").split()
    return int(fields[1]) * _PAGE_BYTES if len(fields) > 1 else 0


def _own_bytes(pid: int) -> int:
    own = (line.split() for line in _read(f"{pid}/smaps_rollup").splitlines() if line.startswith(b"Private_"))
    return sum(int(fields[1]) * 1024 for fields in own)


def _read(name: str) -> bytes:
    try:
        with open(f"{_PROC}/{name}", "rb") as file:
            return file.read()
    except OSError:
        return b""
