"""Statistics, and tables that print each row as soon as it is known."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

QUANTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 98, 99, 99.5, 99.9, 100)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest of ``values`` that at least ``percent`` per cent of them do not exceed."""
    return _percentile(sorted(values), percent)


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Return what the distribution looks like: per cent -> value."""
    ordered = sorted(values)
    return {str(percent): _percentile(ordered, percent) for percent in QUANTILES}


def _percentile(ordered: Sequence[float], percent: float) -> float:
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def median_ratio(values: Sequence[float], baseline: Sequence[float]) -> float:
    """Return the median of the ratios, each within its round; not the ratio of the medians."""
    return statistics.median(value / base for value, base in zip(values, baseline, strict=True))


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median over the rounds of each figure."""
    return {name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]}


class Column(NamedTuple):
    """One column: its title, where its value stands in a result, how it is written. Without a form it is text."""

    title: str
    name: str
    form: str = ""


class Table:
    """Results as aligned text."""

    def __init__(self, *columns: Column) -> None:
        """Make a table of these columns; the first ones usually say what was measured."""
        self._columns = columns
        self._widths = [max(len(column.title), 9) for column in columns]

    def head(self) -> None:
        """Print the titles."""
        print("\n" + self._line([column.title for column in self._columns]), flush=True)

    def row(self, result: Mapping[str, Any]) -> None:
        """Print one result. What it lacks stays empty."""
        print(self._line(cells(self._columns, result)), flush=True)

    def _line(self, texts: Sequence[str]) -> str:
        padded = [
            text.rjust(width) if column.form else text.ljust(width)
            for column, text, width in zip(self._columns, texts, self._widths, strict=True)
        ]
        return "  ".join(padded).rstrip()


def cells(columns: Sequence[Column], result: Mapping[str, Any]) -> list[str]:
    """Return a result as text, a cell a column."""
    return [
        "" if result.get(column.name) is None else format(result[column.name], column.form)
        for column in columns
    ]
