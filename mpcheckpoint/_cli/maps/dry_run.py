"""``mpcheckpoint map --dry-run``: which items would run. Writes nothing, not even a lock."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from mpcheckpoint import Checkpoint
from mpcheckpoint._cli.terminal import Exit, flush_out, plural, say, write_out
from mpcheckpoint._work.inputs import NotYet
from mpcheckpoint._work.reruns import history_of
from mpcheckpoint._work.runs import join_run, state_of
from mpcheckpoint.errors import LogNotFoundError, StoreNotFoundError
from mpcheckpoint.log import handle_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._cli.maps.job import Items, Job
    from mpcheckpoint._work.inputs import Input

_PAUSE_S = 0.02


def dry_run(job: Job, items: Items) -> int:
    """Print the items that ``map`` would run now, as they were read; return the exit code."""
    separator = b"\0" if job.is_null_separated else b"\n"
    seen: set[str] = set()  # an item that is given twice would run once
    would_run = 0
    with ExitStack() as opened:
        is_pending = _pending_rule(job, opened)
        for entry in job.inputs(items):
            if isinstance(entry, NotYet):
                time.sleep(_PAUSE_S)
            elif entry.object_key not in seen:
                seen.add(entry.object_key)
                if is_pending(entry):
                    if would_run == 0 and items.header is not None:
                        write_out(items.header + separator)  # what is printed is a table again
                    would_run += 1
                    line = entry.item if isinstance(entry.item, bytes) else entry.item.line
                    write_out(line + separator)
    flush_out()
    if items.problem is not None:
        raise click.ClickException(items.problem)
    say(f"mpcheckpoint: {would_run} of {len(seen)} {plural(len(seen), 'item')} would run; this was a dry run")
    return Exit.OK


def _pending_rule(job: Job, opened: ExitStack) -> Callable[[Input], bool]:
    """Return a function that tells whether an item is not done. One that runs elsewhere now counts as not done."""
    try:
        checkpoint = opened.enter_context(Checkpoint(job.store, read_only=True))
        log = handle_of(checkpoint.log(job.log_key, create=False))
    except (StoreNotFoundError, LogNotFoundError):
        return lambda entry: True
    run = join_run(log, job.version, **job.choice, is_dry_run=True)
    again, runs = job.again(run), log.query(history_of).by_number

    def is_pending(entry: Input) -> bool:
        state = log.query(lambda view: state_of(view, run, entry.object_key, log.workers))
        return state.outcome is None or (again is not None and again.voids(state, entry, runs))

    return is_pending
