"""What workers are to do beside the items, and what they may use."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from mpcheckpoint import _system as system
from mpcheckpoint._work.causes import OVER_MEMORY

if TYPE_CHECKING:
    from collections.abc import Callable

# As people write them: 2G, 500M, 1.5GiB; a thousandth of a unit more or less is not what a limit is for.
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:([KMGT])(?:i?B)?|B)?\s*", re.IGNORECASE | re.ASCII)
_FACTORS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_MOST_BYTES = 1 << 60
_UNITS = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


class WorkerOptions(NamedTuple):
    """What was chosen for the worker processes of a map.

    Attributes:
        timeout_s: how long an item's function may run.
        memory_bytes: how much memory a process may have while an item's function runs.
        initializer: called in each process before its first item; what it returns is the state of the worker.
        tasks: after how many items a process is replaced.
    """

    timeout_s: float | None = None
    memory_bytes: int | None = None
    initializer: Callable[[], Any] | None = None
    tasks: int | None = None


def parse_memory(size: object) -> int:
    """Return a size in bytes: a number, or a text like 2G, 500M or 1.5 GiB.

    Raises:
        ValueError: it is none, or not above 0.
    """
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if found is not None:
        size = int(float(found[1]) * _FACTORS.get((found[2] or "").upper(), 1))
    if type(size) is not int or not 0 < size <= _MOST_BYTES:
        raise ValueError(f"memory is a size above 0, in bytes or as 2G, 500M, 1.5G, not {size!r}")
    return size


def require_memory_told() -> None:
    """Refuse a limit on memory where nobody could tell that it is exceeded.

    Raises:
        ValueError: this system does not tell how much memory a process has.
    """
    if not system.can_tell_memory():
        raise ValueError(
            "this system does not tell how much memory a process has (there is no /proc/self/smaps_rollup): leave out "
            "memory, and limit it from outside, by a container or ulimit -v. Nothing was run"
        )


def memory_error(used_bytes: int, limit_bytes: int) -> str:
    """Return the error of an item that was ended for its memory."""
    return f"{OVER_MEMORY}{in_units(limit_bytes)}: used {in_units(used_bytes)}"


def in_units(size_bytes: int) -> str:
    """Return a size for people."""
    for name, unit in _UNITS:
        if size_bytes >= unit:
            return f"{size_bytes / unit:.3g} {name}"
    return f"{size_bytes} bytes"
