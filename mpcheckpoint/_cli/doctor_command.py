"""``mpcheckpoint doctor``: can this place hold a store?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

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
@click.argument("place", metavar="STORE", envvar=STORE_VARIABLE, type=STORE_PLACE)
def doctor_command(place: str | Address, is_json: bool) -> int:
    """Find out whether STORE, a directory, can hold a store: locks, syncs, file system, space, limits, clock, and the
    store there. Or whether the server can at whose address it is: how durable it is set, above all.

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


def _text(finding: Finding) -> bytes:
    text = safe(" ".join(finding.text.split()))
    return f"{finding.verdict:4}  {finding.check:11}  {text}\n".encode()
