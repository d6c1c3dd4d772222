"""What a map waits for once it has nothing else to do: items that other processes hold."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint._work.shortage import shortage_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mpcheckpoint import _system as system
    from mpcheckpoint._store.worker_protocol import Workers
    from mpcheckpoint._view.log_handle import LogHandle

_AFTER_S = 1.0
_MOST_NAMED = 3
_MOST_COMMAND_CHARS = 60


class HeldItem(NamedTuple):
    """An item that another process holds.

    Attributes:
        object_key: the object that stands for it.
        holder: a process that holds it; None if that cannot be told.
        is_left: the worker that took the item is gone, but something that it started still holds its lock: a command
            that outlived its map.
    """

    object_key: str
    holder: system.LockHolder | None
    is_left: bool


class HeldItemNotices:
    """Reports each item that a map waits for, once, after a second in which the map did nothing else."""

    def __init__(self, log: LogHandle, notify: Callable[[str, bool], None]) -> None:
        self._log = log
        self._notify = notify
        self._since_s: float | None = None
        self._reported: set[tuple[str, str]] = set()  # object key and worker

    def end(self) -> None:
        """Take note that the map did something."""
        self._since_s = None

    def look(self, object_keys: Collection[str]) -> None:
        """Take note that only these objects are left, and that others may hold them."""
        now_s = time.monotonic()
        if self._since_s is None:
            self._since_s = now_s
        if now_s - self._since_s < _AFTER_S:
            return
        self._since_s = now_s  # the next look comes after another second
        try:
            self._report_new(object_keys)
        except Exception as error:
            if shortage_of(error) is None:
                raise
            # The shortage that the map may be waiting out keeps us from seeing it.

    def _report_new(self, object_keys: Collection[str]) -> None:
        claims = self._log.query(lambda view: [(each, view.claim_of(each)) for each in object_keys])
        new = [
            (key, worker)
            for key, worker in claims
            if worker is not None and (key, worker) not in self._reported
        ]
        waits = held_items(self._log.workers, new)
        self._reported.update(new)
        for is_left in (True, False):
            some = [wait for wait in waits if wait.is_left is is_left]
            if some:
                self._notify(sentence(some, is_left=is_left), is_left)


def held_items(workers: Workers, claims: Collection[tuple[str, str]]) -> list[HeldItem]:
    """Return which of these objects are held, and by which process. ``claims`` are object keys and workers."""
    holders = workers.holders([worker_id for _, worker_id in claims])
    return [
        HeldItem(object_key, *holders[worker_id]) for object_key, worker_id in claims if worker_id in holders
    ]


def sentence(waits: list[HeldItem], *, is_left: bool) -> str:
    """Return in one line what is waited for."""
    if len(waits) == 1:
        process = _named(waits[0].holder)
        if is_left:
            return (
                f"waiting for {waits[0].object_key}: {process} still runs, left by a map that was killed; "
                "end it, or wait for its end"
            )
        return f"waiting for {waits[0].object_key}: {process} works on it"
    named = ", ".join(f"{wait.object_key}: {_named(wait.holder)}" for wait in waits[:_MOST_NAMED])
    more = f" and {len(waits) - _MOST_NAMED} more" if len(waits) > _MOST_NAMED else ""
    if is_left:
        return (
            f"waiting for {len(waits)} items: a map that was killed left processes that still run; end them, or wait "
            f"for their end: {named}{more}"
        )
    return f"waiting for {len(waits)} items that other processes work on: {named}{more}"


def _named(holder: system.LockHolder | None) -> str:
    if holder is None:
        return "another process"
    command = f" ({_shortened(holder.command)})" if holder.command else ""
    return f"process {holder.pid}{command}"


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_COMMAND_CHARS else f"{text[: _MOST_COMMAND_CHARS - 3]}..."
