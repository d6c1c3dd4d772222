"""The table of ``ls`` on a terminal: one line a log, however narrow the terminal is."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from mpcheckpoint._cli.fitting import cut_middle, fitted
from mpcheckpoint._cli.times import TimeForm

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mpcheckpoint._cli.ls_columns import Column
    from mpcheckpoint.maintenance import LogSurvey

_STYLES = {"corrupt": "bold red", "unreadable": "bold red", "poisoned": "red", "torn": "yellow"}
# Names keep this width while columns can still be left out.
_LEAST_NAME = 12
_LEAST_WHEN_NARROW = 6
# The columns that go first: the others tell more.
_DISPENSABLE = ("FIRST", "SYNCS", "APPENDS", "OBJECTS", "REPAIRS", "WAITERS", "HOLDER")


class Layout(NamedTuple):
    """One way to print the table, from roomy to narrow."""

    form: TimeForm
    gap: int = 2
    has_short_names: bool = False
    least_name: int | None = None  # None: names are not cut
    left_out: frozenset[str] = frozenset()


def layouts() -> Iterator[Layout]:
    """Yield the ways to print the table: times get shorter first, then names, then headings; then columns go."""
    for form in TimeForm:
        yield Layout(form)
    yield Layout(TimeForm.AGE, least_name=_LEAST_NAME)
    for count in range(len(_DISPENSABLE) + 1):
        for least in (_LEAST_NAME, _LEAST_WHEN_NARROW):
            yield Layout(TimeForm.AGE, 1, True, least, frozenset(_DISPENSABLE[:count]))


class Table:
    """The cells of the table in one layout, headings first."""

    def __init__(self, columns: Sequence[Column], logs: Sequence[LogSurvey], layout: Layout) -> None:
        self.columns = [column for column in columns if column.name not in layout.left_out]
        heads = [column.short_name if layout.has_short_names else column.name for column in self.columns]
        self.rows = [heads, *([column.text(log, layout.form) for column in self.columns] for log in logs)]
        self.layout = layout
        self.widths = [max(map(cell_len, cells)) for cells in zip(*self.rows, strict=True)]

    def fits(self, width: int) -> bool:
        """Cut names if the layout allows it, and return whether the table fits into the width."""
        over = sum(self.widths) + self.layout.gap * (len(self.widths) - 1) - width
        names = [number for number, column in enumerate(self.columns) if column.is_name]
        while over > 0 and self.layout.least_name is not None:
            widest = max(names, key=lambda number: self.widths[number])
            if self.widths[widest] <= self.layout.least_name:
                break
            self.widths[widest] -= 1
            over -= 1
        return over <= 0

    def lines(self) -> Iterator[Text]:
        """Yield the lines, without newlines."""
        for number, row in enumerate(self.rows):
            line = Text(no_wrap=True, overflow="crop", end="", style="bold" if number == 0 else "")
            for column, cell, width in zip(self.columns, row, self.widths, strict=True):
                line.append(" " * self.layout.gap if line else "")
                text = fitted(cut_middle(cell, width), width, is_right=column.is_number)
                line.append(text, _STYLES.get(cell) if column.name == "STATE" else None)
            line.rstrip()
            yield line


def fitting_table(columns: Sequence[Column], logs: Sequence[LogSurvey], width: int) -> Table:
    """Return the roomiest table that fits into the width; the narrowest if none fits."""
    tables = (Table(columns, logs, layout) for layout in layouts())
    table = next(tables)
    while not table.fits(width):
        narrower = next(tables, None)
        if narrower is None:
            break
        table = narrower
    return table


def show_table(columns: Sequence[Column], logs: Sequence[LogSurvey]) -> None:
    """Print the table."""
    console = Console(highlight=False)
    for line in fitting_table(columns, logs, console.width).lines():
        console.print(line, crop=True, no_wrap=True, overflow="crop", end="\n")
