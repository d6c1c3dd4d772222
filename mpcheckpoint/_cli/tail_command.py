"""``mpcheckpoint tail``: the last records, and the next ones."""

from __future__ import annotations

import select
import sys
from typing import TYPE_CHECKING

import click

from mpcheckpoint._cli.options import json_option, keys_option, store_option
from mpcheckpoint._cli.record_lines import event_text, record_fields
from mpcheckpoint._cli.terminal import (
    Exit,
    end_by_broken_pipe,
    flush_out,
    json_line,
    one_line,
    say_error,
    write_out,
)
from mpcheckpoint._cli.times import iso, since_option
from mpcheckpoint._maintenance.readable import ReadableLogs
from mpcheckpoint._view.merged_read import Choice

if TYPE_CHECKING:
    from mpcheckpoint import Cursor, Record
    from mpcheckpoint._postgres.address import Address

_USUAL_LINES = 10
# While no record comes, look this often whether the reader of our output has gone.
_LOOK_EVERY_S = 1.0


@click.command("tail", short_help="Print the last records, and follow.")
@store_option
@keys_option
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), metavar="N", help="How many records. [default: 10]"
)
@click.option("-f", "--follow", "is_following", is_flag=True, help="Go on with new records, until Ctrl-C.")
@since_option
@json_option
def tail_command(
    store: str | Address,
    log_keys: tuple[str, ...],
    lines: int | None,
    is_following: bool,
    since_us: int | None,
    is_json: bool,
) -> int:
    """Print the last records of all logs, in the merged order: time, log, object, event.

    \b
    Example:
      mpcheckpoint tail -f --store run-42
      mpcheckpoint tail --store run-42 --key lines --since 5m --json | jq .event

    TIME is ISO 8601 (local if it names no zone), @ and unix seconds, or an age: 10s, 5m, 1h30m, 3d, 1w. With --since
    all records from that time on are printed, or with -n the last of these.

    With -f it goes on with the records that any process appends to any log, new logs included: in the order of each
    log, and between logs as it finds them. It waits even if the store has no log yet.

    With --json each object has time, stamp_us, log_key, object_key, event, record_id and position.

    Reads only the end of each log, if that will do. Writes nothing, and disturbs no writer. If a log cannot be read
    (damaged, of another user), what can be read of it is printed, then what is wrong with it; -f goes on with the
    others.

    Exit codes: 0; 2 if something cannot be read, after all that can; 130 if Ctrl-C ended -f.
    """
    last = _USUAL_LINES if lines is None and since_us is None else lines
    try:
        logs = ReadableLogs(store, log_keys=log_keys or None, on_failure=say_error)
        reading = logs.read(Choice(since_us=since_us or 0), last=last)
        for record in reading:
            _print(record, is_json)
        flush_out()
        logs.tell()
        if is_following:
            _follow(logs, reading.cursor, is_json)
    except KeyboardInterrupt:
        if not is_following:
            raise
        return Exit.INTERRUPTED
    finally:
        flush_out()
    return Exit.USAGE if logs.failures else Exit.OK


def _follow(logs: ReadableLogs, cursor: Cursor, is_json: bool) -> None:
    """Print records for ever. While none come, look whether our output still has a reader."""
    with logs.follow(cursor, idle_timeout_s=_LOOK_EVERY_S) as follower:
        while True:
            for record in follower:
                _print(record, is_json)
                flush_out()
            if _is_output_broken():
                end_by_broken_pipe()


def _is_output_broken() -> bool:
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # errors are reported unasked
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _print(record: Record, is_json: bool) -> None:
    if is_json:
        write_out(json_line(record_fields(record)))
    else:
        place = f"{iso(record.stamp_us)}  {one_line(record.log_key)}  {one_line(record.object_key)}"
        write_out(f"{place}  {event_text(record.event)}\n".encode())
