"""``mpcheckpoint doctor``: can this place hold a store?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from mpcheckpoint._cli.options import STORE_PLACE, json_option
from mpcheckpoint._cli.remembered import STORE_VARIABLE
from mpcheckpoint._cli.terminal import Exit, end_by_broken_pipe, flush_out, json_line, safe, write_out
from mpcheckpoint.maintenance import Finding, examine

if TYPE_CHECKING:
    from mpcheckpoint._postgres.address import Address

_EXIT_CODES = {"ok": Exit.OK, "warn": Exit.FAILED, "bad": Exit.USAGE}
_VERDICTS = {
    "ok": "this place can hold a store",
    "warn": "this place can hold a store; mind the warnings",
    "bad": "this place cannot hold a store as it is",
}


@click.command("doctor", short_help="Find out whether a place can hold a store.")
@json_option
@click.option("--store", metavar="STORE", type=STORE_PLACE, help="The same, as other commands take it.")
@click.argument("place", metavar="STORE", envvar=STORE_VARIABLE, type=STORE_PLACE, required=False)
@click.pass_context
def doctor_command(
    context: click.Context, place: str | Address | None, store: str | Address | None, is_json: bool
) -> int:
    """Find out whether STORE, a directory, can hold a store: locks, syncs, file system, space, limits, clock, and the
    store there. Or whether the server can at whose address it is: how durable it is set, and what this role may do.

    \b
    Example:
      mpcheckpoint doctor run-42
      mpcheckpoint doctor /mnt --json | jq -r 'select(.verdict != "ok") | .text'

    Takes about two seconds. Tries things in a temporary directory in STORE, and removes it. A store that is there is
    only read, and may be in use. If STORE does not exist, the directory above it is tried, and STORE is not created. A
    server is only asked. If STORE is not given, it is taken from MPCHECKPOINT_STORE.

    With --json each check is an object with check, verdict (ok, warn, bad), text and figures; the names of the figures
    have units.

    Exit codes: 0 all is well, 1 a store can be there, with warnings, 2 none can, or the one there cannot be used as
    it is, or bad usage.
    """

    place = _chosen(context, place, store)

    def show(finding: Finding) -> None:
        # Not `write_out`, which ends the process at a broken pipe: the temporary directory is to be removed first.
        sys.stdout.buffer.write(json_line(finding) if is_json else _text(finding))
        sys.stdout.buffer.flush()

    try:
        examination = examine(place, on_finding=show)
    except BrokenPipeError:
        end_by_broken_pipe()
    if not is_json:
        write_out(f"{_VERDICTS[examination.verdict]}\n".encode())
        flush_out()
    return _EXIT_CODES[examination.verdict]


def _chosen(
    context: click.Context, place: str | Address | None, store: str | Address | None
) -> str | Address:
    """Return the store that was given, in one way or the other."""
    if store is not None:
        if context.get_parameter_source("place") is ParameterSource.COMMANDLINE:
            raise click.UsageError("give STORE once: as it is, or as --store STORE", context)
        return store
    if place is None:
        argument = next(each for each in context.command.params if each.name == "place")
        raise click.MissingParameter(ctx=context, param=argument)
    return place


def _text(finding: Finding) -> bytes:
    text = safe(" ".join(finding.text.split()))
    return f"{finding.verdict:4}  {finding.check:11}  {text}\n".encode()
