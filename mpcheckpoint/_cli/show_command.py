"""``mpcheckpoint show``: what happened to an object, or which objects there are."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from mpcheckpoint._cli.options import json_option, keys_option, store_option
from mpcheckpoint._cli.record_lines import event_text, record_fields
from mpcheckpoint._cli.show_lines import PIPED, Shape, terminal_shape
from mpcheckpoint._cli.terminal import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_USAGE,
    flush_out,
    json_line,
    one_line,
    say,
    say_error,
    write_out,
)
from mpcheckpoint._cli.times import iso, since_option, until_option
from mpcheckpoint._maintenance.readable import ReadableLogs
from mpcheckpoint._view.merged_read import Choice

if TYPE_CHECKING:
    from mpcheckpoint import ObjectSummary, Record

_LATEST_US = (1 << 53) - 1
# In a list an event is cut off behind so many characters.
_MOST_SHOWN = 60


@click.command("show", short_help="Print what happened to an object, or list the objects.")
@click.argument("object_key", metavar="[OBJECT]", required=False)
@store_option
@keys_option
@since_option
@until_option
@click.option("--match", metavar="GLOB", help="Only objects whose key matches: 'photo*'. Without OBJECT.")
@json_option
def show_command(
    object_key: str | None,
    store: str,
    log_keys: tuple[str, ...],
    since_us: int | None,
    until_us: int | None,
    match: str | None,
    is_json: bool,
) -> int:
    """Print the events of OBJECT in the merged order: time, log@offset, event. Without OBJECT, list the objects in the
    order in which they were first recorded: count, time and text of the last event.

    \b
    Example:
      mpcheckpoint show --store run-42
      mpcheckpoint show photo123 --store run-42 --since 2h
      mpcheckpoint show --store run-42 --match 'photo1*' --json | jq -r 'select(.count > 1) | .object_key'

    TIME is ISO 8601 (local if it names no zone), @ and unix seconds, or an age: 10s, 5m, 1h30m, 3d, 1w. An OBJECT that
    begins with a dash comes behind --.

    With --json each event has time, stamp_us, log_key, object_key, event, record_id and position; each object of a list
    has object_key, count, first_time, first_us, and its last event with these fields as last.

    On a narrow terminal times get shorter, then names and, in the list, events; a pipe gets all.

    Reads the logs. Writes nothing, and disturbs nobody who writes. Of a log that cannot be read (damaged, of another
    user) what can be read is printed, after that what is wrong with it.

    Exit codes: 0; 1 if there is no such event; 2 if something cannot be read, after all that can.
    """
    if object_key is not None and match is not None:
        raise click.UsageError("--match chooses from the list of objects: leave it out, or OBJECT")
    if since_us is not None and until_us is not None and since_us > until_us:
        raise click.UsageError("--since is later than --until")
    since_us, until_us = since_us or 0, _LATEST_US if until_us is None else until_us
    choice = Choice(object_key, since_us, until_us)
    shape = terminal_shape() if sys.stdout.isatty() else PIPED
    logs = ReadableLogs(store, log_keys=log_keys or None, on_failure=say_error)
    count = 0
    try:
        if object_key is None:
            for summary in logs.objects(choice, match):
                count += 1
                write_out(_object_json(summary) if is_json else _object_text(summary, shape))
        else:
            for record in logs.read(choice):
                count += 1
                write_out(json_line(record_fields(record)) if is_json else _record_text(record, shape))
    finally:
        flush_out()
    logs.tell()
    if logs.failures:
        return EXIT_USAGE
    if count:
        return EXIT_OK
    what = "no object" if object_key is None else f"no event of {one_line(object_key)!r}"
    say(f"mpcheckpoint: {what} {_where(store, log_keys)}")
    return EXIT_FAILED


def _where(store: str, log_keys: tuple[str, ...]) -> str:
    return f"in {', '.join(map(one_line, log_keys))} of {store}" if log_keys else f"in {store}"


def _record_text(record: Record, shape: Shape) -> bytes:
    place = shape.place(f"{one_line(record.log_key)}@{record.position.offset}")
    return f"{shape.event_time(record.stamp_us)}  {place}  {event_text(record.event)}\n".encode()


def _object_json(summary: ObjectSummary) -> bytes:
    return json_line(
        {
            "object_key": summary.object_key,
            "count": summary.count,
            "first_time": iso(summary.first_us),
            "first_us": summary.first_us,
            "last": record_fields(summary.last),
        }
    )


def _object_text(summary: ObjectSummary, shape: Shape) -> bytes:
    last = summary.last
    event = event_text(last.event)
    if len(event) > _MOST_SHOWN:
        event = event[: _MOST_SHOWN - 3] + "..."
    line = shape.object_line(summary.count, last.stamp_us, one_line(summary.object_key), event)
    return f"{line}\n".encode()
