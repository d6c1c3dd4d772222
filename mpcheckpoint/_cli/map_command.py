"""``mpcheckpoint map``: a parallel map that survives anything."""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import click

from mpcheckpoint import Checkpoint
from mpcheckpoint._cli.command import RunCommand, is_command
from mpcheckpoint._cli.dry_run import dry_run
from mpcheckpoint._cli.interrupts import Interrupts, Stopped
from mpcheckpoint._cli.job import Job
from mpcheckpoint._cli.lines import Lines
from mpcheckpoint._cli.options import key_option, store_option
from mpcheckpoint._cli.progress import Reporter
from mpcheckpoint._cli.tally import Tally
from mpcheckpoint._cli.terminal import EXIT_FAILED, EXIT_OK, safe, say
from mpcheckpoint._work.crew import ExecutorCrew, default_jobs
from mpcheckpoint._work.map import MapRun
from mpcheckpoint._work.outlet import Options
from mpcheckpoint._work.perform import LogRef, Plan
from mpcheckpoint._work.runs import join_run
from mpcheckpoint._work.text import to_text

if TYPE_CHECKING:
    from mpcheckpoint import Log

_DEFAULT_OUTPUT_BYTES = 64 * 1024
_MOST_OUTPUT_BYTES = 8 * 1024 * 1024  # six times as much, escaped, is still below the limit of a line
_MOST_JOBS = 10_000


@click.command(
    "map",
    short_help="Run a command for every item read from standard input.",
    context_settings={"allow_interspersed_args": False},
)
@store_option
@key_option
@click.option(
    "--jobs",
    "-j",
    type=click.IntRange(1, _MOST_JOBS),
    metavar="N",
    help="Run N commands at a time. [default: one a processor]",
)
@click.option("--null", "-0", "is_null_separated", is_flag=True, help="Items end in NUL, not in a newline.")
@click.option("--retry-failed", is_flag=True, help="Run again what failed before.")
@click.option("--rerun", is_flag=True, help="Start anew: run every item again, or another command.")
@click.option(
    "--dry-run",
    "is_dry_run",
    is_flag=True,
    help="Print the items that would run; run nothing, and write nothing.",
)
@click.option(
    "--output-limit",
    "output_limit_bytes",
    type=click.IntRange(0, _MOST_OUTPUT_BYTES),
    default=_DEFAULT_OUTPUT_BYTES,
    show_default=True,
    metavar="BYTES",
    help="Keep so much of an item's output: its beginning and its end.",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def map_command(  # noqa: PLR0913 - the options
    *,
    store: str,
    log_key: str,
    jobs: int | None,
    is_null_separated: bool,
    retry_failed: bool,
    rerun: bool,
    is_dry_run: bool,
    output_limit_bytes: int,
    command: tuple[str, ...],
) -> int:
    """Run COMMAND for every item read from standard input, and record what became of each.

    \b
    Example:
      find . -name '*.py' | mpcheckpoint map --store run-42 --key lines --jobs 4 -- wc -l {}
      mpcheckpoint results --store run-42 --key lines

    Each line is an item; blank lines are skipped. {} in COMMAND is replaced by the item; without {} the item is put at
    the end. There is no shell in between; standard input is empty. Exit code, duration and output (standard output and
    standard error together) are recorded before the next item is run.

    Killed at any instant, by whatever, start the same line again: it runs only what is missing. Start it several times
    at once, on one store: they share the items, and no item runs twice while none of them dies. At least once: an item
    whose command was killed with it, or whose outcome could not be recorded, runs again.

    An item that failed counts as done, until --retry-failed. A changed COMMAND is refused: use another key for it, or
    --rerun.

    Exit codes: 0 all items are done and well, 1 some failed (now or before), 2 bad usage or a store that cannot be
    used, 130 interrupted.
    """
    words = tuple(map(os.fsencode, command))
    if not is_command(words[0]):
        raise click.UsageError(f"there is no command {safe(to_text(words[0]))!r}; nothing was run")
    job = Job(
        store,
        log_key,
        jobs or default_jobs(),
        is_null_separated,
        retry_failed,
        rerun,
        output_limit_bytes,
        words,
    )
    if sys.stdin is None:
        # Its descriptor would be given to the next file that is opened, and read as if it held items.
        raise click.UsageError("cannot read the items: standard input is closed; nothing was run")
    if sys.stdin.isatty():
        say("mpcheckpoint: reading items from the terminal, one a line; end with Ctrl-D")
    return dry_run(job) if is_dry_run else _run(job)


def _run(job: Job) -> int:
    lines = Lines(0, is_null_separated=job.is_null_separated)
    started_s = time.monotonic()
    tally = Tally()
    try:
        with (
            Interrupts() as interrupts,
            Checkpoint(job.store) as checkpoint,
            ThreadPoolExecutor(job.jobs, thread_name_prefix="command") as executor,
            _started(job, checkpoint.log(job.log_key), lines, executor, interrupts) as map_run,
            Reporter(lines, tally) as reporter,
        ):
            for outcome in map_run:
                reporter.take(outcome)
    except KeyboardInterrupt as error:
        _say_interrupted(job)
        return 128 + (error.signal_number if isinstance(error, Stopped) else signal.SIGINT)
    _say_summary(job, tally, time.monotonic() - started_s)
    return EXIT_FAILED if tally.failed else EXIT_OK


def _started(
    job: Job, log: Log, lines: Lines, executor: ThreadPoolExecutor, interrupts: Interrupts
) -> MapRun:
    run = join_run(log, job.version, rerun=job.rerun, retry_failed=job.retry_failed)
    command = RunCommand(job.words, job.output_limit_bytes, interrupts)
    plan = Plan(LogRef(log), run, command)
    crew = ExecutorCrew(plan, executor, job.jobs, on_stop=command.stop)
    return MapRun(plan, iter(lines), crew, Options())


def _say_summary(job: Job, tally: Tally, duration_s: float) -> None:
    ran = tally.ran_ok + tally.ran_failed
    before = tally.ok_before + tally.failed_before
    failed_before = f" ({tally.failed_before} of them failed)" if tally.failed_before else ""
    say(
        f"mpcheckpoint: {tally.done} items: {ran} run now ({tally.ran_ok} ok, {tally.ran_failed} failed), "
        f"{before} done already{failed_before}, in {duration_s:.1f} s"
    )
    if tally.failed:
        say(f"mpcheckpoint: why they failed: {job.results_line} --failed; --retry-failed runs them again")
    else:
        say(f"mpcheckpoint: their output: {job.results_line}")


def _say_interrupted(job: Job) -> None:
    say(
        "mpcheckpoint: interrupted; what is done is recorded, what was running was given back. "
        f"Start the same line again{' without --rerun' if job.rerun else ''} to carry on"
    )
