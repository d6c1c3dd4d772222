"""The names in a store's directory. docs/format.md describes what each file is for."""

from __future__ import annotations

import os
from typing import NamedTuple

from mpcheckpoint._format.names import LOG_SUFFIX, file_name

STORE_DIRECTORY = ".checkpoint"
TEMPORARY_SUFFIX = ".tmp"
STORE_LOCK = "store.lock"
QUARANTINE = "quarantine"
WORKERS = "workers"


class LogPaths(NamedTuple):
    """The files of one log."""

    log_key: str
    name: str
    log: str
    lock: str
    sync: str
    page: str
    poison: str
    directory: str
    quarantine: str

    @classmethod
    def of(cls, directory: str, log_key: str) -> LogPaths:
        """Return the files of the log ``log_key`` in the store directory ``directory``."""
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
            directory,
            os.path.join(directory, QUARANTINE),
        )
