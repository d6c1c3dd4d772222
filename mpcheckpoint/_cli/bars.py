"""The progress bars on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from mpcheckpoint._progress.bar import LiveConsole as LiveConsole  # noqa: PLC0414 - for the screens

if TYPE_CHECKING:
    from rich.progress import ProgressColumn


class Bar:
    """A bar on standard error."""

    def __init__(
        self, what: str, total: int | None, *columns: ProgressColumn, is_transient: bool = False
    ) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            *columns,
            console=LiveConsole(stderr=True),
            transient=is_transient,
        )
        self._task = self._progress.add_task(what, total=total, failed="")
        try:
            self._progress.start()
        except RuntimeError:  # no thread can be started to draw it
            self._progress.stop()  # it had hidden the cursor
            raise

    def show(self, done: int, total: int | None, failed: int = 0) -> None:
        """Show how much is done."""
        shown = f"{failed} failed" if failed else ""
        self._progress.update(self._task, completed=done, total=total, failed=shown)

    def print(self, line: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Stop drawing."""
        self._progress.stop()


def byte_bar(what: str, total_bytes: int | None) -> Bar:
    """Return a bar of bytes. It disappears at the end: only the findings stay on the screen."""
    columns = DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    return Bar(what, total_bytes, *columns, is_transient=True)
