"""``mpcheckpoint ls``: the logs of a store, and how they are."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from mpcheckpoint import maintenance
from mpcheckpoint._cli.ls_columns import COLUMNS, LONG_COLUMNS, Column
from mpcheckpoint._cli.options import json_option, keys_option, store_option
from mpcheckpoint._cli.terminal import Exit, flush_out, is_screen, json_line, say, say_error, write_out
from mpcheckpoint._cli.times import TimeForm, iso
from mpcheckpoint.errors import shell_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpcheckpoint._postgres.address import Address
    from mpcheckpoint.maintenance import LogSurvey

_BAD = frozenset({"corrupt", "poisoned"})
_FIELDS = (
    *("log_key", "path", "state", "states", "error", "records", "objects", "size_bytes"),
    *("first_time", "first_us", "last_time", "last_us", "batches", "stated_syncs", "repairs"),
    *("lock", "waiters", "holder_pid", "holder_command", "is_holder_stopped"),
)


@click.command("ls", short_help="List the logs of a store, and how they are.")
@store_option
@keys_option
@click.option(
    "-l", "--long", "is_long", is_flag=True, help="More: appends, syncs, repairs, and who holds the lock."
)
@json_option
def ls_command(store: str | Address, log_keys: tuple[str, ...], is_long: bool, is_json: bool) -> int:
    """List the logs of a store: records, objects, bytes, times of the first and the last record, state.

    \b
    Example:
      mpcheckpoint ls --store run-42
      mpcheckpoint ls -l --store run-42 --key lines
      mpcheckpoint ls --store run-42 --json |
        jq -r 'select(.state != "whole") | .log_key'

    \b
    States, the worst one shown:
      whole       all is well
      pending     bytes after the end, perhaps of a write in progress
      torn        a dying writer left bytes, never acknowledged; the next
                  writer cuts them off and keeps them
      poisoned    a sync failed; no appends until it is repaired (mpcheckpoint
                  repair)
      corrupt     bytes are damaged (mpcheckpoint verify); the figures count
                  what precedes the damage
      unreadable  a newer version, a file of another name, no permission, or a
                  failing disk

    -l adds what the log itself tells of all processes: appends (a batch is one), syncs and repairs of torn ends. It
    also adds how many processes wait for the append lock and which one holds it ("?" if that cannot be told).

    With --json each object has log_key, path, state, states, error, records, objects, size_bytes, first_time, first_us,
    last_time, last_us, batches, stated_syncs, repairs, lock, waiters, holder_pid, holder_command and is_holder_stopped.

    On a narrow terminal, times get shorter (at last an age, such as 5m or 3d), then names; then columns are left out.
    A pipe gets all.

    Reads every log. Writes nothing, takes no lock, and disturbs no writer.

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
            _show(found, LONG_COLUMNS if is_long else COLUMNS)
            flush_out()
    for log in found:
        if log.error is not None and not is_json:
            say_error(log.error)
    if not found:
        say(f"mpcheckpoint: {store} has no logs yet")
    if any(log.state == "unreadable" for log in found):
        return Exit.USAGE
    return Exit.FAILED if any(_BAD.intersection(log.states) for log in found) else Exit.OK


def _fields(log: LogSurvey) -> dict[str, Any]:
    told = {
        "error": None if log.error is None else shell_text(log.error),
        "first_time": None if log.first_us is None else iso(log.first_us),
        "last_time": None if log.last_us is None else iso(log.last_us),
    }
    return {name: told[name] if name in told else getattr(log, name) for name in _FIELDS}


def _show(logs: Sequence[LogSurvey], columns: Sequence[Column]) -> None:
    if is_screen(sys.stdout):
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
