"""How the plots look: lines with their names at their ends, plain numbers, no box, no legend."""

from __future__ import annotations

from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

STYLE = {
    "svg.hashsalt": "mpcheckpoint",
    "svg.fonttype": "path",
    "path.simplify": True,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": "#333333",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
}
_LETTER_INCHES = 0.085
_LABEL_POINTS = 13  # from the name of one line to the next


class Line(NamedTuple):
    """One line of a plot."""

    label: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    is_ours: bool = True


def draw_lines(axes: Any, lines: Sequence[Line]) -> None:
    """Draw lines. Their names come later, when nothing moves any more."""
    for line in lines:
        axes.plot(
            line.x,
            line.y,
            color=line.colour,
            linewidth=2.4 if line.is_ours else 1.3,
            marker="o",
            markersize=4 if line.is_ours else 2.8,
            zorder=3 if line.is_ours else 2,
            clip_on=False,
        )


def label_lines(axes: Any, lines: Sequence[Line]) -> None:
    """Write the name of each line at its right end, spread where names would overlap.

    Requires: the limits of the axes are final.
    """
    to_axes = axes.transData + axes.transAxes.inverted()
    height_points = axes.get_window_extent().height * 72 / axes.figure.dpi
    ends = [to_axes.transform((line.x[-1], line.y[-1])) for line in lines]
    labels_y = spread([end[1] for end in ends], _LABEL_POINTS / height_points)
    mixed = len({line.is_ours for line in lines}) > 1
    for line, (x, y), label_y in zip(lines, ends, labels_y, strict=True):
        lift_points = (label_y - y) * height_points
        axes.annotate(
            line.label,
            (x, y),
            (17, lift_points),
            xycoords="axes fraction",
            textcoords="offset points",
            color=line.colour,
            va="center",
            fontweight="bold" if line.is_ours and mixed else "normal",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": line.colour,
                "linewidth": 0.6,
                "shrinkA": 1,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            }
            if abs(lift_points) > _LABEL_POINTS / 4
            else None,
        )


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Return places near those given, in the same order, none below 0 and no two closer than ``gap``."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = [max(0.0, places[number]) for number in order]
    for _ in range(200):
        for lower, upper in pairwise(range(len(moved))):
            overlap = gap - (moved[upper] - moved[lower])
            if overlap > 1e-6:
                moved[lower] -= overlap / 2
                moved[upper] += overlap / 2
        moved[:1] = [max(0.0, place) for place in moved[:1]]
    return [place for _, place in sorted(zip(order, moved, strict=True))]


def set_ticks(axes: Any, x: Sequence[float], labels: Sequence[str]) -> None:
    """Put ticks where something was measured, and nowhere else."""
    axes.set_xticks(list(x), list(labels))
    axes.set_xticks([], minor=True)


def plain(value: float) -> str:
    """Return a number as people write it on an axis."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"


def finish(figure: Any, drawn: Sequence[tuple[Any, Sequence[Line]]]) -> None:
    """Draw the lines, then the axes they need, then their names."""
    for axes, lines in drawn:
        draw_lines(axes, lines)
        if axes.get_yscale() == "log":
            plain_log_y(axes)
    _lay_out(figure, max(len(line.label) for _, lines in drawn for line in lines) * _LETTER_INCHES)
    figure.canvas.draw()
    for axes, lines in drawn:
        label_lines(axes, lines)


def _lay_out(figure: Any, room_inches: float) -> None:
    """Leave so much room for names to the right of each of the axes."""
    width, height = figure.get_size_inches()
    rows, columns = figure.axes[0].get_gridspec().get_geometry()
    gap, left, above, below = room_inches + 0.45, 0.65, 0.4, 0.5
    each = (width - left - room_inches - gap * (columns - 1)) / columns
    high = (height - above - below - (above + below) * (rows - 1) * 0.7) / rows
    figure.subplots_adjust(
        left=left / width,
        right=1 - room_inches / width,
        wspace=gap / each,
        bottom=below / height,
        top=1 - above / height,
        hspace=(above + below) * 0.7 / high,
    )


def plain_log_y(axes: Any) -> None:
    """Mark 1, 2, 5, 10, ... where that is few marks, else 1, 10, 100, ..., in plain numbers."""
    ticker = import_module("matplotlib.ticker")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,), numticks=20))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: plain(value)))
    axes.yaxis.set_minor_locator(ticker.NullLocator())


def binary(size: int) -> str:
    """Return a number of bytes as people say it."""
    return f"{size >> 20} Mi" if size >= 1 << 20 else f"{size >> 10} Ki" if size >= 1 << 10 else str(size)
