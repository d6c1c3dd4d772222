"""An event-sourced application on a log: the recorder of ``event_recorder.py`` beside that of its package for SQLite.

Both pass the tests that the package has for recorders. One process records events of new aggregates, and of a few that
grow long, which it reads; then several processes record events of the same few aggregates, and try again where another
one was quicker. Both recorders are as durable: each insert that returned survives the loss of power. It takes the
package ``eventsourcing``.
"""

from __future__ import annotations

import io
import time
from contextlib import redirect_stdout
from itertools import count
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import TestSuite, TextTestRunner, defaultTestLoader
from uuid import UUID

from event_recorder import LogAggregateRecorder, LogApplicationRecorder
from eventsourcing.persistence import IntegrityError, StoredEvent
from eventsourcing.sqlite import SQLiteAggregateRecorder, SQLiteApplicationRecorder, SQLiteDatastore
from eventsourcing.tests import persistence as recorders
from harness import parser, positive, show_environment, work_directory, write_json
from runs import run_alone, run_together, turns

from mpcheckpoint import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from runs import Start

ENGINES = ("sqlite", "mpcheckpoint")
_TESTED = {
    "sqlite": (SQLiteAggregateRecorder, SQLiteApplicationRecorder),
    "mpcheckpoint": (LogAggregateRecorder, LogApplicationRecorder),
}
_FEW = 4
_STATE = b'{"amount": "100.00", "currency": "EUR", "timestamp": "2026-11-01T12:00:00.000000+00:00"}'


class Job(NamedTuple):
    """What one process does with a store."""

    directory: Path
    engine: str
    inserts: int


def opened(job: Job, kind: type[Any] | None = None) -> Any:
    """Return a recorder on the store of a job, made if need be: of an application, or of that kind."""
    kind = kind or _TESTED[job.engine][1]
    if job.engine == "mpcheckpoint":
        return kind(Checkpoint(job.directory).log("a"))
    job.directory.mkdir(exist_ok=True)
    recorder = kind(SQLiteDatastore(str(job.directory / "events.db")))
    recorder.create_table()
    return recorder


def pass_tests(start: Start, job: Job) -> float:
    """Return how many seconds the package's own tests of recorders take, each on a store of its own."""
    stores = count()

    def cases(base: type[Any], kind: type[Any]) -> TestSuite:
        def create_recorder(_: Any) -> Any:
            return opened(job._replace(directory=job.directory / str(next(stores))), kind)

        made = type(base.__name__, (base,), {"create_recorder": create_recorder})
        return defaultTestLoader.loadTestsFromTestCase(made)

    of_aggregates, of_applications = _TESTED[job.engine]
    suite = TestSuite(
        (
            cases(recorders.AggregateRecorderTestCase, of_aggregates),
            cases(recorders.ApplicationRecorderTestCase, of_applications),
            cases(recorders.NonInterleavingNotificationIDsBaseCase, of_applications),
        )
    )
    job.directory.mkdir()
    start()
    before_s = time.perf_counter()
    with redirect_stdout(io.StringIO()):  # what they print of their own speed
        result = TextTestRunner(stream=io.StringIO()).run(suite)
    if not (result.wasSuccessful() and result.testsRun):
        raise RuntimeError(f"tests failed: {result.failures + result.errors}")
    return time.perf_counter() - before_s


def event(aggregate: int, version: int) -> StoredEvent:
    """Return an event of an aggregate."""
    return StoredEvent(UUID(int=aggregate), version, "bank:Account.Deposited", _STATE)


def work_alone(start: Start, job: Job) -> float:
    """Return how many seconds a process takes."""
    recorder = opened(job)
    recorder.insert_events([event(0, 0)])
    start()
    before_s = time.perf_counter()
    for number in range(job.inserts):
        recorder.insert_events([event(100 + number, 0)])
    for number in range(job.inserts):
        aggregate, version = 1 + number % _FEW, number // _FEW
        recorder.select_events(UUID(int=aggregate), gt=version - 2)
        recorder.insert_events([event(aggregate, version)])
    taken_s = time.perf_counter() - before_s
    if recorder.max_notification_id() != 1 + 2 * job.inserts:
        raise RuntimeError("the store holds something else")
    return taken_s


def work_with_others(start: Start, job: Job) -> float:
    """Record so many events of aggregates that others record events of, too; return how many seconds that took."""
    recorder = opened(job)
    start()
    before_s = time.perf_counter()
    for number in range(job.inserts):
        aggregate = UUID(int=1 + number % _FEW)
        while True:
            last = recorder.select_events(aggregate, desc=True, limit=1)
            version = last[0].originator_version + 1 if last else 0
            try:
                recorder.insert_events([event(aggregate.int, version)])
            except IntegrityError:
                continue
            break
    return time.perf_counter() - before_s


def contend(job: Job, processes: int) -> float:
    """Return how many events a second that many processes record."""
    opened(job)
    slowest_s = max(run_together(work_with_others, [job] * processes))
    if opened(job).max_notification_id() != processes * job.inserts:
        raise RuntimeError("the store holds something else")
    return processes * job.inserts / slowest_s


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = parser(__doc__, rounds=3)
    options.add_argument(
        "--inserts", type=positive(int), default=1000, metavar="N", help="default: %(default)s"
    )
    options.add_argument(
        "--processes", type=positive(int), default=4, metavar="N", help="default: %(default)s"
    )
    chosen = options.parse_args(arguments)
    tests: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    alone: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    rates: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    with work_directory(chosen.directory) as directory:
        facts = show_environment(directory)
        for number, engine in enumerate(turns(list(ENGINES), chosen.rounds)):
            tests[engine].append(run_alone(pass_tests, Job(directory / f"tests-{number}", engine, 0)))
            job = Job(directory / f"alone-{number}", engine, chosen.inserts)
            alone[engine].append(run_alone(work_alone, job))
            job = Job(directory / f"together-{number}", engine, max(1, chosen.inserts // chosen.processes))
            rates[engine].append(contend(job, chosen.processes))
    results: list[dict[str, Any]] = []
    for engine in ENGINES:
        row = {
            "engine": engine,
            "tests_s": median(tests[engine]),
            "alone_s": median(alone[engine]),
            "together_per_s": median(rates[engine]),
        }
        results.append(row)
        print(
            f"{engine:14} tests {row['tests_s']:.2f} s, alone {row['alone_s']:.2f} s, "
            f"{chosen.processes} processes {row['together_per_s']:,.0f}/s"
        )
    sqlite, own = results
    print(
        f"time of SQLite / ours: tests {sqlite['tests_s'] / own['tests_s']:.2f} (wanted 1.3), "
        f"alone {sqlite['alone_s'] / own['alone_s']:.2f}; "
        f"rate of ours / SQLite: {own['together_per_s'] / sqlite['together_per_s']:.2f} (wanted 1.0)"
    )
    write_json(chosen.json, benchmark="aggregates", environment=facts, results=results)


if __name__ == "__main__":
    main()
