"""``mpcheckpoint restore``: show what going back to a backup would change, and do it if told to."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mpcheckpoint._cli.checks import write_lines
from mpcheckpoint._cli.options import (
    LocalPath,
    directory_option,
    json_option,
    lock_timeout_option,
    yes_option,
)
from mpcheckpoint._cli.progress import ByteProgress
from mpcheckpoint._cli.terminal import Exit, counted, flush_out, json_line, one_line, safe, write_out
from mpcheckpoint._cli.times import iso
from mpcheckpoint.maintenance import plan_restore, restore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint.maintenance import LogRestore

_QUIET_S = 0.5


@click.command("restore", short_help="Put a backup in the place of a store.")
@click.argument(
    "backup", metavar="BACKUP", type=LocalPath("backup", "a backup is a directory: give its path")
)
@directory_option
@yes_option
@lock_timeout_option
@json_option
def restore_command(backup: str, store: str, is_yes: bool, lock_timeout_s: float, is_json: bool) -> int:
    """Say what going back to BACKUP would change in a store, and, with --yes, do it.

    \b
    Example:
      mpcheckpoint restore --store run-42 /backups/run-42
      mpcheckpoint restore --store run-42 /backups/run-42 --yes

    The store becomes what it was when the backup was made; where there is none, it is made. What was recorded since,
    and logs that the backup does not have, go to .checkpoint/quarantine. The backup is only read.

    Stop the programs that use the store first. Those that go on read its logs anew; a reader that had got further than
    the backup is told so, for other records come in the place of those that it has seen.

    Exit codes: 0 nothing to do, or all done; 1 there is something to do and --yes was not given; 2 it is no backup of
    this store, the backup is damaged, or the store cannot be used.
    """
    if is_yes:
        with ByteProgress("restore", None, quiet_s=_QUIET_S) as progress:
            logs = restore(backup, store, lock_timeout_s=lock_timeout_s, on_progress=progress.advance)
    else:
        logs = plan_restore(backup, store)
    todo = sum(log.action != "nothing" and not log.is_done for log in logs)
    if is_json:
        for log in logs:
            write_out(json_line(asdict(log)))
    else:
        write_lines(line for log in logs for line in _lines(log))
        write_lines([_summary(backup, store, sum(log.is_done for log in logs), todo)])
    flush_out()
    return Exit.FAILED if todo else Exit.OK


def _lines(log: LogRestore) -> Iterator[str]:
    if log.action == "nothing":
        return
    verb = "was" if log.is_done else "is to be"
    until = "" if log.until_us is None else f", as of {iso(log.until_us, timespec='seconds')}"
    removed = f"; {counted(log.removed_bytes, 'byte')} of now taken out" if log.removed_bytes else ""
    yield f"{one_line(log.log_key) or repr('')}: {verb} {log.action}{until}{removed}"
    if log.kept_in is not None:
        yield f"  kept in {safe(log.kept_in)}"


def _summary(backup: str, store: str, done: int, todo: int) -> str:
    if done:
        return f"{counted(done, 'log')} restored"
    if not todo:
        return "nothing to restore: the store is as the backup is"
    command = f"mpcheckpoint restore --store {shlex.quote(store)} {shlex.quote(backup)} --yes"
    return f"nothing was changed; to restore {counted(todo, 'log')}: {safe(command)}"
