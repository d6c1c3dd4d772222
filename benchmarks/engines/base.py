"""What the benchmarks ask of an engine, and what engines have in common."""

from __future__ import annotations

import fcntl
import os
from abc import ABC, abstractmethod
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
    from contextlib import AbstractContextManager
    from pathlib import Path

    Append = Callable[[str, str], object]
    Records = Sequence[tuple[str, Any]]
    AppendMany = Callable[[Records], object]

LOCK_TIMEOUT_S = 120.0
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)


class Engine(ABC):
    """A way to record durably what happened to which object, in one order that all processes share.

    An event is handed over as text, and an engine that keeps text is spared the JSON encoding that this library does.
    """

    module: str
    """What has to be installed."""

    setting: str
    """How it is set up, for the report."""

    source: str
    """Where its documentation says so."""

    encodes = False
    """Whether it turns events into JSON by itself, as this library does."""

    replays = True
    """Whether a million records can be put in and read back in the time that a benchmark has."""

    def is_installed(self) -> bool:
        """Return whether it can be measured here."""
        return find_spec(self.module) is not None

    def prepare(self) -> None:  # noqa: B027 - most need nothing
        """Import what it needs, before anything is measured in this process."""

    @abstractmethod
    def create(self, directory: Path) -> None:
        """Make an empty store in a directory that does not exist yet."""

    @abstractmethod
    def appender(self, directory: Path) -> AbstractContextManager[Append]:
        """Open for appends by this thread; each has survived a loss of power when it returns."""

    @abstractmethod
    def batcher(self, directory: Path) -> AbstractContextManager[AppendMany]:
        """Open for batches by this thread; each is durable when it returns, with one sync."""

    @abstractmethod
    def rows(self, directory: Path) -> Iterable[tuple[str, Any]]:
        """Yield object key and event of every record, in order, as the engine hands them out."""

    @abstractmethod
    def size_bytes(self, directory: Path) -> int:
        """Return the bytes of the store's data on disk."""

    def count(self, directory: Path) -> int:
        """Return how many records the store holds."""
        return sum(1 for _ in self.rows(directory))

    def fill(self, directory: Path, records: Iterable[tuple[str, Any]], batch: int) -> None:
        """Append many records, so many at a time; how fast is not measured."""
        with self.batcher(directory) as append_many:
            for chunk in batches(records, batch):
                append_many(chunk if self.encodes else [(key, encode(event)) for key, event in chunk])

    def load_raw(self, directory: Path, object_key: str) -> tuple[Sized, int]:
        """Hold every object's events; return what holds them and how many this object has."""
        objects = grouped(self.rows(directory))
        return objects, len(objects[object_key])

    def load_decoded(self, directory: Path) -> dict[str, Any]:
        """Return every object's events, decoded, with the decoder that this library uses."""
        objects = grouped(self.rows(directory))
        if self.encodes:
            return {object_key: tuple(events) for object_key, events in objects.items()}
        decode = msgspec.json.Decoder().decode
        return {object_key: tuple(map(decode, events)) for object_key, events in objects.items()}


encode = msgspec.json.Encoder().encode


def grouped(rows: Iterable[tuple[str, Any]]) -> dict[str, list[Any]]:
    """Return the events of each object."""
    objects: dict[str, list[Any]] = {}
    for object_key, event in rows:
        events = objects.get(object_key)
        if events is None:
            objects[object_key] = [event]
        else:
            events.append(event)
    return objects


def batches(records: Iterable[tuple[str, Any]], size: int) -> Iterator[list[tuple[str, Any]]]:
    """Yield the records in lists of ``size``, the last one shorter."""
    batch = []
    for record in records:
        batch.append(record)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def sync_data(fd: int) -> None:
    """Make a file durable with the cheapest call that does, the one that this library uses too."""
    if _FULL_SYNC is not None:
        fcntl.fcntl(fd, _FULL_SYNC)  # macOS: fsync alone does not reach the medium
    else:
        os.fdatasync(fd)
