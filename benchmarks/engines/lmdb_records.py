"""LMDB, through py-lmdb."""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from engines.base import Engine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engines.base import Append, AppendMany, Records

_MAP_BYTES = 1 << 40
_FIRST = (1).to_bytes(8, "big")


class Lmdb(Engine):
    """LMDB as py-lmdb opens it: sync and metasync are on, so a commit has reached the disk, data and meta page, when it
    returns; no writable map, which its documentation calls faster and unprotected from application bugs. The map is as
    large as it recommends for 64 bits. One environment a process, one write transaction an append.

    A record stands under the next big-endian number, found with a cursor in the same transaction, and is put with
    append=True, which spares the search for its place. LMDB's writer lock is a robust mutex in shared memory.
    """

    module = "lmdb"
    setting = "lmdb.open(map_size=1 TiB) as it is (sync, metasync), keys in sequence put with append=True"
    source = "lmdb.readthedocs.io: Environment (map_size, sync, metasync, writemap), Cursor.putmulti (append)"

    def prepare(self) -> None:
        """Import it."""
        import_module(self.module)

    def create(self, directory: Path) -> None:
        """Make an empty store."""
        with _open(directory):
            pass

    @contextmanager
    def appender(self, directory: Path) -> Iterator[Append]:
        """Open for appends by this thread."""
        with _open(directory) as environment:
            begin = environment.begin

            def append(object_key: str, event: str) -> None:
                with begin(write=True) as transaction:
                    transaction.put(_next_key(transaction), _value(object_key, event), append=True)

            yield append

    @contextmanager
    def batcher(self, directory: Path) -> Iterator[AppendMany]:
        """Open for batches by this thread: putmulti in one transaction."""
        with _open(directory) as environment:

            def append_many(records: Records) -> None:
                with environment.begin(write=True) as transaction:
                    first = int.from_bytes(_next_key(transaction), "big")
                    items = [
                        ((first + number).to_bytes(8, "big"), _value(*record))
                        for number, record in enumerate(records)
                    ]
                    transaction.cursor().putmulti(items, append=True)

            yield append_many

    def rows(self, directory: Path) -> Iterator[tuple[str, Any]]:
        """Yield object key and event of every record."""
        with _open(directory) as environment, environment.begin() as transaction:
            for value in transaction.cursor().iternext(keys=False):
                object_key, _, event = value.partition(b"\0")
                yield object_key.decode(), event

    def count(self, directory: Path) -> int:
        """Return how many records the store holds."""
        with _open(directory) as environment:
            return int(environment.stat()["entries"])

    def size_bytes(self, directory: Path) -> int:
        """Return the bytes of the data file."""
        return (directory / "data.mdb").stat().st_size


def _open(directory: Path) -> Any:
    return import_module("lmdb").open(str(directory), map_size=_MAP_BYTES)


def _next_key(transaction: Any) -> bytes:
    with transaction.cursor() as cursor:
        if not cursor.last():
            return _FIRST
        return (int.from_bytes(cursor.key(), "big") + 1).to_bytes(8, "big")


def _value(object_key: str, event: str | bytes) -> bytes:
    return object_key.encode() + b"\0" + (event if isinstance(event, bytes) else event.encode())
