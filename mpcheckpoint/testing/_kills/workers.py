"""Workers of one store that are killed and replaced, and what they had acknowledged."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal, AcknowledgementWriter
from mpcheckpoint.testing._kills.instants import look_of
from mpcheckpoint.testing._kills.points import Point, kill_at
from mpcheckpoint.testing._kills.report import CrashTestFailure, FailureKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.process import BaseProcess

    from mpcheckpoint.testing._kills.acknowledgements import Acknowledgement

    Worker = Callable[[Path, str, Callable[..., None]], object]

_PAUSE_S = 0.002
_LONGEST_INSTANT_S = 0.05
_DEATH_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class KillReport:
    """What `kill_workers` did, and what was acknowledged; ``str()`` gives it as one line.

    Attributes:
        acknowledged: (name of the worker, *values), in the order of arrival.
        kills: how many workers were killed, at random instants, at named points, and at the end.
        workers: the names of all that were started.
        seed: what the random instants were chosen with.
        duration_s: how long it took.
    """

    acknowledged: list[Acknowledgement]
    kills: int
    workers: list[str]
    seed: int
    duration_s: float

    def __str__(self) -> str:
        return (
            f"{self.kills} kills of {len(self.workers)} workers, {len(self.acknowledged)} acknowledgements, "
            f"{self.duration_s:.1f} s, seed {self.seed}"
        )


def kill_workers(
    worker: Worker,
    store: str | os.PathLike[str],
    *,
    kills: int,
    points: Sequence[str | Point] = (),
    workers: int = 4,
    method: Literal["fork", "spawn", "forkserver"] | None = None,
    seed: int | None = None,
    timeout_s: float = 30.0,
) -> KillReport:
    """Let processes work on one store, SIGKILL them at random instants, and replace them.

    Half of the random kills come right after a file of the store has changed. After each kill, every other worker must
    make progress: the dead may hold up nobody. In the end all are killed; then judge the store, for example with
    `check_records`.

    Args:
        worker: ``worker(store, name, acknowledge)`` works until it is killed, or returns when it is done. Each worker
            has a ``name`` of its own. ``acknowledge(*values)`` takes JSON values; once it returns, no kill can reach
            them.
        store: the path that `worker` gets, as it is.
        kills: how many random kills to do, without those at the end.
        points: for each of these one more worker is started, which has to die there; see `Point`.
        workers: how many work at a time.
        method: a start method of multiprocessing; None for the default one. Unless it is "fork", the worker must be
            importable by its name.
        seed: chooses whom to kill and when; None for any. The same seed chooses the same, at about the same times.
        timeout_s: how long a worker may go without acknowledging anything.

    Returns:
        A KillReport, with what was acknowledged.

    Raises:
        CrashTestFailure: a worker hangs, ends with an error, or did not get to its point; the message says who.

    Concurrency: when this returns or raises, every process that it started is dead and reaped, and so is every process
        that workers started, unless it left their process group.
    """
    names = [Point.parse(point) for point in points]
    chosen_seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    with tempfile.TemporaryDirectory(prefix="acknowledgements-") as directory:
        context = multiprocessing.get_context(method)
        with (
            AcknowledgementJournal(Path(directory, "fifo")) as journal,
            _Crowd(worker, Path(store), context, workers, chosen_seed, timeout_s, journal) as crowd,
        ):
            return crowd.run(kills, names)


@dataclass(slots=True)
class _Crowd:
    """The running workers. None is left at the end of the ``with`` block."""

    worker: Worker
    store: Path
    context: Any  # typeshed's common base class of contexts knows no Process
    size: int
    seed: int
    timeout_s: float
    journal: AcknowledgementJournal
    _running: dict[str, BaseProcess] = field(default_factory=dict)
    _names: list[str] = field(default_factory=list)
    _kills: int = 0
    _read: int = 0
    _progress: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> _Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self._end(list(self._running))

    def run(self, kills: int, points: list[Point]) -> KillReport:
        started_s = time.monotonic()
        chance = random.Random(self.seed)
        for point in points:
            self._fill_up()
            self._die_at(point)
            self._require_progress()
        while self._kills < kills + len(points):
            self._fill_up()
            if chance.random() < 0.75:  # else some die while they start
                self._require_progress()
            self._await_instant(chance)
            most = min(len(self._running), kills + len(points) - self._kills)
            self._kill(chance.sample(sorted(self._running), chance.randint(1, most)))
            self._require_progress()
        self._fill_up()
        self._require_progress()
        self._await_instant(chance)
        self._kill(list(self._running))
        duration_s = time.monotonic() - started_s
        return KillReport(self.journal.acknowledged(), self._kills, self._names, self.seed, duration_s)

    # --- starting and killing ------------------------------------------------------------------------------

    def _fill_up(self) -> None:
        self._end([name for name in self._running if self._is_done(name)])
        while len(self._running) < self.size:
            self._start(None)

    def _start(self, point: Point | None) -> str:
        name = f"worker {len(self._names)}"
        arguments = (self.worker, self.store, name, self.journal.writer, point)
        process = self.context.Process(target=_work, args=arguments, name=name)
        process.start()
        self._names.append(name)
        self._running[name] = process
        return name

    def _die_at(self, point: Point) -> None:
        name = self._start(point)
        process = self._running[name]
        if not _await(lambda: process.exitcode is not None, self.timeout_s):
            raise self._failure(
                "missed", f"{self._who(name)} did not get to {str(point)!r} in {self.timeout_s} s"
            )
        if process.exitcode != -signal.SIGKILL:
            raise self._failure("missed", f"{self._who(name)} did not get to {str(point)!r}")
        self._kills += 1
        self._end([name])

    def _kill(self, names: list[str]) -> None:
        """Kill these workers at one instant; one that is done already does not count."""
        working = [name for name in names if not self._is_done(name)]
        self._kills += len(working)
        self._end(working)

    def _end(self, names: list[str]) -> None:
        """Kill these workers with all that they started, and reap them."""
        ended = {name: self._running.pop(name) for name in names}
        for process in ended.values():
            _kill_group(process)
        for name, process in ended.items():
            # Rejected: join() alone. It waits for a pipe to close that a child of the dead worker may hold too.
            if not _await(lambda process=process: process.exitcode is not None, _DEATH_TIMEOUT_S):  # type: ignore[misc]  # mypy knows no default of a lambda
                raise self._failure("hang", f"{name} survives SIGKILL")
            process.close()

    def _await_instant(self, chance: random.Random) -> None:
        if chance.random() < 0.5:
            before = look_of(self.store)
            deadline = time.monotonic() + 4 * _LONGEST_INSTANT_S
            while look_of(self.store) == before and time.monotonic() < deadline:
                pass  # no pause: a file that has just changed is still changing
        else:
            time.sleep(chance.uniform(0, _LONGEST_INSTANT_S))

    # --- progress --------------------------------------------------------------------------------------------

    def _require_progress(self) -> None:
        """Return once each running worker has acknowledged something new or is done."""
        self._count()
        before = Counter(self._progress)
        waiting = set(self._running)

        def have_all_got_on() -> bool:
            self._count()
            waiting.difference_update(
                [name for name in waiting if self._progress[name] > before[name] or self._is_done(name)]
            )
            return not waiting

        if not _await(have_all_got_on, self.timeout_s):
            held_up = ", ".join(self._who(name) for name in sorted(waiting))
            raise self._failure("hang", f"no progress for {self.timeout_s} s: {held_up}")

    def _is_done(self, name: str) -> bool:
        code = self._running[name].exitcode
        if code:
            raise self._failure("exit", f"{self._who(name)} was not killed; see what it wrote to stderr")
        return code == 0

    def _count(self) -> None:
        new = self.journal.acknowledged(self._read)
        self._read += len(new)
        self._progress.update(name for name, *_ in new)

    def _who(self, name: str) -> str:
        process = self._running[name]
        state = "running" if process.exitcode is None else f"ended with exit code {process.exitcode}"
        return f"{name} (process {process.pid}, {state}, {self._progress[name]} acknowledgements)"

    def _failure(self, kind: FailureKind, what: str) -> CrashTestFailure:
        name = getattr(self.worker, "__qualname__", "worker")
        method = self.context.get_start_method()
        call = f"kill_workers({name}, ..., workers={self.size}, method={method!r}, seed={self.seed})"
        message = (
            f"{what}\n  after {self._kills} kills\n"
            f"  to repeat it, the random instants about where they were: {call}"
        )
        return CrashTestFailure(message, kind, self.seed, 1, self._kills, None, call)


def _work(worker: Worker, store: Path, name: str, writer: AcknowledgementWriter, point: Point | None) -> None:
    os.setpgid(0, 0)  # what it starts must die with it
    with nullcontext() if point is None else kill_at(point):
        worker(store, name, partial(writer.acknowledge, name))


def _kill_group(process: BaseProcess) -> None:
    if process.pid is None:
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()  # it is dead, with all that it started; or it just began and has no group yet


def _await(is_so: Callable[[], object], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE_S)
    return True
