"""One append of 100 bytes with no disk under it: what it costs the processor, syncs included that have nothing to do.

The same as ``append.py`` with one process, in /dev/shm.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import append
from engines import BASELINE
from figures import Column, Table, median_ratio
from harness import (
    add_engines,
    chosen_engines,
    parser,
    positive,
    ram_disk,
    settings,
    show_environment,
    work_directory,
    write_json,
)
from runs import turns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from append import Round

_TABLE = Table(
    Column("engine      ", "engine"),
    Column("p50 us", "p50_us", ".1f"),
    Column("p95 us", "p95_us", ".1f"),
    Column("p99 us", "p99_us", ".1f"),
    Column("x SQLite", "ratio_to_sqlite", ".2f"),
)


def measure(directory: Path, engines: Sequence[str], *, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Return the figures of every engine."""
    figures: dict[str, list[Round]] = {name: [] for name in engines}
    for name in turns(engines, rounds):
        figures[name].append(append.run(name, directory / "store", processes=1, seconds=seconds))
    p50s_us = {name: [each.quantiles_us["50"] for each in figures[name]] for name in engines}
    return [
        {
            "engine": name,
            "ratio_to_sqlite": median_ratio(p50s_us[BASELINE], p50s_us[name]),  # above 1 is faster
            **{
                f"p{percent}_us": statistics.median(each.quantiles_us[percent] for each in figures[name])
                for percent in ("50", "95", "99")
            },
        }
        for name in engines
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = parser(__doc__, rounds=5)
    add_engines(options)
    options.add_argument("--seconds", type=positive(float), default=0.3, help="a run; default: %(default)s")
    chosen = options.parse_args(arguments)
    with work_directory(chosen.directory or ram_disk()) as directory:
        facts = show_environment(directory)
        engines = chosen_engines(chosen)
        results = measure(directory, engines, rounds=chosen.rounds, seconds=chosen.seconds)
    _TABLE.head()
    for row in results:
        _TABLE.row(row)
    write_json(chosen.json, benchmark="floor", environment=facts, engines=settings(engines), results=results)


if __name__ == "__main__":
    main()
