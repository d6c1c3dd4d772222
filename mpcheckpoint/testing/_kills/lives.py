"""The lives of stores in a crash test: a program works on an empty store, is killed, judged and started again."""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from mpcheckpoint import _system as system
from mpcheckpoint.testing._kills.instants import Instant, Pace
from mpcheckpoint.testing._kills.program import HangError, ProgramRun
from mpcheckpoint.testing._kills.report import CrashTestFailure, FailureKind, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mpcheckpoint.testing._kills.points import Point
    from mpcheckpoint.testing._kills.program import Program
    from mpcheckpoint.testing._power_cuts.loopback import LoopFileSystem

_MOST_MISSES = 10
_LAST_ACKNOWLEDGEMENTS = 3


@dataclass(slots=True)
class _Life:
    """What has happened to one store.

    Attributes:
        store: its path.
        first_kill: the number of its first random kill, or of the next one if there was none.
        kills: the numbers of its random kills.
        was_killed: whether there was any kill, random or at a named point.
        acknowledged: the acknowledgements that count, of all runs on this store.
    """

    store: Path
    first_kill: int
    kills: list[int] = field(default_factory=list)
    was_killed: bool = False
    acknowledged: list[Any] = field(default_factory=list)


class Lives:
    """What one call of `crash_test` does. For one thread."""

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
        # What is under way, for the message if it fails.
        self._life = _Life(directory, 1)
        self._run: ProgramRun | None = None
        self._point: Point | None = None
        self._at = ""
        self._as_judged = directory / "store-as-judged"

    def run(self, points: list[Point], first: int, kills: int) -> Report:
        """Rehearse, die at each point, then do the random kills up to number ``kills``. Raises CrashTestFailure."""
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
        """Let the program run undisturbed; return its pace."""
        self._begin(1)
        run = self._run_to_the_end()
        if not run.acknowledged:
            self._fail(
                "missed", "nothing was acknowledged in a whole run: ack() returned None for every line"
            )
        return Pace.of(run)

    def _die_at(self, point: Point) -> None:
        """Let the program die at a named point, and then run it to its end."""
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
        """Kill the program, or cut the power; return how many of its acknowledgements count.

        -1 if the program ended by itself before that.
        """
        with self._hangs_reported():
            if self._disk is None:
                return len(run.acknowledged) if run.end() == -signal.SIGKILL else -1
            run.read_what_is_there()
            # Later ones do not count: once the cut has begun, lost syncs are acknowledged as well.
            acknowledged = len(run.acknowledged)
            self._disk.cut_power()
            run.end()
            self._disk.restore()
            return acknowledged

    # --- lives and runs ----------------------------------------------------------------------------------------

    def _begin(self, number: int) -> None:
        """Begin a life on an empty store."""
        if self._life.store != self._directory:
            shutil.rmtree(self._life.store)
        self._count["lives"] += 1
        parent = self._directory if self._disk is None else self._disk.mountpoint
        self._life = _Life(parent / f"store{self._count['lives']}", number)
        self._at = "before any kill"
        self._life.store.mkdir()
        system.sync_directory(str(parent))

    def _started(self, point: Point | None = None) -> ProgramRun:
        self._count["restarts"] += self._life.was_killed
        self._run = ProgramRun(self._program, self._life.store, point, self._directory / "stderr")
        return self._run

    def _run_to_the_end(self) -> ProgramRun:
        with self._started() as run:
            self._require_good_end(run)
        return run

    def _require_good_end(self, run: ProgramRun) -> None:
        code = self._end_of(run)
        if code != 0:
            by = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            self._fail("exit", f"the program {by}")
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
        except Exception as error:  # noqa: BLE001  # whatever it raises, the check failed
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
        how = "to repeat it, kills about where they were" if self._point is None else "to repeat it exactly"
        lines += [f"the store as it is now: {kept}", f"{how}: {self._call()}"]
        message = "\n  ".join(lines)
        raise CrashTestFailure(message, kind, self._seed, *self._led_there(), kept, self._call()) from cause

    def _led_there(self) -> tuple[int, int]:
        """Return the numbers of the first and the last random kill that repeat this life."""
        if self._point is not None or self._count["lives"] == 1:
            return 1, 0
        return self._life.first_kill, max(self._life.kills, default=self._life.first_kill)

    def _kept_of_failed_run(self) -> Path:
        """End the run and return a copy of the store as it left it; nothing judged that."""
        if self._run is not None:
            with suppress(HangError):
                self._run.end()
        kept = self._directory / "store-as-left"
        with suppress(OSError):
            _copy(self._life.store, kept)
        return kept

    def _call(self) -> str:
        """Return the call that repeats this life."""
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
    """Copy a store without pipes and sockets."""
    shutil.copytree(store, copy, symlinks=True, ignore=_neither_files_nor_directories)


def _neither_files_nor_directories(directory: str, names: list[str]) -> list[str]:
    kept = (stat.S_ISREG, stat.S_ISDIR, stat.S_ISLNK)
    modes = {name: os.lstat(os.path.join(directory, name)).st_mode for name in names}
    return [name for name, mode in modes.items() if not any(is_kind(mode) for is_kind in kept)]
