"""The names in a store's directory. docs/format.md describes what each file is for."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from mpcheckpoint._format.names import LOG_SUFFIX, file_name
from mpcheckpoint.errors import UnknownSchemeError

STORE_DIRECTORY = ".checkpoint"
TEMPORARY_SUFFIX = ".tmp"
STORE_LOCK = "store.lock"
QUARANTINE = "quarantine"
WORKERS = "workers"
# In a backup: what it is, and what is being done to it.
BACKUP_MARKER = "backup"
BACKUP_JOURNAL = "backup.journal"

A_STORE_IS = (
    "a store is a directory: give its path, or, as a str, the address of one on a server, "
    "postgresql://user@host/database#store"
)
# One slash is enough: ``pathlib`` makes one of two. At least two letters: C:/ is a drive of another system.
_SCHEME = re.compile(r"\s*((?:[A-Za-z][A-Za-z0-9+.-]+:)+)/")


def store_directory(path: str | os.PathLike[str]) -> str:
    """Return the absolute path of the directory that was given as a store.

    Raises:
        UnknownSchemeError: it is a URL. Directories of that name, with its password, would be made of it.
    """
    refuse_url(path, what="store", advice=A_STORE_IS)
    return os.path.abspath(os.fspath(path))


def refuse_url(path: str | os.PathLike[str], *, what: str, advice: str) -> None:
    """Return if this is a path.

    Raises:
        UnknownSchemeError: it is a URL. Also one of ``file:``: it may have a host and escapes, which a path has not.
    """
    match = _SCHEME.match(os.fsdecode(path))
    if match is not None:
        raise UnknownSchemeError(match[1].rstrip(":"), what, advice)


class LogPaths(NamedTuple):
    """The files of one log."""

    log_key: str
    name: str
    log: str
    lock: str
    sync: str
    page: str
    poison: str
    compaction: str
    directory: str
    quarantine: str

    @classmethod
    def of(cls, directory: str, log_key: str) -> LogPaths:
        """Return the files of a log in a store's directory, which need not exist. Raises InvalidKeyError."""
        name = file_name(log_key)
        base = os.path.join(directory, name)
        return cls(
            log_key,
            name,
            base + LOG_SUFFIX,
            base + ".lock",
            base + ".sync",
            base + ".page",
            base + ".poison",
            base + ".compact",
            directory,
            os.path.join(directory, QUARANTINE),
        )
