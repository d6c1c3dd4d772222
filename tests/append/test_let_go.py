"""Logs that were replaced: an append neither frees a large file, nor waits for that."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._logfile import let_go as module
from mpcheckpoint.log import handle_of
from support.processes import in_a_child
from support.verbs import wait_until

if TYPE_CHECKING:
    from pathlib import Path


def compact(store: Path) -> None:
    with Checkpoint(store) as checkpoint:
        checkpoint.log("k").compact(keep_last=1)


def closing_thread(store: Path) -> str:
    """Return which thread closes a log that was replaced by another process, when it is appended to next."""
    log = Checkpoint(store).log("k")
    log.append_many([("x", number) for number in range(10)])
    closed_by: list[str] = []
    opened = handle_of(log).for_writing()._writer().log  # type: ignore[attr-defined]
    weakref.finalize(opened, lambda: closed_by.append(threading.current_thread().name))
    del opened
    in_a_child(compact, store)

    log.append("x", 10)

    wait_until(lambda: closed_by, "the replaced log is closed")
    assert log.count("x") == 11
    return closed_by[0]


def test_large_log_is_closed_by_a_thread_of_its_own(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONG_BYTES", 1)

    assert closing_thread(store) == "mpcheckpoint-close"


def test_small_log_is_closed_at_once(store: Path) -> None:
    assert closing_thread(store) == threading.current_thread().name


def test_large_log_is_closed_at_once_where_no_thread_can_be_started(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONG_BYTES", 1)

    def fails(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fails)

    assert closing_thread(store) == threading.current_thread().name
