"""``mpcheckpoint top``: a live screen of a store."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import click

from mpcheckpoint._cli.options import keys_option, store_option
from mpcheckpoint._cli.terminal import Exit, flush_out, is_screen, write_out
from mpcheckpoint._cli.times import duration_above_0
from mpcheckpoint._cli.top.snapshot import snapshot_lines
from mpcheckpoint._maintenance.monitoring.store_monitor import StoreMonitor

if TYPE_CHECKING:
    from mpcheckpoint._postgres.address import Address

_INTERVAL_S = 1.0
_LEAST_INTERVAL_S = 0.1
_INSTALL = (
    "the live screen takes textual, which is not installed: pip install 'mpcheckpoint[top]'; "
    "--once prints one look without it"
)


def _interval(text: str) -> float:
    return max(_LEAST_INTERVAL_S, duration_above_0(text))


@click.command("top", short_help="Watch what happens in a store.")
@store_option
@keys_option
@click.option("--once", "is_once", is_flag=True, help="Print one look as plain lines, and end.")
@click.option(
    "--interval",
    "interval_s",
    type=_interval,
    default=str(_INTERVAL_S),
    metavar="DURATION",
    show_default=True,
    help="Look so often; with --once, count for so long.",
)
def top_command(store: str | Address, log_keys: tuple[str, ...], is_once: bool, interval_s: float) -> int:
    """Show the logs of a store as they are used: a live screen, on a terminal.

    \b
    Example:
      mpcheckpoint top --store run-42
      mpcheckpoint top --store run-42 --once

    For each log: appends and syncs a second (of the last 5 seconds, of all processes), how many processes have it open
    to append and how many only to read, and who holds its append lock. For each map: how far it is, how fast, what runs
    and where. And the last failures. Processes of other users are seen by root only.

    \b
    Keys:
      up, down   choose a log        enter   all about it; escape: back
      s          sort by the next column     r   the other way round
      p          pause, go on        q       quit

    Reads each log once, and then what is new. Writes nothing, takes no lock, and does not slow writers: it does not
    even ask for the times of a log.

    The screen takes textual: pip install 'mpcheckpoint[top]'. --once does not.

    Exit codes: 0; 2 bad usage, no terminal (without --once), or a store or log that cannot be read; 130 interrupted.
    """
    with closing(StoreMonitor(store, log_keys)) as monitor:
        if is_once:
            monitor.look()
            time.sleep(interval_s)
            write_out("".join(f"{line}\n" for line in snapshot_lines(monitor.look())).encode())
            flush_out()
            return Exit.OK
        if not all(map(is_screen, (sys.stdin, sys.stdout, sys.stderr))):
            raise click.UsageError("a live screen takes a terminal, and this is none; --once prints one look")
        try:
            from mpcheckpoint._cli.top.screen import TopApp  # noqa: PLC0415 - an extra, which only this needs
        except ImportError as error:
            if error.name is None or error.name.partition(".")[0] != "textual":
                raise
            raise click.ClickException(_INSTALL) from None
        code = TopApp(monitor, interval_s).run(mouse=True)
        return Exit.USAGE if code is None else code
