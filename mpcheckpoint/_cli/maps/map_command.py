"""``mpcheckpoint map``: a parallel map that survives anything."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import click

from mpcheckpoint import Checkpoint
from mpcheckpoint._cli.interrupts import Interrupts, exit_code_of
from mpcheckpoint._cli.maps.command_pool import CommandPool
from mpcheckpoint._cli.maps.dry_run import dry_run
from mpcheckpoint._cli.maps.job import STDIN, Job
from mpcheckpoint._cli.maps.joblog import write_joblog
from mpcheckpoint._cli.maps.lists import split_lists
from mpcheckpoint._cli.maps.map_options import map_options
from mpcheckpoint._cli.maps.outcome_text import print_output
from mpcheckpoint._cli.maps.reporter import Reporter, Tally
from mpcheckpoint._cli.maps.run_command import RunCommand
from mpcheckpoint._cli.maps.start_gate import StartGate
from mpcheckpoint._cli.terminal import Exit, end_by_broken_pipe, plural, safe, say
from mpcheckpoint._format.byte_text import to_text
from mpcheckpoint._work.halt import Halt
from mpcheckpoint._work.map import MapRun
from mpcheckpoint._work.permit import permit_for
from mpcheckpoint._work.plan import LogRef, Options, Plan
from mpcheckpoint._work.pool import default_jobs
from mpcheckpoint._work.retries import Retries
from mpcheckpoint._work.runs import join_run
from mpcheckpoint._work.shortage import outlast_shortage
from mpcheckpoint.errors import ShortageError
from mpcheckpoint.log import handle_of

if TYPE_CHECKING:
    from mpcheckpoint._cli.maps.job import Items
    from mpcheckpoint._view.log_handle import LogHandle
    from mpcheckpoint._work.runs import JoinedRun
    from mpcheckpoint._work.shortage import ShortageEvent


@click.command(
    "map",
    short_help="Run a command for every item of a list.",
    context_settings={"allow_interspersed_args": False},
)
@map_options
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
    \b
      mpcheckpoint map --store run-42 --key train -- \\
        train.py --rate {1} --seed {2} ::: 0.1 0.01 ::: 1 2 3

    Each line is an item; blank lines are skipped. The item replaces {} in COMMAND; without a place for it, it goes to
    the end. There is no shell in between; standard input is empty. Exit code, duration and output (standard output and
    standard error together) are recorded before the next item runs.

    \b
    As in GNU parallel, where an item is the name of a file:
      {.}    without its extension      {/}    without its directory
      {//}   its directory              {/.}   without both
      {#}    the number of the item, from 1

    After :::, values on the command line are the items; after several :::, every combination of one value of each list.
    {1}, {2} and so on are the values, {1.} or {2/} parts of them, {} all, with blanks between. With --csv and --tsv
    each row is an item, and the first one names the columns: {name} and {1} are its fields, {} is all of it.

    \b
    For a pipe or a redirection, call a shell and give it the item as an argument:
      mpcheckpoint map --store run-42 --key sizes -- sh -c 'wc -c < "$1"' sh {}
    Never as sh -c 'wc -c < {}': the shell would run the text of the item,
    as in "x; rm -r .".

    Only the name of an item counts: a file that has changed since it was done is not run again, but with
    --changed-files. That records what the file was before its item ran, and runs the item again, whatever its outcome,
    if the file is another by now, came into being, or is gone. What was done without --changed-files runs again, too.

    With --jsonl each line is a JSON value. {name} is replaced by the field of that name, {1} by the first value of an
    array, {} by the whole value. Strings stand for themselves, anything else for its JSON. To write {name} or {.}
    itself, double the braces: {{name}}.

    The name of a field or column may have any characters, as {First Name}, and comes before other meanings of {1}, {#}
    or {.}. A name that is not there is refused: without blanks, whatever it is; with blanks, if it is words of letters,
    digits, _, - and . as {Frist Name}. Other braces with blanks are left to shells: { echo a; }, {print $1}; {print NF}
    and {exit 1} as well.

    A DURATION is seconds, or like 90s, 5m, 1h30m, 2d.

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
    minute, 129 hung up, as by a terminal that was closed, 130 interrupted, 143 terminated.
    """
    command, lists = split_lists(command)
    words = tuple(map(os.fsencode, command))
    options["is_printing"] |= options["is_ordered"] or options["is_tagging"]
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
    job = Job(words=words, jobs=jobs or default_jobs(), lists=lists, **options)
    _require_fitting(job)
    if not job.template.is_command():
        raise click.UsageError(f"there is no command {safe(to_text(words[0]))!r}; nothing was run")
    field = job.template.unfilled_field()
    if field is not None:
        say(f"mpcheckpoint map: {field} is passed as it stands; with --jsonl it would be a field of the item")
    items = job.open_items()
    if is_dry_run:
        return dry_run(job, items)
    code = _run(job, items)
    if job.joblog is not None:
        with Checkpoint(job.store, read_only=True) as checkpoint:
            write_joblog(handle_of(checkpoint.log(job.log_key, create=False)), job.rerun, job.joblog)
    return code


def _require_fitting(job: Job) -> None:
    """Refuse options that have nothing to do with each other.

    Raises:
        click.UsageError: there are such.
    """
    shapes = [
        name
        for name in ("jsonl", "csv", "tsv")
        if getattr(job, "is_json" if name == "jsonl" else f"is_{name}")
    ]
    if len(shapes) > 1:
        raise click.UsageError(f"--{shapes[0]} and --{shapes[1]} exclude each other; nothing was run")
    if job.is_null_separated and (job.is_csv or job.is_tsv):
        raise click.UsageError(
            f"--null and --{shapes[0]} exclude each other: rows are lines; nothing was run"
        )
    if job.lists is not None and (shapes or job.is_null_separated or job.items != STDIN):
        raise click.UsageError("the items stand after :::, so no others are read; nothing was run")
    if job.item_key is not None and not shapes:
        raise click.UsageError(
            "--item-key names a field of JSON items, which take --jsonl, or a column, which takes --csv or --tsv; "
            "nothing was run"
        )
    if not job.compares_files and (job.compares_content or job.file_field is not None):
        name = "--hash says how" if job.compares_content else "--file-field says which file"
        raise click.UsageError(f"{name} --changed-files compares; give both. Nothing was run")
    if job.file_field is not None and not shapes:
        raise click.UsageError(
            "--file-field names a field of JSON items, which take --jsonl, or a column, which takes --csv or --tsv; "
            "nothing was run"
        )
    if job.compares_files and job.lists is not None and len(job.lists) > 1:
        raise click.UsageError(
            "--changed-files takes items that name a file, not combinations; nothing was run"
        )


def _run(job: Job, items: Items) -> int:
    started_s = time.monotonic()
    tally = Tally()
    gate = StartGate(job.delay_s, job.most_load, lambda text: reporter.take_wait(text, False))
    try:
        with (
            outlast_shortage(Interrupts, _say_shortage) as interrupts,
            outlast_shortage(lambda: Checkpoint(job.store), _say_shortage) as checkpoint,
            RunCommand(
                job.template, job.output_limit_bytes, job.timeout_s, job.memory_bytes, interrupts, gate
            ) as command,
            Reporter(tally, job) as reporter,
            _started(job, checkpoint, items, command, gate, reporter) as map_run,
        ):
            for outcome in map_run:
                if job.is_printing:
                    print_output(outcome, job.tag(outcome))
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
    job: Job, checkpoint: Checkpoint, items: Items, command: RunCommand, gate: StartGate, reporter: Reporter
) -> MapRun:
    def joined() -> tuple[LogHandle, JoinedRun]:
        log = handle_of(checkpoint.log(job.log_key))
        return log, join_run(log, job.version, **job.choice)

    log, run = outlast_shortage(joined, reporter.take_shortage)
    permit = None
    if (halt := job.halt) is not None:
        permit = outlast_shortage(lambda: permit_for(halt, log.workers), reporter.take_shortage)
    plan = Plan(LogRef(log), run, command, Retries(job.retries, job.retry_delay_s), permit)
    pool = CommandPool(plan, job.jobs, gate=gate.wait if job.has_gate else None, on_stop=command.stop)
    options = Options(
        job.is_ordered,
        on_retry=reporter.take_retry,
        total=items.total,
        on_wait=reporter.take_wait,
        on_death=reporter.take_death,
        on_shortage=reporter.take_shortage,
        again=job.again(run),
        halt=halt,
        progress=reporter.display,
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
