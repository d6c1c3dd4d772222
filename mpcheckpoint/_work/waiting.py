"""Says what a map waits for when nothing of its own is left to do: items that other processes have."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint import _system as system
from mpcheckpoint._work.shortage import shortage_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mpcheckpoint._view.log_handle import LogHandle

_AFTER_S = 1.0
_MOST_NAMED = 3
_MOST_COMMAND_CHARS = 60


class Wait(NamedTuple):
    """An item that another process has.

    Attributes:
        object_key: the object that stands for it.
        holder: a process that has it; None if that cannot be told.
        is_left: whether the worker that took the item is gone, and what it had started holds its lock still: a command
            that outlived its map.
    """

    object_key: str
    holder: system.LockHolder | None
    is_left: bool


class Waits:
    """Tells once of each item that is waited for, after a second in which nothing else was done."""

    def __init__(self, log: LogHandle, tell: Callable[[str, bool], None]) -> None:
        self._log = log
        self._tell = tell
        self._since_s: float | None = None
        self._told: set[tuple[str, str]] = set()  # object key and worker

    def end(self) -> None:
        """Take note that something is done here."""
        self._since_s = None

    def look(self, object_keys: Collection[str]) -> None:
        """Take note that only these are left, and others may have them."""
        now_s = time.monotonic()
        if self._since_s is None:
            self._since_s = now_s
        if now_s - self._since_s < _AFTER_S:
            return
        self._since_s = now_s  # those that are new are looked for after another second
        try:
            self._tell_of_new(object_keys)
        except Exception as error:
            if shortage_of(error) is None:
                raise
            # It cannot be seen, for want of what the map may be waiting for.

    def _tell_of_new(self, object_keys: Collection[str]) -> None:
        claims = self._log.query(lambda view: [(each, view.claim_of(each)) for each in object_keys])
        new = [
            (key, worker) for key, worker in claims if worker is not None and (key, worker) not in self._told
        ]
        waits = waits_for(self._log.workers_directory, new)
        self._told.update(new)
        for is_left in (True, False):
            some = [wait for wait in waits if wait.is_left is is_left]
            if some:
                self._tell(sentence(some, is_left=is_left), is_left)


def waits_for(directory: str, claims: Collection[tuple[str, str]]) -> list[Wait]:
    """Return which of these objects, each with the worker that claimed it, somebody holds, and who does."""
    statuses = {worker_id: system.lock_status(os.path.join(directory, worker_id)) for _, worker_id in claims}
    held = [claim for claim in claims if statuses[claim[1]].state is not system.LockState.FREE]
    openers = system.openers([os.path.join(directory, worker_id) for _, worker_id in held])
    found = []
    for object_key, worker_id in held:
        taker = statuses[worker_id].holder
        others = openers[os.path.join(directory, worker_id)]
        if not others:  # of another user, or on a system that does not tell
            is_left = taker is not None and taker.command is None
            found.append(Wait(object_key, None if is_left else taker, is_left))
        elif taker is None or taker.pid in {each.pid for each in others}:
            found.append(Wait(object_key, taker or others[0], is_left=False))
        else:
            found.append(Wait(object_key, others[0], is_left=True))
    return found


def sentence(waits: list[Wait], *, is_left: bool) -> str:
    """Return what is waited for, in one line."""
    if len(waits) == 1:
        who = _who(waits[0].holder)
        if is_left:
            return (
                f"waiting for {waits[0].object_key}: {who} still runs, left by a start that was killed; "
                "end it, or wait for its end"
            )
        return f"waiting for {waits[0].object_key}: {who} works on it"
    named = ", ".join(f"{wait.object_key}: {_who(wait.holder)}" for wait in waits[:_MOST_NAMED])
    more = f" and {len(waits) - _MOST_NAMED} more" if len(waits) > _MOST_NAMED else ""
    if is_left:
        return (
            f"waiting for {len(waits)} items: what a start that was killed has left still runs; end it, or wait for "
            f"its end: {named}{more}"
        )
    return f"waiting for {len(waits)} items that others work on: {named}{more}"


def _who(holder: system.LockHolder | None) -> str:
    if holder is None:
        return "another process"
    command = f" ({_shortened(holder.command)})" if holder.command else ""
    return f"process {holder.pid}{command}"


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_COMMAND_CHARS else f"{text[: _MOST_COMMAND_CHARS - 3]}..."
