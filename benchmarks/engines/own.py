"""This library."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from engines.base import Engine, batches
from mpcheckpoint import Checkpoint, _core
from mpcheckpoint import _system as system
from mpcheckpoint._system import futex, statx

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sized
    from pathlib import Path

    from engines.base import Append, AppendMany

_LOG_KEY = "benchmark"


class Mpcheckpoint(Engine):
    """This library, with the settings of ``Checkpoint`` left alone."""

    module = "mpcheckpoint"
    setting = 'Checkpoint(directory) as it is (durability="always"), one log'
    source = "README.md"
    encodes = True

    def create(self, directory: Path) -> None:
        """Make an empty store."""
        with Checkpoint(directory) as checkpoint:
            checkpoint.log(_LOG_KEY)

    @contextmanager
    def appender(self, directory: Path) -> Iterator[Append]:
        """Open for appends by this thread."""
        with Checkpoint(directory) as checkpoint:
            yield checkpoint.log(_LOG_KEY).append

    @contextmanager
    def batcher(self, directory: Path) -> Iterator[AppendMany]:
        """Open for batches by this thread."""
        with Checkpoint(directory) as checkpoint:
            yield checkpoint.log(_LOG_KEY).append_many

    def rows(self, directory: Path) -> Iterator[tuple[str, Any]]:
        """Yield object key and event of every record."""
        with Checkpoint(directory, create=False) as checkpoint:
            for record in checkpoint.log(_LOG_KEY).read():
                yield record.object_key, record.event

    def size_bytes(self, directory: Path) -> int:
        """Return the bytes of the log."""
        return sum(path.stat().st_size for path in (directory / ".checkpoint").glob("*.jsonl"))

    def fill(self, directory: Path, records: Iterable[tuple[str, Any]], batch: int) -> None:
        """Append many records; how fast is not measured."""
        with Checkpoint(directory, durability="never") as checkpoint:
            log = checkpoint.log(_LOG_KEY)
            for chunk in batches(records, batch):
                log.append_many(chunk)
            log.flush()

    def load_raw(self, directory: Path, object_key: str) -> tuple[Sized, int]:
        """Bring the whole view up to date by asking for one object."""
        checkpoint = Checkpoint(directory, create=False)
        return checkpoint, len(checkpoint[object_key])

    def load_decoded(self, directory: Path) -> dict[str, Any]:
        """Return every object's events, decoded."""
        with Checkpoint(directory, create=False) as checkpoint:
            return dict(checkpoint.snapshot().items())


class PurePython(Mpcheckpoint):
    """This library without its native core."""

    setting = "the same, with MPCHECKPOINT_PURE=1: without the native core"

    def prepare(self) -> None:
        """Turn the core off, in this process alone: it was decided at the import whether it runs."""
        _core.native, _core.kind = None, "pure"
        system.native = statx._file_facts = futex._native = None
