"""The progress bar of a pass over files."""

from __future__ import annotations

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from mpcheckpoint._cli.live_console import LiveConsole


class ByteBar:
    """A bar that goes when all is done: what was found is what stays on the screen."""

    def __init__(self, what: str, total_bytes: int | None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=LiveConsole(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task(what, total=total_bytes)
        self._progress.start()

    def show(self, done_bytes: int) -> None:
        """Show how far it is."""
        self._progress.update(self._task, completed=done_bytes)

    def close(self) -> None:
        """Take the bar away."""
        self._progress.stop()
