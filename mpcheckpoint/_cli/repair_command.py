"""``mpcheckpoint repair``: show what can be done about damage, and do it if told to."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from mpcheckpoint._cli.checks import MOST_SHOWN, check_fields, check_progress, write_lines
from mpcheckpoint._cli.options import (
    directory_option,
    json_option,
    keys_option,
    lock_timeout_option,
    yes_option,
)
from mpcheckpoint._cli.terminal import Exit, counted, flush_out, json_line, safe, shown_name, write_out
from mpcheckpoint._cli.times import iso
from mpcheckpoint.errors import shell_text
from mpcheckpoint.maintenance import plan_repairs, repair

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint.maintenance import Damage, LeftOut, LogRepair


@click.command("repair", short_help="Repair damaged logs, keeping every byte that is taken out.")
@directory_option
@keys_option
@yes_option
@lock_timeout_option
@json_option
def repair_command(
    store: str, log_keys: tuple[str, ...], is_yes: bool, lock_timeout_s: float, is_json: bool
) -> int:
    """Say what can be done about the damage in a store, and, with --yes, do it.

    \b
    Example:
      mpcheckpoint repair --store run-42
      mpcheckpoint repair --store run-42 --yes

    A torn end is cut off, as the next append would do. A log that takes no appends since a sync failed is copied into a
    new generation. A corrupt log is copied as far as it can be proven: what precedes the damage, and after it each
    batch whose lines all fit the checksum of the line before. These records are right and in order. Nobody can say
    whether records are missing where the damage was; those places are listed.

    Every byte that is taken out is kept in .checkpoint/quarantine. If it is killed, each log is as it was or as it is
    to be: run it again. It waits for writers, and they go on afterwards. A copy needs free space.

    Exit codes: 0 nothing to do, or all done; 1 there is something to do and --yes was not given; 2 a log cannot be
    repaired, or there is no such store or log.
    """
    keys = log_keys or None
    todo = failed = done = 0
    with check_progress("repair", store, keys) as progress:
        repairs = (
            repair(store, log_keys=keys, lock_timeout_s=lock_timeout_s, on_progress=progress.advance)
            if is_yes
            else plan_repairs(store, log_keys=keys, on_progress=progress.advance)
        )
        for each in repairs:
            progress.pause()
            failed += each.action == "impossible" or each.error is not None
            done += each.is_done
            todo += each.action not in ("nothing", "impossible") and not each.is_done and each.error is None
            if is_json:
                write_out(json_line(_fields(each)))
            else:
                write_lines(_lines(each))
            flush_out()
    if not is_json:
        write_lines([_summary(store, keys, todo, done, failed)])
    flush_out()
    if failed:
        return Exit.USAGE
    return Exit.FAILED if todo else Exit.OK


def _summary(store: str, keys: tuple[str, ...] | None, todo: int, done: int, failed: int) -> str:
    if done or (failed and not todo):
        return f"{counted(done, 'log')} repaired{f', {failed} could not be' if failed else ''}"
    if not todo:
        return "nothing to repair"
    options = "".join(f" --key {shlex.quote(key)}" for key in keys or ())
    command = f"mpcheckpoint repair --store {shlex.quote(store)}{options} --yes"
    return f"nothing was changed; to repair {counted(todo, 'log')}: {safe(command)}"


def _lines(each: LogRepair) -> Iterator[str]:
    check = each.check
    if each.action == "nothing":
        return
    name = shown_name(check)
    if each.action == "impossible":
        yield f"{name}: {check.state}, and cannot be repaired: {safe(check.problem or '')}"
        return
    yield f"{name}: {check.state}; {_deed(each)}"
    if each.action == "salvage":
        gaps = [damage for damage in check.damages if not damage.is_mended and damage.length_bytes]
        yield from map(_gap, gaps[:MOST_SHOWN])
        if len(gaps) > MOST_SHOWN:
            yield f"  and at {counted(len(gaps) - MOST_SHOWN, 'place')} more (--json has up to 1,000)"
        if gaps:
            yield (
                "  if a forget was lost there, its objects are back: forget them again; "
                "if what a compaction dropped was counted there, counts are too low"
            )
        yield from map(_left_out, each.left_out[:MOST_SHOWN])
        if len(each.left_out) > MOST_SHOWN:
            yield f"  and at {counted(len(each.left_out) - MOST_SHOWN, 'place')} more (--json has all)"
    for kept in each.repairs[:MOST_SHOWN]:
        yield f"  kept {counted(kept.length_bytes, 'byte')} in {safe(kept.path)}"
    if each.error is not None:
        yield f"  not done: {safe(shell_text(each.error))}"


def _deed(each: LogRepair) -> str:
    kept = counted(each.records_kept, "record")
    verb = "was" if each.is_done else "is to be"
    if each.action == "cut":
        taken = (
            f"{counted(each.removed_bytes, 'byte')} at offset {each.removed[0][0]}" if each.removed else ""
        )
        return f"the torn end ({taken}) {verb} cut off and kept in quarantine; the log keeps {kept}"
    if each.action == "recover":
        return f"{verb} recovered: a new generation with the same {kept}, which takes appends again"
    taken = f"{counted(each.removed_bytes, 'byte')} in {counted(len(each.removed), 'place')}"
    return f"{verb} salvaged: a new generation with {kept}; {taken} {'went' if each.is_done else 'go'} to quarantine"


def _gap(damage: Damage) -> str:
    if damage.after_us is not None and damage.before_us is not None:
        when = f" between {iso(damage.after_us)} and {iso(damage.before_us)}"
    elif damage.after_us is not None:
        when = f" after {iso(damage.after_us)}"
    else:
        when = f" before {iso(damage.before_us)}" if damage.before_us is not None else ""
    length = counted(damage.length_bytes, "byte")
    return f"  lost: {length} at offset {damage.offset}; records{when} may be missing"


def _left_out(left: LeftOut) -> str:
    keys = ", ".join(map(repr, left.object_keys[:3]))
    more = ", ..." if len(left.object_keys) > 3 else ""
    of = f" of {keys}{more}" if keys else ""
    return safe(f"  left out: {counted(left.records, 'record')}{of} at offset {left.offset}: {left.why}")


def _fields(each: LogRepair) -> dict[str, Any]:
    return check_fields(each.check) | {
        "action": each.action,
        "is_done": each.is_done,
        "records_kept": each.records_kept,
        "removed": [{"offset": offset, "length_bytes": length} for offset, length in each.removed],
        "removed_bytes": each.removed_bytes,
        "left_out": each.left_out,
        "repairs": [
            {"offset": kept.offset, "length_bytes": kept.length_bytes, "path": kept.path}
            for kept in each.repairs
        ],
        "new_generation": each.generation,
        "error": None if each.error is None else shell_text(each.error),
    }
