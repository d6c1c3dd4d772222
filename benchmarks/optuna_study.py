"""A study of Optuna by several workers: with a journal in a log, and in Optuna's own file.

*study*: so many processes make so many trials each, of a function that takes no time; the storage is all that they wait
for. Both sync each operation. Every trial has to be there, once. *killed*: how long an append of another process takes
that begins as a process is killed with the journal's lock.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import optuna
from figures import Column, Table, median_ratio
from harness import parser, positive, show_environment, work_directory, write_json
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from runs import run_together, turns

from mpcheckpoint import _system as system
from mpcheckpoint.optuna import JournalBackend

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

    from runs import Start

OURS, THEIRS = "mpcheckpoint", "optuna file"
_STUDY = "benchmark"
_TABLE = Table(
    Column("work  ", "work"),
    Column("workers", "workers", "d"),
    Column("trials", "trials", "d"),
    Column("who         ", "engine"),
    Column("seconds", "seconds", ",.3f"),
    Column("processor us a trial", "processor_us", ",.0f"),
    Column("theirs / ours", "ratio", ".2f"),
)


class Job(NamedTuple):
    """What one worker does: so many trials of the study in ``directory``, with a sampler of that seed."""

    engine: str
    directory: Path
    trials: int
    seed: int


class Took(NamedTuple):
    """When it began and ended, by a clock that all processes share, and the processor's time."""

    began_s: float
    ended_s: float
    processor_s: float


def backend_of(engine: str, directory: Path) -> JournalBackend | JournalFileBackend:
    """Return the backend of a journal, which is made if it is not there."""
    if engine == OURS:
        return JournalBackend(directory)
    directory.mkdir(exist_ok=True)
    return JournalFileBackend(str(directory / "journal.log"))


def work(start: Start, job: Job) -> Took:
    """Be one worker, in this fresh process."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(
        study_name=_STUDY,
        storage=JournalStorage(backend_of(job.engine, job.directory)),
        sampler=optuna.samplers.RandomSampler(job.seed),
    )
    start()
    began_s, before_s = time.monotonic(), time.process_time()
    study.optimize(_parabola, n_trials=job.trials)
    return Took(began_s, time.monotonic(), time.process_time() - before_s)


def _parabola(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", -1, 1) ** 2 + trial.suggest_float("y", -1, 1) ** 2


def study_by(engine: str, directory: Path, workers: int, trials: int) -> tuple[float, float]:
    """Return how long workers took for their trials, and the processor's time of all.

    Raises:
        RuntimeError: a trial is missing, or was made twice.
    """
    optuna.create_study(storage=JournalStorage(backend_of(engine, directory)), study_name=_STUDY)
    took = run_together(work, [Job(engine, directory, trials, seed) for seed in range(workers)])
    storage = JournalStorage(backend_of(engine, directory))
    made = [
        trial.number
        for trial in optuna.load_study(study_name=_STUDY, storage=storage).trials
        if trial.state == TrialState.COMPLETE
    ]
    if made != list(range(workers * trials)):
        raise RuntimeError(f"{engine}: {len(made)} trials were made, not {workers * trials}")
    shutil.rmtree(directory)
    seconds = max(each.ended_s for each in took) - min(each.began_s for each in took)
    return seconds, sum(each.processor_s for each in took)


def killed_by(engine: str, directory: Path) -> float:
    """Return the seconds that an append takes which begins as a process is killed with the lock."""
    backend = backend_of(engine, directory)
    backend.append_logs([{}])
    receiver, sender = multiprocessing.Pipe(duplex=False)
    holder = multiprocessing.get_context("spawn").Process(target=_hold, args=(sender, engine, directory))
    holder.start()
    assert holder.pid is not None
    receiver.recv()
    os.kill(holder.pid, signal.SIGKILL)
    began_s = time.monotonic()
    backend.append_logs([{}])
    seconds = time.monotonic() - began_s
    holder.join()
    shutil.rmtree(directory)
    return seconds


def _hold(sender: Connection, engine: str, directory: Path) -> None:
    if engine == OURS:
        file = system.open_file(str(directory / ".checkpoint" / "optuna.lock"), write=True)
        system.lock(file.fd)
    else:
        JournalFileBackend(str(directory / "journal.log"))._lock.acquire()
    sender.send(None)
    signal.pause()


def measure(place: Path, workers: int, trials: int, rounds: int) -> list[dict[str, Any]]:
    """Return the figures of the study, by engine."""
    took: dict[str, list[tuple[float, float]]] = {OURS: [], THEIRS: []}
    for engine in turns(list(took), rounds):
        took[engine].append(study_by(engine, place / "study", workers, trials))
    seconds = {engine: [each for each, _ in took[engine]] for engine in took}
    return [
        {
            "work": "study",
            "workers": workers,
            "trials": workers * trials,
            "engine": engine,
            "seconds": statistics.median(seconds[engine]),
            "processor_us": statistics.median(used for _, used in took[engine]) / workers / trials * 1e6,
            "ratio": None if engine == OURS else median_ratio(seconds[engine], seconds[OURS]),
        }
        for engine in took
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    options = parser(__doc__, rounds=5)
    number = positive(int)
    options.add_argument("--workers", type=number, default=4, help="default: %(default)s")
    options.add_argument("--trials", type=number, default=50, help="of each worker; default: %(default)s")
    options.add_argument(
        "--killed",
        nargs="*",
        choices=[OURS, THEIRS],
        default=[OURS, THEIRS],
        help="default: both, in a minute",
    )
    chosen = options.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with work_directory(chosen.directory) as place:
        facts = show_environment(place)
        _TABLE.head()
        results = measure(place, chosen.workers, chosen.trials, chosen.rounds)
        for engine in chosen.killed:
            seconds = killed_by(engine, place / "killed")
            results.append({"work": "killed", "engine": engine, "seconds": seconds})
        for row in results:
            _TABLE.row(row)
    write_json(chosen.json, benchmark="optuna_study", environment=facts, results=results)


if __name__ == "__main__":
    main()
