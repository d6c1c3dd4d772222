"""What was aimed at, and whether the reports of a run show it."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from engines import OURS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    Reports = Mapping[str, Mapping[str, Any]]
    Figure = Callable[[Reports], float]

_INDEPENDENT = 1.5
_RATIO = "{:.2f} x SQLite"
_REPLAYED = 1_000_000


def reports_in(results: Path) -> dict[str, dict[str, Any]]:
    """Return the reports that a directory holds, by script."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))
    }


class Target(NamedTuple):
    """One line: what is aimed at, where its figure is found, how it is written. Either more is better, or less."""

    work: str
    figure: Figure
    limit: float
    is_least: bool = True
    stretch: float | None = None
    form: str = "{:.2f}"

    def judge(self, reports: Reports) -> dict[str, str]:
        """Return the line filled in."""
        target = f"at {'least' if self.is_least else 'most'} {self.form.format(self.limit)}"
        if self.stretch is not None:
            target += f", stretch {self.form.format(self.stretch)}"
        line = {"work": self.work, "target": target}
        try:
            measured = self.figure(reports)
        except (KeyError, StopIteration, ValueError):
            return line | {"measured": "", "verdict": "not measured"}
        return line | {"measured": self.form.format(measured), "verdict": self._verdict(measured)}

    def _verdict(self, measured: float) -> str:
        if not self._holds(measured, self.limit):
            return "MISSED"
        if self.stretch is not None and self._holds(measured, self.stretch):
            return "met, stretch too"
        return "met"

    def _holds(self, measured: float, limit: float) -> bool:
        return measured >= limit if self.is_least else measured <= limit


# --- where a figure is found: KeyError, StopIteration or ValueError if it was not measured -------------------------


def figure_of(reports: Reports, script: str, name: str, **facts: object) -> float:
    """Return a figure of the result of a script that has these facts."""
    rows = reports[script]["results"]
    row = next(row for row in rows if all(row.get(fact) == value for fact, value in facts.items()))
    return float(row[name])


def worst_append(reports: Reports, name: str, worst: Callable[[list[float]], float]) -> float:
    """Return the worst of a figure of ours over the numbers of processes."""
    return worst([row[name] for row in reports["append"]["results"] if row["engine"] == OURS])


def slowest_follow_ms(reports: Reports) -> float:
    """Return the worst median over the pauses."""
    rows = reports["follow"]["results"]
    return max(float(row["returned_p50_ms"]) for row in rows if row["pause_ms"] is not None)


# --- the table -----------------------------------------------------------------------------------------------------


def targets() -> Iterator[Target]:
    """Yield the lines of the table."""
    yield from _append_targets()
    yield from _sharing_targets()
    yield Target(
        "1,000 tasks of an event loop / 1 thread, durable appends",
        partial(figure_of, script="aio", name="ratio", tasks=1000),
        8,
    )
    yield from _replay_targets()
    yield from _beside_targets()
    yield from _read_targets()
    yield from _follow_targets()
    yield from _map_targets()
    yield from _compaction_targets()
    yield Target(
        "open for append, log of 1 GB / of 1 MB",
        partial(figure_of, script="open", name="ratio_to_shortest", size_mb=1000),
        _INDEPENDENT,
        is_least=False,
    )


def _append_targets() -> Iterator[Target]:
    # In Python alone, and with the native core.
    aims = {1: (1.05, 1.2), 4: (2.0, 2.5), 8: (2.8, 4.0), 16: (3.3, 5.5), 32: (3.3, 5.0)}
    for processes, (least, stretch) in aims.items():
        yield Target(
            f"durable append of 100 bytes into one log, {processes} process{'es' if processes > 1 else ''}",
            partial(figure_of, script="append", name="ratio_to_sqlite", engine=OURS, processes=processes),
            least,
            stretch=stretch,
            form=_RATIO,
        )
    yield Target(
        "slowest process / mean, worst of these",
        partial(worst_append, name="slowest_to_mean", worst=min),
        0.8,
    )
    yield Target(
        "p99 / median, worst of these",
        partial(worst_append, name="p99_to_p50", worst=max),
        10,
        is_least=False,
        form="{:.1f}",
    )
    yield Target(
        "append_many of 1,000 records, RAM disk",
        partial(figure_of, script="batch", name="rate_per_s", where="RAM", engine=OURS),
        500_000,
        form="{:,.0f}/s",
    )
    yield Target(
        "one append, RAM disk",
        partial(figure_of, script="floor", name="ratio_to_sqlite", engine=OURS),
        1 / 1.45,
        stretch=1.2,
        form=_RATIO,
    )
    yield Target(
        "Python calls of an append alone",
        partial(figure_of, script="calls", name="calls", work="append, alone, durable"),
        20,
        is_least=False,
        form="{:.0f}",
    )
    yield Target(
        "Python calls of a read with nothing new",
        partial(figure_of, script="calls", name="calls", work="events of one object, nothing new"),
        20,
        is_least=False,
        form="{:.0f}",
    )


def _sharing_targets() -> Iterator[Target]:
    yield Target(
        "8 threads in one process / 1 thread",
        partial(figure_of, script="sharing", name="ratio", way="threads, one process", number=8),
        2.5,
        stretch=3.5,
    )
    yield Target(
        "8 processes with a log each / 8 with one log",
        partial(figure_of, script="sharing", name="ratio", way="processes, own logs", number=8),
        1,
    )


def _beside_targets() -> Iterator[Target]:
    yield Target(
        "append beside a reader that looks every 0.5 ms / alone",
        partial(figure_of, script="beside", name="ratio", reader="every 0.5 ms"),
        1.1,
        is_least=False,
    )
    yield Target(
        "4 writers beside 4 polling readers, appends",
        partial(figure_of, script="polled", name="ratio_to_sqlite", engine=OURS),
        2,
        form=_RATIO,
    )
    yield Target(
        "check of a log of single appends / zlib's crc alone",
        partial(figure_of, script="verify", name="ratio_to_crc", batch=1),
        0.4,
    )


def _replay_targets() -> Iterator[Target]:
    for events, memory in ((1, 2), (10, 1)):
        figure = partial(
            figure_of, script="replay", records=_REPLAYED, events_per_object=events, kind="view", engine=OURS
        )
        yield Target(
            f"replay of {_REPLAYED:,} records into the view, {events} an object",
            partial(figure, name="ratio_to_sqlite"),
            1,
            stretch=2,
            form=_RATIO,
        )
        yield Target(
            f"memory of that view / bytes of the log, {events} an object",
            partial(figure, name="memory_to_file"),
            memory,
            is_least=False,
        )


def _map_targets() -> Iterator[Target]:
    figure = partial(figure_of, script="maps", engine=OURS)
    ours_to = partial(figure_of, script="maps", name="ratio")
    yield Target(
        "map of a function that does nothing / ProcessPoolExecutor.map(chunksize=1)",
        partial(ours_to, work="function", engine="pool"),
        3,
        is_least=False,
    )
    yield Target(
        "processor an item of that map",
        partial(figure, work="function", name="processor_us"),
        200,
        is_least=False,
        form="{:,.0f} us",
    )
    yield Target(
        "items of 1 ms, 32 workers: share of what the processors allow",
        partial(figure, work="1 ms", name="share", workers=32),
        0.8,
    )
    yield Target(
        "map of the command true / xargs -P2 -n1",
        partial(ours_to, work="command", engine="xargs"),
        1.5,
        is_least=False,
    )
    yield Target(
        "map of the command true / GNU parallel --joblog",
        partial(ours_to, work="command", engine="parallel"),
        1 / 3.5,
        is_least=False,
    )
    for name, most, form in (("seconds", 5, "{:.1f} s"), ("memory_mb", 200, "{:.0f} MB")):
        yield Target(
            f"{_REPLAYED:,} items that are all done: {'time' if name == 'seconds' else 'memory'}",
            partial(figure, work="done", name=name, items=_REPLAYED),
            most,
            is_least=False,
            form=form,
        )


def _compaction_targets() -> Iterator[Target]:
    figure = partial(figure_of, script="compact")
    yield Target(
        "compaction, bytes a second / those of a check",
        partial(figure, work="rate", name="ratio_to_verify"),
        0.4,
    )
    yield Target(
        "4 writers while their log is compacted / alone",
        partial(figure, work="beside", name="ratio_to_alone", writers=4),
        0.7,
    )
    yield Target(
        "longest append meanwhile, beyond the longest alone",
        partial(figure, work="beside", name="beyond_ms", writers=4),
        50,
        is_least=False,
        form="{:.1f} ms",
    )
    for name in ("seconds", "memory"):
        yield Target(
            f"{name} of a view after a compaction that kept a tenth / before",
            partial(figure, work="view", name=f"{name}_to_before"),
            0.1,
            is_least=False,
        )


def _read_targets() -> Iterator[Target]:
    for logs, most_us, stretch_us in ((1, 5, None), (1000, 3000, 1000)):
        yield Target(
            f"read of one object, nothing new, {logs:,} log{'s' if logs > 1 else ''}",
            partial(figure_of, script="read", name="all_p50_us", logs=logs),
            most_us,
            is_least=False,
            stretch=stretch_us,
            form="{:,.1f} us",
        )


def _follow_targets() -> Iterator[Target]:
    yield Target(
        "from append returned to seen in follow, worst median",
        slowest_follow_ms,
        1,
        is_least=False,
        form="{:.2f} ms",
    )
    yield Target(
        "processor time of an idle follower",
        partial(figure_of, script="follow", name="idle_share", pause_ms=None),
        0.01,
        is_least=False,
        form="{:.2%}",
    )
