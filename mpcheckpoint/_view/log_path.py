"""Where the file of a log is, for those who look at it themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mpcheckpoint._logfile.paths import LogPaths

if TYPE_CHECKING:
    from mpcheckpoint._view.store_handle import StoreHandle


def log_path(store: StoreHandle, log_key: str) -> Path | None:
    """Return the absolute path of a log's file, which need not be there; None if the store is on a server."""
    return None if store.base is None else Path(LogPaths.of(store.path, log_key).log)
