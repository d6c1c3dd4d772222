"""The journal of Optuna."""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from engines.base import Engine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engines.base import Append, AppendMany

_MODULE = "optuna.storages.journal"


class OptunaJournal(Engine):
    """Optuna's JournalFileBackend as its documentation sets it up: with the lock it comes with, JournalFileSymlinkLock.

    ``append_logs`` writes JSON lines and calls fsync before it lets go of the lock, so it gives the durability asked
    for. The lock is a symbolic link; who finds it taken sleeps 1 ms, then 2, 4, ... up to 1 s, and after 30 s of no
    change takes it by force. Its documentation says that it "doesn't support a high level of write concurrency".
    """

    module = "optuna"
    setting = "JournalFileBackend(path) as it is: append_logs, which calls fsync; JournalFileSymlinkLock"
    source = "optuna.readthedocs.io: JournalStorage, JournalFileBackend; fsync: its source"
    encodes = True

    def prepare(self) -> None:
        """Import it."""
        import_module(_MODULE)

    def create(self, directory: Path) -> None:
        """Make an empty store."""
        directory.mkdir()
        _open(directory)

    @contextmanager
    def appender(self, directory: Path) -> Iterator[Append]:
        """Open for appends by this thread."""
        append_logs = _open(directory).append_logs
        yield lambda object_key, event: append_logs([{"object_key": object_key, "event": event}])

    @contextmanager
    def batcher(self, directory: Path) -> Iterator[AppendMany]:
        """Open for batches by this thread: append_logs of many."""
        append_logs = _open(directory).append_logs
        yield lambda records: append_logs([{"object_key": key, "event": event} for key, event in records])

    def rows(self, directory: Path) -> Iterator[tuple[str, Any]]:
        """Yield object key and event of every record, which it decodes with the standard library's json."""
        for log in _open(directory).read_logs(0):
            yield log["object_key"], log["event"]

    def size_bytes(self, directory: Path) -> int:
        """Return the bytes of the journal."""
        return _path(directory).stat().st_size


def _path(directory: Path) -> Path:
    return directory / "journal.log"


def _open(directory: Path) -> Any:
    return import_module(_MODULE).JournalFileBackend(str(_path(directory)))
