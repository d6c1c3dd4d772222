"""Outcomes as text: for people, for programs, and the bare output for ``map --print``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec

from mpcheckpoint._cli.terminal import json_line, one_line, plural, safe
from mpcheckpoint._cli.times import iso
from mpcheckpoint._format.byte_text import to_bytes

if TYPE_CHECKING:
    from mpcheckpoint import Outcome

_INDENT = "    "


def json_row(outcome: Outcome) -> bytes:
    """Return an outcome as a line of JSON."""
    return json_line(
        {
            "item": outcome.item,
            "object_key": outcome.object_key,
            "ok": outcome.ok,
            "error": outcome.error,
            "began": iso(outcome.began_us),
            "ended": iso(outcome.ended_us),
            "duration_s": outcome.duration_s,
            "attempts": outcome.attempts,
            "worker": outcome.worker,
            "rerun": outcome.rerun,
            "version": outcome.version,
            "value": outcome.value,
        }
    )


def failure_line(outcome: Outcome) -> str:
    """Return which item failed, and why, in one line."""
    cause = (outcome.error or "").partition("\n")[0]
    return one_line(f"{outcome.object_key}: {cause}")


def text_of(outcome: Outcome) -> str:
    """Return an outcome as lines for people."""
    cause, _, where = (outcome.error or "").partition("\n")
    facts = [cause] if cause else []
    if outcome.attempts > 1:
        facts.append(f"{outcome.attempts} attempts")
    if outcome.rerun is not None:
        facts.append(f"rerun {outcome.rerun}")
    text = (
        f"{'ok    ' if outcome.ok else 'failed'} {outcome.duration_s:9.3f} s  {one_line(outcome.object_key)}"
    )
    text += f"  ({safe(', '.join(facts))})\n" if facts else "\n"
    text += _indented(where)
    value = outcome.value
    if isinstance(value, dict) and "exit_code" in value:
        text += _indented(str(value.get("output", "")))
        if "left_out_bytes" in value:
            text += f"{_INDENT}{_left_out_note(value)}\n" + _indented(str(value.get("output_end", "")))
    elif outcome.ok:
        text += _indented(msgspec.json.encode(value).decode())
    return text


def print_output(outcome: Outcome, tag: bytes | None = None) -> None:
    """Print an item's output byte by byte, whole, and flush it.

    With ``tag``, each line begins with that and a tab, and the last line ends.

    An item that was done before is printed from its record. So the same line, started again after a kill, prints all.

    Raises:
        BrokenPipeError: nobody reads it any more.
    """
    value = outcome.value
    if not isinstance(value, dict):
        return
    text = to_bytes(str(value.get("output", "")))
    if "left_out_bytes" in value:
        text += f"\n{_left_out_note(value)}\n".encode() + to_bytes(str(value.get("output_end", "")))
    if tag is not None and text:
        prefix = tag.replace(b"\n", b"\\n") + b"\t"
        text = prefix + text.removesuffix(b"\n").replace(b"\n", b"\n" + prefix) + b"\n"
    # Not `write_out`, which ends the process at a broken pipe: what runs is to be given back first.
    sys.stdout.buffer.write(text)
    sys.stdout.buffer.flush()


def _left_out_note(value: dict[str, Any]) -> str:
    left_out = value["left_out_bytes"]
    return f"[{left_out} {plural(left_out, 'byte')} {'was' if left_out == 1 else 'were'} not kept]"


def _indented(text: str) -> str:
    return "".join(f"{_INDENT}{safe(line)}\n" for line in text.splitlines())
