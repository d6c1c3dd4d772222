"""``mpcheckpoint compact``: show what would be dropped from logs, and drop it if told to."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from mpcheckpoint import Checkpoint
from mpcheckpoint._cli.checks import QUICK_S, write_lines
from mpcheckpoint._cli.compact_table import table_lines
from mpcheckpoint._cli.interrupts import Interrupts, exit_code_of
from mpcheckpoint._cli.options import (
    byte_rate,
    json_option,
    keys_option,
    lock_timeout_option,
    store_option,
    yes_option,
)
from mpcheckpoint._cli.progress import ByteProgress
from mpcheckpoint._cli.rule_options import drop_options, drop_rule, keep_ids_option
from mpcheckpoint._cli.terminal import (
    Exit,
    counted,
    flush_out,
    is_screen,
    json_line,
    safe,
    say,
    say_error,
    write_out,
)
from mpcheckpoint._engines import listing, store_at
from mpcheckpoint._postgres.address import Address
from mpcheckpoint.errors import CheckpointError, shell_text
from mpcheckpoint.maintenance import size_in_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint import Compaction

_PASSES = 2
_NO_RULE = (
    "say what may go: --keep-last N, --older-than DURATION, --drop PATTERN, --purge, or --superseded (only what nobody "
    "asks for any more)"
)


class _Options(NamedTuple):
    """What the command line asked for: ``rules`` are arguments of ``Log.compact``."""

    store: str | Address
    log_keys: tuple[str, ...] | None
    is_yes: bool
    is_json: bool
    lock_timeout_s: float
    rules: dict[str, Any]


@click.command("compact", short_help="Make logs smaller by dropping what you name.")
@store_option
@keys_option
@drop_options
@click.option(
    "--purge",
    is_flag=True,
    help="Leave no byte of what was forgotten, and nothing of what repairs cut off, in quarantine.",
)
@yes_option
@keep_ids_option
@click.option(
    "--limit-rate",
    type=byte_rate,
    metavar="RATE",
    help="Read no more than so many bytes a second: 500k, 20M, 1G.",
)
@lock_timeout_option
@json_option
def compact_command(
    *,
    store: str | Address,
    log_keys: tuple[str, ...],
    is_yes: bool,
    is_json: bool,
    lock_timeout_s: float,
    patterns: tuple[str, ...],
    is_superseded: bool,
    **rules: Any,
) -> int:
    """Say what can be dropped from the logs of a store, and, with --yes, drop it.

    \b
    Example:
      mpcheckpoint compact --store run-42 --key photos --keep-last 1
      mpcheckpoint compact --store run-42 --key photos --keep-last 1 --yes
      mpcheckpoint compact --store run-42 --superseded --yes

    Records that are dropped are not given any more; what is left keeps its order and its time. Counts, record ids,
    positions and those who follow a log go on as if nothing had been dropped. Age is told by the clock, or by the
    newest record if that is older. A * in PATTERN matches any characters, also /.

    Nobody asks any more for claims of workers that are gone, for outcomes of a map that later ones of the same run
    replaced, with their attempts, for notes of imports that later ones replaced, and for what was forgotten
    (mpcheckpoint forget): these are always dropped. What repairs have cut off a log is kept in quarantine; --purge
    removes that, too.

    Other processes may read and append meanwhile. If it is killed, each log is as it was or as it is to be: run it
    again. It needs free space for a copy of what is left, and the right to write, without --yes too. The table has
    bytes, records and objects, each as it is and as it is left; a ~ marks an estimate.

    With --json there is one object a log, with log_key, bytes_before, bytes_after, records_before, records_after,
    objects_before, objects_after, longest_wait_s (of an append), is_changed, purged_bytes and error.

    Exit codes: 0 nothing to drop, or all done; 1 there is something to drop and --yes was not given; 2 a log cannot be
    compacted, or there is no such store or log.
    """
    is_ruled = rules["keep_last"] is not None or rules["newer_than_s"] is not None or rules["purge"]
    if not is_ruled and not patterns and not is_superseded:
        raise click.UsageError(_NO_RULE)
    rules |= {"drop": drop_rule(patterns), "dry_run": not is_yes}
    options = _Options(store, log_keys or None, is_yes, is_json, lock_timeout_s, rules)
    try:
        with Interrupts():
            return _run(options)
    except KeyboardInterrupt as error:
        say("mpcheckpoint: interrupted; each log is as it was, or compacted whole")
        return exit_code_of(error)


def _run(options: _Options) -> int:
    found: list[Compaction] = []
    has_failed = False
    total_bytes = _PASSES * _size_in_bytes(options)
    try:
        with (
            ByteProgress("compact", total_bytes, quiet_s=QUICK_S) as progress,
            Checkpoint(options.store, create=False, lock_timeout_s=options.lock_timeout_s) as checkpoint,
        ):
            for log_key, problem in _logs(options):
                try:
                    if problem is not None:
                        raise problem
                    done = _compacted(checkpoint, log_key, options, progress)
                except CheckpointError as error:
                    has_failed = True
                    progress.pause()
                    _tell_failure(log_key, error, options)
                    continue
                found.append(done)
                if options.is_json:
                    progress.pause()
                    write_out(json_line({**asdict(done), "error": None}))
                    flush_out()
    finally:
        if found and not options.is_json:
            write_lines(table_lines(found, is_plan=not options.is_yes, is_fitted=is_screen(sys.stdout)))
            flush_out()
    is_due = any(each.bytes_after < each.bytes_before and not each.is_changed for each in found)
    is_due |= any(each.purged_bytes for each in found) and not options.is_yes
    if not options.is_json and not has_failed:
        write_lines(_summary(found, is_due=is_due and not options.is_yes))
    flush_out()
    if has_failed:
        return Exit.USAGE
    return Exit.FAILED if is_due and not options.is_yes else Exit.OK


def _size_in_bytes(options: _Options) -> int:
    if not isinstance(options.store, Address):
        return size_in_bytes(options.store, log_keys=options.log_keys)
    store = store_at(options.store)
    return sum(store.find_log(log_key).size_bytes() for log_key in options.log_keys or store.log_keys())


def _logs(options: _Options) -> Iterator[tuple[str | None, CheckpointError | None]]:
    """Yield the key of each log, or None and why it cannot be told."""
    if options.log_keys is not None:
        yield from ((log_key, None) for log_key in dict.fromkeys(options.log_keys))
        return
    for _, log in listing(store_at(options.store)):
        yield (log, None) if isinstance(log, str) else (None, log)


def _compacted(
    checkpoint: Checkpoint, log_key: str | None, options: _Options, progress: ByteProgress
) -> Compaction:
    assert log_key is not None
    shown_bytes = expected_bytes = 0

    def on_progress(done_bytes: int, total_bytes: int) -> None:
        nonlocal shown_bytes, expected_bytes
        # Where there is little room the log is read once more, and the total grows.
        expected_bytes = expected_bytes or total_bytes
        so_far_bytes = max(shown_bytes, done_bytes * expected_bytes // total_bytes)
        progress.advance(so_far_bytes - shown_bytes)
        shown_bytes = so_far_bytes

    done = checkpoint.log(log_key, create=False).compact(**options.rules, on_progress=on_progress)
    # The header, and the second pass where there was nothing to drop.
    progress.advance(_PASSES * done.bytes_before - shown_bytes)
    return done


def _tell_failure(log_key: str | None, error: CheckpointError, options: _Options) -> None:
    if options.is_json:
        write_out(json_line({"log_key": log_key, "is_changed": False, "error": shell_text(error)}))
        flush_out()
    else:
        say_error(error)


def _summary(found: list[Compaction], *, is_due: bool) -> Iterator[str]:
    done = [each for each in found if each.is_changed]
    for each in found:
        if each.purged_bytes:
            what = f"{counted(each.purged_bytes, 'byte')} that repairs cut off"
            yield f"{safe(each.log_key)}: {what}: {'to be removed' if is_due else 'removed'} from quarantine"
    if is_due:
        yield "nothing was changed; the same line with --yes does it"
    elif not done:
        yield "nothing to drop"
    else:
        freed = sum(each.bytes_before - each.bytes_after for each in done)
        change = f"{counted(freed, 'byte')} freed" if freed >= 0 else f"{counted(-freed, 'byte')} more"
        yield f"{counted(len(done), 'log')} compacted, {change}"
        yield f"appends waited {max(each.longest_wait_s for each in done):.3f} s at most"
