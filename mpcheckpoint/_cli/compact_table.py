"""The table of ``compact``: what each log is, and what is left of it. On a terminal it fits, however narrow that is."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint._cli.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mpcheckpoint import Compaction

_KEY, _OBJECTS = "KEY", "OBJECTS"
_GAP = 2
_LEAST_KEY = 8


class _Pair(NamedTuple):
    """What is counted, before and after."""

    name: str
    counts: Callable[[Compaction], tuple[int, int]]
    is_estimated: bool = False


_PAIRS = (
    _Pair("BYTES", lambda done: (done.bytes_before, done.bytes_after), is_estimated=True),
    _Pair("RECORDS", lambda done: (done.records_before, done.records_after)),
    _Pair(_OBJECTS, lambda done: (done.objects_before, done.objects_after)),
)


def table_lines(found: Sequence[Compaction], *, is_plan: bool, is_fitted: bool) -> Iterator[str]:
    """Yield the lines, headings first.

    Args:
        is_plan: whether the bytes that are left are an estimate.
        is_fitted: whether the table is to fit the terminal: objects are left out first, then keys are cut.
    """
    keys = [one_line(each.log_key) or "''" for each in found]
    figures = _figures(found, _PAIRS, is_plan)
    if not is_fitted:
        yield from map(_joined, _aligned([_KEY, *keys], len), figures)
        return
    from rich.cells import cell_len  # noqa: PLC0415 - rich takes a while to import
    from rich.console import Console  # noqa: PLC0415

    from mpcheckpoint._cli.fitting import cut_middle  # noqa: PLC0415

    width = Console().width - _GAP
    if width - len(figures[0]) < min(_LEAST_KEY, max(map(cell_len, keys))):
        figures = _figures(found, _PAIRS[:-1], is_plan)
    room = max(1, width - len(figures[0]))
    yield from map(_joined, _aligned([cut_middle(key, room) for key in (_KEY, *keys)], cell_len), figures)


def _aligned(cells: list[str], width_of: Callable[[str], int]) -> list[str]:
    width = max(map(width_of, cells))
    return [cell + " " * (width - width_of(cell)) for cell in cells]


def _joined(key: str, figures: str) -> str:
    return key + " " * _GAP + figures


def _figures(found: Sequence[Compaction], pairs: Sequence[_Pair], is_plan: bool) -> list[str]:
    """Return the lines without the keys: all of one width."""
    rows = [[name for pair in pairs for name in (pair.name, "LEFT")]]
    rows += [[cell for pair in pairs for cell in _cells(pair, each, is_plan)] for each in found]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return [
        (" " * _GAP).join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    ]


def _cells(pair: _Pair, each: Compaction, is_plan: bool) -> tuple[str, str]:
    before, after = pair.counts(each)
    mark = "~" if is_plan and pair.is_estimated and after != before else ""
    return str(before), f"{mark}{after}"
