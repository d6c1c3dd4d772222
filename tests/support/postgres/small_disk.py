"""A server on a disk that can be filled."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from support.full_disk import fill
from support.postgres.cluster import Cluster
from support.tmpfs import TmpFileSystem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A cluster without databases has 24 MB of data, and begins with a log of 1 MB.
_SIZE_BYTES = {"data": 64 << 20, "wal": 8 << 20}


class SmallDisk:
    """A mounted RAM disk that a server has for a part of its files."""

    def __init__(self, mounted: TmpFileSystem) -> None:
        self._filler = mounted.mountpoint / "filler"

    def fill(self) -> None:
        """Leave no room for a single page."""
        fill(self._filler)

    def empty(self) -> None:
        """Give back what `fill` took."""
        self._filler.unlink()


@contextmanager
def on_small_disk(
    directory: Path, keeps: Literal["data", "wal"], **how: Any
) -> Iterator[tuple[Cluster, SmallDisk]]:
    """Yield a running cluster, and the RAM disk that keeps its data or its log. Needs root.

    ``directory`` is one that every user can enter; ``how`` is what `Cluster` takes else.
    """
    with TmpFileSystem(directory, _SIZE_BYTES[keeps]) as mounted:
        places = {"data": directory / "data", "wal": directory / "wal"} | {keeps: mounted.mountpoint / keeps}
        with Cluster(data=places["data"], wal=places["wal"], **how) as cluster:
            yield cluster, SmallDisk(mounted)
