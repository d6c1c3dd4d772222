"""Progress on a terminal: a bar, what runs, and the last failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mpcheckpoint._progress.snapshot import Snapshot, pace_text, running_text
from mpcheckpoint._progress.words import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

_BAR_COLUMNS = 40


class LiveConsole(Console):
    """A console for bars and screens that never hides the cursor.

    Crash: rich hides the cursor while it draws, and shows it again at the end. A process that is killed has no end, and
    its user would type blindly.
    """

    def show_cursor(self, show: bool = True) -> bool:
        """Leave the cursor alone; return that nothing was written."""
        del show
        return False


class ProgressBars:
    """Some lines at the end of standard error that are drawn anew as the map goes on. The first one stays.

    Drawn by the thread that shows, and no other: a map forks worker processes, and starts where no thread can.
    """

    def __init__(self) -> None:
        self._last = Snapshot(None, 0, 0, 0)
        self._live = Live(
            Group(*_parts(self._last)),
            console=LiveConsole(stderr=True),
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start(refresh=True)

    def show(self, snapshot: Snapshot) -> None:
        """Draw how far it is."""
        self._last = snapshot
        if self._live.is_started:
            self._live.update(Group(*_parts(snapshot)), refresh=True)

    def print(self, line: str) -> None:
        """Print a line above the bar."""
        self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the bar as it is, without what ran."""
        if self._live.is_started:
            self._live.update(_head(self._last))
            self._live.stop()


def _parts(snapshot: Snapshot) -> Iterator[RenderableType]:
    yield _head(snapshot)
    running = running_text(snapshot)
    if running:
        yield Text(running, no_wrap=True, overflow="ellipsis")
    if snapshot.last_failure is not None:
        yield Text(f"last failure: {one_line(snapshot.last_failure)}", no_wrap=True, overflow="ellipsis")


def _head(snapshot: Snapshot) -> RenderableType:
    """Return the line of the bar: as wide as the terminal at most, the bar what is left of it."""
    items = "?" if snapshot.items is None else str(snapshot.items)
    failed = [f"{snapshot.failed} failed"] if snapshot.failed else []
    words = " ".join(["items", f"{snapshot.done}/{items}", *failed, *pace_text(snapshot)])
    line = Table.grid(padding=(0, 1, 0, 0))
    line.add_column(no_wrap=True, overflow="ellipsis")
    line.add_column(max_width=_BAR_COLUMNS)
    line.add_row(
        Text(words, no_wrap=True, overflow="ellipsis"),
        ProgressBar(total=max(1, snapshot.items or 1), completed=snapshot.done if snapshot.items else 0),
    )
    return line
