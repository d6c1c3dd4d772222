"""A plain file of JSON lines, appended to under a lock: what people write themselves."""

from __future__ import annotations

import os
from abc import abstractmethod
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec

from engines.base import LOCK_TIMEOUT_S, Engine, encode, sync_data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from engines.base import Append, AppendMany

    Write = Callable[[bytes], None]


class LockedFile(Engine):
    """JSON lines, each written with one call and synced before the lock is given back. The lock is made once and taken
    for each append. Nothing is checked or repaired: after a crash the last line may be a torn one, and the next append
    runs into it.
    """

    encodes = True

    @abstractmethod
    def writer(self, directory: Path) -> AbstractContextManager[Write]:
        """Give a function that takes the lock, appends bytes, syncs, and lets go."""

    def prepare(self) -> None:
        """Import the lock."""
        import_module(self.module)

    def create(self, directory: Path) -> None:
        """Make an empty store."""
        directory.mkdir()
        _path(directory).touch()

    @contextmanager
    def appender(self, directory: Path) -> Iterator[Append]:
        """Open for appends by this thread."""
        with self.writer(directory) as write:
            yield lambda *record: write(encode(record) + b"\n")

    @contextmanager
    def batcher(self, directory: Path) -> Iterator[AppendMany]:
        """Open for batches by this thread: one write of all lines."""
        with self.writer(directory) as write:
            yield lambda records: write(msgspec.json.Encoder().encode_lines(records))

    def rows(self, directory: Path) -> Iterator[tuple[str, Any]]:
        """Yield object key and event of every record."""
        decode = msgspec.json.Decoder(tuple[str, Any]).decode
        with _path(directory).open("rb") as file:
            yield from map(decode, file)

    def size_bytes(self, directory: Path) -> int:
        """Return the bytes of the file."""
        return _path(directory).stat().st_size


class FileUnderFilelock(LockedFile):
    """The file under filelock.FileLock, as its documentation has it: a lock file beside the file, the lock object kept,
    taken in a ``with`` statement. It polls every 50 ms while another process has the lock, which is its default. The
    file is kept open and synced with fdatasync: the cheapest that gives the durability asked for.
    """

    module = "filelock"
    setting = "JSON lines; FileLock kept (poll_interval 50 ms, its default), file kept open, write, fdatasync"
    source = "py-filelock.readthedocs.io: front page, Tutorials"

    @contextmanager
    def writer(self, directory: Path) -> Iterator[Write]:
        """Give a function that appends durably."""
        path = _path(directory)
        lock = import_module(self.module).FileLock(f"{path}.lock", timeout=LOCK_TIMEOUT_S)
        with path.open("ab", buffering=0) as file:

            def write(data: bytes) -> None:
                with lock:
                    os.write(file.fileno(), data)
                    sync_data(file.fileno())

            yield write


class FileUnderPortalocker(LockedFile):
    """The file under portalocker.Lock, as its documentation has it: the lock is on the file itself, which the ``with``
    statement opens, locks and closes; flushed and synced before that. The lock object is kept. It polls every 250 ms
    while another process has the lock, which is its default. (This library uses portalocker too, but its blocking
    ``portalocker.lock`` on a descriptor that stays open.)
    """

    module = "portalocker"
    setting = "JSON lines; portalocker.Lock on the file (check_interval 250 ms, its default), write, flush, fdatasync"
    source = "portalocker.readthedocs.io: Quickstart"
    replays = False  # it leaves the same file as the other

    @contextmanager
    def writer(self, directory: Path) -> Iterator[Write]:
        """Give a function that appends durably."""
        lock = import_module(self.module).Lock(_path(directory), "ab", timeout=LOCK_TIMEOUT_S)

        def write(data: bytes) -> None:
            with lock as file:
                file.write(data)
                file.flush()
                sync_data(file.fileno())

        yield write


def _path(directory: Path) -> Path:
    return directory / "records.jsonl"
