"""Run mutants, say of each which test caught it, and fail if one survived."""

from __future__ import annotations

import argparse
import datetime
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mutants.listing import Mutant, listed_mutants
from mutants.runner import Run, Verdict, run_mutant, run_unmutated
from support.checkout import TESTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_MOST_JOBS = 2


def main(arguments: Sequence[str]) -> int:
    """Return the exit code: 0 if every mutant was caught, 1 if one was not, 2 if the tests fail without any mutant."""
    options = _parsed(arguments)
    mutants = _chosen(listed_mutants(), options)
    if options.list:
        _say(*(mutant.name for mutant in mutants))
        return 0
    started_s = time.monotonic()
    for is_native in (False, True):
        chosen = [mutant for mutant in mutants if mutant.is_native == is_native]
        if chosen and not _pass_unmutated(chosen, is_native=is_native):
            return 2
    runs = _judged(mutants, options.jobs)
    return _summed_up(runs, time.monotonic() - started_s)


def _pass_unmutated(mutants: list[Mutant], *, is_native: bool) -> bool:
    """Return whether the tests that are to catch some mutants pass without any; say so."""
    tests = sorted({test for mutant in mutants for test in mutant.caught_by})
    where = "of the native core" if is_native else "in Python"
    _say(f"{len(mutants)} mutants {where}; first the {len(tests)} tests that are to catch them, without any")
    control = run_unmutated(tests, is_native=True) if is_native else run_unmutated(tests)
    if control.verdict is not Verdict.SURVIVED:
        why = "these tests do not pass without a mutant, so nothing follows from their failing with one"
        _say(control.output, why)
        return False
    _say(f"all passed in {control.duration_s:.1f} s")
    return True


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="run mutants in whose name this stands; all without"
    )
    parser.add_argument("--rotate", type=int, metavar="N", help="run N of them, which change with the seed")
    parser.add_argument("--seed", default=None, help="of --rotate; without, the commit, or else the date")
    jobs = range(1, _MOST_JOBS + 1)
    parser.add_argument("--jobs", type=int, choices=jobs, default=min(_MOST_JOBS, os.cpu_count() or 1))
    parser.add_argument("--list", action="store_true", help="print the names and run nothing")
    return parser.parse_args(arguments)


def _chosen(mutants: list[Mutant], options: argparse.Namespace) -> list[Mutant]:
    if options.names:
        mutants = [mutant for mutant in mutants if any(name in mutant.name for name in options.names)]
    if not mutants:
        sys.exit(f"no mutant has a name with {' or '.join(map(repr, options.names))} in it")
    if options.rotate is None:
        return mutants
    seed = options.seed or _changing_seed()
    _say(f"repeat this choice with: --rotate {options.rotate} --seed {seed}")
    return rotated(mutants, options.rotate, seed)


def rotated(mutants: list[Mutant], count: int, seed: str) -> list[Mutant]:
    """Return ``count`` of the mutants, the same ones for the same seed."""
    return random.Random(seed).sample(mutants, min(count, len(mutants)))


def _changing_seed() -> str:
    """Return what changes from run to run of CI: the commit, or the date where there is no git."""
    try:
        command = ["git", "-C", str(TESTS), "rev-parse", "--short=12", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return datetime.datetime.now(datetime.UTC).date().isoformat()


def _judged(mutants: Iterable[Mutant], jobs: int) -> list[Run]:
    """Run the mutants, and say of each what became of it as soon as those before it are done."""
    runs = []
    executor = ThreadPoolExecutor(jobs)
    try:
        for mutant, run in zip(mutants, executor.map(run_mutant, mutants), strict=True):
            caught_by = run.failed[0].removeprefix("tests/") if run.failed else "nothing"
            _say(f"{run.verdict.value:8} {run.duration_s:5.1f} s  {mutant.name}: by {caught_by}")
            if run.verdict is Verdict.BROKEN:
                _say(run.output)
            runs.append(run)
    finally:
        executor.shutdown(cancel_futures=True)  # after a Ctrl-C what runs ends, and no more is begun
    return runs


def _summed_up(runs: list[Run], duration_s: float) -> int:
    counts = {verdict: sum(run.verdict is verdict for run in runs) for verdict in Verdict}
    what = ", ".join(f"{count} {verdict.value.lower()}" for verdict, count in counts.items())
    _say(f"===== {len(runs)} mutants: {what} in {duration_s:.0f} s =====")
    return 0 if counts[Verdict.CAUGHT] == len(runs) else 1


def _say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
