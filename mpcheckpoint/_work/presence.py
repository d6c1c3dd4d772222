"""Which processes run a map now: each start of a map keeps a worker, which shows what it is at.

That is for those who watch. Nothing else depends on it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint._store.worker_protocol import Workers


class _Content(msgspec.Struct):
    """What the worker shows."""

    log_key: str
    run: int
    pid: int
    items: int | None = None
    rerun: str | None = None


@dataclass(frozen=True, slots=True)
class MapStart:
    """A process in which a map is under way.

    Attributes:
        pid: the process.
        items: how many items it was given; None until it has seen the last one.
        rerun: the rerun that it works on; None if it was started without a name.
    """

    pid: int
    items: int | None
    rerun: str | None = None


class Presence:
    """Shows that a map is under way in this process, until ``retire`` or the end of the process."""

    def __init__(self, workers: Workers, log_key: str, run: int, rerun: str | None = None) -> None:
        self._workers = workers
        self._worker = workers.begin()
        self._content = _Content(log_key, run, os.getpid(), rerun=rerun)
        self._show()

    def has_items(self, count: int | None) -> None:
        """Show how many items there are, once that is known."""
        if count != self._content.items:
            self._content.items = count
            self._show()

    def stay(self) -> None:
        """Begin another worker if the session that kept this one alive was lost. The map goes on."""
        if self._worker.is_lost:
            self._worker.retire()
            self._worker = self._workers.begin()
            self._show()

    def retire(self) -> None:
        """Show that the map is over. Twice is fine."""
        self._worker.retire()

    def _show(self) -> None:
        self._worker.show(msgspec.json.encode(self._content))


def map_starts(workers: Workers, log_key: str) -> Iterator[MapStart]:
    """Yield the processes that run a map on a log now, under any name."""
    for data in workers.shown():
        try:
            content = msgspec.json.decode(data, type=_Content)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue  # half written, or not ours
        if content.log_key == log_key:
            yield MapStart(content.pid, content.items, content.rerun)
