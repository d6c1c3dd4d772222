"""``mpcheckpoint import``: records from JSON Lines, and from the files of the older tool."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

import click

from mpcheckpoint import Checkpoint
from mpcheckpoint._cli.byte_progress import ByteProgress
from mpcheckpoint._cli.known_keys import shown_keys
from mpcheckpoint._cli.maps.interrupts import Interrupts, Stopped
from mpcheckpoint._cli.options import LocalPath, json_option, store_option
from mpcheckpoint._cli.terminal import (
    EXIT_FAILED,
    EXIT_OK,
    counted,
    flush_out,
    json_line,
    safe,
    say,
    write_out,
)
from mpcheckpoint.errors import CheckpointError, LogNotFoundError, StoreNotFoundError, shell_text
from mpcheckpoint.maintenance import import_lines, import_older_file, older_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpcheckpoint import Log
    from mpcheckpoint.errors import BadLineError
    from mpcheckpoint.maintenance import Imported, OlderFile

STANDARD_INPUT = "-"


class _Options(NamedTuple):
    """What the command line asked for."""

    store: str
    name: str | None
    object_field: str
    event_field: str | None
    is_skipping: bool
    is_dry_run: bool
    is_json: bool


class _Job(NamedTuple):
    """One source: the log it goes to, what it is called to people, its size if that is known, and how to import it."""

    log_key: str
    shown: str
    size_bytes: int | None
    run: Callable[
        [Log | None, Callable[[Imported], object], Callable[[BadLineError], object] | None], Imported
    ]


@click.command("import", short_help="Import JSON Lines, or files of the older tool.")
@store_option
@click.option(
    "--key",
    "log_key",
    metavar="KEY",
    help="The log to import into. Of a directory: only the files of that log.",
)
@click.option(
    "--object",
    "object_field",
    metavar="FIELD",
    help="The field that is the object key. [default: object_key]",
)
@click.option(
    "--event",
    "event_field",
    metavar="FIELD",
    help="The field that is the event. [default: event; with --object, the whole line]",
)
@click.option("--as", "name", metavar="NAME", help="What the source is called. [default: its path]")
@click.option("--skip-bad", "is_skipping", is_flag=True, help="Report lines that are no records, and go on.")
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Read and judge everything, import nothing.")
@json_option
@click.argument(
    "sources",
    nargs=-1,
    required=True,
    metavar="SOURCE...",
    type=LocalPath("source", "it is read from a file: give its path", exists=True, allow_dash=True),
)
def import_command(  # noqa: PLR0913 - the options
    *,
    store: str,
    log_key: str | None,
    object_field: str | None,
    event_field: str | None,
    name: str | None,
    is_skipping: bool,
    is_dry_run: bool,
    is_json: bool,
    sources: tuple[str, ...],
) -> int:
    """Append the records of each SOURCE to a log, once: a file of JSON Lines, - for standard input, or a directory.

    \b
    Example:
      mpcheckpoint import --store run-42 --key photos --object id --event status photos.jsonl
      zcat photos.jsonl.gz | mpcheckpoint import --store run-42 --key photos --as photos.jsonl -
      mpcheckpoint import --store run-42 old-run/.checkpoint

    Of a directory, the files of the older checkpoint tool are imported (KEY and unix seconds as their name, one object
    {object key: event} a line), each into the log of its key. Of anything else, each line is an object; --object and
    --event say which of its fields count. The lines of a log of mpcheckpoint are imported as the records they are.

    Killed at any instant, by whatever, start the same line again: it carries on, and no record is there twice. What a
    source has grown by since is imported, too. A source that has changed before that place is refused. Nothing of a
    source is changed or removed.

    A line that is no record ends the import; what stands before it is imported. --skip-bad reports it and goes on. What
    stands behind the last newline and is no JSON is left for the next time: somebody may be writing it.

    With --json there is an object for each source, with source, key, records, records_before, known (records whose
    record ids the log had), skipped, skipped_before, offset_bytes and left_bytes.

    Exit codes: 0 all is imported, 1 all but lines that were skipped (now or before) or left, 2 bad usage, a bad line,
    or a source or store that cannot be used, 130 interrupted.
    """
    whole = event_field is None and object_field is not None
    options = _Options(
        store,
        name,
        object_field or "object_key",
        None if whole else event_field or "event",
        is_skipping,
        is_dry_run,
        is_json,
    )
    jobs = _jobs(options, log_key, sources)
    if STANDARD_INPUT in sources and sys.stdin is not None and sys.stdin.isatty():
        say("mpcheckpoint: reading records from the terminal, one a line; end with Ctrl-D")
    try:
        with Interrupts(), _without_advice():
            return _run(options, jobs)
    except KeyboardInterrupt as error:
        say("mpcheckpoint: interrupted; what was imported stays. Start the same line again to carry on")
        return 128 + (error.signal_number if isinstance(error, Stopped) else signal.SIGINT)
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise click.UsageError(str(error)) from error


@contextmanager
def _without_advice() -> Iterator[None]:
    """Let nobody be told how to import the older tool's files: that is what is done here."""
    logger = logging.getLogger("mpcheckpoint.older_files")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _jobs(options: _Options, log_key: str | None, sources: tuple[str, ...]) -> list[_Job]:
    """Return what is to be done, and refuse what cannot be before anything is."""
    if options.name is not None and (len(sources) > 1 or os.path.isdir(sources[0])):
        raise click.UsageError("--as is the name of one file, or of standard input; import one at a time")
    if sources.count(STANDARD_INPUT) and (options.name is None or sys.stdin is None):
        raise click.UsageError(
            "standard input has no name by which an import of it that was killed could be carried on: give it one, "
            "with --as NAME"
            if sys.stdin is not None
            else "cannot read the records: standard input is closed"
        )
    jobs: list[_Job] = []
    for source in sources:
        if source != STANDARD_INPUT and os.path.isdir(source):
            jobs += _jobs_of_directory(options, log_key, source)
        elif log_key is None:
            raise click.UsageError(f"--key is missing: the log to import {safe(source)} into")
        else:
            jobs.append(_job_of_file(options, log_key, source))
    return jobs


def _jobs_of_directory(options: _Options, log_key: str | None, directory: str) -> Iterator[_Job]:
    files = older_files(directory)
    wanted = [file for file in files if log_key is None or file.log_key == log_key]
    if not wanted:
        if files and log_key is not None:
            there_are = shown_keys({file.log_key for file in files}, log_key)
            raise click.UsageError(
                f"{safe(directory)} has no files of the older checkpoint tool for the key {log_key!r}; it has "
                f"{there_are}"
            )
        raise click.UsageError(
            f"there are no files of the older checkpoint tool in {safe(directory)}: their names are a key and "
            "the unix seconds of their creation, such as photos1612345678. To import other files, name them"
        )
    for file in wanted:
        yield _job_of_older_file(options, file)


def _job_of_older_file(options: _Options, file: OlderFile) -> _Job:
    return _Job(
        file.log_key,
        safe(file.path),
        file.size_bytes,
        lambda log, on_batch, on_bad: import_older_file(
            log, file, is_dry_run=options.is_dry_run, on_batch=on_batch, on_bad=on_bad
        ),
    )


def _job_of_file(options: _Options, log_key: str, source: str) -> _Job:
    is_input = source == STANDARD_INPUT
    return _Job(
        log_key,
        safe(options.name or source) if is_input else safe(source),
        os.path.getsize(source) if not is_input and os.path.isfile(source) else None,
        lambda log, on_batch, on_bad: import_lines(
            log,
            0 if is_input else source,
            name=options.name,
            object_field=options.object_field,
            event_field=options.event_field,
            is_dry_run=options.is_dry_run,
            on_batch=on_batch,
            on_bad=on_bad,
        ),
    )


def _run(options: _Options, jobs: list[_Job]) -> int:
    sizes = [job.size_bytes for job in jobs]
    total_bytes = None if None in sizes else sum(size or 0 for size in sizes)
    is_clean = True
    with ExitStack() as opened, ByteProgress("import", total_bytes) as progress:
        checkpoint = _checkpoint(options, opened)
        for job in jobs:
            done = _imported(options, job, _log(options, checkpoint, job.log_key), progress)
            is_clean = is_clean and not (done.skipped or done.skipped_before or done.left_bytes)
            write_out(_json(job, done) if options.is_json else _text(options, job, done))
    flush_out()
    return EXIT_OK if is_clean else EXIT_FAILED


def _checkpoint(options: _Options, opened: ExitStack) -> Checkpoint | None:
    """Return a handle on the store; None if there is none yet, and none is to be made."""
    try:
        return opened.enter_context(Checkpoint(options.store, read_only=options.is_dry_run))
    except StoreNotFoundError:
        if options.is_dry_run:
            return None
        raise


def _log(options: _Options, checkpoint: Checkpoint | None, log_key: str) -> Log | None:
    if checkpoint is None:
        return None
    try:
        return checkpoint.log(log_key, create=not options.is_dry_run)
    except LogNotFoundError:
        return None


def _imported(options: _Options, job: _Job, log: Log | None, progress: ByteProgress) -> Imported:
    shown_bytes = 0

    def on_batch(done: Imported) -> None:
        nonlocal shown_bytes
        progress.advance(done.offset_bytes - shown_bytes)
        shown_bytes = done.offset_bytes

    def on_bad(error: BadLineError) -> None:
        say(f"mpcheckpoint: skipped {safe(' '.join(shell_text(error).split()))}")

    done = job.run(log, on_batch, on_bad if options.is_skipping else None)
    if done.left_bytes:
        say(
            f"mpcheckpoint: {job.shown}: {counted(done.left_bytes, 'byte')} at its end, from offset "
            f"{done.offset_bytes}, {'is' if done.left_bytes == 1 else 'are'} no whole line, and "
            f"{'was' if done.left_bytes == 1 else 'were'} left: a writer may have been killed in it, or be in it now"
        )
    return done


def _json(job: _Job, done: Imported) -> bytes:
    fields = {
        "source": done.source,
        "key": job.log_key,
        "records": done.records,
        "records_before": done.records_before,
        "known": done.known,
        "skipped": done.skipped,
        "skipped_before": done.skipped_before,
        "offset_bytes": done.offset_bytes,
        "left_bytes": done.left_bytes,
    }
    return json_line(fields)


def _text(options: _Options, job: _Job, done: Imported) -> bytes:
    parts = [f"{counted(done.records, 'record')} {'would be ' if options.is_dry_run else ''}imported"]
    if done.records_before:
        parts.append(f"{done.records_before:,} before")
    if done.known:
        parts.append(f"{done.known:,} known by their record ids")
    if done.skipped:
        parts.append(f"{counted(done.skipped, 'line')} skipped")
    if done.skipped_before:
        parts.append(f"{done.skipped_before:,} skipped before")
    return f"{job.shown} -> {safe(job.log_key)}: {', '.join(parts)}\n".encode()
