"""Draws the plots of docs/plots from the reports of ``targets.py --all``, and fills the tables of docs/performance.md.

The same reports give the same files, byte for byte.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tables
from drawing import STYLE, Line, binary, finish, plain, set_ticks
from engines import ENGINES, OURS
from judging import reports_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Reports = Mapping[str, Mapping[str, Any]]
    Drawn = tuple[Any, Sequence[tuple[Any, Sequence[Line]]]]

_COLOURS = {
    OURS: "#0a57a8",
    "pure": "#6ba3d6",
    "sqlite": "#3d3d3d",
    "lmdb": "#a8730a",
    "optuna": "#7d4e9b",
    "diskcache": "#3f8453",
    "filelock": "#b8483a",
    "portalocker": "#8a8a8a",
}
_STEPS = {
    "append_us": ("append", "#0a57a8"),
    "refresh_us": ("refresh", "#3f8453"),
    "open_ms": ("open", "#a8730a"),
    "first_read_ms": ("first read", "#b8483a"),
}
_DIMENSIONS = {
    "records": "records in the log",
    "logs": "logs, 10 records each",
    "processes": "processes at work at once",
    "event bytes": "bytes of an event",
}
_LEAST_MB = 0.1


def by_engine(rows: Sequence[Mapping[str, Any]], x: str, y: str, scale: float = 1) -> list[Line]:
    """Return a line an engine."""
    lines = []
    for engine in ENGINES:
        points = [(row[x], row[y] * scale) for row in rows if row["engine"] == engine]
        if points:
            xs, ys = zip(*points, strict=True)
            lines.append(Line(engine, _COLOURS[engine], xs, ys, engine == OURS))
    return lines


# --- the plots: each returns its figure, and the lines of each of its axes ------------------------------------


def throughput(plt: Any, reports: Reports) -> Drawn:
    """Draw appends a second over processes."""
    rows = reports["append"]["results"]
    figure, axes = plt.subplots(figsize=(7.2, 4.2))
    axes.set_yscale("log")
    _processes_x(axes, rows)
    axes.set_title("Durable appends of 100 bytes a second, all processes together")
    return figure, [(axes, by_engine(rows, "processes", "rate_per_s"))]


def latency(plt: Any, reports: Reports) -> Drawn:
    """Draw the distribution of the latency of one append."""
    rows = reports["append"]["results"]
    counts = sorted({row["processes"] for row in rows})
    shown = [counts[0], min(counts, key=lambda count: abs(count - 8))]
    percents = ["50", "75", "90", "95", "99", "99.9"]
    figure, all_axes = plt.subplots(1, 2, figsize=(9.6, 4.2), sharey=True)
    drawn = []
    for axes, count in zip(all_axes, shown, strict=True):
        axes.set_yscale("log")
        set_ticks(axes, range(len(percents)), [f"{percent} %" for percent in percents])
        axes.set_xlabel("of the appends took no longer")
        axes.set_title(f"Latency of one append in ms, {count} process{'es' if count > 1 else ''}")
        lines = [
            Line(
                row["engine"],
                _COLOURS[row["engine"]],
                list(range(len(percents))),
                [row["quantiles_us"][percent] / 1e3 for percent in percents],
                row["engine"] == OURS,
            )
            for row in rows
            if row["processes"] == count
        ]
        drawn.append((axes, lines))
    return figure, drawn


def fairness(plt: Any, reports: Reports) -> Drawn:
    """Draw what the slowest process gets of its share."""
    rows = [row for row in reports["append"]["results"] if row["processes"] > 1]
    figure, axes = plt.subplots(figsize=(7.2, 3.8))
    _processes_x(axes, rows)
    axes.set_ylim(0, 1.02)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    axes.set_title("Appends of the slowest process, in per cent of the mean of all processes")
    return figure, [(axes, by_engine(rows, "processes", "slowest_to_mean"))]


def replay(plt: Any, reports: Reports) -> Drawn:
    """Draw the speed of a replay over the size of the log."""
    rows = [row for row in reports["replay"]["results"] if row["kind"] == "view"]
    shapes = sorted({row["events_per_object"] for row in rows})
    figure, all_axes = plt.subplots(1, len(shapes), figsize=(9.6, 3.9), sharey=True, squeeze=False)
    drawn = []
    for axes, events in zip(all_axes[0], shapes, strict=True):
        mine = [row for row in rows if row["events_per_object"] == events]
        sizes = sorted({row["records"] for row in mine})
        axes.set_xscale("log")
        axes.set_ylim(0, max(row["rate_per_s"] for row in rows) / 1e6 * 1.05)
        set_ticks(axes, sizes, [plain(size) for size in sizes])
        axes.set_xlabel("records in the store")
        axes.set_title(f"Million records a second into memory, {events} an object")
        lines = by_engine(mine, "records", "rate_per_s", 1e-6)
        drawn.append(
            (
                axes,
                [line._replace(label="plain file") if line.label == "filelock" else line for line in lines],
            )
        )
    return figure, drawn


def growth(plt: Any, reports: Reports) -> Drawn:
    """Draw what each step costs, over what grows."""
    figure, all_axes = plt.subplots(2, 2, figsize=(9.6, 7.2), sharey=True)
    drawn = []
    for axes, dimension in zip(all_axes.flat, _DIMENSIONS, strict=True):
        points = _grown(axes, reports, dimension)
        sizes = [row["size"] for row in points]
        lines = [
            Line(label, colour, sizes, [row[name] / (1e3 if name.endswith("_us") else 1) for row in points])
            for name, (label, colour) in _STEPS.items()
        ]
        drawn.append((axes, lines))
    for axes in all_axes[:, 0]:
        axes.set_ylabel("milliseconds")
    return figure, drawn


def memory(plt: Any, reports: Reports) -> Drawn:
    """Draw the memory of the view, over what grows."""
    figure, all_axes = plt.subplots(2, 2, figsize=(9.6, 5.4), sharey=True)
    drawn = []
    for axes, dimension in zip(all_axes.flat, _DIMENSIONS, strict=True):
        points = _grown(axes, reports, dimension)
        sizes = [row["size"] for row in points]
        lines = [Line("memory", "#0a57a8", sizes, [max(row["memory_mb"], _LEAST_MB) for row in points])]
        if dimension != "processes":
            log_mb = [max(row["file_mb"], _LEAST_MB) for row in points]
            lines.append(Line("log", "#8a8a8a", sizes, log_mb, is_ours=False))
        drawn.append((axes, lines))
    for axes in all_axes[:, 0]:
        axes.set_ylabel(f"MB (less is drawn as {_LEAST_MB:g})")
    return figure, drawn


def _grown(axes: Any, reports: Reports, dimension: str) -> list[Mapping[str, Any]]:
    """Return what was measured along a dimension, and make it the x axis."""
    points = [row for row in reports["growth"]["results"] if row["dimension"] == dimension]
    _log_x(axes, dimension, [row["size"] for row in points])
    axes.set_yscale("log")
    axes.set_xlabel(_DIMENSIONS[dimension])
    return points


def _processes_x(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    counts = sorted({row["processes"] for row in rows})
    axes.set_xscale("log", base=2)
    set_ticks(axes, counts, [str(count) for count in counts])
    axes.set_xlabel("processes that append to one log")


def _log_x(axes: Any, dimension: str, sizes: Sequence[int]) -> None:
    axes.set_xscale("log", base=2 if dimension == "processes" else 10)
    set_ticks(axes, sizes, [binary(size) if dimension == "event bytes" else plain(size) for size in sizes])


PLOTS: dict[str, tuple[str, Callable[[Any, Reports], Drawn]]] = {
    "throughput": ("append", throughput),
    "latency": ("append", latency),
    "fairness": ("append", fairness),
    "replay": ("replay", replay),
    "growth": ("growth", growth),
    "memory": ("growth", memory),
}


def draw(reports: Reports, place: Path, form: str = "svg") -> list[Path]:
    """Draw the plots whose reports are there; return their files."""
    matplotlib = import_module("matplotlib")
    matplotlib.use("Agg")
    plt = import_module("matplotlib.pyplot")
    place.mkdir(parents=True, exist_ok=True)
    drawn = []
    with matplotlib.rc_context(STYLE):
        for name, (script, plot) in PLOTS.items():
            if script not in reports:
                continue
            figure, drawn_lines = plot(plt, reports)
            finish(figure, drawn_lines)
            metadata = {"Date": None, "Creator": None} if form == "svg" else None
            figure.savefig(
                place / f"{name}.{form}", metadata=metadata, bbox_inches="tight", pad_inches=0.15, dpi=110
            )
            plt.close(figure)
            drawn.append(place / f"{name}.{form}")
    return drawn


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw from the command line."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("results", type=Path, nargs="?", default=tables.RESULTS, help="default: %(default)s")
    options.add_argument("--docs", type=Path, default=tables.DOCS, help="default: %(default)s")
    options.add_argument("--form", choices=["svg", "png"], default="svg")
    chosen = options.parse_args(arguments)
    reports = reports_in(chosen.results)
    for path in draw(reports, chosen.docs / "plots", chosen.form):
        print(f"{path}  {path.stat().st_size / 1e3:.0f} kB")
    document = chosen.docs / "performance.md"
    if document.exists():
        tables.fill_in(document, reports)
        print(document)


if __name__ == "__main__":
    main()
