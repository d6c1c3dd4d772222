"""What the author of a storage states about it, and a fresh place for each test."""

from __future__ import annotations

import shutil
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import SkipTest

from mpcheckpoint.checkpoint import checkpoint_on

if TYPE_CHECKING:
    from mpcheckpoint._store.protocol import Store, StoredLog
    from mpcheckpoint.checkpoint import Checkpoint


class StorageUnderTest(ABC):
    """A storage, and what it claims to be.

    Attributes:
        survives_reopen: whether records are still there after every store and handle on a place was dropped.
        is_shared_between_processes: whether stores on the same place, in several processes, show the same logs.
        finishes_for_the_dead: whether an append that a process has begun may still be done once that process is dead: a
            server has it by then.
        patience_s: how long a test waits, in seconds, for what should come at once. A sound storage never needs it.
        place: the path for this test's store, in a new directory; nothing is there yet.
        other_place: another such path.
    """

    survives_reopen: ClassVar[bool] = True
    is_shared_between_processes: ClassVar[bool] = True
    finishes_for_the_dead: ClassVar[bool] = False
    patience_s: ClassVar[float] = 30.0

    place: Path
    other_place: Path

    @abstractmethod
    def open_store(self, place: Path) -> Store:
        """Return a new Store on ``place``, made if need be. All Stores on one place show the same logs."""

    def open_checkpoint(self, place: Path, **options: Any) -> Checkpoint:
        """Return a new handle on ``place``; ``options`` as for `Checkpoint`."""
        return checkpoint_on(self.open_store(place), **options)

    def discard(self, place: Path) -> None:  # noqa: B027 - most storages have nothing to do here
        """Remove what ``open_store`` made for ``place`` outside of that directory."""

    def lose_end(self, place: Path) -> None:
        """Have all logs on ``place`` lose what was appended and is not durable, as a crash of the server does.

        Stores on it go on. At least the last batch of each log that is not durable is lost.

        Override it for a storage to which that can happen. Without it the tests of what happens then are skipped.
        """
        raise SkipTest(f"{type(self).__name__} does not say how records are lost")

    def lossy_store(self, place: Path) -> Store:
        """Return a new Store on ``place`` that often gets no answer to what it has sent, and tries again.

        Override it for a storage that a server keeps. Without it the tests of what happens then are skipped.
        """
        raise SkipTest(f"{type(self).__name__} does not say how answers are lost")

    def end_worker(self, place: Path, worker_id: str) -> None:
        """Have a worker of any process be dead, though its process goes on.

        Without an override another store retires it. Override it for a storage that has another way, as by the loss of
        a session, in a second subclass.
        """
        self.open_store(place).workers.retire(worker_id)

    def setup_method(self) -> None:
        """Make a place. pytest calls this before each test; with unittest, call it from ``setUp``."""
        if not __debug__:
            raise RuntimeError("this suite is made of assert statements: run it without python -O")
        directory = Path(tempfile.mkdtemp(prefix="mpcheckpoint-conformance-"))
        self.place = directory / "store"
        self.other_place = directory / "other"

    def teardown_method(self) -> None:
        """Remove the place. pytest calls this after each test; with unittest, call it from ``tearDown``."""
        for place in (self.place, self.other_place):
            self.discard(place)
        shutil.rmtree(self.place.parent)

    def open_log(self, log_key: str = "a", *, place: Path | None = None) -> StoredLog:
        """Return a log of a new Store, created if need be."""
        store = self.open_store(self.place if place is None else place)
        return store.open_log(log_key, create=True, timeout_s=self.patience_s)

    def open_handle(self, **options: Any) -> Checkpoint:
        """Return a new handle that does not sync, and does not wait for ever."""
        return self.open_checkpoint(
            self.place, **{"durability": "never", "lock_timeout_s": self.patience_s, **options}
        )

    def require(self, capability: str) -> None:
        """Skip the running test unless the storage claims ``capability``."""
        if not getattr(self, capability):
            raise SkipTest(f"{type(self).__name__}.{capability} is False")
