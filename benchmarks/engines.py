"""What is compared: each engine set up for the same durability, as its own documentation recommends."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from mpcheckpoint import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sized
    from contextlib import AbstractContextManager
    from pathlib import Path

    Append = Callable[[str, str], object]

BASELINE = "sqlite"
_LOG_KEY = "benchmark"
_BATCH = 1000
_BUSY_TIMEOUT_MS = 120_000


class Engine(Protocol):
    """A way to record durably what happened to which object."""

    setting: str

    def create(self, directory: Path) -> None:
        """Make an empty store."""

    def appender(self, directory: Path) -> AbstractContextManager[Append]:
        """Open for appends by this process; each is durable when it returns."""

    def count(self, directory: Path) -> int:
        """Return how many records the store holds."""

    def fill(self, directory: Path, records: Iterable[tuple[str, Any]]) -> None:
        """Append many records; how fast is not measured."""

    def size_bytes(self, directory: Path) -> int:
        """Return the size of what ``fill`` left."""

    def load_raw(self, directory: Path, object_key: str) -> tuple[Sized, int]:
        """Hold every object's events, undecoded; return what holds them and how many this object has."""

    def load_decoded(self, directory: Path) -> dict[str, Any]:
        """Return every object's events, decoded."""


class Mpcheckpoint:
    """This library, with the settings of ``Checkpoint`` left alone."""

    setting = "one log, durability always"

    def create(self, directory: Path) -> None:
        """Make an empty store."""
        with Checkpoint(directory) as checkpoint:
            checkpoint.log(_LOG_KEY)

    @contextmanager
    def appender(self, directory: Path) -> Iterator[Append]:
        """Open for appends by this process; each is durable when it returns."""
        with Checkpoint(directory) as checkpoint:
            yield checkpoint.log(_LOG_KEY).append

    def count(self, directory: Path) -> int:
        """Return how many records the store holds."""
        with Checkpoint(directory, create=False) as checkpoint:
            return sum(1 for _ in checkpoint.log(_LOG_KEY).read())

    def fill(self, directory: Path, records: Iterable[tuple[str, Any]]) -> None:
        """Append many records; how fast is not measured."""
        with Checkpoint(directory, durability="never") as checkpoint:
            log = checkpoint.log(_LOG_KEY)
            for batch in batches(records):
                log.append_many(batch)
            log.flush()

    def size_bytes(self, directory: Path) -> int:
        """Return the size of what ``fill`` left."""
        return sum(path.stat().st_size for path in (directory / ".checkpoint").glob("*.jsonl"))

    def load_raw(self, directory: Path, object_key: str) -> tuple[Sized, int]:
        """Hold every object's events, undecoded; return what holds them and how many this object has."""
        checkpoint = Checkpoint(directory, create=False)
        return checkpoint, len(checkpoint[object_key])

    def load_decoded(self, directory: Path) -> dict[str, Any]:
        """Return every object's events, decoded."""
        with Checkpoint(directory, create=False) as checkpoint:
            return dict(checkpoint.snapshot().items())


class Sqlite:
    """SQLite in WAL mode, which its documentation recommends for speed and concurrency, with synchronous=FULL, which it
    requires there for durability. One connection a process; the busy handler waits for other writers.

    The table is the cheapest that keeps the order: a rowid and no index. An event is stored as it is: SQLite is spared
    the JSON encoding that this library does.
    """

    setting = "WAL, synchronous=FULL, autocommit, a rowid table without an index, one connection a process"

    def create(self, directory: Path) -> None:
        """Make an empty store."""
        directory.mkdir()
        with closing(_connect(directory)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("CREATE TABLE records (id INTEGER PRIMARY KEY, object_key TEXT, event)")

    @contextmanager
    def appender(self, directory: Path) -> Iterator[Append]:
        """Open for appends by this process; each is durable when it returns."""
        with closing(_connect(directory)) as connection:
            execute = connection.execute
            yield lambda *record: execute("INSERT INTO records (object_key, event) VALUES (?, ?)", record)

    def count(self, directory: Path) -> int:
        """Return how many records the store holds."""
        with closing(_connect(directory)) as connection:
            (number,) = connection.execute("SELECT count(*) FROM records").fetchone()
            return int(number)

    def fill(self, directory: Path, records: Iterable[tuple[str, Any]]) -> None:
        """Append many records; how fast is not measured."""
        with closing(_connect(directory)) as connection:
            connection.execute("BEGIN")
            connection.executemany(
                "INSERT INTO records (object_key, event) VALUES (?, ?)",
                ((object_key, msgspec.json.encode(event)) for object_key, event in records),
            )
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def size_bytes(self, directory: Path) -> int:
        """Return the size of what ``fill`` left."""
        return _path(directory).stat().st_size

    def load_raw(self, directory: Path, object_key: str) -> tuple[Sized, int]:
        """Hold every object's events, undecoded; return what holds them and how many this object has."""
        objects = _objects(directory)
        return objects, len(objects[object_key])

    def load_decoded(self, directory: Path) -> dict[str, Any]:
        """Return every object's events, decoded, with the decoder that this library uses."""
        decode = msgspec.json.Decoder().decode
        return {object_key: tuple(map(decode, events)) for object_key, events in _objects(directory).items()}


def _path(directory: Path) -> Path:
    return directory / "records.sqlite"


def _connect(directory: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(_path(directory), isolation_level=None)
    connection.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA fullfsync=ON")  # macOS: what this library does there too
    return connection


def _objects(directory: Path) -> dict[str, list[bytes]]:
    objects: dict[str, list[bytes]] = {}
    with closing(_connect(directory)) as connection:
        for object_key, event in connection.execute("SELECT object_key, event FROM records ORDER BY id"):
            events = objects.get(object_key)
            if events is None:
                objects[object_key] = [event]
            else:
                events.append(event)
    return objects


def batches(records: Iterable[tuple[str, Any]]) -> Iterator[list[tuple[str, Any]]]:
    """Yield the records in lists of 1,000."""
    batch = []
    for record in records:
        batch.append(record)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    yield batch


ENGINES: dict[str, Engine] = {"mpcheckpoint": Mpcheckpoint(), BASELINE: Sqlite()}
