"""Crash testing of a whole program: kill it, look at what is left, start it again."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpcheckpoint.testing._kills.lives import Lives
from mpcheckpoint.testing._kills.points import Point
from mpcheckpoint.testing._kills.program import Program
from mpcheckpoint.testing._power_cuts.loopback import LoopFileSystem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mpcheckpoint.testing._kills.report import Report
    from mpcheckpoint.testing._power_cuts.loopback import FsType


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

    The program first runs to its end on an empty store; that shows that it works, and how long it takes. Then each life
    begins with another empty store: the program is started, killed, its store judged, started again on that store,
    killed again, until it gets to its end, which is judged too. A kill is SIGKILL for its whole process group and, on
    Linux, for processes that left the group. It comes after a random number of acknowledgements, or before the first
    one, and then at a random time before the next one, or right after a file of the store has changed.

    The store need not be one of this library: it is a directory, and the program is anything that can be started.

    Args:
        argv: the program with its arguments; ``{store}`` in them stands for the path of the store, at first an empty
            directory. The program carries on from what it finds there, comes to an end, exits with 0, and prints each
            acknowledgement as a line of its own, in one write: ``print(..., flush=True)`` does that.
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
        place: an existing directory for all files of the test; None for the system's place for temporary files. They
            are removed in the end, and kept after a failure.
        env: the environment of the program, with ``{store}`` in values as in arguments; None for that of this process.
        cwd: the directory in which it is started; None for that of this process.
        timeout_s: how long the program may go on without acknowledging anything or ending.

    Returns:
        A Report: ``print`` it, so that a run that killed in vain is seen.

    Raises:
        CrashTestFailure: an AssertionError that says what is wrong, where a copy of the store is kept, and which call
            repeats it: exactly for a named point, at about the same instants for random kills.
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
        report = Lives(program, check, directory, disk, chosen_seed).run(named, first, kills)
    shutil.rmtree(directory)
    return report
