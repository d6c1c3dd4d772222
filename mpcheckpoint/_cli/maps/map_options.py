"""The options of ``map``, in the order in which its help lists them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from mpcheckpoint._cli.maps.job import STDIN
from mpcheckpoint._cli.options import LocalPath, key_option, rerun_option, store_option
from mpcheckpoint._cli.times import Duration
from mpcheckpoint._work.reruns import IfChanged
from mpcheckpoint._work.retries import DEFAULT_DELAY_S

_DEFAULT_OUTPUT_BYTES = 64 * 1024
_MOST_OUTPUT_BYTES = 8 * 1024 * 1024  # six times as much, escaped, is still below the limit of a line
_MOST_JOBS = 10_000
_MOST_RETRIES = 1_000_000

Command = TypeVar("Command", bound=Callable[..., Any])


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
        default=STDIN,
        type=LocalPath("list of items", "it is read from a file: give its path"),
        metavar="FILE",
        help="Read the items from FILE, not from standard input.",
    ),
    click.option(
        "--null", "-0", "is_null_separated", is_flag=True, help="Items end in NUL, not in a newline."
    ),
    click.option("--jsonl", "is_json", is_flag=True, help="Each item is a JSON value on a line of its own."),
    click.option(
        "--item-key",
        metavar="FIELD",
        help="With --jsonl: the field that names an item in the log. [default: the whole value]",
    ),
    click.option(
        "--retries",
        type=click.IntRange(0, _MOST_RETRIES),
        default=0,
        metavar="N",
        help="Try what fails up to N times more before it counts as failed, over all starts. [default: 0]",
    ),
    click.option(
        "--retry-delay",
        "retry_delay_s",
        type=Duration(),
        default=DEFAULT_DELAY_S,
        metavar="DURATION",
        help="The pause before the first retry; it doubles each time, up to a minute. Other items run meanwhile. "
        "[default: 1]",
    ),
    click.option(
        "--timeout",
        "timeout_s",
        type=Duration(is_above_0=True),
        metavar="DURATION",
        help="End a command that runs longer, with all it has started: SIGTERM, 5 s later SIGKILL. It has failed.",
    ),
    click.option(
        "--halt-on-error",
        "halts_on_error",
        is_flag=True,
        help="Start no more items once one that ran here and now has failed; what runs finishes.",
    ),
    click.option("--retry-failed", is_flag=True, help="Run again what failed before."),
    rerun_option(
        "Have each of these items run under NAME: the same line carries on, another name begins anew."
    ),
    click.option(
        "--if-changed",
        type=click.Choice([each.value for each in IfChanged]),
        default=IfChanged.REFUSE.value,
        help="If COMMAND is another one than before: refuse it, keep what is done, or keep what is ok and run "
        "again what failed. [default: refuse]",
    ),
    click.option(
        "--print",
        "is_printing",
        is_flag=True,
        help="Print the output of each item, also of those done before, as it is recorded.",
    ),
    click.option(
        "--ordered",
        "-k",
        "is_ordered",
        is_flag=True,
        help="As --print, in the order of the items.",
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
        "--dry-run",
        "is_dry_run",
        is_flag=True,
        help="Print the items that would run; run nothing, and write nothing.",
    ),
)


def map_options(command: Command) -> Command:
    """Give a command these options."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
