"""The options of ``mpcheckpoint map``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from mpcheckpoint._cli.maps.joblog import require_joblog
from mpcheckpoint._cli.maps.start_gate import load_limit
from mpcheckpoint._cli.options import LocalPath, key_option, memory_size, rerun_option, store_option
from mpcheckpoint._cli.terminal import safe
from mpcheckpoint._cli.times import duration, duration_above_0
from mpcheckpoint._work.causes import condition
from mpcheckpoint._work.halt import Halt
from mpcheckpoint._work.reruns import IfChanged
from mpcheckpoint._work.retries import DEFAULT_DELAY_S

if TYPE_CHECKING:
    from collections.abc import Callable

    Command = TypeVar("Command", bound=Callable[..., Any])

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


def _load(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else load_limit(value)
    except ValueError as error:
        raise click.BadParameter(safe(str(error))) from None


def _joblog(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        require_joblog(value)
    return value


def _where(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    try:
        for value in values:
            condition(value)
    except ValueError as error:
        raise click.BadParameter(safe(str(error))) from None
    return values


_OPTIONS = (
    store_option,
    key_option,
    click.option(
        "--jobs",
        "-j",
        type=click.IntRange(1, _MOST_JOBS),
        metavar="N",
        help="Run N commands at a time. [default: one a processor]",
    ),
    click.option(
        "--items",
        "-a",
        default="-",
        type=LocalPath("list of items", "it is read from a file: give its path"),
        metavar="FILE",
        help="Read the items from FILE instead of standard input.",
    ),
    click.option(
        "--null", "-0", "is_null_separated", is_flag=True, help="Items end in NUL instead of a newline."
    ),
    click.option("--jsonl", "is_json", is_flag=True, help="Each item is a JSON value on its own line."),
    click.option(
        "--csv",
        "is_csv",
        is_flag=True,
        help="Each item is a row of CSV; the first line names the columns. {name} and {1} are the fields.",
    ),
    click.option(
        "--tsv", "is_tsv", is_flag=True, help="The same, separated by tabs; quotes are no more than quotes."
    ),
    click.option(
        "--item-key",
        metavar="FIELD",
        help="With --jsonl, --csv or --tsv: the field that names an item in the log. "
        "[default: the whole value, or row]",
    ),
    click.option(
        "--retries",
        type=click.IntRange(0, _MOST_RETRIES),
        default=0,
        metavar="N",
        help="Try what fails up to N times more, over all starts, before it counts as failed. [default: 0]",
    ),
    click.option(
        "--retry-delay",
        "retry_delay_s",
        type=duration,
        default=str(DEFAULT_DELAY_S),
        metavar="DURATION",
        help="The pause before the first retry; it doubles each time, up to a minute. Other items run meanwhile. "
        "[default: 1]",
    ),
    click.option(
        "--timeout",
        "timeout_s",
        type=duration_above_0,
        metavar="DURATION",
        help="End a command that runs longer, with all it has started: SIGTERM, 5 s later SIGKILL. It has failed.",
    ),
    click.option(
        "--memory",
        "memory_bytes",
        type=memory_size,
        metavar="SIZE",
        help="Kill a command that has more memory than this, as 500M or 2G, with all it has started. It has failed. "
        "Linux only.",
    ),
    click.option(
        "--delay",
        "delay_s",
        type=duration,
        default="0",
        metavar="DURATION",
        help="Start commands so far apart. [default: 0]",
    ),
    click.option(
        "--load",
        "most_load",
        metavar="N|N%",
        callback=_load,
        help="Start commands only while fewer than N processes run or could run on the machine; N% of its processors.",
    ),
    click.option(
        "--joblog",
        metavar="FILE",
        callback=_joblog,
        help="When the map ends, write the outcomes of all items into FILE, as a job log of GNU parallel. FILE is "
        "replaced, if it is a job log.",
    ),
    click.option(
        "--halt-on-error",
        "halts_on_error",
        is_flag=True,
        help="Start no more items once one that ran in this map has failed; what runs finishes. The same as --halt 1.",
    ),
    click.option(
        "--halt",
        metavar="N|N%",
        callback=_halt,
        help="Start no more items once N that ran in this map have failed, or N percent of ten or more; what runs "
        "finishes.",
    ),
    click.option("--retry-failed", is_flag=True, help="Run again what failed before."),
    click.option(
        "--where",
        multiple=True,
        metavar="CAUSE",
        callback=_where,
        help="With --retry-failed: only what failed so: exit=CODE, timed-out, over-memory, killed, not-started. May be "
        "given several times.",
    ),
    rerun_option("Run each of these items under NAME: the same line carries on, another name begins anew."),
    click.option(
        "--if-changed",
        metavar="[refuse|keep|keep-ok]",
        default=IfChanged.REFUSE.value,
        is_flag=False,
        flag_value="",
        callback=_if_changed,
        help="If COMMAND has changed: refuse it, keep what is done, or keep what is ok and run again what failed. "
        "[default: refuse]",
    ),
    click.option(
        "--changed-files",
        "compares_files",
        is_flag=True,
        help="Each item names a file. Run it again if the file's size or time is not what it was when it was done.",
    ),
    click.option(
        "--hash",
        "compares_content",
        is_flag=True,
        help="With --changed-files: compare the content (SHA-256), not the time.",
    ),
    click.option(
        "--file-field",
        metavar="FIELD",
        help="With --changed-files, and --jsonl, --csv or --tsv: the field that names the file. [default: the item]",
    ),
    click.option(
        "--print",
        "is_printing",
        is_flag=True,
        help="Print the output of each item as it is recorded, and of those done before.",
    ),
    click.option(
        "--ordered", "-k", "is_ordered", is_flag=True, help="As --print, in the order of the items."
    ),
    click.option(
        "--tag",
        "is_tagging",
        is_flag=True,
        help="As --print; each line begins with the item (or with its --item-key) and a tab.",
    ),
    click.option(
        "--output-limit",
        "output_limit_bytes",
        type=click.IntRange(0, _MOST_OUTPUT_BYTES),
        default=_DEFAULT_OUTPUT_BYTES,
        show_default=True,
        metavar="BYTES",
        help="Keep so much of an item's output: its beginning and its end.",
    ),
    click.option(
        "--dry-run", "is_dry_run", is_flag=True, help="Print the items that would run; run and write nothing."
    ),
)


def map_options(command: Command) -> Command:
    """Give a command the options of map."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
