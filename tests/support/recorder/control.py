"""What a program does with the recorder that it runs under."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _exported() -> Any:
    library: Any = ctypes.CDLL(None)
    if not hasattr(library, "recorder_begin"):
        raise RuntimeError("this program does not run under the recorder: LD_PRELOAD has to name it")
    library.recorder_fix_time.argtypes = (ctypes.c_longlong,)
    library.recorder_fix_chance.argtypes = (ctypes.c_ulonglong,)
    return library


def begin(record: Path, below: Path, rules: str = "") -> None:
    """Record what this process asks of files below a directory from now on, with these rules; see recorder.c."""
    library = _exported()
    refused = library.recorder_rules(rules.encode())
    if refused:
        raise ValueError(f"{refused} of these are no rules: {rules!r}")
    library.recorder_begin(os.fsencode(record), os.fsencode(below.resolve()))


def end() -> None:
    """Record nothing more, and let no rule act."""
    _exported().recorder_end()


def fix_time(time_us: int) -> None:
    """Stop the wall clock at a time."""
    _exported().recorder_fix_time(time_us)


def fix_chance(seed: int) -> None:
    """Have chance give what follows from a seed, which is not 0."""
    _exported().recorder_fix_chance(seed)


def descriptors(name: str) -> Iterator[int]:
    """Yield the descriptors by which this process has a file of that name open."""
    for number in sorted(map(int, os.listdir("/proc/self/fd"))):
        try:
            path = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue  # the one by which the directory was listed
        if os.path.basename(path) == name:
            yield number
