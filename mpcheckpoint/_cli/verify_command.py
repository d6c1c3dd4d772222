"""``mpcheckpoint verify``: read every byte of a store, and say what is damaged."""

from __future__ import annotations

import shlex
from collections import Counter
from typing import TYPE_CHECKING

import click

from mpcheckpoint._cli.checks import check_fields, check_progress, damage_lines, write_lines
from mpcheckpoint._cli.options import directory_option, json_option, keys_option
from mpcheckpoint._cli.terminal import (
    Exit,
    counted,
    flush_out,
    json_line,
    one_line,
    safe,
    shown_name,
    write_out,
)
from mpcheckpoint.maintenance import stray_files, verify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint.maintenance import LogCheck

_MOST_STRAYS = 5


@click.command("verify", short_help="Read every byte, and say what is damaged.")
@directory_option
@keys_option
@json_option
def verify_command(store: str, log_keys: tuple[str, ...], is_json: bool) -> int:
    """Read every byte of a store's logs and say what is damaged, and where.

    \b
    Example:
      mpcheckpoint verify --store run-42
      mpcheckpoint verify --store run-42 --json |
        jq -r 'select(.state == "corrupt") | .path'

    Writes nothing, takes no lock, and works while others write. A log is

    \b
      whole     all of it reads well;
      pending   all of it reads well, and a write is in progress at its end;
      poisoned  a sync of it failed, so it takes no appends until it is repaired;
      torn      a writer died in the middle of a write: the next writer cuts
                that off, or repair does;
      corrupt   bytes that were once on disk do not read as they were written.

    Of a backup it says, too, whether each log is as it was backed up: it may have been cut short, or written to.

    After a damage it goes on at the next line that can be proven, so it finds all damages. With --json there is one
    object a log, with its state and its damages: offset, length_bytes, verdict (torn or corrupt), expected, found, and
    records_behind: how many records after it can be proven.

    Exit codes: 0 all logs are whole or pending; 1 one is damaged, poisoned or cut short; 2 one could not be checked, or
    there is no such store or log.
    """
    keys = log_keys or None
    counts: Counter[str] = Counter()
    with check_progress("verify", store, keys) as progress:
        for check in verify(store, log_keys=keys, on_progress=progress.advance):
            progress.pause()
            counts.update(
                logs=1,
                records=check.records,
                bytes=check.size_bytes,
                unreadable=int(check.state == "unreadable"),
                damaged=int(not check.is_whole and check.state != "unreadable"),
                lossy=int(check.is_whole and check.loss is not None),
            )
            if is_json:
                write_out(json_line(check_fields(check)))
            else:
                write_lines(_lines(check))
    if not is_json:
        write_lines(_summary(store, keys, counts))
    flush_out()
    if counts["unreadable"]:
        return Exit.USAGE
    return Exit.FAILED if counts["damaged"] or counts["lossy"] else Exit.OK


def _lines(check: LogCheck) -> Iterator[str]:
    name = shown_name(check)
    if check.state == "unreadable":
        yield f"{name}: could not be checked: {safe(check.problem or '')}"
        return
    before = " before the damage" if check.damages else ""
    yield f"{name}: {check.state}, {counted(check.records, 'record')}{before}, {counted(check.size_bytes, 'byte')}"
    yield from damage_lines(check)
    if check.loss is not None:
        yield f"  not as it was backed up: {safe(check.loss)}"
    if check.poison is not None:
        yield f"  takes no appends since a sync failed: {safe(check.poison)}"
    if check.problem is not None:
        yield f"  {safe(check.problem)}"
    for note in check.notes:
        yield f"  note: {safe(note)}"


def _summary(store: str, log_keys: tuple[str, ...] | None, counts: Counter[str]) -> Iterator[str]:
    strays = stray_files(store) if log_keys is None else []
    if strays:
        shown = ", ".join(map(one_line, strays[:_MOST_STRAYS]))
        more = f" and {len(strays) - _MOST_STRAYS} more" if len(strays) > _MOST_STRAYS else ""
        yield f"note: not part of the store, and left alone: {shown}{more}"
    damaged, unreadable = counts["damaged"], counts["unreadable"]
    lossy = counts["lossy"]
    outcome = f"{damaged:,} damaged" if damaged or unreadable or lossy else "all whole"
    if unreadable:
        outcome += f", {unreadable:,} could not be checked"
    if lossy:
        outcome += f", {lossy:,} cut short"
    yield (
        f"{counted(counts['logs'], 'log')}, {counted(counts['records'], 'record')}, "
        f"{counted(counts['bytes'], 'byte')}: {outcome}"
    )
    if damaged:
        yield f"see what can be done: mpcheckpoint repair --store {safe(shlex.quote(store))}"
