"""Logs that were replaced while this process had them open.

Whoever closes such a file last frees it: of 100 MB that takes tens of milliseconds, which no append is to wait for.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpcheckpoint._logfile.opened import OpenLog

# Below that it takes less time than to start a thread.
_LONG_BYTES = 4 * 1024 * 1024


def let_go(held: list[OpenLog | None], current: OpenLog | None) -> None:
    """Empty the list: in a thread of its own where that may close a large file that is not ``current`` any more."""
    log = held[0]
    is_large = log is not None and log is not current and log.state.end.offset >= _LONG_BYTES
    del log
    if is_large:
        try:
            threading.Thread(target=held.clear, name="mpcheckpoint-close", daemon=True).start()
        except (RuntimeError, MemoryError):
            pass  # no thread is to be had, or the interpreter ends
        else:
            return
    held.clear()
