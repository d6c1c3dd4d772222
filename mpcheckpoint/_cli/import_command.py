"""``mpcheckpoint import``: records from JSON Lines, and from the files of the older tool."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from mpcheckpoint import Checkpoint
from mpcheckpoint._cli.interrupts import Interrupts, exit_code_of
from mpcheckpoint._cli.known_keys import shown_keys
from mpcheckpoint._cli.options import LocalPath, json_option, store_option
from mpcheckpoint._cli.progress import ByteProgress
from mpcheckpoint._cli.terminal import Exit, counted, flush_out, json_line, safe, say, write_out
from mpcheckpoint.errors import CheckpointError, LogNotFoundError, StoreNotFoundError, shell_text
from mpcheckpoint.maintenance import OlderFile, import_lines, import_older_file, older_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint import Log
    from mpcheckpoint._postgres.address import Address
    from mpcheckpoint.errors import BadLineError
    from mpcheckpoint.maintenance import Imported

_STDIN = "-"


class _Options(NamedTuple):
    """What the command line asked for."""

    store: str | Address
    name: str | None
    object_field: str
    event_field: str | None
    is_skipping: bool
    is_dry_run: bool
    is_json: bool


class _Import(NamedTuple):
    """One source, the log it goes to, its name for people, and its size if that is known."""

    source: str | OlderFile
    log_key: str
    shown: str
    size_bytes: int | None


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
@click.option("--as", "name", metavar="NAME", help="The name of the source. [default: its path]")
@click.option("--skip-bad", "is_skipping", is_flag=True, help="Report lines that are no records, and go on.")
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Read and check everything, import nothing.")
@json_option
@click.argument(
    "sources",
    nargs=-1,
    required=True,
    metavar="SOURCE...",
    type=LocalPath("source", "it is read from a file: give its path", exists=True, allow_dash=True),
)
def import_command(
    *,
    sources: tuple[str, ...],
    log_key: str | None,
    object_field: str | None,
    event_field: str | None,
    **others: Any,
) -> int:
    """Append the records of each SOURCE to a log, once: a file of JSON Lines, - for standard input, or a directory.

    \b
    Example:
      mpcheckpoint import --store run-42 --key photos \\
        --object id --event status photos.jsonl
      zcat photos.jsonl.gz |
        mpcheckpoint import --store run-42 --key photos --as photos.jsonl -
      mpcheckpoint import --store run-42 old-run/.checkpoint

    Of a directory, the files of the older checkpoint tool are imported (their name is KEY and unix seconds, each line
    an object {object key: event}), each into the log of its key. In any other source each line is an object; --object
    and --event name its fields. The lines of a log of mpcheckpoint are imported as the records they are.

    If it is killed at any instant, start the same line again: it carries on, and no record comes twice. It also imports
    what was added to the end of a source. A source that has changed in the imported part is refused. No source is
    changed or removed.

    A line that is no record ends the import; the lines before it are imported. --skip-bad reports it and goes on. Bytes
    after the last newline that are no JSON are left for the next import: a writer may not be done with them.

    With --json there is an object for each source, with source, key, records, records_before, known (records whose
    record ids the log had), skipped, skipped_before, offset_bytes and left_bytes.

    Exit codes: 0 all is imported, 1 all but lines that were skipped (now or before) or left, 2 bad usage, a bad line,
    or a source or store that cannot be used, 130 interrupted.
    """
    whole = event_field is None and object_field is not None
    event_field = None if whole else event_field or "event"
    options = _Options(object_field=object_field or "object_key", event_field=event_field, **others)
    imports = _imports(options, log_key, sources)
    if _STDIN in sources and sys.stdin is not None and sys.stdin.isatty():
        say("mpcheckpoint: reading records from the terminal, one a line; end with Ctrl-D")
    try:
        with Interrupts(), _without_advice():
            return _run(options, imports)
    except KeyboardInterrupt as error:
        say("mpcheckpoint: interrupted; what was imported stays. Start the same line again to carry on")
        return exit_code_of(error)
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise click.UsageError(str(error)) from error


@contextmanager
def _without_advice() -> Iterator[None]:
    """Silence the advice to import the older tool's files: this does it."""
    logger = logging.getLogger("mpcheckpoint.older_files")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _imports(options: _Options, log_key: str | None, sources: tuple[str, ...]) -> list[_Import]:
    """Return what is to be imported. Refuse what cannot be, before anything is done."""
    if options.name is not None and (len(sources) > 1 or os.path.isdir(sources[0])):
        raise click.UsageError("--as is the name of one file, or of standard input; import one at a time")
    if _STDIN in sources and sys.stdin is None:
        raise click.UsageError("cannot read the records: standard input is closed")
    if _STDIN in sources and options.name is None:
        raise click.UsageError(
            "standard input has no name, and an import of it that is killed could not carry on: give it one, with "
            "--as NAME"
        )
    imports: list[_Import] = []
    for source in sources:
        if source != _STDIN and os.path.isdir(source):
            imports += _of_directory(log_key, source)
        elif log_key is None:
            raise click.UsageError(f"--key is missing: the log to import {safe(source)} into")
        else:
            size_bytes = os.path.getsize(source) if source != _STDIN and os.path.isfile(source) else None
            shown = safe(options.name or source) if source == _STDIN else safe(source)
            imports.append(_Import(source, log_key, shown, size_bytes))
    return imports


def _of_directory(log_key: str | None, directory: str) -> list[_Import]:
    files = older_files(directory)
    wanted = [file for file in files if log_key is None or file.log_key == log_key]
    if not wanted and files and log_key is not None:
        raise click.UsageError(
            f"{safe(directory)} has no files of the older checkpoint tool for the key {log_key!r}; it has "
            f"{shown_keys({file.log_key for file in files}, log_key)}"
        )
    if not wanted:
        raise click.UsageError(
            f"there are no files of the older checkpoint tool in {safe(directory)}, named like photos1612345678 (key "
            "and unix seconds). To import other files, name them"
        )
    return [_Import(file, file.log_key, safe(file.path), file.size_bytes) for file in wanted]


def _run(options: _Options, imports: list[_Import]) -> int:
    sizes = [each.size_bytes for each in imports]
    total_bytes = None if None in sizes else sum(size or 0 for size in sizes)
    is_clean = True
    with ExitStack() as opened, ByteProgress("import", total_bytes) as progress:
        checkpoint = _checkpoint(options, opened)
        for each in imports:
            done = _imported(options, each, _log(options, checkpoint, each.log_key), progress)
            is_clean = is_clean and not (done.skipped or done.skipped_before or done.left_bytes)
            write_out(_json(each, done) if options.is_json else _text(options, each, done))
    flush_out()
    return Exit.OK if is_clean else Exit.FAILED


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


def _imported(options: _Options, each: _Import, log: Log | None, progress: ByteProgress) -> Imported:
    shown_bytes = 0

    def on_batch(done: Imported) -> None:
        nonlocal shown_bytes
        progress.advance(done.offset_bytes - shown_bytes)
        shown_bytes = done.offset_bytes

    def on_bad(error: BadLineError) -> None:
        say(f"mpcheckpoint: skipped {safe(' '.join(shell_text(error).split()))}")

    how: dict[str, Any] = {"is_dry_run": options.is_dry_run, "on_batch": on_batch}
    how["on_bad"] = on_bad if options.is_skipping else None
    if isinstance(each.source, OlderFile):
        done = import_older_file(log, each.source, **how)
    else:
        done = import_lines(
            log,
            0 if each.source == _STDIN else each.source,
            name=options.name,
            object_field=options.object_field,
            event_field=options.event_field,
            **how,
        )
    if done.left_bytes:
        verb, past = ("is", "was") if done.left_bytes == 1 else ("are", "were")
        say(
            f"mpcheckpoint: {each.shown}: {counted(done.left_bytes, 'byte')} at its end, from offset "
            f"{done.offset_bytes}, {verb} no whole line, and {past} left: a writer may be in it, or was killed in it"
        )
    return done


def _json(each: _Import, done: Imported) -> bytes:
    return json_line({"source": done.source, "key": each.log_key} | asdict(done))


def _text(options: _Options, each: _Import, done: Imported) -> bytes:
    parts = [f"{counted(done.records, 'record')} {'would be ' if options.is_dry_run else ''}imported"]
    if done.records_before:
        parts.append(f"{done.records_before:,} before")
    if done.known:
        parts.append(f"{done.known:,} known by their record ids")
    if done.skipped:
        parts.append(f"{counted(done.skipped, 'line')} skipped")
    if done.skipped_before:
        parts.append(f"{done.skipped_before:,} skipped before")
    return f"{each.shown} -> {safe(each.log_key)}: {', '.join(parts)}\n".encode()
