"""The table of logs on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpcheckpoint._cli.ls_command import Column

_STYLES = {"corrupt": "bold red", "unreadable": "bold red", "poisoned": "red", "torn": "yellow"}


def show_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print the table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        # No folding of names and words: a line too long is cut off where the terminal ends, but for the first.
        table.add_column(column.name, justify="right" if column.is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    Console().print(table)
