"""One look at a store, as plain lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpcheckpoint._cli.top.words import COLUMNS, failure_line, failures_of, map_line, ordered, store_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint._maintenance.monitoring.store_monitor import StoreSight

_MOST_FAILURES = 10


def snapshot_lines(sight: StoreSight) -> Iterator[str]:
    """Yield the lines."""
    yield store_line(sight)
    logs = ordered(sight.logs, COLUMNS[0])
    rows = [[column.name for column in COLUMNS], *([column.text(log) for column in COLUMNS] for log in logs)]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    for row in rows if logs else ():
        cells = [
            cell.rjust(width) if column.is_number else cell.ljust(width)
            for column, cell, width in zip(COLUMNS, row, widths, strict=True)
        ]
        yield "  ".join(cells).rstrip()
    maps = [map_line(log, log.map) for log in logs if log.map is not None]
    if maps:
        yield "maps:"
        yield from (f"    {line}" for line in maps)
    failures = failures_of(sight, _MOST_FAILURES)
    if failures:
        yield "last failures:"
        yield from (f"    {failure_line(*each)}" for each in failures)
