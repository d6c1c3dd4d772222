"""Which processes run a map now: each start of a map keeps a file in ``workers/``, locked while it lives.

The file describes the start, for those who watch. Nothing else depends on it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from mpcheckpoint import _system as system
from mpcheckpoint._work.workers import Worker, worker_ids

_MOST_BYTES = 256 * 1024  # the log key is the longest part
_ROOM = 24  # for the number of items, which comes later


class _Content(msgspec.Struct):
    """The content of the file."""

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

    def __init__(self, directory: str, log_key: str, run: int, rerun: str | None = None) -> None:
        self._worker = Worker(directory)
        self._content = _Content(log_key, run, os.getpid(), rerun=rerun)
        self._width = 0
        self._write()

    def has_items(self, count: int | None) -> None:
        """Show how many items there are, once that is known."""
        if count != self._content.items:
            self._content.items = count
            self._write()

    def retire(self) -> None:
        """Show that the map is over. Twice is fine."""
        self._worker.retire()

    def _write(self) -> None:
        if not self._worker.is_mine or self._worker.fd < 0:
            return
        try:
            # In one write, at least as long as those before: no reader sees half of it, or the end of an earlier one.
            data = msgspec.json.encode(self._content)
            self._width = max(self._width, len(data) + _ROOM)
            system.write_at(self._worker.fd, data.ljust(self._width), 0)
        except OSError:
            pass  # a full disk: nothing depends on it


def map_starts(directory: str, log_key: str) -> Iterator[MapStart]:
    """Yield the processes that run a map on a log now, under any name."""
    for worker_id in worker_ids(directory):
        path = os.path.join(directory, worker_id)
        content = _read(path)
        if content is not None and content.log_key == log_key and system.is_locked(path):
            yield MapStart(content.pid, content.items, content.rerun)


def _read(path: str) -> _Content | None:
    try:
        descriptor = system.open_file(path)
        try:
            return msgspec.json.decode(system.read_at(descriptor.fd, _MOST_BYTES, 0), type=_Content)
        finally:
            descriptor.close()
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None  # removed meanwhile; or the empty file of an item's worker; or half written
