"""Import JSON Lines, or files of the older tool, into a log.

The older tool wrote ``.checkpoint/<key><unix seconds>``, one object {object key: event} a line.
"""

from __future__ import annotations

import os
import stat
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint import _system as system
from mpcheckpoint._format.byte_text import to_text
from mpcheckpoint._format.control import MAX_HEADER_BYTES
from mpcheckpoint._format.names import older_name
from mpcheckpoint._logfile.paths import STORE_DIRECTORY, LogPaths, refuse_url
from mpcheckpoint._maintenance.imports.import_task import Imported, ImportTask
from mpcheckpoint._maintenance.imports.shapes import (
    Fields,
    NotARecordError,
    OlderTool,
    WholeLog,
    is_whole_log,
)
from mpcheckpoint._maintenance.imports.sources import Source
from mpcheckpoint.errors import BadLineError
from mpcheckpoint.log import handle_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._view.log_handle import LogHandle
    from mpcheckpoint.log import Log


class OlderFile(NamedTuple):
    """One file of the older tool.

    Attributes:
        path: its path.
        log_key: the key in its name, which is the log that it belongs into.
        created_s: when it was created, in unix seconds.
        size_bytes: its size.
    """

    path: str
    log_key: str
    created_s: int
    size_bytes: int


def import_lines(
    log: Log | None,
    source: str | os.PathLike[str] | int,
    *,
    name: str | None = None,
    object_field: str = "object_key",
    event_field: str | None = "event",
    is_dry_run: bool = False,
    on_bad: Callable[[BadLineError], object] | None = None,
    on_batch: Callable[[Imported], object] | None = None,
) -> Imported:
    """Append the records of a JSON Lines source to a log, each once, however often this is killed and called again.

    The log notes how far the source was imported. The next import of a source of that name goes on there, with what was
    added since. Each line is an object with an object key and an event. The lines of a log of this library are imported
    as the records that they are, with their record ids; a whole log is verified, too.

    Args:
        log: the log to append to; None in a dry run if it does not exist yet.
        source: a path; or an open descriptor, such as 0, which is read to its end and needs a name.
        name: the name of the source; None for its absolute path. Pipes need a name.
        object_field: the field that holds the object key: a string, or an integer, whose digits are then the key.
        event_field: the field that holds the event; None if the whole object is the event.
        is_dry_run: read and check everything, append nothing. A read-only handle will do.
        on_bad: called with each line that is no record; the line is then skipped. None: such a line raises.
        on_batch: called after each batch, when it is as durable as the handle's setting asks.

    Returns:
        What was done.

    Raises:
        BadLineError: a line is no record. The lines before it were imported. Once the line is mended, or with
            ``on_bad``, the import carries on from there.
        SourceChangedError: the source is not the one that was imported under that name; nothing was imported.
        SourceBusyError: another import of the same source got on meanwhile; nothing was imported twice.
        ValueError: a pipe has no name, or the source is the log itself.
        OSError: the source cannot be read.
        ReadOnlyError, LockTimeoutError, WriteFailedError, PoisonedLogError, CorruptLogError, OutcomeUnknownError: as of
            ``Log.append``. What ``on_batch`` was told stays.

    Durability: as the handle's setting asks, batch by batch; a batch is about a megabyte of the source.
    Concurrency: any number of imports at once. Of two imports of the same source one goes on, the other raises.
    """
    with closing(Source(source)) as opened:
        named = name if name is not None else _name_of(source, opened)
        target = None if log is None else handle_of(log)
        if target is not None and opened.identity == _identity_of(target):
            raise ValueError(f"{named} is the log {target.log_key!r} itself; import it into another one")
        try:
            is_log = is_whole_log(opened.bytes_before(MAX_HEADER_BYTES, MAX_HEADER_BYTES))
        except NotARecordError as error:
            raise BadLineError(named, 1, 0, str(error)) from None
        shape = WholeLog() if is_log else Fields(object_field, event_field)
        task = ImportTask(target, opened, named, shape, is_dry_run=is_dry_run)
        return task.run(refuse_renamed=name is None, on_bad=on_bad, on_batch=on_batch)


def older_files(directory: str | os.PathLike[str]) -> list[OlderFile]:
    """Return the older tool's files in a directory and in the ``.checkpoint`` in it, sorted by key, then oldest first.

    Raises:
        UnknownSchemeError: it is a URL.
        OSError: the directory cannot be read.
    """
    found = []
    refuse_url(directory, what="source", advice="it is read from a directory: give its path")
    base = os.path.abspath(os.fspath(directory))
    inside = os.path.join(base, STORE_DIRECTORY)
    for place in [base, *([inside] if system.exists(inside) else [])]:
        for name in system.list_directory(place):
            parts, path = older_name(name), os.path.join(place, name)
            if parts is not None:
                status = system.stat_path(path)
                if stat.S_ISREG(status.st_mode):
                    found.append(OlderFile(path, *parts, status.st_size))
    return sorted(found, key=lambda each: (each.log_key, each.created_s, each.path))


def import_older_file(
    log: Log | None,
    file: OlderFile,
    *,
    is_dry_run: bool = False,
    on_bad: Callable[[BadLineError], object] | None = None,
    on_batch: Callable[[Imported], object] | None = None,
) -> Imported:
    """Append the records of one file of the older tool to a log, each once, as ``import_lines`` does.

    The source is named as the file, without the directory. Bytes after the last newline that are no JSON, as a killed
    writer leaves them, are left alone. Import the files of a key in the order that ``older_files`` gives.

    Args:
        log: the log to append to, usually that of the file's ``log_key``; None in a dry run if it does not exist yet.
        file: the file.
        is_dry_run, on_bad, on_batch: as for ``import_lines``.

    Raises:
        As ``import_lines``.
    """
    target = None if log is None else handle_of(log)
    with closing(Source(file.path)) as source:
        task = ImportTask(target, source, os.path.basename(file.path), OlderTool(), is_dry_run=is_dry_run)
        return task.run(on_bad=on_bad, on_batch=on_batch)


def _name_of(source: str | os.PathLike[str] | int, opened: Source) -> str:
    """Return the name of a source that came without one."""
    if isinstance(source, int) or not opened.is_file:
        raise ValueError(
            "standard input and pipes have no name, and an import of them that is killed could not carry on: give a "
            "name (--as NAME, in Python name=...)"
        )
    return to_text(os.fsencode(os.path.realpath(source)))


def _identity_of(log: LogHandle) -> tuple[int, int] | None:
    """Return device and inode of a log's file; None if there is none."""
    try:
        status = system.stat_path(LogPaths.of(log.store.path, log.log_key).log)
    except OSError:
        return None
    return status.st_dev, status.st_ino
