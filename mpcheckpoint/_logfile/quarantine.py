"""Quarantine: where bytes go before a repair cuts them off a log."""

from __future__ import annotations

import errno
import os
import re
import shlex
import uuid
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._logfile.file_bytes import chunks_of, is_padding_from, reading, write_whole
from mpcheckpoint._logfile.ownership import create_copy, make_directory_inside
from mpcheckpoint._types import Repair
from mpcheckpoint.errors import StoreAccessError

if TYPE_CHECKING:
    from mpcheckpoint._logfile.paths import LogPaths

_NAME = re.compile(r"(?P<gen>[0-9a-f]{32})\.(?P<offset>\d+)\.[0-9a-f]+")


def keep_bytes(
    fd: int, paths: LogPaths, generation: str, offset: int, *, stop: int | None = None
) -> Repair | None:
    """Copy the bytes after ``offset`` to quarantine, durably; return None if they are only padding.

    Args:
        stop: the offset after the last byte to keep; None for the end of the file.

    Raises:
        OSError: the bytes could not be kept.
    """
    if stop is None and is_padding_from(reading(fd), offset):
        return None
    if not make_directory_inside(paths.quarantine) and not system.is_directory(paths.quarantine):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), paths.quarantine)
    # Also if it was there: the process that made it may have died, or failed, before it was durable.
    system.sync_directory(paths.directory)
    path = os.path.join(paths.quarantine, f"{paths.name}.{generation}.{offset}.{uuid.uuid4().hex[:12]}")
    copy = _created(path, paths)
    length = 0
    try:
        for data in chunks_of(reading(fd), offset, stop):
            write_whole(copy.fd, data, length)
            length += len(data)
        system.sync_data(copy.fd)
        system.sync_directory(paths.quarantine)
    except BaseException:
        system.remove(path)
        raise
    finally:
        copy.close()
    return Repair(paths.log_key, generation, offset, length, path)


def _created(path: str, paths: LogPaths) -> system.Descriptor:
    try:
        return create_copy(path, paths.log)
    except PermissionError as error:
        of_store, of_quarantine = system.access_of(paths.directory), system.access_of(paths.quarantine)
        raise StoreAccessError(
            f"bytes of the log {paths.log_key!r} have to be kept in {paths.quarantine} before they are cut off, and "
            f"{system.account_name(system.user_id())} cannot write there: it belongs to "
            f"{system.account_name(of_quarantine.uid)}, mode {of_quarantine.mode:04o}. Nothing was cut; as root: "
            f"chown -R {of_store.uid}:{of_store.gid} {shlex.quote(paths.quarantine)}; "
            f"chmod {of_store.mode:04o} {shlex.quote(paths.quarantine)}",
            path=paths.quarantine,
            reason="quarantine cannot be written",
        ) from error


def remove_repairs(paths: LogPaths) -> int:
    """Remove all bytes that repairs have cut off a log; return how many files that were."""
    repairs = list_repairs(paths)
    for repair in repairs:
        system.remove(repair.path)
    if repairs:
        system.sync_directory(paths.quarantine)
    return len(repairs)


def list_repairs(paths: LogPaths) -> list[Repair]:
    """Return what repairs have cut off a log, in order of generation and offset."""
    try:
        names = sorted(system.list_directory(paths.quarantine))
    except FileNotFoundError:
        return []
    repairs = []
    for name in names:
        match = _NAME.fullmatch(name.removeprefix(paths.name + "."))
        if match is None:
            continue
        path = os.path.join(paths.quarantine, name)
        size = system.stat_path(path).st_size
        repairs.append(Repair(paths.log_key, match["gen"], int(match["offset"]), size, path))
    return sorted(repairs, key=lambda repair: (repair.generation, repair.offset))
