"""The fixtures that tests of a store begin with."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint.testing import SimulatedDisk
from support.fuzz_bench import Bench, fuzz_bench
from support.unsynced import open_and_close
from support.verbs import Faults, become_a_new_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _as_a_new_process() -> None:
    """What this process knows of stores, logs and time from earlier tests is forgotten before each."""
    become_a_new_process()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where a store is to stand."""
    return tmp_path / "store"


@pytest.fixture
def log(store: Path) -> Log:
    """A log that holds the event 0, durable, and is in use."""
    log = Checkpoint(store).log("a")
    log.append("x", 0)
    return log


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Faults to put in the place of the system's functions."""
    return Faults(monkeypatch)


@pytest.fixture
def without_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let syncs take no time, nor the proof of locks by another process, here and in forked children."""
    monkeypatch.setattr(system.locks, "_proof_by_child", lambda path: system.LockProof(True))
    monkeypatch.setattr(system, "sync_data", os.fstat)
    monkeypatch.setattr(system, "sync_directory", open_and_close)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SimulatedDisk]:
    """A model of a disk over a directory of its own: what a loss of power leaves of it can be looked at."""
    (tmp_path / "disk").mkdir()
    with SimulatedDisk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A store whose files are put there as bytes."""
    with fuzz_bench(tmp_path_factory.mktemp("fuzz")) as bench:
        yield bench
