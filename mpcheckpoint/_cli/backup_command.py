"""``mpcheckpoint backup``: copy a store, or what is new in it, while others write to it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from mpcheckpoint._cli.checks import write_lines
from mpcheckpoint._cli.options import LocalPath, byte_rate, json_option, lock_timeout_option, store_option
from mpcheckpoint._cli.progress import ByteProgress
from mpcheckpoint._cli.rule_options import drop_options, drop_rule, keep_ids_option
from mpcheckpoint._cli.terminal import Exit, counted, flush_out, json_line, one_line, safe, say, write_out
from mpcheckpoint._cli.times import iso
from mpcheckpoint.checkpoint import Checkpoint
from mpcheckpoint.errors import shell_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint._postgres.address import Address
    from mpcheckpoint.maintenance import BackedUpLog, Backup

_QUIET_S = 0.5


@click.command("backup", short_help="Back up a store while others write to it.")
@click.argument(
    "directory", metavar="DIRECTORY", type=LocalPath("backup", "a backup is a directory: give its path")
)
@store_option
@click.option(
    "--limit-rate", metavar="RATE", type=byte_rate, help="Copy at most so many bytes a second: 500K, 20M."
)
@click.option(
    "--skip-damaged",
    is_flag=True,
    help="Leave out logs that are corrupt or cannot be read. [default: refuse]",
)
@click.option(
    "--compact",
    "is_compact",
    is_flag=True,
    help="Leave out what nobody asks for any more, and what the next options name. The store stays as it is.",
)
@drop_options
@keep_ids_option
@lock_timeout_option
@json_option
def backup_command(
    *,
    directory: str,
    store: str | Address,
    lock_timeout_s: float,
    is_json: bool,
    is_compact: bool,
    patterns: tuple[str, ...],
    is_superseded: bool,
    **options: Any,
) -> int:
    """Back up all logs of a store into DIRECTORY, as they are at one moment. Programs go on writing.

    \b
    Example:
      mpcheckpoint backup --store run-42 /backups/run-42
      mpcheckpoint backup --store run-42 /archive/run-42 --compact --keep-last 1

    The first backup copies all; later ones add what is new, so run it as often as you like. Every byte is proven before
    it is written. DIRECTORY is a store then: verify, ls and show read it. Do not write to it; to go back to it, use
    restore.

    If it fails or is interrupted, the backup is as it was. If it is killed, the next one goes on from what was there
    before.

    With --compact each log is compacted while it is copied, as mpcheckpoint compact would do it; the store stays as it
    is. A log from which something was dropped is copied anew each time. After a restore the store has dropped it, too.

    Exit codes: 0 all is backed up; 1 logs were left out (with --skip-damaged only), or the logs could not be locked and
    may not belong together; 2 a log is damaged, the place cannot take the backup, or the store cannot be used.
    """
    rules = {name: options.pop(name) for name in ("keep_last", "newer_than_s", "keep_ids_s")}
    is_ruled = rules["keep_last"] is not None or rules["newer_than_s"] is not None
    if (is_ruled or patterns or is_superseded) and not is_compact:
        raise click.UsageError("these options say what --compact leaves out: give that, too")
    with (
        Checkpoint(store, create=False, log_keys=(), lock_timeout_s=lock_timeout_s) as checkpoint,
        ByteProgress("backup", None, quiet_s=_QUIET_S) as progress,
    ):
        done = checkpoint.backup(
            directory,
            **options,
            on_progress=progress.advance,
            compact={**rules, "drop": drop_rule(patterns)} if is_compact else False,
        )
    if is_json:
        write_out(json_line(_fields(done)))
    else:
        write_lines(_lines(done))
    flush_out()
    for error in done.left_out:
        say(f"mpcheckpoint: left out: {one_line(shell_text(error))}")
    return Exit.OK if done.is_of_one_moment else Exit.FAILED


def _lines(done: Backup) -> Iterator[str]:
    for log in done.logs:
        if log.action != "unchanged":
            yield f"{one_line(log.log_key) or repr('')}: {_deed(log)}"
    for name in done.kept:
        yield f"{safe(name)}: kept, though the store has no such log any more"
    if not done.is_of_one_moment and not done.left_out:
        yield "note: this user may not lock the logs, so they may not be of one moment"
    counts = Counter(log.action for log in done.logs)
    unchanged = f", {counts['unchanged']:,} unchanged" if counts["unchanged"] else ""
    left_out = f", {len(done.left_out):,} left out" if done.left_out else ""
    yield (
        f"{counted(len(done.logs), 'log')} as of {iso(done.cut_us, timespec='seconds')} in {safe(done.directory)}: "
        f"{counted(done.copied_bytes, 'byte')} copied{unchanged}{left_out}"
    )


def _deed(log: BackedUpLog) -> str:
    if log.action == "extended":
        return f"{counted(log.copied_bytes, 'byte')} added, {log.size_bytes:,} in all"
    return f"{counted(log.size_bytes, 'byte')}, {log.action}"


def _fields(done: Backup) -> dict[str, Any]:
    return {
        "directory": done.directory,
        "cut_us": done.cut_us,
        "is_of_one_moment": done.is_of_one_moment,
        "copied_bytes": done.copied_bytes,
        "logs": [
            {
                "log_key": log.log_key,
                "action": log.action,
                "size_bytes": log.size_bytes,
                "copied_bytes": log.copied_bytes,
            }
            for log in done.logs
        ],
        "left_out": [shell_text(error) for error in done.left_out],
        "kept": list(done.kept),
    }
