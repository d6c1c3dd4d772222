"""SQLite, the baseline."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from engines.base import LOCK_TIMEOUT_S, Engine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engines.base import Append, AppendMany, Records

_INSERT = "INSERT INTO records (object_key, event) VALUES (?, ?)"


class Sqlite(Engine):
    """SQLite in WAL mode, which its documentation recommends for speed and concurrency, with synchronous=FULL, which it
    requires there for durability: with NORMAL a commit may be rolled back after a loss of power. One connection a
    process; the busy handler waits for other writers. The WAL is checkpointed as it is by default.

    The table is the cheapest that keeps the order: a rowid and no index. An event is stored as it is.
    """

    module = "sqlite3"
    setting = "WAL, synchronous=FULL, autocommit, a rowid table without an index, a connection a process, busy_timeout"
    source = "sqlite.org/wal.html, sqlite.org/pragma.html#pragma_synchronous"

    def create(self, directory: Path) -> None:
        """Make an empty store."""
        directory.mkdir()
        with closing(connect(directory)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("CREATE TABLE records (id INTEGER PRIMARY KEY, object_key TEXT, event)")

    @contextmanager
    def appender(self, directory: Path) -> Iterator[Append]:
        """Open for appends by this thread."""
        with closing(connect(directory)) as connection:
            execute = connection.execute
            yield lambda *record: execute(_INSERT, record)

    @contextmanager
    def batcher(self, directory: Path) -> Iterator[AppendMany]:
        """Open for batches by this thread: executemany in one transaction."""
        with closing(connect(directory)) as connection:

            def append_many(records: Records) -> None:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(_INSERT, records)
                connection.execute("COMMIT")

            yield append_many

    def rows(self, directory: Path) -> Iterator[tuple[str, Any]]:
        """Return the cursor itself: nothing stands between SQLite and the dict."""
        return connect(directory).execute("SELECT object_key, event FROM records ORDER BY id")

    def count(self, directory: Path) -> int:
        """Return how many records the store holds."""
        with closing(connect(directory)) as connection:
            (number,) = connection.execute("SELECT count(*) FROM records").fetchone()
            return int(number)

    def size_bytes(self, directory: Path) -> int:
        """Return the bytes of the database, once the WAL is in it."""
        with closing(connect(directory)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return _path(directory).stat().st_size


def _path(directory: Path) -> Path:
    return directory / "records.sqlite"


def connect(directory: Path) -> sqlite3.Connection:
    """Open the store, as it is set up for all measurements."""
    connection = sqlite3.connect(_path(directory), isolation_level=None)
    connection.execute(f"PRAGMA busy_timeout={LOCK_TIMEOUT_S * 1000:.0f}")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA fullfsync=ON")  # macOS: what this library does there too
    return connection
