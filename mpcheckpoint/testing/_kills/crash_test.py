"""Crash testing of a whole program: kill it, look at what is left, start it again."""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mpcheckpoint.testing._kills.instants import Instant, Pace
from mpcheckpoint.testing._kills.points import Point
from mpcheckpoint.testing._kills.program import Program
from mpcheckpoint.testing._kills.report import CrashTestFailure, FailureKind, Report
from mpcheckpoint.testing._kills.run import HangError, ProgramRun
from mpcheckpoint.testing._power_cuts.loopback import LoopFileSystem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mpcheckpoint.testing._power_cuts.loopback import FsType

_MOST_MISSES = 10
_LAST_ACKNOWLEDGEMENTS = 3


def crash_test(  # noqa: PLR0913 - each is a choice of its own, all but four have a default
    argv: Sequence[str | os.PathLike[str]],
    *,
    kills: int,
    ack: Callable[[str], Any],
    check: Callable[[Path, list[Any]], object],
    seed: int | None = None,
    first: int = 1,
    points: Sequence[str | Point] = (),
    power_cut: FsType | None = None,
    place: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    timeout_s: float = 60.0,
) -> Report:
    """Kill a program again and again, and judge each time whether everything that it had acknowledged is there.

    The program first runs to its end on an empty store; that shows that it works, and how long it takes. After that
    each life begins with another empty store: the program is started, killed, its store judged, started on that store
    again, killed again, until it gets to its end, which is judged too. A kill is SIGKILL for its whole process group
    and, on Linux, for whoever left that. It comes a random number of acknowledgements after the start, none included,
    and then at a random time before the next one, or when a file of the store has just changed.

    Nothing here asks for a store of this library: the store is a directory, the program anything that can be started.

    Args:
        argv: the program with its arguments; ``{store}`` in any of them stands for the path of the store, an empty
            directory at first. It carries on from what it finds there, comes to an end, exits with 0, and prints
            each acknowledgement as a line of its own, in one write: ``print(..., flush=True)`` does that.
        kills: the number of the last random kill. They are counted from 1.
        ack: ``ack(line)`` returns what a line of the program's stdout acknowledges, None for nothing.
        check: ``check(store, acknowledged)`` raises, or returns False, if the store does not hold what was
            acknowledged in this life. ``store`` is the path of a copy: it may be written to. See `check_records`.
        seed: chooses the instants; None for any. The report and every failure name it.
        first: the number of the first random kill, to repeat a failure without those before it.
        points: named points such as ``"in write_at 3"``, for programs that use this library and are run by a Python
            interpreter. For each one a new life begins, in which the program dies exactly there. See `Point`.
        power_cut: "ext4" or "xfs": the store stands on such a file system, whose power is cut at each kill. Only what
            was read before that counts as acknowledged. Needs root and loop devices: see `why_no_power_cut`.
        place: an existing directory for all this; None for the system's place for temporary files. Everything there is
            removed in the end, and kept after a failure.
        env: the environment of the program, with ``{store}`` in values as in arguments; None for that of this process.
        cwd: the directory that it is started in; None for that of this process.
        timeout_s: how long the program may go without acknowledging anything, until it ends.

    Returns:
        A Report: ``print`` it, so that a run that killed in vain is seen.

    Raises:
        CrashTestFailure: an AssertionError that says what is wrong, where a copy of the store is kept, and which
            line does the same again: exactly so for a named point, at about the same instants for random kills.
        ValueError: an argument is not what it should be.

    Concurrency: every process of the program is dead and reaped when this returns or raises.
    """
    named = [Point.parse(point) for point in points]
    program = Program(
        [os.fspath(each) for each in argv], None if env is None else dict(env), cwd, ack, timeout_s
    )
    for point in named:
        program.command(Path(), point)  # a program that cannot be killed there is refused now
    chosen_seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    directory = Path(tempfile.mkdtemp(prefix="crash_test-", dir=place)).resolve()
    with ExitStack() as mounted:
        disk = None if power_cut is None else mounted.enter_context(LoopFileSystem(power_cut, directory))
        test = _CrashTest(program, check, directory, disk, chosen_seed)
        report = test.run(named, first, kills)
    shutil.rmtree(directory)
    return report


# --- what is tested, and what is known of it -------------------------------------------------------------------


@dataclass(slots=True)
class _Life:
    """What happens to one store.

    Attributes:
        store: where it is.
        first_kill: the number of the first random kill in it, or of the next one that is to come.
        kills: the numbers of those there were.
        was_killed: whether there was any, random or at a named point.
        acknowledged: what counts, of all runs on this store.
    """

    store: Path
    first_kill: int
    kills: list[int] = field(default_factory=list)
    was_killed: bool = False
    acknowledged: list[Any] = field(default_factory=list)


# --- the test --------------------------------------------------------------------------------------------------


class _CrashTest:
    """One call of `crash_test`. For one thread."""

    def __init__(
        self,
        program: Program,
        check: Callable[[Path, list[Any]], object],
        directory: Path,
        disk: LoopFileSystem | None,
        seed: int,
    ) -> None:
        self._program = program
        self._check = check
        self._directory = directory
        self._disk = disk
        self._seed = seed
        self._began_s = time.monotonic()
        self._count: Counter[str] = Counter()
        # Of what is under way, to be told if it fails.
        self._life = _Life(directory, 1)
        self._run: ProgramRun | None = None
        self._point: Point | None = None
        self._at = ""
        self._as_judged = directory / "store-as-judged"

    def run(self, points: list[Point], first: int, kills: int) -> Report:
        """Do it all. Raises CrashTestFailure."""
        pace = self._rehearse()
        for point in points:
            self._die_at(point)
        self._point = None
        number, misses = first, 0
        while number <= kills:
            self._begin(number)
            while number <= kills and self._is_killed(number, misses, pace):
                number, misses = number + 1, 0
            if number > kills:
                self._run_to_the_end()
            elif (misses := misses + 1) == _MOST_MISSES:
                self._fail("missed", f"the program ended {misses} times before kill {number} could reach it")
        return self._report()

    def _rehearse(self) -> Pace:
        """Let the program run undisturbed."""
        self._begin(1)
        run = self._run_to_the_end()
        if not run.acknowledged:
            self._fail(
                "missed", "nothing was acknowledged in a whole run: ack() returned None for every line"
            )
        return Pace.of(run)

    def _die_at(self, point: Point) -> None:
        """Let the program die at a named point, and then get to its end."""
        self._begin(1)
        self._point, self._at = point, f"on the way to {str(point)!r}"
        with self._started(point) as run:
            if self._end_of(run) != -signal.SIGKILL:
                self._fail("missed", "the program ended without getting there")
            if self._disk is not None:
                self._disk.cut_power()
                self._disk.restore()
        self._judge_what_is_left(run, len(run.acknowledged), f"the kill at {str(point)!r}")
        self._run_to_the_end()

    def _is_killed(self, number: int, misses: int, pace: Pace) -> bool:
        """Run the program until its next random kill, or to its end if that comes first."""
        chance = random.Random(f"{self._seed} {number} {misses}")
        instant = Instant.choose(chance, pace, len(self._life.acknowledged))
        with self._started() as run:
            with self._hangs_reported():
                instant.await_in(run, self._life.store, self._program.timeout_s)
            acknowledged = -1 if run.has_ended else self._crash(run)
            if acknowledged < 0:
                self._require_good_end(run)
                return False
        self._life.kills.append(number)
        self._judge_what_is_left(run, acknowledged, f"kill {number}, {instant}")
        return True

    def _crash(self, run: ProgramRun) -> int:
        """Kill the program, cut the power if there is any; return how many of its acknowledgements count.

        Less than none if the program was quicker, and ended by itself.
        """
        with self._hangs_reported():
            if self._disk is None:
                return len(run.acknowledged) if run.end() == -signal.SIGKILL else -1
            run.read_what_is_there()
            # What comes later does not count: once the cut has begun, syncs are acknowledged that are lost.
            acknowledged = len(run.acknowledged)
            self._disk.cut_power()
            run.end()
            self._disk.restore()
            return acknowledged

    # --- lives and runs ----------------------------------------------------------------------------------------

    def _begin(self, number: int) -> None:
        """Begin a life, on an empty store."""
        if self._life.store != self._directory:
            shutil.rmtree(self._life.store)
        self._count["lives"] += 1
        parent = self._directory if self._disk is None else self._disk.mountpoint
        self._life = _Life(parent / f"store{self._count['lives']}", number)
        self._at = "before any kill"
        self._life.store.mkdir()
        _make_durable(parent)

    def _started(self, point: Point | None = None) -> ProgramRun:
        self._count["restarts"] += self._life.was_killed
        self._run = ProgramRun(
            self._program.command(self._life.store, point),
            env=self._program.environment(self._life.store),
            cwd=self._program.cwd,
            errors=self._directory / "stderr",
            ack=self._program.ack,
        )
        return self._run

    def _run_to_the_end(self) -> ProgramRun:
        with self._started() as run:
            self._require_good_end(run)
        return run

    def _require_good_end(self, run: ProgramRun) -> None:
        code = self._end_of(run)
        if code < 0:
            self._fail("exit", f"the program was ended by signal {-code}")
        elif code > 0:
            self._fail("exit", f"the program ended with exit code {code}")
        self._life.acknowledged += run.acknowledged
        self._count["acknowledged"] += len(run.acknowledged)
        self._judge("at the end of the program")

    def _end_of(self, run: ProgramRun) -> int:
        with self._hangs_reported():
            return run.await_end(self._program.timeout_s)

    @contextmanager
    def _hangs_reported(self) -> Iterator[None]:
        try:
            yield
        except HangError as error:
            self._fail("hang", f"the program hangs: {error}")

    # --- judging ---------------------------------------------------------------------------------------------

    def _judge_what_is_left(self, run: ProgramRun, acknowledged: int, at: str) -> None:
        self._at = f"after {at}"
        self._life.was_killed = True
        self._life.acknowledged += run.acknowledged[:acknowledged]
        self._count["acknowledged"] += acknowledged
        self._count["kills"] += 1
        self._count["early"] += not acknowledged
        self._judge("right after the kill")

    def _judge(self, when: str) -> None:
        self._count["checks"] += 1
        # A path of its own each time: this process may still have an earlier copy open.
        for_check = self._directory / f"store-for-check{self._count['checks']}"
        shutil.rmtree(self._as_judged, ignore_errors=True)
        _copy(self._life.store, self._as_judged)
        _copy(self._life.store, for_check)
        try:
            verdict = self._check(for_check, list(self._life.acknowledged))
        except Exception as error:  # noqa: BLE001  # whatever it is, the check failed
            what = f"the check failed {when}: {type(error).__name__}: {error}"
            self._fail("check", what, error, self._as_judged)
        if verdict is False:
            self._fail("check", f"the check returned False {when}", None, self._as_judged)
        shutil.rmtree(for_check, ignore_errors=True)

    def _report(self) -> Report:
        return Report(
            kills=self._count["kills"],
            power_cuts=0 if self._disk is None else self._disk.cuts,
            kills_before_first_ack=self._count["early"],
            lives=self._count["lives"],
            restarts=self._count["restarts"],
            acknowledged=self._count["acknowledged"],
            checks=self._count["checks"],
            seed=self._seed,
            duration_s=time.monotonic() - self._began_s,
        )

    # --- failing -----------------------------------------------------------------------------------------------

    def _fail(
        self, kind: FailureKind, what: str, cause: Exception | None = None, kept: Path | None = None
    ) -> NoReturn:
        acknowledged = self._life.acknowledged
        lines = [
            what,
            f"when: {self._at}, in life {self._count['lives']}",
            f"acknowledged in this life: {len(acknowledged)}, at last {acknowledged[-_LAST_ACKNOWLEDGEMENTS:]}",
        ]
        if self._run is not None:
            lines += [f"stdout: {line}" for line in self._run.last_lines]
            lines += [f"stderr: {line}" for line in self._run.error_lines()]
        if kept is None:
            kept = self._kept_of_failed_run()
            if self._life.was_killed:
                lines.append(f"the store as the last kill had left it: {self._as_judged}")
        lines += [f"the store as it is now: {kept}", self._how_to_repeat()]
        message = "\n  ".join(lines)
        raise CrashTestFailure(message, kind, self._seed, *self._led_there(), kept, self._call()) from cause

    def _led_there(self) -> tuple[int, int]:
        """Return the first and the last random kill that it takes to see this life again."""
        if self._point is not None or self._count["lives"] == 1:
            return 1, 0
        return self._life.first_kill, max(self._life.kills, default=self._life.first_kill)

    def _kept_of_failed_run(self) -> Path:
        """Return a copy of the store as a run left it that is not judged, once it is dead."""
        if self._run is not None:
            with suppress(HangError):
                self._run.end()
        kept = self._directory / "store-as-left"
        with suppress(OSError):
            _copy(self._life.store, kept)
        return kept

    def _how_to_repeat(self) -> str:
        if self._point is not None:
            return f"to repeat it exactly: {self._call()}"
        return f"to repeat it, kills about where they were: {self._call()}"

    def _call(self) -> str:
        """Return the call that does again what this life has seen."""
        program = self._program
        first, last = self._led_there()
        options: dict[str, object] = {"seed": self._seed, "first": first, "kills": last}
        options |= {} if self._point is None else {"points": [str(self._point)]}
        options |= {} if self._disk is None else {"power_cut": self._disk.fstype}
        options |= {} if program.env is None else {"env": program.env}
        options |= {} if program.cwd is None else {"cwd": os.fspath(program.cwd)}
        given = ", ".join(f"{name}={value!r}" for name, value in options.items())
        return f"crash_test({program.argv!r}, {given}, timeout_s={program.timeout_s:g}, ack=ack, check=check)"


def _copy(store: Path, copy: Path) -> None:
    """Copy what can be copied: no pipe, no socket."""
    shutil.copytree(store, copy, symlinks=True, ignore=_neither_files_nor_directories)


def _neither_files_nor_directories(directory: str, names: list[str]) -> list[str]:
    kept = (stat.S_ISREG, stat.S_ISDIR, stat.S_ISLNK)
    modes = {name: os.lstat(os.path.join(directory, name)).st_mode for name in names}
    return [name for name, mode in modes.items() if not any(is_kind(mode) for is_kind in kept)]


def _make_durable(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
