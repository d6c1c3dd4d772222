"""``mpcheckpoint results``: what a map has recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from mpcheckpoint import Checkpoint
from mpcheckpoint._cli.options import json_option, key_option, store_option
from mpcheckpoint._cli.terminal import EXIT_OK, flush_out, safe, write_out
from mpcheckpoint._work.runs import current_run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint import Outcome

_INDENT = "    "


@click.command("results", short_help="Print what a map has recorded.")
@store_option
@key_option
@click.option("--failed", "only_failed", is_flag=True, help="Only items that failed.")
@json_option
def results_command(store: str, log_key: str, only_failed: bool, is_json: bool) -> int:
    """Print what a map has recorded so far, in the order in which the items were first recorded.

    \b
    Example:
      mpcheckpoint results --store run-42 --key lines --failed
      mpcheckpoint results --store run-42 --key lines --json | jq -r 'select(.ok) | .item'

    Works while the map runs, and disturbs it in no way. Bytes that are not UTF-8 are written \\xNN.

    With --json each object has item, object_key, ok, error, duration_s and value; of a command the value has exit_code
    and output and, if that was cut, output_end and left_out_bytes.

    Exit codes: 0, or 2 for a store or log that cannot be read or that no map has run on.
    """
    with Checkpoint(store, read_only=True) as checkpoint:
        log = checkpoint.log(log_key, create=False)
        if log.look(current_run) is None:
            raise click.ClickException(f"no map has run on the log {log_key!r} of {store}")
        for outcome in log.results():
            if not (only_failed and outcome.ok):
                write_out(_json(outcome) if is_json else "".join(_text(outcome)).encode())
    flush_out()
    return EXIT_OK


def _json(outcome: Outcome) -> bytes:
    fields = {
        "item": outcome.item,
        "object_key": outcome.object_key,
        "ok": outcome.ok,
        "error": outcome.error,
        "duration_s": outcome.duration_s,
        "value": outcome.value,
    }
    return msgspec.json.encode(fields) + b"\n"


def _text(outcome: Outcome) -> Iterator[str]:
    cause, _, where = (outcome.error or "").partition("\n")
    item = safe(outcome.object_key.replace("\n", "\\n"))
    yield f"{'ok    ' if outcome.ok else 'failed'} {outcome.duration_s:9.3f} s  {item}"
    yield f"  ({safe(cause)})\n" if cause else "\n"
    yield from _indented(where)
    value = outcome.value
    if isinstance(value, dict) and "exit_code" in value:
        yield from _output(value)
    elif outcome.ok:
        yield from _indented(msgspec.json.encode(value).decode())


def _output(value: dict[str, Any]) -> Iterator[str]:
    yield from _indented(str(value.get("output", "")))
    if "left_out_bytes" in value:
        yield f"{_INDENT}[{value['left_out_bytes']} bytes were not kept]\n"
        yield from _indented(str(value.get("output_end", "")))


def _indented(text: str) -> Iterator[str]:
    for line in text.splitlines():
        yield f"{_INDENT}{safe(line)}\n"
