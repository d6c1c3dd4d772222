"""``mpcheckpoint report``: a page that shows what the maps of a store did."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mpcheckpoint._cli.known_keys import keys_in, shown_keys
from mpcheckpoint._cli.options import keys_option, store_option
from mpcheckpoint._cli.terminal import Exit, counted, safe, say, say_error
from mpcheckpoint._cli.whole_file import STDOUT, begins, put_out, require_earlier
from mpcheckpoint._report.making import Report, report_of
from mpcheckpoint._report.page import BEGINNING

if TYPE_CHECKING:
    from mpcheckpoint._postgres.address import Address

_INSTALL = "a report takes jinja2, which is not installed: pip install 'mpcheckpoint[report]'"


@click.command("report", short_help="Make a page of what the maps of a store did.")
@store_option
@keys_option
@click.option("-o", "--output", required=True, metavar="FILE", help="The page; - for standard output.")
def report_command(store: str | Address, log_keys: tuple[str, ...], output: str) -> int:
    """Make one HTML page that shows what the maps of a store did: to look at, to keep, to send to somebody.

    \b
    Example:
      mpcheckpoint report --store run-42 -o report.html

    It shows, for each log: counts, when which worker was at work, the gaps in which nothing ran, how many items ended a
    second, how long they took, the failed and the slowest items with their output, and a table of all items that can be
    sorted and filtered. The file holds all it needs: it fetches nothing and works without a network, on a phone and in
    the dark. Without scripts it shows the counts and the failed items. Output is cut to 2,000 characters.

    Works while a map runs, and does not disturb it: it writes nothing into the store, and takes no lock. FILE is
    replaced, if it is an earlier report.

    It takes jinja2: pip install 'mpcheckpoint[report]'.

    Exit codes: 0; 1 if a log is damaged or cannot be read: the page shows what can; 2 bad usage, a store or log
    that cannot be read or that no map has run on.
    """
    require_earlier(output, begins(BEGINNING.encode()), "report", safe(output))
    try:
        report = report_of(store, log_keys)
    except ImportError as error:
        if error.name != "jinja2":
            raise
        raise click.ClickException(_INSTALL) from None
    for damage in report.damages:
        say_error(damage)
    if report.page is None:
        if report.damages:
            return Exit.USAGE
        raise click.ClickException(_none_ran(store, log_keys, report))
    put_out(output, report.page.encode("utf-8", "backslashreplace"), safe(output))
    if output != STDOUT:
        say(f"mpcheckpoint: {safe(output)} shows {counted(len(report.log_keys), 'log')}")
    return Exit.FAILED if report.damages else Exit.OK


def _none_ran(store: str | Address, log_keys: tuple[str, ...], report: Report) -> str:
    if not report.without_map:
        return f"{store} has no logs yet: there is nothing to report"
    if not log_keys:
        return f"no map has run on any log of {store}"
    others = [key for key in keys_in(store) if key not in log_keys]
    there_are = f"; it has also {shown_keys(others, log_keys[0])}" if others else ""
    return f"no map has run on {', '.join(map(repr, report.without_map))} of {store}{there_are}"
