"""What a command that was made to end has left running: a shell that dies does not take along what it waits for."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system

if TYPE_CHECKING:
    from collections.abc import Callable

_POLL_S = 0.05
# As for commands: they get so long to end by themselves, then to obey SIGTERM, then to be gone after SIGKILL.
_STAGES = ((0.5, signal.SIGTERM), (1.5, signal.SIGKILL), (1.0, signal.SIGKILL))


def end_leftovers(worker_path: str, group: int, is_urgent: Callable[[], bool]) -> None:
    """End what still has the descriptor of an item's worker, in the process group ``group``; return when that is done.

    Else it would go on beside the item's rerun. What has left the group has chosen to live on, and what closed the
    descriptor is not known to be the command's: both are left alone. Linux tells who has it; elsewhere nothing is done.
    """
    for patience_s, number in _STAGES:
        deadline = time.monotonic() + patience_s
        while (left := _left(worker_path, group)) and time.monotonic() < deadline and not is_urgent():
            time.sleep(_POLL_S)
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL if is_urgent() else number)
            except (ProcessLookupError, PermissionError):
                pass  # it was quicker, or is another user's by now
        if not left:
            return


def _left(worker_path: str, group: int) -> list[int]:
    holders = system.openers([worker_path])[worker_path]
    return [each.pid for each in holders if each.pid != os.getpid() and _group_of(each.pid) == group]


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None
