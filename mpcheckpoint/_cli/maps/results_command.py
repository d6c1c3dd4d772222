"""``mpcheckpoint results``: the outcomes that a map has recorded, and its progress."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from mpcheckpoint import Checkpoint
from mpcheckpoint._cli.known_keys import keys_in, shown_keys
from mpcheckpoint._cli.maps.joblog import require_joblog, write_joblog
from mpcheckpoint._cli.maps.outcome_forms import Form, chunks_of, is_earlier
from mpcheckpoint._cli.maps.watch import JsonRows, PlainLines, watch
from mpcheckpoint._cli.options import json_option, key_option, rerun_option, store_option
from mpcheckpoint._cli.terminal import Exit, flush_out, is_screen, json_line, one_line, safe, write_out
from mpcheckpoint._cli.times import moment
from mpcheckpoint._cli.whole_file import STDOUT, require_earlier, write_whole
from mpcheckpoint.errors import CheckpointError
from mpcheckpoint.log import handle_of

if TYPE_CHECKING:
    from mpcheckpoint import Log, MapStatus
    from mpcheckpoint._cli.maps.watch import WatchDisplay
    from mpcheckpoint._postgres.address import Address

_MOST_RERUNS = 5


@click.command("results", short_help="Print what a map has recorded, or watch it.")
@store_option
@key_option
@rerun_option("Only the outcomes under that name. [default: the last one of each item]")
@click.option("--failed", "only_failed", is_flag=True, help="Only items that failed.")
@click.option(
    "--since",
    "since_us",
    type=moment,
    metavar="TIME",
    help="Only items that ended from this time on, as 2026-11-01T12:30, or so long ago, as 2h.",
)
@click.option(
    "--slowest",
    type=click.IntRange(1),
    metavar="N",
    help="Only the N items that took longest, the longest first.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice([form.value for form in Form]),
    metavar="[" + "|".join(form.value for form in Form) + "]",
    help="text, a table of one line an item, one JSON array, JSON Lines, CSV, TSV, or Parquet. [default: text]",
)
@click.option(
    "--output",
    "-o",
    metavar="FILE",
    help="Write into FILE, which is replaced as a whole, if it is an earlier output in this form; - is standard "
    "output.",
)
@click.option(
    "--joblog",
    metavar="FILE",
    help="Write them into FILE, or - for standard output, as a job log of GNU parallel; print nothing else.",
)
@click.option("--summary", "is_summary", is_flag=True, help="Only the counts, and what runs now.")
@click.option("--watch", "is_watching", is_flag=True, help="Show the progress of the map until it ends.")
@json_option
def results_command(
    *,
    store: str | Address,
    log_key: str,
    rerun: str | None,
    joblog: str | None,
    is_summary: bool,
    is_watching: bool,
    is_json: bool,
    **printed: Any,
) -> int:
    """Print the last outcome of each item of a map, in the order in which the items were first recorded.

    \b
    Example:
      mpcheckpoint results --store run-42 --key lines --failed
      mpcheckpoint results --store run-42 --key lines --json |
        jq -r 'select(.ok) | .item'
      mpcheckpoint results --store run-42 --key lines --watch
    \b
      mpcheckpoint results --store run-42 --key lines --slowest 10 \\
        --format table
      mpcheckpoint results --store run-42 --key lines --since 1d \\
        --format parquet -o lines.parquet

    Works while the map runs, and does not disturb it. Bytes that are not UTF-8 are written \\xNN.

    With --json, which is --format jsonl, each object has item, object_key, ok, error, began and ended (when the last
    attempt did), duration_s (of that), attempts, worker (what ran it: a process, or process/thread; null in outcomes
    from before there were workers in them), rerun (null for none), version (what was run) and value. The value of a
    command has exit_code and output and, if that was cut, output_end and left_out_bytes.

    CSV, TSV and Parquet have the same columns, headings first; value is JSON, and so is an item that is no string. TSV
    writes a tab, a newline, a carriage return and a backslash as \\t, \\n, \\r and \\\\, and quotes nothing. Times
    are local with their offset from UTC; in Parquet, UTC. Parquet takes --output, and pip install
    'mpcheckpoint[arrow]'. A table is cut to the width of a terminal; elsewhere it is whole.

    --summary counts what is done, and says what runs now and in which processes. With --json it is one object: run,
    version, items (null if not known yet), done, ok, failed, to_retry, running (object_key, elapsed_s), starts (pid,
    items, rerun), rerun.

    --watch shows the same and the last failures as they change: a screen on a terminal; elsewhere a line for each
    failure and the counts every 10 seconds; with --json every outcome, also the earlier ones. It ends when no process
    works on the map any more.

    --joblog writes Seq, Host, Starttime, JobRuntime, Send, Receive, Exitval, Signal and Command of each item, in the
    order in which they ended. Seq numbers the items in the order in which they were first recorded; Exitval is -1 for a
    time-out, and 126 or 127 for what could not be started. FILE is replaced, if it is a job log.

    While only one rerun is under way, --summary and --watch count what is done under its name, as with --rerun.

    Exit codes: 0, or 2 for a store or log that cannot be read or that no map has run on, no such rerun, or a FILE that
    cannot be written; with --summary and --watch 1 if items have failed; 130 interrupted.
    """
    if is_summary and is_watching:
        raise click.UsageError("--summary and --watch exclude each other")
    if is_summary or is_watching or joblog is not None:
        _require_unused(printed, "--summary" if is_summary else "--watch" if is_watching else "--joblog")
    printing = _printing(**printed, is_json=is_json)
    only_failed = printing.only_failed
    if joblog is not None:
        if is_summary or is_watching or is_json:
            raise click.UsageError("--joblog excludes --summary, --watch and --json")
        require_joblog(joblog)
    printing.require_file()
    with Checkpoint(store, read_only=True) as checkpoint:
        log = checkpoint.log(log_key, create=False)
        status = log.map_status(rerun=rerun)
        if status is None:
            raise click.ClickException(_none_ran(log, store, rerun))
        if joblog is not None:
            write_joblog(handle_of(log), rerun, joblog, only_failed=only_failed)
            return Exit.OK
        if is_watching:
            with closing(_display(is_json=is_json, only_failed=only_failed)) as display:
                watch(log, status, display)
            status = log.map_status(rerun=status.rerun) or status
        if is_summary or (is_watching and not is_json):
            write_out(_json_summary(status) if is_json else _summary(status, log.reruns()).encode())
        if not (is_summary or is_watching):
            printing.print(log, rerun)
    flush_out()
    return Exit.FAILED if status.failed and (is_summary or is_watching) else Exit.OK


class _Printing(NamedTuple):
    """Which outcomes to print, in which form, and where."""

    form: Form
    output: str | None
    since_us: int
    slowest: int | None
    only_failed: bool

    def require_file(self) -> None:
        """Refuse a file that the outcomes must not take the place of.

        Raises:
            click.UsageError: it is another kind of file, or cannot be looked at, or there is no place for it.
            MissingExtraError: it is Parquet, and pyarrow is not installed.
        """
        path = self.output
        if path is not None:
            kind = "earlier output of results in this form"
            require_earlier(path, lambda begun: is_earlier(self.form, path, begun), kind, safe(path))

    def print(self, log: Log, rerun: str | None) -> None:
        """Print them, or write them into the file.

        Raises:
            click.ClickException: the file cannot be written.
            MissingExtraError: it is Parquet, and pyarrow is not installed.
        """
        outcomes = log.results(
            rerun=rerun, failed=self.only_failed, since=self.since_us, slowest=self.slowest
        )
        if self.output is None:
            for chunk in chunks_of(outcomes, self.form, is_for_file=False):
                write_out(chunk)
            return
        try:
            if self.form is Form.PARQUET:
                write_whole(self.output, outcomes.write_parquet)
            else:
                chunks = chunks_of(outcomes, self.form, is_for_file=True)
                write_whole(self.output, lambda file: file.writelines(chunks))
        except CheckpointError:
            raise  # some are an OSError, too, and none is about this file
        except OSError as error:
            raise click.ClickException(f"cannot write {safe(self.output)}: {error.strerror}") from error


def _require_unused(printed: dict[str, Any], other: str) -> None:
    """Refuse options that are about outcomes that are printed one by one.

    Raises:
        click.UsageError: there are such.
    """
    names = {"since_us": "--since", "slowest": "--slowest", "form": "--format", "output": "--output"}
    for name, option in names.items():
        if printed[name] is not None:
            raise click.UsageError(f"{other} and {option} exclude each other")


def _printing(
    *,
    only_failed: bool,
    since_us: int | None,
    slowest: int | None,
    form: str | None,
    output: str | None,
    is_json: bool,
) -> _Printing:
    """Return what the options ask for.

    Raises:
        click.UsageError: they contradict each other.
    """
    if is_json and form not in (None, Form.JSONL.value):
        raise click.UsageError(f"--json is --format jsonl, and excludes --format {form}")
    chosen = Form.JSONL if is_json else Form(form or Form.TEXT.value)
    output = None if output == STDOUT else output
    if chosen is Form.PARQUET and output is None:
        raise click.UsageError("--format parquet takes --output FILE: it is nothing to look at")
    return _Printing(chosen, output, since_us or 0, slowest, only_failed)


def _none_ran(log: Log, store: str | Address, rerun: str | None) -> str:
    known = log.reruns()
    if rerun is None or log.map_status() is None:
        others = [each for each in keys_in(store) if each != log.log_key]
        there_are = f"; it has also {shown_keys(others, log.log_key)}" if others else ""
        return f"no map has run on the log {log.log_key!r} of {store}{there_are}"
    names = f"its reruns are {', '.join(map(repr, known))}" if known else "it has none"
    return f"there is no rerun {rerun!r} on the log {log.log_key!r} of {store}; {names}"


def _display(*, is_json: bool, only_failed: bool) -> WatchDisplay:
    if is_json:
        return JsonRows(only_failed=only_failed)
    if not is_screen(sys.stdout):
        return PlainLines()
    from mpcheckpoint._cli.maps.watch_screen import Screen  # noqa: PLC0415 - rich takes a while to import

    return Screen()


def _json_summary(status: MapStatus) -> bytes:
    return json_line({"items": status.items, "done": status.ok + status.failed} | asdict(status))


def _standstill(status: MapStatus) -> str:
    if status.running:
        return "not under way; what runs was left by a start that was killed"
    if status.to_retry:
        return "not under way; the same map started again carries on"
    return "not under way"


def _summary(status: MapStatus, reruns: tuple[str, ...]) -> str:
    total = "" if status.items is None else f" of {status.items}"
    lines = [
        f"what      {safe(status.version) or '(a function)'}",
        *([] if status.rerun is None else [f"rerun     {safe(status.rerun)}"]),
        f"done      {status.ok + status.failed}{total}: {status.ok} ok, {status.failed} failed",
    ]
    if reruns and status.rerun is None:
        left_out = "..., " if len(reruns) > _MOST_RERUNS else ""
        lines.append(f"reruns    {left_out}{safe(', '.join(reruns[-_MOST_RERUNS:]))}")
    if status.to_retry:
        lines.append(f"to retry  {status.to_retry}")
    if status.running:
        lines.append(f"running   {len(status.running)}")
        lines += [f"{each.elapsed_s:12.1f} s  {one_line(each.object_key)}" for each in status.running]
    processes = ", ".join(str(start.pid) for start in status.starts)
    lines.append(f"under way in process {processes}" if processes else _standstill(status))
    return "".join(f"{line}\n" for line in lines)
