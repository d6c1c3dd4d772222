"""Mistakes to plant in the path in Python, on one side: the comparison has to find each of them.

Each replaces a function of the package, in a process that was forked for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpcheckpoint import _system as system
from mpcheckpoint._logfile import opened
from mpcheckpoint._logfile.group_commit import GroupCommit
from mpcheckpoint._logfile.lock_file import LockFile
from mpcheckpoint._logfile.page import Page

if TYPE_CHECKING:
    from collections.abc import Callable


def _no_sync() -> None:
    _replace(system, "sync_data", lambda real, fd: None)


def _a_sync_more() -> None:
    _replace(system, "sync_data", lambda real, fd: (real(fd), real(fd)))


def _another_durable_offset() -> None:
    _replace(
        opened, "encode_batch", lambda real, *payloads, **options: real(*payloads, **options | {"durable": 0})
    )


def _page_told_every_time() -> None:
    opened._MOST_UNPUBLISHED = 0


def _page_never_told() -> None:
    _replace(Page, "publish_end", lambda real, *arguments: b"")


def _waiters_not_woken() -> None:
    _replace(Page, "wake", lambda real, page, group: None)


def _lock_kept() -> None:
    _replace(LockFile, "give_back", lambda real, lock: None)


def _synced_under_the_lock() -> None:
    def append(write: Callable[..., None], log: opened.OpenLog, *arguments: Any) -> None:
        write(log, *arguments)
        log.sync(log.state.end.offset)

    _replace(opened.OpenLog, "append", append)


def _group_without_leader_lock() -> None:
    _replace(GroupCommit, "_takes_leader_lock", lambda real, commit: True)


def _replace(owner: object, name: str, act: Callable[..., Any]) -> None:
    """Have ``act`` called in the place of a function, with that before its arguments."""
    real = getattr(owner, name)

    def stand_in(*arguments: Any, **options: Any) -> Any:
        return act(real, *arguments, **options)

    setattr(owner, name, stand_in)


# The mistake, and a situation in which it shows.
ALONE, IN_A_GROUP = "padding, atom, always", "padding partly filled by another, atom, always"
PLANTED: dict[str, tuple[Callable[[], None], str]] = {
    "no sync": (_no_sync, ALONE),
    "a sync more": (_a_sync_more, ALONE),
    "another durable offset": (_another_durable_offset, ALONE),
    "the page told every time": (_page_told_every_time, ALONE),
    "the page never told": (_page_never_told, IN_A_GROUP),
    "waiters not woken": (_waiters_not_woken, IN_A_GROUP),
    "the lock kept": (_lock_kept, ALONE),
    "synced under the lock": (_synced_under_the_lock, ALONE),
    "a group without the leader lock": (_group_without_leader_lock, IN_A_GROUP),
}
