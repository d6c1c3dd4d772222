"""Fills the tables of docs/performance.md from the reports of ``targets.py --all``: no figure there is typed by hand.

A table stands between ``<!-- table: NAME -->`` and ``<!-- /table -->``; one whose report is missing is left as it is.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines import ENGINES
from figures import Column, cells
from harness import line_of
from judging import reports_in, targets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Reports = Mapping[str, Mapping[str, Any]]
    Rows = Sequence[Mapping[str, Any]]

_HERE = Path(__file__).resolve().parent
RESULTS = _HERE / "results"
DOCS = _HERE.parent / "docs"
_BLOCK = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)


def markdown(columns: Sequence[Column], rows: Rows) -> str:
    """Return results as a table of Markdown; numbers stand to the right."""
    lines = [
        [column.title for column in columns],
        ["---:" if column.form else "---" for column in columns],
        *(cells(columns, row) for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def pivot(rows: Rows, down: str, across: str, value: str) -> tuple[list[Any], list[dict[str, Any]]]:
    """Return what stands across, and a row for each that stands down."""
    heads = list(dict.fromkeys(row[across] for row in rows))
    table = {name: {down: name} for name in dict.fromkeys(row[down] for row in rows)}
    for row in rows:
        table[row[down]][str(row[across])] = row[value]
    return heads, list(table.values())


# --- one function a table ------------------------------------------------------------------------------------


def environment(reports: Reports) -> str:
    """Return the line that says what it ran on."""
    return f"`{line_of(reports['append']['environment'])}`\n"


def aims(reports: Reports) -> str:
    """Return the table of targets."""
    columns = [Column(name, name) for name in ("work", "target", "measured", "verdict")]
    return markdown(columns, [target.judge(reports) for target in targets()])


def settings(reports: Reports) -> str:
    """Return how each engine is set up."""
    columns = [
        Column("engine", "engine"),
        Column("set up as", "setting"),
        Column("by its documentation", "source"),
    ]
    names = reports["append"]["engines"]
    return markdown(
        columns,
        [
            {"engine": name, "setting": names[name], "source": ENGINES[name].source}
            for name in ENGINES
            if name in names
        ],
    )


def _over_processes(value: str, form: str) -> Callable[[Reports], str]:
    def table(reports: Reports) -> str:
        counts, rows = pivot(reports["append"]["results"], "engine", "processes", value)
        heads = [f"{count} process{'es' if count > 1 else ''}" for count in counts]
        columns = [Column(head, str(count), form) for head, count in zip(heads, counts, strict=True)]
        return markdown([Column("engine", "engine"), *columns], rows)

    return table


def batch(reports: Reports) -> str:
    """Return records a second in batches."""
    _, rows = pivot(reports["batch"]["results"], "engine", "where", "rate_per_s")
    columns = [Column("on disk, records/s", "disk", ",.0f"), Column("RAM disk, records/s", "RAM", ",.0f")]
    return markdown([Column("engine", "engine"), *columns], rows)


def replay(reports: Reports) -> str:
    """Return the replay of the largest store."""
    largest = max(row["records"] for row in reports["replay"]["results"])
    columns = [
        Column("records", "records", ",d"),
        Column("an object", "events_per_object", "d"),
        Column("into", "kind"),
        Column("engine", "engine"),
        Column("seconds", "seconds", ".2f"),
        Column("x SQLite", "ratio_to_sqlite", ".2f"),
        Column("memory, MB", "memory_mb", ",.0f"),
        Column("memory / file", "memory_to_file", ".2f"),
    ]
    rows = [row for row in reports["replay"]["results"] if row["records"] == largest]
    return markdown(
        columns, [row | {"engine": "plain file"} if row["engine"] == "filelock" else row for row in rows]
    )


def _rows_of(script: str, *columns: Column) -> Callable[[Reports], str]:
    return lambda reports: markdown(columns, reports[script]["results"])


def follow(reports: Reports) -> str:
    """Return how soon a follower sees what is appended, and what waiting costs."""
    rows = [row for row in reports["follow"]["results"] if row["pause_ms"] is not None]
    idle = next(row for row in reports["follow"]["results"] if row["pause_ms"] is None)
    columns = [
        Column("pause between appends, ms", "pause_ms", "g"),
        *(
            Column(f"returned to seen: {percent} %, ms", f"returned_p{percent}_ms", ".2f")
            for percent in (50, 95, 99)
        ),
        *(Column(f"called to seen: {percent} %, ms", f"called_p{percent}_ms", ".2f") for percent in (50, 99)),
    ]
    return (
        markdown(columns, rows) + f"\nA follower that waits uses {idle['idle_share']:.2%} of a processor.\n"
    )


def commands(reports: Reports) -> str:
    """Return what each script was called with."""
    lines = [" ".join(report["command"]) for report in reports.values() if "command" in report]
    return "```sh\n" + "".join(f"{re.sub(r' --json .*', '', line)}\n" for line in lines) + "```\n"


TABLES: dict[str, Callable[[Reports], str]] = {
    "environment": environment,
    "targets": aims,
    "engines": settings,
    "append-rate": _over_processes("rate_per_s", ",.0f"),
    "append-ratio": _over_processes("ratio_to_sqlite", ".2f"),
    "append-fairness": _over_processes("slowest_to_mean", ".2f"),
    "append-p99": _over_processes("p99_us", ",.0f"),
    "batch": batch,
    "replay": replay,
    "floor": _rows_of(
        "floor",
        Column("engine", "engine"),
        *(Column(f"{percent} %, us", f"p{percent}_us", ".1f") for percent in (50, 95, 99)),
    ),
    "sharing": _rows_of(
        "sharing",
        Column("who appends", "way"),
        Column("number", "number", "d"),
        Column("appends/s", "rate_per_s", ",.0f"),
        Column("compared with", "compared_with"),
        Column("ratio", "ratio", ".2f"),
    ),
    "read": _rows_of(
        "read",
        Column("logs", "logs", ",d"),
        Column("first read, ms", "first_read_ms", ",.1f"),
        Column("over all logs: 50 %, us", "all_p50_us", ",.1f"),
        Column("95 %, us", "all_p95_us", ",.1f"),
        Column("in one log: 50 %, us", "one_p50_us", ",.1f"),
        Column("95 %, us", "one_p95_us", ",.1f"),
    ),
    "follow": follow,
    "open": _rows_of(
        "open",
        Column("log, MB", "size_mb", ",g"),
        Column("open and first append, ms", "open_ms", ",.2f"),
        Column("second append, ms", "second_ms", ",.2f"),
        Column("x shortest log", "ratio_to_shortest", ".2f"),
    ),
    "growth": _rows_of(
        "growth",
        Column("grows", "dimension"),
        Column("to", "size", ",d"),
        Column("log, MB", "file_mb", ",.1f"),
        Column("open, ms", "open_ms", ",.1f"),
        Column("append, us", "append_us", ",.0f"),
        Column("refresh, us", "refresh_us", ",.0f"),
        Column("first read, ms", "first_read_ms", ",.1f"),
        Column("memory, MB", "memory_mb", ",.1f"),
    ),
    "maps": _rows_of(
        "maps",
        Column("work", "work"),
        Column("items", "items", ",d"),
        Column("workers", "workers", "d"),
        Column("who", "engine"),
        Column("seconds", "seconds", ",.2f"),
        Column("processor us an item", "processor_us", ",.0f"),
        Column("ours / theirs", "ratio", ".2f"),
        Column("share of the ideal", "share", ".2f"),
        Column("memory, MB", "memory_mb", ",.0f"),
    ),
    "compact": _rows_of(
        "compact",
        Column("work", "work"),
        Column("log, MB", "size_mb", ",.0f"),
        Column("verify, MB/s", "verify_mb_per_s", ",.0f"),
        Column("compact, MB/s", "compact_mb_per_s", ",.0f"),
        Column("/ verify", "ratio_to_verify", ".2f"),
        Column("appends/s", "rate_per_s", ",.0f"),
        Column("/ alone", "ratio_to_alone", ".2f"),
        Column("longest append, ms", "longest_ms", ",.1f"),
        Column("beyond that alone, ms", "beyond_ms", ",.1f"),
        Column("view: seconds / before", "seconds_to_before", ".2f"),
        Column("memory / before", "memory_to_before", ".2f"),
    ),
    "commands": commands,
}


def filled(text: str, reports: Reports) -> str:
    """Return the document with its tables as the reports have them.

    Raises:
        KeyError: it has a table that nothing here makes.
    """

    def table(match: re.Match[str]) -> str:
        make = TABLES[match[2]]
        try:
            return match[1] + make(reports) + match[3]
        except (KeyError, StopIteration):
            return match[0]  # its report is not there

    return _BLOCK.sub(table, text)


def fill_in(document: Path, reports: Reports) -> None:
    """Write the tables into the document."""
    document.write_text(filled(document.read_text(encoding="utf-8"), reports), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill in from the command line."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("results", type=Path, nargs="?", default=RESULTS, help="default: %(default)s")
    options.add_argument("--docs", type=Path, default=DOCS, help="default: %(default)s")
    chosen = options.parse_args(arguments)
    fill_in(chosen.docs / "performance.md", reports_in(chosen.results))


if __name__ == "__main__":
    main()
