"""``mpcheckpoint ls``: the logs of a store, and how they are."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from mpcheckpoint import maintenance
from mpcheckpoint._cli.options import json_option, keys_option, store_option
from mpcheckpoint._cli.record_lines import one_line
from mpcheckpoint._cli.terminal import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_USAGE,
    flush_out,
    json_line,
    say,
    say_error,
    write_out,
)
from mpcheckpoint._cli.times import TimeForm, in_form, iso
from mpcheckpoint.errors import shell_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpcheckpoint.maintenance import LogSurvey

_BAD = frozenset({"corrupt", "poisoned"})
_UNKNOWN = "-"


class Column(NamedTuple):
    """One column of the table."""

    name: str
    short_name: str
    is_number: bool
    text: Callable[[LogSurvey, TimeForm], str]
    is_name: bool = False


def _number(value: int | None) -> str:
    return _UNKNOWN if value is None else str(value)


def _time(stamp_us: int | None, form: TimeForm) -> str:
    return _UNKNOWN if stamp_us is None else in_form(stamp_us, form)


def _name(log: LogSurvey) -> str:
    return one_line(os.path.basename(log.path) if log.log_key is None else log.log_key) or "''"


def _holder(log: LogSurvey) -> str:
    if log.holder_pid is None:
        return _UNKNOWN if log.lock == "free" else "?"
    stopped = " (stopped)" if log.is_holder_stopped else ""
    return f"{log.holder_pid}{stopped} {one_line(log.holder_command or '(gone)')}"


_COLUMNS = (
    Column("KEY", "KEY", False, lambda log, _: _name(log), is_name=True),
    Column("RECORDS", "RECS", True, lambda log, _: str(log.records)),
    Column("OBJECTS", "OBJS", True, lambda log, _: str(log.objects)),
    Column("BYTES", "BYTES", True, lambda log, _: _number(log.size_bytes)),
    Column("FIRST", "FIRST", False, lambda log, form: _time(log.first_us, form)),
    Column("LAST", "LAST", False, lambda log, form: _time(log.last_us, form)),
    Column("STATE", "STATE", False, lambda log, _: log.state),
)
_MORE_COLUMNS = (
    Column("APPENDS", "APP", True, lambda log, _: str(log.batches)),
    Column("SYNCS", "SYN", True, lambda log, _: str(log.stated_syncs)),
    Column("REPAIRS", "REP", True, lambda log, _: _number(log.repairs)),
    Column("WAITERS", "WAIT", True, lambda log, _: _number(log.waiters)),
    Column("HOLDER", "HOLDER", False, lambda log, _: _holder(log), is_name=True),
)


@click.command("ls", short_help="List the logs of a store, and how they are.")
@store_option
@keys_option
@click.option(
    "-l", "--long", "is_long", is_flag=True, help="More: appends, syncs, repairs, and who holds the lock."
)
@json_option
def ls_command(store: str, log_keys: tuple[str, ...], is_long: bool, is_json: bool) -> int:
    """List the logs of a store: records, objects, bytes, time of the first and of the last record, state.

    \b
    Example:
      mpcheckpoint ls --store run-42
      mpcheckpoint ls -l --store run-42 --key lines
      mpcheckpoint ls --store run-42 --json | jq -r 'select(.state != "whole") | .log_key'

    \b
    States, the worst one shown:
      whole       all is well
      pending     bytes behind the end that may be a write in progress
      torn        bytes that a dying writer left, never acknowledged; the next writer cuts them off and keeps them
      poisoned    a sync failed; no appends until it is recovered (mpcheckpoint repair)
      corrupt     bytes are damaged; see mpcheckpoint verify; the figures are of what stands before the damage
      unreadable  a newer version, a file of another name, no permission, a failing disk

    -l adds appends (a batch is one) and syncs, of all processes, as far as the log itself tells; repairs of torn ends;
    how many wait for the append lock, and which process holds it ("?" if that cannot be told).

    With --json each object has log_key, path, state, states, error, records, objects, size_bytes, first_time, first_us,
    last_time, last_us, batches, stated_syncs, repairs, lock, waiters, holder_pid, holder_command and is_holder_stopped.

    On a narrow terminal times get shorter (at last an age, such as 5m or 3d), then names, and of -l what does not fit
    is left out; a pipe gets all.

    Reads every log. Writes nothing, takes no lock, and disturbs nobody who writes.

    Exit codes: 0, also with torn ends; 1 if a log is corrupt or poisoned; 2 if one, or the store, cannot be read.
    """
    found: list[LogSurvey] = []
    try:
        for log in maintenance.survey(store, log_keys=log_keys or None):
            found.append(log)
            if is_json:
                write_out(json_line(_fields(log)))
                flush_out()
    finally:
        if not is_json and found:
            _show(found, (*_COLUMNS, *_MORE_COLUMNS) if is_long else _COLUMNS)
            flush_out()
    for log in found:
        if log.error is not None and not is_json:
            say_error(log.error)
    if not found:
        say(f"mpcheckpoint: {store} has no logs yet")
    if any(log.state == "unreadable" for log in found):
        return EXIT_USAGE
    return EXIT_FAILED if any(_BAD.intersection(log.states) for log in found) else EXIT_OK


def _fields(log: LogSurvey) -> dict[str, Any]:
    return {
        "log_key": log.log_key,
        "path": log.path,
        "state": log.state,
        "states": log.states,
        "error": None if log.error is None else shell_text(log.error),
        "records": log.records,
        "objects": log.objects,
        "size_bytes": log.size_bytes,
        "first_time": None if log.first_us is None else iso(log.first_us),
        "first_us": log.first_us,
        "last_time": None if log.last_us is None else iso(log.last_us),
        "last_us": log.last_us,
        "batches": log.batches,
        "stated_syncs": log.stated_syncs,
        "repairs": log.repairs,
        "lock": log.lock,
        "waiters": log.waiters,
        "holder_pid": log.holder_pid,
        "holder_command": log.holder_command,
        "is_holder_stopped": log.is_holder_stopped,
    }


def _show(logs: Sequence[LogSurvey], columns: Sequence[Column]) -> None:
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        from mpcheckpoint._cli.log_table import show_table  # noqa: PLC0415 - rich takes a while to import

        show_table(columns, logs)
        return
    rows = [[column.text(log, TimeForm.FULL) for column in columns] for log in logs]
    rows.insert(0, [column.name for column in columns])
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if column.is_number else cell.ljust(width)
            for column, cell, width in zip(columns, row, widths, strict=True)
        ]
        write_out("  ".join(cells).rstrip().encode() + b"\n")
