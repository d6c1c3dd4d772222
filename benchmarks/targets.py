"""What was aimed at, measured in one run: runs the other scripts, keeps their reports, and prints the table.

Every script runs in a process of its own, as it would from the command line, and its report is kept in the directory
of ``--results``. With ``--all``, also what the table does not ask: all engines at the appends, the batches and the
replay, and how cost grows. With ``--quick``, sizes that take minutes and prove nothing but that everything works; what
was not measured at its size is said to be so. The run fails if a script does, above all if an engine lost a record.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engines import OURS
from figures import Column, Table
from harness import directory
from judging import reports_in, targets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_OURS = f"--engines {OURS}"
_TABLE = Table(
    Column("work".ljust(55), "work"),
    Column("target".ljust(46), "target"),
    Column("measured".ljust(14), "measured"),
    Column("verdict", "verdict"),
)


class Run(NamedTuple):
    """One script and its options. A later one of the same name wins."""

    script: str
    options: str = ""
    quick: str = ""
    """In short."""
    own: str = ""
    """If only the table is asked for."""
    is_asked: bool = True
    """Whether the table needs it."""


RUNS = (
    Run("append", quick="--rounds 1 --seconds 0.3 --processes 1 4 8", own=f"--rounds 5 {_OURS}"),
    Run("sharing", quick="--rounds 1 --seconds 0.3"),
    Run("aio", quick="--rounds 1 --seconds 0.3 --tasks 1 1000", own="--tasks 1000"),
    Run("batch", quick="--rounds 1 --seconds 0.1", own=_OURS),
    Run("floor", quick="--rounds 1 --seconds 0.1", own=_OURS),
    Run(
        "replay", "--records 10000 100000 1000000", "--rounds 1 --records 10000", f"--records 1000000 {_OURS}"
    ),
    Run("calls", quick="--rounds 2"),
    Run("beside", quick="--rounds 1 --seconds 0.3"),
    Run("read", quick="--rounds 1 --seconds 0.1 --logs 1 10 100"),
    Run("follow", quick="--rounds 1 --appends 20 --idle-s 1"),
    Run("open", quick="--rounds 1 --size-mb 1 10"),
    Run("verify", quick="--rounds 1 --size-mb 1"),
    Run("compact", quick="--rounds 1 --size-mb 2 --seconds 0.5"),
    Run("polled", quick="--rounds 1 --seconds 0.3"),
    Run("maps", quick="--rounds 1 --items 100 --commands 20 --done 10000"),
    Run(
        "growth",
        quick="--repeats 5 --records 1000 10000 --logs 1 10 --processes 1 4 --event-bytes 16 65536",
        is_asked=False,
    ),
)


def run_all(results: Path, *, everything: bool, quick: bool, place: Path | None) -> None:
    """Run the scripts one after the other; their reports are in ``results`` afterwards.

    Raises:
        subprocess.CalledProcessError: one failed; what of is on the standard error.
    """
    began_s = time.monotonic()
    for run in RUNS:
        if not run.is_asked and not everything:
            continue
        options = f"{run.options} {'' if everything else run.own} {run.quick if quick else ''}".split()
        if place is not None:
            options += ["--directory", str(place)]
        script = Path(__file__).with_name(f"{run.script}.py")
        report = results / f"{run.script}.json"
        print(f"\n=== {run.script}.py {' '.join(options)}", flush=True)
        subprocess.run([sys.executable, str(script), *options, "--json", str(report)], check=True)
    print(f"\nall of it took {(time.monotonic() - began_s) / 60:.1f} minutes")


def show(reports: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the table filled in."""
    _TABLE.head()
    for target in targets():
        _TABLE.row(target.judge(reports))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--all", action="store_true", help="all engines, and how cost grows")
    options.add_argument("--quick", action="store_true", help="minutes; its figures mean little")
    options.add_argument("--results", type=Path, metavar="DIRECTORY", help="keep the reports there")
    options.add_argument(
        "--directory", type=directory, help="where stores are made; default: the current one"
    )
    options.add_argument(
        "--judge", action="store_true", help="measure nothing; the table of what --results holds"
    )
    chosen = options.parse_args(arguments)
    if chosen.judge and chosen.results is None:
        options.error("--judge needs --results")
    with nullcontext(chosen.results) if chosen.results else tempfile.TemporaryDirectory() as place:
        results = Path(place)
        results.mkdir(parents=True, exist_ok=True)
        if not chosen.judge:
            run_all(results, everything=chosen.all, quick=chosen.quick, place=chosen.directory)
        show(reports_in(results))


if __name__ == "__main__":
    main()
