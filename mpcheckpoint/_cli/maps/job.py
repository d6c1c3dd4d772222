"""What the command line of ``map`` asks for: its options, and the job that they describe."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import click

from mpcheckpoint._cli.maps.items import ItemReader, json_input
from mpcheckpoint._cli.maps.template import Template
from mpcheckpoint._cli.options import LocalPath, key_option, rerun_option, store_option
from mpcheckpoint._cli.terminal import safe, say
from mpcheckpoint._cli.times import Duration
from mpcheckpoint._format.byte_text import to_text
from mpcheckpoint._work.reruns import IfChanged
from mpcheckpoint._work.retries import DEFAULT_DELAY_S

_STDIN = "-"
_DEFAULT_OUTPUT_BYTES = 64 * 1024
_MOST_OUTPUT_BYTES = 8 * 1024 * 1024  # escaped, it is six times as long, and still below the limit of a line
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
        default=_STDIN,
        type=LocalPath("list of items", "it is read from a file: give its path"),
        metavar="FILE",
        help="Read the items from FILE instead of standard input.",
    ),
    click.option(
        "--null", "-0", "is_null_separated", is_flag=True, help="Items end in NUL instead of a newline."
    ),
    click.option("--jsonl", "is_json", is_flag=True, help="Each item is a JSON value on its own line."),
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
        help="Try what fails up to N times more, over all starts, before it counts as failed. [default: 0]",
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
        help="Start no more items once one that ran in this map has failed; what runs finishes.",
    ),
    click.option("--retry-failed", is_flag=True, help="Run again what failed before."),
    rerun_option("Run each of these items under NAME: the same line carries on, another name begins anew."),
    click.option(
        "--if-changed",
        type=click.Choice([each.value for each in IfChanged]),
        default=IfChanged.REFUSE.value,
        help="If COMMAND has changed: refuse it, keep what is done, or keep what is ok and run again what failed. "
        "[default: refuse]",
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
    """Add the options of ``map`` to a command, in the order in which its help lists them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


class Job(NamedTuple):
    """A command, the items to run it for, and where to record the outcomes."""

    store: str
    log_key: str
    words: tuple[bytes, ...]
    jobs: int
    items: str
    is_null_separated: bool
    is_json: bool
    item_key: str | None
    retries: int
    retry_delay_s: float
    timeout_s: float | None
    halts_on_error: bool
    retry_failed: bool
    rerun: str | None
    if_changed: str
    is_printing: bool
    is_ordered: bool
    output_limit_bytes: int

    @property
    def version(self) -> str:
        """What identifies the work: the command line, as a shell would read it."""
        return " ".join("{}" if word == b"{}" else shlex.quote(to_text(word)) for word in self.words)

    @property
    def template(self) -> Template:
        """The command line with places for an item."""
        return Template(self.words, is_json=self.is_json)

    @property
    def results_line(self) -> str:
        """The command that shows what was recorded."""
        of_rerun = "" if self.rerun is None else f" --rerun {shlex.quote(self.rerun)}"
        where = f"--store {shlex.quote(self.store)} --key {shlex.quote(self.log_key)}"
        return f"mpcheckpoint results {where}{of_rerun}"

    @property
    def choice(self) -> dict[str, Any]:
        """Which run of the log's map it belongs to, for ``join_run``."""
        return {
            "rerun": self.rerun,
            "if_changed": IfChanged(self.if_changed),
            "retry_failed": self.retry_failed,
        }

    def open_items(self) -> ItemReader:
        """Open the items.

        Raises:
            click.ClickException: they cannot be read.
        """
        return ItemReader(
            self._open(),
            is_null_separated=self.is_null_separated,
            name="standard input" if self.items == _STDIN else safe(self.items),
            to_input=partial(json_input, self.template, self.item_key) if self.is_json else None,
        )

    def _open(self) -> int:
        if self.items != _STDIN:
            try:
                file = click.open_file(self.items, "rb")
                return click.get_current_context().with_resource(file).fileno()
            except OSError as error:
                raise click.UsageError(
                    f"cannot read the items from {safe(self.items)}: {error.strerror}; nothing was run"
                ) from error
        if sys.stdin is None:
            # The next file that is opened would get its descriptor, and be read as if it held items.
            raise click.UsageError("cannot read the items: standard input is closed; nothing was run")
        if sys.stdin.isatty():
            say("mpcheckpoint: reading items from the terminal, one a line; end with Ctrl-D")
        return sys.stdin.fileno()
