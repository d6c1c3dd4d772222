"""The outcomes of a map as a table: one line an item. On a terminal it fits, however narrow that is."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len
from rich.console import Console

from mpcheckpoint._cli.fitting import cut_end, cut_middle, fitted
from mpcheckpoint._cli.terminal import is_screen, one_line
from mpcheckpoint._cli.times import TimeForm, in_form
from mpcheckpoint._work.results import item_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpcheckpoint import Outcome, Results

_GAP = "  "
_ITEM, _ERROR = "ITEM", "ERROR"
_LEAST = 12  # columns for an item, or an error, while others can still be left out


class _Column(NamedTuple):
    name: str
    text: Callable[[Outcome], str]
    is_number: bool = False


_COLUMNS = (
    _Column("STATE", lambda outcome: "ok" if outcome.ok else "failed"),
    _Column("BEGAN", lambda outcome: in_form(outcome.began_us, TimeForm.LOCAL)),
    _Column("DURATION", lambda outcome: f"{outcome.duration_s:.3f} s", is_number=True),
    _Column("ATTEMPTS", lambda outcome: str(outcome.attempts), is_number=True),
    _Column("WORKER", lambda outcome: outcome.worker or "-"),
    _Column(_ITEM, lambda outcome: one_line(item_text(outcome.item))),
    _Column(_ERROR, lambda outcome: one_line((outcome.error or "").partition("\n")[0])),
)
# These go first where there is little room: the others tell more.
_DISPENSABLE = ("WORKER", "ATTEMPTS", "BEGAN")


def table_lines(outcomes: Results, *, is_for_file: bool) -> Iterator[bytes]:
    """Yield the lines. All of them are held in memory, since each column is as wide as its widest cell."""
    rows = [[column.text(outcome) for column in _COLUMNS] for outcome in outcomes]
    widths = {
        column.name: max([len(column.name), *(cell_len(row[place]) for row in rows)])
        for place, column in enumerate(_COLUMNS)
    }
    if not is_for_file and is_screen(sys.stdout):
        widths = _fitted_widths(widths, Console().width)
    for cells in ([column.name for column in _COLUMNS], *rows):
        yield _line(cells, widths).encode() + b"\n"


def _fitted_widths(widths: dict[str, int], width: int) -> dict[str, int]:
    """Return the widths of the columns for a terminal; those that are left out are not there."""
    for name in _DISPENSABLE:
        flexible = min(widths[_ITEM], _LEAST) + min(widths[_ERROR], _LEAST)
        if _total({**widths, _ITEM: flexible, _ERROR: 0}) <= width:
            break
        widths = {each: size for each, size in widths.items() if each != name}
    room = max(0, width - _total({**widths, _ITEM: 0, _ERROR: 0}))
    item = min(widths[_ITEM], max(room // 2, room - widths[_ERROR]))
    return {**widths, _ITEM: item, _ERROR: min(widths[_ERROR], room - item)}


def _total(widths: dict[str, int]) -> int:
    return sum(widths.values()) + len(_GAP) * (len(widths) - 1)


def _line(cells: list[str], widths: dict[str, int]) -> str:
    parts = []
    for column, cell in zip(_COLUMNS, cells, strict=True):
        width = widths.get(column.name)
        if width is not None:
            cut = cut_end if column.name == _ERROR else cut_middle
            parts.append(fitted(cut(cell, width), width, is_right=column.is_number))
    return _GAP.join(parts).rstrip()
