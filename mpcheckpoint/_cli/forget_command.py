"""``mpcheckpoint forget``: have logs as if nothing had been recorded of some objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mpcheckpoint import Checkpoint
from mpcheckpoint._cli.checks import write_lines
from mpcheckpoint._cli.options import json_option, keys_option, lock_timeout_option, store_option, yes_option
from mpcheckpoint._cli.terminal import Exit, counted, flush_out, json_line, safe, write_out

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint import Log, Position
    from mpcheckpoint._postgres.address import Address


@click.command("forget", short_help="Forget what is recorded of some objects.")
@store_option
@keys_option
@yes_option
@lock_timeout_option
@json_option
@click.argument("object_keys", metavar="OBJECT...", nargs=-1, required=True)
def forget_command(
    *,
    store: str | Address,
    log_keys: tuple[str, ...],
    is_yes: bool,
    lock_timeout_s: float,
    is_json: bool,
    object_keys: tuple[str, ...],
) -> int:
    """Say what is recorded of objects, and, with --yes, forget it, log by log.

    \b
    Example:
      mpcheckpoint forget --store run-42 --key photos photo17
      mpcheckpoint forget --store run-42 --key photos --yes photo17
      mpcheckpoint compact --store run-42 --key photos --purge --yes

    From then on no process sees anything of the objects, and their counts begin at 0. Their records stay in the files,
    where tail and show find them, until the next compact. After compact --purge no byte of them is left in
    the store.

    With --json there is one object a log that holds something of them, with log_key, objects (how many of them), events
    (how many) and is_forgotten.

    Exit codes: 0 nothing is recorded of them, or all is forgotten; 1 something is recorded and --yes was not given; 2 a
    log cannot be written, or there is no such store or log.
    """
    with Checkpoint(store, create=False, lock_timeout_s=lock_timeout_s, read_only=not is_yes) as checkpoint:
        is_due, unknown = False, dict.fromkeys(object_keys)
        for log in _logs(checkpoint, log_keys):
            counts = {each: count for each in dict.fromkeys(object_keys) if (count := log.count(each))}
            if not counts:
                continue
            for each in counts:
                unknown.pop(each, None)
            position = log.forget(counts) if is_yes else None
            is_due |= position is None
            _tell(log, counts, position, is_json=is_json)
        if not is_json:
            write_lines(_unknown(list(unknown), len(set(object_keys))))
            write_lines(["nothing was changed; the same line with --yes does it"] if is_due else [])
    flush_out()
    return Exit.FAILED if is_due else Exit.OK


def _logs(checkpoint: Checkpoint, log_keys: tuple[str, ...]) -> Iterator[Log]:
    for log_key in dict.fromkeys(log_keys) or checkpoint.logs():
        yield checkpoint.log(log_key, create=False)


def _unknown(object_keys: list[str], asked: int) -> Iterator[str]:
    if not object_keys:
        return
    if len(object_keys) == asked:
        yield f"nothing is recorded of {'it' if asked == 1 else 'them'}"
        return
    for each in object_keys:
        yield f"{safe(each)}: nothing is recorded of it"


def _tell(log: Log, counts: dict[str, int], position: Position | None, *, is_json: bool) -> None:
    events = sum(counts.values())
    if is_json:
        found = {"log_key": log.log_key, "objects": len(counts), "events": events}
        write_out(json_line({**found, "is_forgotten": position is not None}))
        return
    what = f"{counted(len(counts), 'object')}, {counted(events, 'event')}"
    write_lines([f"{safe(log.log_key)}: {what}{' forgotten' if position is not None else ''}"])
