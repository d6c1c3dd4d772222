"""The conformance suite passes on the directory and on an engine in memory, and finds the faults of others."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any
from unittest import SkipTest

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._store.store import DirectoryStore
from mpcheckpoint.checkpoint import checkpoint_on
from mpcheckpoint.testing._conformance.blocked import BlockedAppendTests
from mpcheckpoint.testing._conformance.fencing import FencingProcessTests
from mpcheckpoint.testing._conformance.processes import ProcessTests
from mpcheckpoint.testing._conformance.workers import WorkerProcessTests
from mpcheckpoint.testing.conformance import StorageConformance
from support.memory_lossy import LossyLog, LossyStore
from support.memory_storage import MemoryStore
from support.planted import PLANTED, Planted
from support.planted import compactions as _compactions  # noqa: F401 - plants its faults
from support.planted import conditions as _conditions  # noqa: F401 - plants its faults
from support.planted import logs as _logs  # noqa: F401 - plants its faults
from support.planted import looks as _looks  # noqa: F401 - plants its faults
from support.planted import losses as _losses  # noqa: F401 - plants its faults
from support.planted import lost_answers as _lost_answers  # noqa: F401 - plants its faults
from support.planted import moves as _moves  # noqa: F401 - plants its faults
from support.planted import readers as _readers  # noqa: F401 - plants its faults
from support.planted import stores as _stores  # noqa: F401 - plants its faults
from support.planted import workers as _workers  # noqa: F401 - plants its faults
from support.planted.shared import SHARED, SharedSuite

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.guarantee(2)
@pytest.mark.guarantee(3)
@pytest.mark.guarantee(4)
@pytest.mark.guarantee(5)
@pytest.mark.guarantee(7)
@pytest.mark.guarantee(8)
@pytest.mark.guarantee(10)
class TestDirectory(StorageConformance):
    """The engine that users have."""

    def setup_method(self) -> None:
        super().setup_method()
        # Whoever makes this directory also starts a child to prove locks, which other tests are about.
        (self.place / ".checkpoint").mkdir(parents=True)

    def open_store(self, place: Path) -> DirectoryStore:
        return DirectoryStore(place, create=True, read_only=False)

    def open_checkpoint(self, place: Path, **options: Any) -> Checkpoint:
        return Checkpoint(place, **options)


class TestMemory(StorageConformance):
    """An engine of another kind."""

    is_shared_between_processes = False
    store_type = MemoryStore

    def open_store(self, place: Path) -> MemoryStore:
        return self.store_type(place)

    def discard(self, place: Path) -> None:
        self.store_type.forget(place)

    def lossy_store(self, place: Path) -> MemoryStore:
        return self.store_type(place) if issubclass(self.store_type.log_type, LossyLog) else LossyStore(place)

    def lose_end(self, place: Path) -> None:
        self.store_type.lose_end(place)


# --- a handle on a store that is given ---------------------------------------------------------------------


def test_handle_on_a_given_directory_is_one_more_handle_on_it(store: Path) -> None:
    plain = Checkpoint(store)
    given = checkpoint_on(DirectoryStore(store, create=False, read_only=False), log_keys=["a"])
    given.log("a").append("x", 0)
    pickle.loads(pickle.dumps(given)).log("a").append("x", 1)
    plain.log("a").append("x", 2)

    assert given["x"] == plain["x"] == (0, 1, 2)
    assert given.getCheckpointLogKeys() == ["a"]


def test_map_on_a_given_directory_runs_in_worker_processes(store: Path) -> None:
    given = checkpoint_on(DirectoryStore(store, create=True, read_only=False))

    outcomes = list(given.log("a").map(len, ["a", "bb", "ccc"], jobs=2, mp_context=get_context("spawn")))

    assert sorted(outcome.value for outcome in outcomes) == [1, 2, 3]
    assert sorted(outcome.value for outcome in Checkpoint(store).log("a").results()) == [1, 2, 3]


def test_map_on_memory_runs_in_threads(store: Path) -> None:
    log = checkpoint_on(MemoryStore(store)).log("a")
    with ThreadPoolExecutor(2) as executor:
        outcomes = list(log.map(len, ["a", "bb", "ccc"], executor=executor))
        again = list(log.map(len, ["a", "bb", "ccc"], executor=executor))

    assert sorted(outcome.value for outcome in outcomes) == [1, 2, 3]
    assert all(outcome.repeated for outcome in again)
    assert not os.path.lexists(store)


# --- the suite can fail ------------------------------------------------------------------------------------


class FaultyMemory(TestMemory):
    """The engine in memory with a fault in it; not collected, but run by hand."""

    __test__ = False
    patience_s = 0.5


class MemoryThatClaimsToBeShared(FaultyMemory):
    """Another process has a memory of its own."""

    is_shared_between_processes = True
    patience_s = TestMemory.patience_s


def failure_of(suite: StorageConformance, test: str) -> Exception | None:
    """Return what a test of the suite raises."""
    suite.setup_method()
    try:
        getattr(suite, test)()
    except SkipTest:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it raises is its verdict
        return error
    finally:
        suite.teardown_method()
    return None


TESTS = sorted(name for name in dir(StorageConformance) if name.startswith("test_"))
TESTS_OF_PROCESSES = sorted(
    name
    for kind in (ProcessTests, WorkerProcessTests, BlockedAppendTests, FencingProcessTests)
    for name in vars(kind)
    if name.startswith("test_")
)


@pytest.mark.parametrize("planted", PLANTED, ids=str)
def test_suite_on_an_engine_with_a_fault_fails(planted: Planted) -> None:
    suite = FaultyMemory()
    suite.store_type = planted.store_type

    assert [test for test in planted.found_by if failure_of(suite, test) is None] == []


@pytest.mark.parametrize("test", TESTS_OF_PROCESSES)
def test_suite_on_an_engine_that_only_claims_to_be_shared_fails(test: str) -> None:
    assert failure_of(MemoryThatClaimsToBeShared(), test) is not None


@pytest.mark.parametrize(("suite", "tests"), SHARED, ids=lambda each: getattr(each, "__name__", ""))
def test_suite_on_a_shared_engine_with_a_fault_fails(
    suite: type[SharedSuite], tests: tuple[str, ...]
) -> None:
    assert [test for test in tests if failure_of(suite(), test) is None] == []


@pytest.mark.parametrize("test", sorted({test for _, tests in SHARED for test in tests}))
def test_suite_on_the_shared_engine_without_a_fault_passes(test: str) -> None:
    assert failure_of(SharedSuite(), test) is None


def test_every_test_of_the_suite_is_failed_by_some_fault() -> None:
    failed = {test for planted in PLANTED for test in planted.found_by}

    assert failed | set(TESTS_OF_PROCESSES) == set(TESTS)


SUITE = """
import sys
sys.modules["pytest"] = None
from unittest import TestCase, main
from mpcheckpoint._store.store import DirectoryStore
from mpcheckpoint.testing.conformance import StorageConformance

class Suite(StorageConformance, TestCase):
    is_shared_between_processes = False
    setUp, tearDown = StorageConformance.setup_method, StorageConformance.teardown_method

    def open_store(self, place):
        return DirectoryStore(place, create=True, read_only=False)

main(argv=["suite", "-k", "test_unknown", "-k", "killed"])
"""


def test_suite_is_run_by_unittest_without_pytest() -> None:
    ran = subprocess.run([sys.executable, "-c", SUITE], capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stderr
    assert "Ran 7 tests" in ran.stderr
    assert "skipped=5" in ran.stderr


def test_suite_without_asserts_refuses_to_run() -> None:
    ran = subprocess.run([sys.executable, "-O", "-c", SUITE], capture_output=True, text=True, check=False)

    assert ran.returncode == 1
    assert "without python -O" in ran.stderr
