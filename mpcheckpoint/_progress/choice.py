"""What ``progress=`` asks for."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from mpcheckpoint._progress.lines import ProgressLines
from mpcheckpoint._progress.tqdm_bar import TqdmBar

if TYPE_CHECKING:
    from typing import TextIO

    from mpcheckpoint._progress.snapshot import ProgressDisplay


def is_screen(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal that can move its cursor."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def require_progress(progress: Any) -> None:
    """Refuse what shows no progress.

    Raises:
        TypeError: it is neither a bool, nor can be called, nor has ``update``.
    """
    if isinstance(progress, bool) or progress is None or hasattr(progress, "update") or callable(progress):
        return
    raise TypeError(
        "progress is True, False, a function that makes a bar, as tqdm.auto.tqdm, or a bar with update(n), not "
        f"{progress!r}"
    )


def display_for(progress: Any, items: int | None) -> ProgressDisplay | None:
    """Return where progress is shown; None for nowhere. Requires: ``require_progress`` has not refused it.

    Args:
        items: how many items there are, if that is known.
    """
    if progress is None or progress is False:
        return None
    if progress is True:
        return terminal_display() if is_screen(sys.stderr) else ProgressLines()
    # A class of bars has an ``update``, too.
    if isinstance(progress, type) or not hasattr(progress, "update"):
        return TqdmBar(progress(total=items, unit="item"), is_ours=True)
    return TqdmBar(progress, is_ours=False)


def terminal_display() -> ProgressDisplay:
    """Return a bar on standard error."""
    from mpcheckpoint._progress.bar import ProgressBars  # noqa: PLC0415 - rich takes a while to import

    return ProgressBars()
