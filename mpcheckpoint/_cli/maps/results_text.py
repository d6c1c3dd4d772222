"""Outcomes as ``results`` prints them, for people and for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from mpcheckpoint._cli.terminal import json_line, plural, safe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint import Outcome

_INDENT = "    "


def json_row(outcome: Outcome) -> bytes:
    """Return an outcome as a JSON object on a line."""
    fields = {
        "item": outcome.item,
        "object_key": outcome.object_key,
        "ok": outcome.ok,
        "error": outcome.error,
        "duration_s": outcome.duration_s,
        "attempts": outcome.attempts,
        "rerun": outcome.rerun,
        "version": outcome.version,
        "value": outcome.value,
    }
    return json_line(fields)


def text_of(outcome: Outcome) -> str:
    """Return an outcome as lines for people."""
    return "".join(_parts(outcome))


def _parts(outcome: Outcome) -> Iterator[str]:
    cause, _, where = (outcome.error or "").partition("\n")
    item = safe(outcome.object_key.replace("\n", "\\n"))
    yield f"{'ok    ' if outcome.ok else 'failed'} {outcome.duration_s:9.3f} s  {item}"
    facts = [cause] if cause else []
    if outcome.attempts > 1:
        facts.append(f"{outcome.attempts} attempts")
    if outcome.rerun is not None:
        facts.append(f"rerun {outcome.rerun}")
    yield f"  ({safe(', '.join(facts))})\n" if facts else "\n"
    yield from _indented(where)
    value = outcome.value
    if isinstance(value, dict) and "exit_code" in value:
        yield from _output(value)
    elif outcome.ok:
        yield from _indented(msgspec.json.encode(value).decode())


def _output(value: dict[str, Any]) -> Iterator[str]:
    yield from _indented(str(value.get("output", "")))
    if "left_out_bytes" in value:
        yield f"{_INDENT}{left_out_note(value)}\n"
        yield from _indented(str(value.get("output_end", "")))


def left_out_note(value: dict[str, Any]) -> str:
    """Return what stands in the place of the output that was not kept."""
    left_out = value["left_out_bytes"]
    return f"[{left_out} {plural(left_out, 'byte')} {'was' if left_out == 1 else 'were'} not kept]"


def _indented(text: str) -> Iterator[str]:
    for line in text.splitlines():
        yield f"{_INDENT}{safe(line)}\n"
