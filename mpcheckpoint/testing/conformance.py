"""The conformance suite: what every storage of a `Checkpoint` must pass.

An author of a storage reads the promises in ``mpcheckpoint/_store/protocol.py``, writes a ``Store``, and subclasses::

    from mpcheckpoint.testing.conformance import StorageConformance


    class TestMyStorage(StorageConformance):
        def open_store(self, place):
            return MyStore(place)

(``tests/support/memory_storage.py``, in the sources, is a storage of three hundred lines that passes.)

pytest finds the tests in the subclass. Nothing here needs pytest: each ``test_...`` method is a plain call between
``setup_method()`` and ``teardown_method()``, which unittest users call from ``setUp`` and ``tearDown``. A test that
fails raises AssertionError, or what the storage raised; one that asks for more than the storage claims raises
``unittest.SkipTest``. For pytest's account of a failed assert, put
``pytest.register_assert_rewrite("mpcheckpoint.testing")`` before the first import.

It cannot try loss of power and damage. `mpcheckpoint.testing` has other means for storages that keep files.
"""

from __future__ import annotations

from mpcheckpoint.testing._conformance.blocked import BlockedAppendTests
from mpcheckpoint.testing._conformance.compactions import CompactionTests
from mpcheckpoint.testing._conformance.conditions import ConditionTests
from mpcheckpoint.testing._conformance.expectations import ExpectationTests
from mpcheckpoint.testing._conformance.fencing import FencingProcessTests, FencingTests
from mpcheckpoint.testing._conformance.handles import HandleTests
from mpcheckpoint.testing._conformance.logs import AppendTests, CareTests, GuardTests
from mpcheckpoint.testing._conformance.looks import LookTests
from mpcheckpoint.testing._conformance.losses import LossTests
from mpcheckpoint.testing._conformance.lost_answers import LostAnswerTests
from mpcheckpoint.testing._conformance.moves import MoveTests
from mpcheckpoint.testing._conformance.readers import ContentTests, PositionTests, ReaderTests
from mpcheckpoint.testing._conformance.stores import StoreTests
from mpcheckpoint.testing._conformance.workers import WorkerProcessTests, WorkerTests

__all__ = ["StorageConformance"]


class StorageConformance(
    StoreTests,
    AppendTests,
    GuardTests,
    ConditionTests,
    ReaderTests,
    PositionTests,
    ContentTests,
    LookTests,
    LossTests,
    LostAnswerTests,
    CareTests,
    CompactionTests,
    MoveTests,
    HandleTests,
    ExpectationTests,
    WorkerTests,
    WorkerProcessTests,
    BlockedAppendTests,
    FencingTests,
    FencingProcessTests,
):
    """Tests for a storage: subclass it, say how a store is opened, and what the storage claims.

    Override ``open_store``; if need be ``survives_reopen``, ``is_shared_between_processes``,
    ``finishes_for_the_dead`` and ``patience_s``;
    ``open_checkpoint`` for a storage with a handle of its own kind; ``discard`` for one that keeps anything outside of
    the directory that it was given; ``lose_end``, ``lossy_store`` and ``end_worker`` for one that a server keeps. If
    the storage is shared between processes, a spawned process must be able to import the subclass by its name.
    """
