"""``mpcheckpoint map``: a parallel map that survives anything."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import click

from mpcheckpoint import Checkpoint
from mpcheckpoint._cli.interrupts import Interrupts, exit_code_of
from mpcheckpoint._cli.maps.dry_run import dry_run
from mpcheckpoint._cli.maps.job import Job
from mpcheckpoint._cli.maps.outcome_text import print_output
from mpcheckpoint._cli.maps.reporter import Reporter, Tally
from mpcheckpoint._cli.maps.run_command import RunCommand
from mpcheckpoint._cli.maps.threads import BusyThreads
from mpcheckpoint._cli.options import LocalPath, key_option, memory_size, rerun_option, store_option
from mpcheckpoint._cli.terminal import Exit, end_by_broken_pipe, plural, safe, say
from mpcheckpoint._cli.times import duration, duration_above_0
from mpcheckpoint._format.byte_text import to_text
from mpcheckpoint._work.causes import condition
from mpcheckpoint._work.halt import Halt
from mpcheckpoint._work.map import MapRun
from mpcheckpoint._work.permit import permit_for
from mpcheckpoint._work.plan import LogRef, Options, Plan
from mpcheckpoint._work.pool import ExecutorPool, default_jobs
from mpcheckpoint._work.reruns import IfChanged
from mpcheckpoint._work.retries import DEFAULT_DELAY_S, Retries
from mpcheckpoint._work.runs import join_run
from mpcheckpoint._work.shortage import outlast_shortage
from mpcheckpoint.errors import ShortageError
from mpcheckpoint.log import handle_of

if TYPE_CHECKING:
    from mpcheckpoint._cli.maps.items import ItemReader
    from mpcheckpoint._view.log_handle import LogHandle
    from mpcheckpoint._work.runs import JoinedRun
    from mpcheckpoint._work.shortage import ShortageEvent

_DEFAULT_OUTPUT_BYTES = 64 * 1024
_MOST_OUTPUT_BYTES = 8 * 1024 * 1024  # escaped, it is six times as long, and still below the limit of a line
_MOST_JOBS = 10_000
_MOST_RETRIES = 1_000_000


def _if_changed(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if value in (known := [each.value for each in IfChanged]):
        return value
    raise click.BadParameter(
        f"{safe(repr(value))} is not one of {', '.join(known)}: what becomes of outcomes if COMMAND has changed. To "
        "run items again whose file has changed, give --changed-files"
    )


def _halt(context: click.Context, parameter: click.Parameter, value: str | None) -> Halt | None:
    try:
        return None if value is None else Halt.of(value)
    except ValueError as error:
        raise click.BadParameter(safe(str(error))) from None


def _where(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    try:
        for value in values:
            condition(value)
    except ValueError as error:
        raise click.BadParameter(safe(str(error))) from None
    return values


@click.command(
    "map",
    short_help="Run a command for every item of a list.",
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
@click.option(
    "--items",
    "-a",
    default="-",
    type=LocalPath("list of items", "it is read from a file: give its path"),
    metavar="FILE",
    help="Read the items from FILE instead of standard input.",
)
@click.option(
    "--null", "-0", "is_null_separated", is_flag=True, help="Items end in NUL instead of a newline."
)
@click.option("--jsonl", "is_json", is_flag=True, help="Each item is a JSON value on its own line.")
@click.option(
    "--item-key",
    metavar="FIELD",
    help="With --jsonl: the field that names an item in the log. [default: the whole value]",
)
@click.option(
    "--retries",
    type=click.IntRange(0, _MOST_RETRIES),
    default=0,
    metavar="N",
    help="Try what fails up to N times more, over all starts, before it counts as failed. [default: 0]",
)
@click.option(
    "--retry-delay",
    "retry_delay_s",
    type=duration,
    default=str(DEFAULT_DELAY_S),
    metavar="DURATION",
    help="The pause before the first retry; it doubles each time, up to a minute. Other items run meanwhile. "
    "[default: 1]",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=duration_above_0,
    metavar="DURATION",
    help="End a command that runs longer, with all it has started: SIGTERM, 5 s later SIGKILL. It has failed.",
)
@click.option(
    "--memory",
    "memory_bytes",
    type=memory_size,
    metavar="SIZE",
    help="Kill a command that has more memory than this, as 500M or 2G, with all it has started. It has failed. "
    "Linux only.",
)
@click.option(
    "--halt-on-error",
    "halts_on_error",
    is_flag=True,
    help="Start no more items once one that ran in this map has failed; what runs finishes. The same as --halt 1.",
)
@click.option(
    "--halt",
    metavar="N|N%",
    callback=_halt,
    help="Start no more items once N that ran in this map have failed, or N percent of ten or more; what runs "
    "finishes.",
)
@click.option("--retry-failed", is_flag=True, help="Run again what failed before.")
@click.option(
    "--where",
    multiple=True,
    metavar="CAUSE",
    callback=_where,
    help="With --retry-failed: only what failed so: exit=CODE, timed-out, killed, not-started. May be given several "
    "times.",
)
@rerun_option("Run each of these items under NAME: the same line carries on, another name begins anew.")
@click.option(
    "--if-changed",
    metavar="[refuse|keep|keep-ok]",
    default=IfChanged.REFUSE.value,
    is_flag=False,
    flag_value="",
    callback=_if_changed,
    help="If COMMAND has changed: refuse it, keep what is done, or keep what is ok and run again what failed. "
    "[default: refuse]",
)
@click.option(
    "--changed-files",
    "compares_files",
    is_flag=True,
    help="Each item names a file. Run it again if the file's size or time is not what it was when it was done.",
)
@click.option(
    "--hash",
    "compares_content",
    is_flag=True,
    help="With --changed-files: compare the content (SHA-256), not the time.",
)
@click.option(
    "--file-field",
    metavar="FIELD",
    help="With --changed-files and --jsonl: the field that names the file. [default: the whole value]",
)
@click.option(
    "--print",
    "is_printing",
    is_flag=True,
    help="Print the output of each item as it is recorded, and of those done before.",
)
@click.option("--ordered", "-k", "is_ordered", is_flag=True, help="As --print, in the order of the items.")
@click.option(
    "--output-limit",
    "output_limit_bytes",
    type=click.IntRange(0, _MOST_OUTPUT_BYTES),
    default=_DEFAULT_OUTPUT_BYTES,
    show_default=True,
    metavar="BYTES",
    help="Keep so much of an item's output: its beginning and its end.",
)
@click.option(
    "--dry-run", "is_dry_run", is_flag=True, help="Print the items that would run; run and write nothing."
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def map_command(*, command: tuple[str, ...], is_dry_run: bool, jobs: int | None, **options: Any) -> int:
    """Run COMMAND for every item read from standard input, and record the outcome of each.

    \b
    Example:
      ls *.py | mpcheckpoint map --store run-42 --key lines --jobs 4 -- wc -l {}
      mpcheckpoint results --store run-42 --key lines
    \b
      mpcheckpoint map --store run-42 --key fetch -a urls.txt \\
        --retries 3 --timeout 60 -- curl -fsS {}
      mpcheckpoint map --store run-42 --key cut -a clips.jsonl \\
        --jsonl --item-key id -- cut.sh {path} {start}
    \b
      mpcheckpoint map --store run-42 --key fetch -a urls.txt \\
        --rerun monday -- curl -fsS {}

    Each line is an item; blank lines are skipped. The item replaces {} in COMMAND; without {} it goes to the end. There
    is no shell in between; standard input is empty. Exit code, duration and output (standard output and standard error
    together) are recorded before the next item runs.

    \b
    For a pipe or a redirection, call a shell and give it the item as an argument:
      mpcheckpoint map --store run-42 --key sizes -- sh -c 'wc -c < "$1"' sh {}
    Never as sh -c 'wc -c < {}': the shell would run the text of the item,
    as in "x; rm -r .".

    Only the name of an item counts: a file that has changed since it was done is not run again, but with
    --changed-files. That records what the file was before its item ran, and runs the item again, whatever its outcome,
    if the file is another by now, came into being, or is gone. What was done without --changed-files runs again, too.

    With --jsonl each line is a JSON value. {name} is replaced by the field of that name, {} by the whole value. Strings
    stand for themselves, anything else for its JSON; {{name}} is {name}. A DURATION is seconds, or like 90s, 5m,
    1h30m, 2d.

    If it is killed at any instant, start the same line again: it runs only what is missing. Start it several times at
    once on one store, and they share the items; no item runs twice while none of them dies. At least once: an item runs
    again if its command was killed with the map, or if its outcome could not be recorded. To see the progress from
    elsewhere: mpcheckpoint results --watch.

    An item that failed, all its --retries included, counts as done, until --retry-failed; --where chooses by exit code
    and cause. Killed is what a signal has ended, by its own exit code or by that of a shell (137, 143).

    With --rerun NAME an item counts as done once it has an outcome under that name; items that are not given keep what
    they have. A changed COMMAND is refused: say what to keep with --if-changed, or use another key, or --rerun with a
    new name.

    A shortage fails no item: what cannot be started for want of processes, threads, open files or memory waits, and
    starts pause. A command that is killed (SIGKILL, or exit code 137 of a shell) runs again; after its third death,
    over all starts, it has failed. One that SIGTERM, SIGHUP or SIGINT has ended is given back if the map is told to end
    within a second. One that has more memory than --memory is killed with all it has started, looked at 20 times a
    second, and has failed: "exceeded the memory limit".

    Exit codes: 0 all items are done and well, 1 some failed (now or before), 2 bad usage, a line that is no item, or a
    store that cannot be used, 75 stopped by a shortage (of processes, open files, memory) in which nothing ran for a
    minute, 130 interrupted, 143 terminated.
    """
    words = tuple(map(os.fsencode, command))
    options["is_printing"] |= options["is_ordered"]
    if options.pop("halts_on_error"):
        if options["halt"] is not None:
            raise click.UsageError(
                "--halt and --halt-on-error, which is --halt 1, exclude each other; nothing was run"
            )
        options["halt"] = Halt(failures=1)
    if options["where"] and not options["retry_failed"]:
        raise click.UsageError(
            "--where says which failures --retry-failed runs again; give both. Nothing was run"
        )
    job = Job(words=words, jobs=jobs or default_jobs(), **options)
    if job.item_key is not None and not job.is_json:
        raise click.UsageError("--item-key names a field of JSON items, which take --jsonl; nothing was run")
    if not job.compares_files and (job.compares_content or job.file_field is not None):
        name = "--hash says how" if job.compares_content else "--file-field says which file"
        raise click.UsageError(f"{name} --changed-files compares; give both. Nothing was run")
    if job.file_field is not None and not job.is_json:
        raise click.UsageError(
            "--file-field names a field of JSON items, which take --jsonl; nothing was run"
        )
    if not job.template.is_command():
        raise click.UsageError(f"there is no command {safe(to_text(words[0]))!r}; nothing was run")
    field = job.template.unfilled_field()
    if field is not None:
        say(f"mpcheckpoint map: {field} is passed as it stands; with --jsonl it would be a field of the item")
    items = job.open_items()
    return dry_run(job, items) if is_dry_run else _run(job, items)


def _run(job: Job, items: ItemReader) -> int:
    started_s = time.monotonic()
    tally = Tally()
    try:
        with (
            outlast_shortage(Interrupts, _say_shortage) as interrupts,
            outlast_shortage(lambda: Checkpoint(job.store), _say_shortage) as checkpoint,
            BusyThreads(job.jobs) as executor,
            RunCommand(
                job.template, job.output_limit_bytes, job.timeout_s, job.memory_bytes, interrupts
            ) as command,
            Reporter(items, tally, job) as reporter,
            _started(job, checkpoint, items, executor, command, reporter) as map_run,
        ):
            for outcome in map_run:
                if job.is_printing:
                    print_output(outcome)
                reporter.take(outcome)
    except BrokenPipeError:
        end_by_broken_pipe()  # now that what ran was given back
    except KeyboardInterrupt as error:
        say(
            "mpcheckpoint: interrupted; what is done is recorded, what was running was given back. "
            "Start the same line again to carry on"
        )
        return exit_code_of(error)
    except ShortageError as error:
        if tally.done:
            _say_summary(job, tally, time.monotonic() - started_s)
        say(f"mpcheckpoint: {error}")
        return Exit.SHORTAGE
    if items.problem is not None and not items.count:
        say(f"mpcheckpoint map: {items.problem}; nothing was run")
        return Exit.USAGE
    _say_summary(job, tally, time.monotonic() - started_s)
    if map_run.is_halted:
        by, them = ("a failure", "it") if map_run.failures == 1 else (f"{map_run.failures} failures", "them")
        say(
            f"mpcheckpoint: halted by {by}; what ran is recorded. Start the same line again to run the others, with "
            f"--retry-failed to run {them} again, too"
        )
    if items.problem is not None:
        say(
            f"mpcheckpoint map: {items.problem}; the {items.count} {plural(items.count, 'item')} before it "
            f"{'is' if items.count == 1 else 'are'} done and recorded. Mend it and start the same line again to "
            "carry on"
        )
        return Exit.USAGE
    return Exit.FAILED if tally.failed else Exit.OK


def _started(
    job: Job,
    checkpoint: Checkpoint,
    items: ItemReader,
    executor: BusyThreads,
    command: RunCommand,
    reporter: Reporter,
) -> MapRun:
    def joined() -> tuple[LogHandle, JoinedRun]:
        log = handle_of(checkpoint.log(job.log_key))
        return log, join_run(log, job.version, **job.choice)

    log, run = outlast_shortage(joined, reporter.take_shortage)
    permit = None
    if (halt := job.halt) is not None:
        permit = outlast_shortage(lambda: permit_for(halt, log.workers_directory), reporter.take_shortage)
    plan = Plan(LogRef(log), run, command, Retries(job.retries, job.retry_delay_s), permit)
    pool = ExecutorPool(plan, executor, job.jobs, on_stop=command.stop)
    options = Options(
        job.is_ordered,
        on_retry=reporter.take_retry,
        total=items.total,
        on_wait=reporter.take_wait,
        on_death=reporter.take_death,
        on_shortage=reporter.take_shortage,
        again=job.again(run),
        halt=halt,
    )
    return MapRun(plan, job.inputs(items), pool, options)


def _say_shortage(event: ShortageEvent) -> None:
    """Tell of a shortage before there is a display."""
    say(f"mpcheckpoint: {event}")


def _say_summary(job: Job, tally: Tally, duration_s: float) -> None:
    ran = tally.ran_ok + tally.ran_failed
    before = tally.ok_before + tally.failed_before
    failed_before = f" ({tally.failed_before} of them failed)" if tally.failed_before else ""
    say(
        f"mpcheckpoint: {tally.done} {plural(tally.done, 'item')}: {ran} run now "
        f"({tally.ran_ok} ok, {tally.ran_failed} failed), "
        f"{before} done already{failed_before}, in {duration_s:.1f} s"
    )
    if tally.failed:
        say(f"mpcheckpoint: why they failed: {job.results_line} --failed; --retry-failed runs them again")
    else:
        say(f"mpcheckpoint: their output: {job.results_line}")
