"""File systems that do not lock, or do not let us write: refused before anything is risked."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint import _system as system
from mpcheckpoint._storage.places import places
from mpcheckpoint.errors import (
    CheckpointError,
    LockUnsupportedError,
    NetworkFileSystemError,
    StoreAccessError,
)
from support.nobody import give_to_nobody
from support.verbs import inside, log_file, tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_file_system_is_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file system be tried by each test: the inode of a store that is gone may be the next one's."""
    monkeypatch.setattr(places, "locking", set())


# --- file systems ------------------------------------------------------------------------------------------


def test_network_file_system_is_refused_unless_asked_for(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "network_file_system", lambda path: "nfs4")
    monkeypatch.delenv("MPCHECKPOINT_ALLOW_NETWORK", raising=False)

    with pytest.raises(NetworkFileSystemError, match=r"nfs4.*MPCHECKPOINT_ALLOW_NETWORK"):
        Checkpoint(store).log("a").append("x", 1)
    assert list(inside(store).glob("*")) == []

    monkeypatch.setenv("MPCHECKPOINT_ALLOW_NETWORK", "1")
    Checkpoint(store).log("a").append("x", 1)


@pytest.mark.guarantee(8)
@pytest.mark.parametrize("error", [38, 37, 95])  # ENOSYS, ENOLCK, EOPNOTSUPP
def test_file_system_without_locks_is_refused(
    store: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(system.locks, "lock", refuse)
    monkeypatch.setattr(system.locks, "try_lock", refuse)
    monkeypatch.setattr(system, "lock", refuse)

    with pytest.raises(LockUnsupportedError, match="keep the store"):
        Checkpoint(store).log("a").append("x", 1)
    assert list(inside(store).glob("*.jsonl")) == []
    assert list(inside(store).glob("probe*")) == []


@pytest.mark.guarantee(8)
def test_file_system_whose_locks_do_nothing_is_refused(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system.locks, "lock", lambda fd, timeout_s=None: True)
    monkeypatch.setattr(system.locks, "try_lock", lambda fd: True)

    with pytest.raises(LockUnsupportedError, match="two descriptors of one file"):
        Checkpoint(store).log("a").append("x", 1)


@pytest.mark.guarantee(8)
def test_file_system_whose_locks_stop_at_the_process_is_refused(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system.locks, "_child_is_refused", lambda path: False)

    with pytest.raises(LockUnsupportedError, match="another process was given"):
        Checkpoint(store).log("a").append("x", 1)
    assert places.locking.isdisjoint({(os.stat(inside(store)).st_dev, os.stat(inside(store)).st_ino)})


# --- permissions -------------------------------------------------------------------------------------------


def attempt_as_nobody(function_name: str, store: Path) -> tuple[str, str]:
    try:
        {"open": Checkpoint, "append": lambda path: Checkpoint(path).log("a").append("x", 1)}[function_name](
            store
        )
    except CheckpointError as error:
        return type(error).__name__, str(error)
    return "nothing", ""


@pytest.mark.guarantee(9)
@pytest.mark.parametrize("closed", ["parent", "store", "log"])
def test_store_without_permission_to_write_is_a_clear_error(
    public_tmp_path: Path, run_as_nobody: Callable[..., Any], closed: str
) -> None:
    store = public_tmp_path / "store"
    if closed != "parent":
        Checkpoint(store).log("a").append("x", 0)
    if closed == "log":
        give_to_nobody(public_tmp_path)
        os.chown(log_file(store), 0, 0)
    before = tree(public_tmp_path)

    name, message = run_as_nobody(attempt_as_nobody, "append", store)

    assert name == StoreAccessError.__name__
    assert str(store) in message
    assert "read_only=True" in message
    if closed != "log":
        assert tree(public_tmp_path) == before


def read_as_nobody(store: Path) -> tuple[object, ...]:
    return Checkpoint(store, read_only=True)["x"]


def test_store_without_permission_to_write_is_read_by_read_only_handles(
    public_tmp_path: Path, run_as_nobody: Callable[..., Any]
) -> None:
    Checkpoint(public_tmp_path / "store").log("a").append("x", 0)

    assert run_as_nobody(read_as_nobody, public_tmp_path / "store") == (0,)
