"""Import JSON Lines into a log."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._format.control import MAX_HEADER_BYTES
from mpcheckpoint._logfile.paths import LogPaths
from mpcheckpoint._maintenance.imports.import_task import Imported, ImportTask
from mpcheckpoint._maintenance.imports.shapes import Fields, NotARecordError, WholeLog, is_whole_log
from mpcheckpoint._maintenance.imports.sources import Source
from mpcheckpoint._work.text import to_text
from mpcheckpoint.errors import BadLineError
from mpcheckpoint.log import handle_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._view.log_handle import LogHandle
    from mpcheckpoint.log import Log


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

    The log notes how far the source was imported; the next import of a source of the same name goes on there, with what
    has been added to it since. Each line is an object that has an object key and an event. The lines of a log of this
    library are imported as the records that they are, with their record ids; a whole one is verified, too.

    Args:
        log: where to; None for one that is not there yet, in a dry run.
        source: a path; or an open descriptor, such as 0, which is read to its end and must come with a name.
        name: what the source is called; None for its absolute path. Pipes need one.
        object_field: the field that holds the object key: a string, or an integer, which is taken by its digits.
        event_field: the field that holds the event; None if the whole object is the event.
        is_dry_run: read and judge all, append nothing. A read-only handle will do.
        on_bad: called with each line that is no record, which is passed over then. None: such a line raises.
        on_batch: called each time that records are there to stay, as durably as the handle's setting says.

    Returns:
        What was done.

    Raises:
        BadLineError: a line is no record. What stands before it was imported; mended, or with ``on_bad``, the import
            carries on from there.
        SourceChangedError: the source is not the one that was imported under that name; nothing was imported.
        SourceBusyError: another import of the same source got on meanwhile; nothing of it is there twice.
        ValueError: a pipe without a name, or the log itself as the source.
        OSError: the source cannot be read.
        ReadOnlyError, LockTimeoutError, WriteFailedError, PoisonedLogError, CorruptLogError, OutcomeUnknownError: as of
            ``Log.append``. What ``on_batch`` was told stays.

    Durability: as the handle's setting says, batch by batch; a batch is about a megabyte of the source.
    Concurrency: any number of imports at once. Of two of the same source one goes on, the other raises.
    """
    opened = Source(source)
    try:
        named = name if name is not None else _name_of(source, opened)
        target = None if log is None else handle_of(log)
        if target is not None and opened.identity == _identity_of(target):
            raise ValueError(f"{named} is the log {target.log_key!r} itself; import it into another one")
        try:
            shape = (
                WholeLog()
                if is_whole_log(opened.head(MAX_HEADER_BYTES))
                else Fields(object_field, event_field)
            )
        except NotARecordError as error:
            raise BadLineError(named, 1, 0, str(error)) from None
        task = ImportTask(target, opened, named, shape, is_dry_run=is_dry_run)
        return task.run(refuse_renamed=name is None, on_bad=on_bad, on_batch=on_batch)
    finally:
        opened.close()


def _name_of(source: str | os.PathLike[str] | int, opened: Source) -> str:
    """Return the name of a source that was not given one."""
    if isinstance(source, int) or not opened.can_be_found_again:
        raise ValueError(
            "standard input and pipes have no name by which an import of theirs that was killed could be carried on: "
            "give it one (--as NAME, in Python name=...)"
        )
    return to_text(os.fsencode(os.path.realpath(source)))


def _identity_of(log: LogHandle) -> tuple[int, int] | None:
    """Return device and inode of the file behind a log; None if there is none."""
    try:
        status = system.stat_path(LogPaths.of(os.path.dirname(log.workers_directory), log.log_key).log)
    except OSError:
        return None
    return status.st_dev, status.st_ino
