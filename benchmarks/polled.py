"""Writers beside polling readers: durable appends into ONE log by several processes, while as many others poll it.

Each writer appends as in ``append.py``. Each reader asks every 0.5 ms for what is new and is given all of it, key and
event: this library's readers by ``follow`` with an idle timeout of 0, SQLite's by ``WHERE id > ?``. The rate is that of
the writers. A reader keeps up if it has been given the last record soon after that append returned; a reader that has
not all records in the end fails the run. The engines take turns.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import append
from engines import BASELINE, ENGINES, OURS
from engines.sqlite import connect
from figures import Column, Table, median_ratio
from harness import parser, positive, settings, show_environment, work_directory, write_json
from runs import run_together, turns

from mpcheckpoint import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from runs import Start

    Poll = Callable[[], int]

_PAUSE_S = 0.0005
_LATE_S = 0.1
_PATIENCE_S = 60.0
_NEW = "SELECT id, object_key, event FROM records WHERE id > ? ORDER BY id"
_TABLE = Table(
    Column("engine      ", "engine"),
    Column("appends/s", "rate_per_s", ",.0f"),
    Column("x SQLite", "ratio_to_sqlite", ".2f"),
    Column("polls/s a reader", "polls_per_s", ",.0f"),
    Column("last record seen after ms", "behind_ms", ",.1f"),
    Column("kept up", "kept_up"),
)


class Job(NamedTuple):
    """What one process does: the writer ``writer``, or a reader if that is None, beside so many writers."""

    engine: str
    directory: Path
    writer: int | None
    writers: int
    seconds: float


class Done(NamedTuple):
    """What one process did: appends that returned in time and all of them, or records seen, polls, and how late."""

    in_time: int = 0
    appends: int = 0
    seen: int = 0
    polls: int = 0
    behind_s: float = 0.0


class Round(NamedTuple):
    """The figures of one engine in one round."""

    rate_per_s: float
    polls_per_s: float
    behind_s: float


# --- one process ----------------------------------------------------------------------------------------------


def work(start: Start, job: Job) -> Done:
    """Write or read, beginning together with the others."""
    return _read(start, job) if job.writer is None else _write(start, job, job.writer)


def _write(start: Start, job: Job, number: int) -> Done:
    made = append.append_for(start, append.Job(job.engine, job.directory, number, job.seconds))
    appends = len(made.latencies_s) + 1
    report = _report(job.directory, number)
    draft = report.with_suffix(".draft")
    draft.write_text(json.dumps([appends, time.monotonic()]))
    draft.replace(report)  # a reader finds it whole
    return Done(in_time=made.in_time, appends=appends)


def _read(start: Start, job: Job) -> Done:
    ENGINES[job.engine].prepare()
    reports = [_report(job.directory, number) for number in range(job.writers)]
    seen = polls = 0
    with _POLLS[job.engine](job.directory) as poll:
        start()
        deadline_s = time.monotonic() + job.seconds + _PATIENCE_S
        while time.monotonic() < deadline_s:
            seen += poll()
            polls += 1
            if all(map(os.path.exists, reports)):
                break
            time.sleep(_PAUSE_S)
        ended = [json.loads(report.read_text()) for report in reports]
        while seen < sum(appends for appends, _ in ended) and time.monotonic() < deadline_s:
            seen += poll()
        behind_s = time.monotonic() - max(moment_s for _, moment_s in ended)
    return Done(seen=seen, polls=polls, behind_s=behind_s)


def _report(directory: Path, number: int) -> Path:
    return directory.with_name(f"{directory.name}-writer-{number}")


@contextmanager
def _own_polls(directory: Path) -> Iterator[Poll]:
    with (
        Checkpoint(directory, read_only=True, create=False) as checkpoint,
        checkpoint.log("benchmark").follow("start", idle_timeout_s=0) as records,
    ):
        yield lambda: sum(1 for _ in records)


@contextmanager
def _sqlite_polls(directory: Path) -> Iterator[Poll]:
    with closing(connect(directory)) as connection:
        last = 0

        def poll() -> int:
            nonlocal last
            rows: Sequence[tuple[Any, ...]] = connection.execute(_NEW, (last,)).fetchall()
            last = rows[-1][0] if rows else last
            return len(rows)

        yield poll


_POLLS: Mapping[str, Callable[[Path], AbstractContextManager[Poll]]] = {
    OURS: _own_polls,
    BASELINE: _sqlite_polls,
}


# --- all of them ------------------------------------------------------------------------------------------------


def run(engine: str, directory: Path, *, writers: int, readers: int, seconds: float) -> Round:
    """Return the figures of one engine in a new store, which is removed again."""
    ENGINES[engine].create(directory)
    roles = [*range(writers), *([None] * readers)]
    done = run_together(work, [Job(engine, directory, role, writers, seconds) for role in roles])
    acknowledged = sum(each.appends for each in done)
    found = [ENGINES[engine].count(directory), *(each.seen for each in done[writers:])]
    if set(found) != {acknowledged}:
        raise RuntimeError(
            f"{engine} acknowledged {acknowledged} records, holds {found[0]}, and readers saw {found[1:]}"
        )
    shutil.rmtree(directory)
    for number in range(writers):
        _report(directory, number).unlink()
    read = done[writers:]
    return Round(
        sum(each.in_time for each in done) / seconds,
        statistics.mean(each.polls for each in read) / seconds,
        max(each.behind_s for each in read),
    )


def measure(
    directory: Path, *, writers: int, readers: int, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Return the figures of both engines."""
    figures: dict[str, list[Round]] = {name: [] for name in _POLLS}
    for name in turns(list(_POLLS), rounds):
        figures[name].append(
            run(name, directory / "store", writers=writers, readers=readers, seconds=seconds)
        )
    rates = {name: [each.rate_per_s for each in figures[name]] for name in figures}
    return [
        {
            "engine": name,
            "writers": writers,
            "readers": readers,
            "rate_per_s": statistics.median(rates[name]),
            "ratio_to_sqlite": median_ratio(rates[name], rates[BASELINE]),
            "polls_per_s": statistics.median(each.polls_per_s for each in figures[name]),
            "behind_ms": max(each.behind_s for each in figures[name]) * 1e3,
            "kept_up": "yes" if all(each.behind_s <= _LATE_S for each in figures[name]) else "no",
            "rates_per_s": rates[name],
        }
        for name in figures
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = parser(__doc__, rounds=7)
    options.add_argument("--seconds", type=positive(float), default=1.0, help="a run; default: %(default)s")
    options.add_argument("--writers", type=positive(int), default=4, help="default: %(default)s")
    options.add_argument("--readers", type=positive(int), default=4, help="default: %(default)s")
    chosen = options.parse_args(arguments)
    with work_directory(chosen.directory) as directory:
        facts = show_environment(directory)
        print(f"{chosen.writers} writers, {chosen.readers} readers; kept up: within {_LATE_S * 1e3:.0f} ms")
        results = measure(
            directory,
            writers=chosen.writers,
            readers=chosen.readers,
            rounds=chosen.rounds,
            seconds=chosen.seconds,
        )
    _TABLE.head()
    for row in results:
        _TABLE.row(row)
    write_json(
        chosen.json, benchmark="polled", environment=facts, engines=settings(list(_POLLS)), results=results
    )


if __name__ == "__main__":
    main()
