"""Nobody waits long: a condition under the append lock does not wait for a thread that reads a log from its start."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._view.view import MovedError
from mpcheckpoint.log import handle_of
from support.processes import call

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.guarantee(8)


def append_elsewhere(store: Path) -> int:
    with Checkpoint(store, lock_timeout_s=20) as checkpoint:
        log = checkpoint.log("k")
        log.append("other", 1)
        return log.count("other")


def test_others_append_while_a_thread_of_a_handle_reads_for_long(store: Path) -> None:
    log = Checkpoint(store).log("k")
    log.append("x", 1)
    mutex = handle_of(log).store.mutex
    done: list[object] = []
    thread = threading.Thread(target=lambda: done.append(log.append("x", 2, expected_count=1)))
    with mutex.guard():  # as a thread does that reads a new generation
        thread.start()
        for count in range(1, 4):
            assert call(append_elsewhere, store) == count
        assert not done
    thread.join(60)
    assert len(done) == 1
    assert log.events("x") == (1, 2)


def test_condition_under_the_append_lock_lets_go_of_it_where_the_views_are_taken(store: Path) -> None:
    log = Checkpoint(store).log("k")
    views = handle_of(log).store
    raised: list[BaseException] = []

    def judge() -> None:
        try:
            views.query("k", lambda _: None, is_locked=True)
        except MovedError as error:
            raised.append(error)

    thread = threading.Thread(target=judge)
    with views.mutex.guard():
        thread.start()
        thread.join(60)
    assert len(raised) == 1
    judge()  # nobody is inside
    assert len(raised) == 1
