"""What is compared: each engine set up for the same durability, as its own documentation recommends.

A record that an append returned for survives the loss of power. Nothing else is asked of an engine, so that none is
slowed down by what it is not needed for.
"""

from __future__ import annotations

from engines.base import Engine
from engines.disk_cache import DiskCache
from engines.lmdb_records import Lmdb
from engines.locked_file import FileUnderFilelock, FileUnderPortalocker
from engines.optuna_journal import OptunaJournal
from engines.own import Mpcheckpoint, PurePython
from engines.sqlite import Sqlite

__all__ = ["BASELINE", "ENGINES", "OURS", "Engine", "installed"]

OURS = "mpcheckpoint"
BASELINE = "sqlite"

ENGINES: dict[str, Engine] = {
    OURS: Mpcheckpoint(),
    "pure": PurePython(),
    BASELINE: Sqlite(),
    "lmdb": Lmdb(),
    "optuna": OptunaJournal(),
    "diskcache": DiskCache(),
    "filelock": FileUnderFilelock(),
    "portalocker": FileUnderPortalocker(),
}


def installed() -> list[str]:
    """Return the names of the engines whose package is installed."""
    return [name for name, engine in ENGINES.items() if engine.is_installed()]
