"""The options that say what is dropped from logs, of the commands that do it."""

from __future__ import annotations

import re
from fnmatch import translate
from typing import TYPE_CHECKING

import click

from mpcheckpoint._cli.options import Command
from mpcheckpoint._cli.times import any_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint import Record

_keep_last = click.option(
    "--keep-last", type=click.IntRange(min=1), metavar="N", help="Keep the last N records of each object."
)
_older_than = click.option(
    "--older-than",
    "newer_than_s",
    type=any_duration,
    metavar="DURATION",
    help="Drop records that are older: 30d, 12h, 1h30m. With --keep-last, only what both drop.",
)
_drop = click.option(
    "--drop",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Drop all records of the objects whose keys match, as 'tmp/*'; may be given several times.",
)
_superseded = click.option(
    "--superseded",
    "is_superseded",
    is_flag=True,
    help="Drop only what nobody asks for any more. The others drop that, too.",
)
keep_ids_option = click.option(
    "--keep-ids",
    "keep_ids_s",
    type=any_duration,
    default="7d",
    show_default=True,
    metavar="DURATION",
    help="How long record ids of dropped records are still known, and counts of objects that are gone.",
)


def drop_options(command: Command) -> Command:
    """Add the options that say what is dropped."""
    return _keep_last(_older_than(_drop(_superseded(command))))


def drop_rule(patterns: tuple[str, ...]) -> Callable[[Record], object] | str | None:
    """Return what --drop says, for ``Log.compact``."""
    if len(patterns) < 2:
        return patterns[0] if patterns else None
    matches = re.compile("|".join(map(translate, patterns))).match
    return lambda record: matches(record.object_key)
