"""Logs that a restore takes out, in handles that are open: a handle that only found one goes on without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint.errors import LogNotFoundError
from mpcheckpoint.maintenance import restore

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "backup"


@pytest.mark.guarantee(5)
def test_handles_that_found_a_log_go_on_without_it_once_it_is_taken_out(
    store: Path, log: Log, place: Path
) -> None:
    Checkpoint(store).backup(place)
    Checkpoint(store).log("new").append("n", 1)
    handle = Checkpoint(store)
    assert dict(handle) == {"x": (0,), "n": (1,)}

    restore(place, store)

    for _ in range(2):
        assert dict(handle) == {"x": (0,)}
        assert [record.event for record in handle.read()] == [0]
        assert [record.event for record in handle.follow(idle_timeout_s=0)] == [0]
        assert [summary.object_key for summary in handle.objects()] == ["x"]
    Checkpoint(store).log("new").append("n", 2)
    assert handle["n"] == (2,)


@pytest.mark.guarantee(5)
def test_store_that_was_replaced_is_not_shown_empty(store: Path, log: Log) -> None:
    handle = Checkpoint(store)
    assert dict(handle) == {"x": (0,)}
    store.rename(store.with_name("moved"))
    Checkpoint(store)
    with pytest.raises(LogNotFoundError):
        dict(handle)
