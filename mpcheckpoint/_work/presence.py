"""Who runs a map at this moment: every start of one keeps a file of its own in ``workers/``, locked while it lives.

The file says what the start is about, for those who watch. Nothing depends on what it says, or on its being there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from mpcheckpoint import _system as system
from mpcheckpoint._work.workers import Worker, worker_ids

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_BYTES = 256 * 1024  # the log key is the longest part
_ROOM = 24  # for a number where there was none


class _Said(msgspec.Struct):
    """What stands in the file."""

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
        items: how many items it was given; None while it has not seen the end of them.
        rerun: the rerun that it works on; None if it was started without a name.
    """

    pid: int
    items: int | None
    rerun: str | None = None


class Presence:
    """Shows that a map is under way here, until it is retired or this process dies."""

    def __init__(self, directory: str, log_key: str, run: int, rerun: str | None = None) -> None:
        self._worker = Worker(directory)
        self._said = _Said(log_key, run, os.getpid(), rerun=rerun)
        self._width = 0
        self._say()

    def has_items(self, count: int | None) -> None:
        """Say how many items there are, once that is known."""
        if count != self._said.items:
            self._said.items = count
            self._say()

    def retire(self) -> None:
        """Show that the map is over. Twice is fine."""
        self._worker.retire()

    def _say(self) -> None:
        if not self._worker.is_mine or self._worker.fd < 0:
            return
        try:
            # In one write, and as wide as any that came before it: nobody reads half of it, or what is behind it.
            data = msgspec.json.encode(self._said)
            self._width = max(self._width, len(data) + _ROOM)
            system.write_at(self._worker.fd, data.ljust(self._width), 0)
        except OSError:
            pass  # a full disk: nothing depends on it


def map_starts(directory: str, log_key: str) -> Iterator[MapStart]:
    """Yield the processes in which a map runs on a log now, under whatever name."""
    for worker_id in worker_ids(directory):
        path = os.path.join(directory, worker_id)
        said = _read(path)
        if said is not None and said.log_key == log_key and system.is_locked(path):
            yield MapStart(said.pid, said.items, said.rerun)


def _read(path: str) -> _Said | None:
    try:
        descriptor = system.open_file(path)
        try:
            return msgspec.json.decode(system.read_at(descriptor.fd, _MOST_BYTES, 0), type=_Said)
        finally:
            descriptor.close()
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None  # gone meanwhile; or the worker of one object, which says nothing; or half written
