"""diskcache."""

from __future__ import annotations

from contextlib import closing, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from engines.base import Engine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engines.base import Append, AppendMany, Records


class DiskCache(Engine):
    """diskcache's Deque, the one of its types that keeps an order all processes share, on a Cache that does not evict,
    as ``Deque`` itself makes it.

    It stands on SQLite in WAL mode, by default with synchronous=1 (NORMAL), under which a loss of power takes the last
    commits: for the durability asked for it is set to 2 (FULL), as its documentation lets settings be given. (Values
    above 32 KiB it keeps in files of their own that it never syncs; the benchmarks have none.) Its FanoutCache, which
    the documentation recommends for many writers, has no order between its shards.
    """

    module = "diskcache"
    setting = (
        'Deque.fromcache(Cache(eviction_policy="none", sqlite_synchronous=2)); its default is 1, not durable'
    )
    source = "grantjenks.com/docs/diskcache/tutorial.html: Deque, Settings"
    replays = False  # an iteration over a Deque is a query a record

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
        with _open(directory) as deque:
            append = deque.append
            yield lambda object_key, event: append(_value(object_key, event))

    @contextmanager
    def batcher(self, directory: Path) -> Iterator[AppendMany]:
        """Open for batches by this thread: ``transact`` around ``extend``, as its documentation does for many items."""
        with _open(directory) as deque:

            def append_many(records: Records) -> None:
                with deque.transact():
                    deque.extend(_value(*record) for record in records)

            yield append_many

    def rows(self, directory: Path) -> Iterator[tuple[str, Any]]:
        """Yield object key and event of every record."""
        with _open(directory) as deque:
            for value in deque:
                object_key, _, event = value.partition("\t")
                yield object_key, event

    def count(self, directory: Path) -> int:
        """Return how many records the store holds."""
        with _open(directory) as deque:
            return len(deque)

    def size_bytes(self, directory: Path) -> int:
        """Return the bytes of its files."""
        return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


@contextmanager
def _open(directory: Path) -> Iterator[Any]:
    diskcache = import_module("diskcache")
    with closing(diskcache.Cache(str(directory), eviction_policy="none", sqlite_synchronous=2)) as cache:
        yield diskcache.Deque.fromcache(cache)


def _value(object_key: str, event: str | bytes) -> str:
    return f"{object_key}\t{event if isinstance(event, str) else event.decode()}"
