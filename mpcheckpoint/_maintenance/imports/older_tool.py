"""Import the files of the older tool: ``.checkpoint/<key><unix seconds>``, one object {object key: event} a line."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint import _system as system
from mpcheckpoint._format.names import older_name
from mpcheckpoint._logfile.paths import STORE_DIRECTORY, refuse_url
from mpcheckpoint._maintenance.imports.import_task import Imported, ImportTask
from mpcheckpoint._maintenance.imports.shapes import OlderTool
from mpcheckpoint._maintenance.imports.sources import Source
from mpcheckpoint.log import handle_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint.errors import BadLineError
    from mpcheckpoint.log import Log


class OlderFile(NamedTuple):
    """One file of the older tool.

    Attributes:
        path: where it is.
        log_key: the key that it was written for, and so the log that it belongs into.
        created_s: when it was made, in unix seconds.
        size_bytes: how long it is.
    """

    path: str
    log_key: str
    created_s: int
    size_bytes: int


def older_files(directory: str | os.PathLike[str]) -> list[OlderFile]:
    """Return the older tool's files in a directory, or in the ``.checkpoint`` in it, those of each key oldest first.

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

    The file is known by its name, without the directory. What stands behind its last newline and is no JSON, as a
    writer that was killed leaves it, is left alone. Import the files of a key in the order that ``older_files`` gives.

    Args:
        log: where to, usually that of the file's ``log_key``; None for one that is not there yet, in a dry run.
        file: which one.
        is_dry_run, on_bad, on_batch: as for ``import_lines``.

    Raises:
        As ``import_lines``.
    """
    source = Source(file.path)
    try:
        name = os.path.basename(file.path)
        task = ImportTask(
            None if log is None else handle_of(log), source, name, OlderTool(), is_dry_run=is_dry_run
        )
        return task.run(on_bad=on_bad, on_batch=on_batch)
    finally:
        source.close()
