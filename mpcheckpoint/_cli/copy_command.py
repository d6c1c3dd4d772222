"""``mpcheckpoint copy``: the logs of a store into another one, between a directory and a server too."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mpcheckpoint._cli.checks import write_lines
from mpcheckpoint._cli.options import STORE_PLACE, byte_rate, json_option, lock_timeout_option, store_option
from mpcheckpoint._cli.progress import ByteProgress
from mpcheckpoint._cli.terminal import Exit, counted, flush_out, json_line, one_line, safe, say, write_out
from mpcheckpoint.maintenance import copy_store

if TYPE_CHECKING:
    from mpcheckpoint._postgres.address import Address

_QUIET_S = 0.5


@click.command("copy", short_help="Copy a store into another one, from a directory to a server too.")
@click.argument("target", metavar="TARGET", type=STORE_PLACE)
@store_option
@click.option(
    "--limit-rate", metavar="RATE", type=byte_rate, help="Copy at most so many bytes a second: 500K, 20M."
)
@lock_timeout_option
@json_option
def copy_command(
    target: str | Address, store: str | Address, limit_rate: int | None, lock_timeout_s: float, is_json: bool
) -> int:
    """Copy all logs of a store, as they are at one moment, into the store TARGET, which is made if need be.

    \b
    Example:
      mpcheckpoint copy --store run-42 postgresql://db.example/jobs#run-42
      mpcheckpoint copy --store run-42 run-43

    Records keep their order, stamps and ids, counts go on, maps go on where they were, and cursors stay valid: programs
    can go on with TARGET. Stop them first. Claims end.

    TARGET must have no log of the same key. If the copy fails, or is killed, the logs that it has are whole, and the
    same command goes on with the rest, if nothing was appended to the store since.

    Exit codes: 0 all is there; 1 the logs could not be locked and may not belong together; 2 TARGET has other logs of
    these keys, a log is damaged, or a store cannot be used.
    """
    with ByteProgress("copy", None, quiet_s=_QUIET_S) as progress:
        done = copy_store(
            store, target, limit_rate=limit_rate, on_progress=progress.advance, lock_timeout_s=lock_timeout_s
        )
    if is_json:
        for log in done.logs:
            write_out(json_line(asdict(log)))
    else:
        counts = Counter(log.action for log in done.logs)
        before = f", {counts['there already']:,} there already" if counts["there already"] else ""
        write_lines(f"{one_line(log.log_key) or repr('')}: {log.action}" for log in done.logs)
        write_lines([f"{counted(counts['copied'], 'log')} copied into {safe(done.target)}{before}"])
    flush_out()
    if not done.is_of_one_moment:
        say("mpcheckpoint: note: this user may not lock the logs, so they may not be of one moment")
    return Exit.OK if done.is_of_one_moment else Exit.FAILED
