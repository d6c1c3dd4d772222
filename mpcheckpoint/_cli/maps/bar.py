"""The progress bar."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mpcheckpoint._cli.live_console import LiveConsole

if TYPE_CHECKING:
    from mpcheckpoint._cli.maps.lines import Lines
    from mpcheckpoint._cli.maps.tally import Tally


class Bar:
    """A bar, its end known as soon as all items are read."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]}"),
            TimeElapsedColumn(),
            console=LiveConsole(stderr=True),
        )
        self._task = self._progress.add_task("items", total=None, failed="")
        try:
            self._progress.start()
        except RuntimeError:  # no thread is to be had that would draw it
            self._progress.stop()  # the cursor was hidden
            raise

    def show(self, tally: Tally) -> None:
        """Show how far the map is."""
        failed = f"{tally.failed} failed" if tally.failed else ""
        self._progress.update(self._task, completed=tally.done, total=self._lines.total(), failed=failed)

    def print(self, line: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._progress.stop()
