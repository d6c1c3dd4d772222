"""Faulty engines that processes share: a directory with a fault. Each names the tests of processes that must find it.

Suites, not stores: a process that is spawned imports them by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from mpcheckpoint import Checkpoint
from mpcheckpoint._store.store import DirectoryStore
from mpcheckpoint._store.workers import WorkerFiles
from mpcheckpoint.checkpoint import checkpoint_on
from mpcheckpoint.errors import LockTimeoutError
from mpcheckpoint.testing.conformance import StorageConformance

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._types import Position

_STOPPED = "test_append_that_is_stopped_under_the_lock_goes_on_as_if_no_time_had_passed"
_KILLED = "test_append_that_is_killed_while_it_is_stopped_under_the_lock_was_not_made"
_ANYWHERE = "test_process_that_is_stopped_anywhere_in_its_appends_takes_nothing_from_others"
_FENCED = "test_outcome_of_a_dead_worker_of_a_process_that_was_stopped_does_not_count"


class FaultyLog:
    """A log of a directory."""

    def __init__(self, log: Any) -> None:
        self.log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)

    def append(self, payloads: list[Payload], **how: Any) -> Position:
        """Append, as a sound log does."""
        position: Position = self.log.append(payloads, **how)
        return position


class SharedSuite(StorageConformance):
    """The suite on a directory with a fault in it; not collected, but run by hand."""

    __test__ = False
    patience_s = 10.0
    log_type: ClassVar[type[FaultyLog]] = FaultyLog
    workers_type: ClassVar[type[WorkerFiles]] = WorkerFiles

    def open_store(self, place: Path) -> DirectoryStore:
        suite = type(self)

        class Store(DirectoryStore):
            def open_log(self, *arguments: Any, **how: Any) -> Any:
                return suite.log_type(super().open_log(*arguments, **how))

        store = Store(place, create=True, read_only=False)
        store.workers = suite.workers_type(store.path)
        return store

    def open_checkpoint(self, place: Path, **options: Any) -> Checkpoint:
        return checkpoint_on(self.open_store(place), **options)


SHARED: list[tuple[type[SharedSuite], tuple[str, ...]]] = []


def _found_by(*tests: str) -> Callable[[type[SharedSuite]], type[SharedSuite]]:
    def plant(suite: type[SharedSuite]) -> type[SharedSuite]:
        SHARED.append((suite, tests))
        return suite

    return plant


@_found_by(_STOPPED, _KILLED)
class AcknowledgesWhatWaitedForTooLong(SharedSuite):
    class log_type(FaultyLog):  # noqa: N801 - it stands in the place of an attribute
        def append(self, payloads: list[Payload], **how: Any) -> Position:
            position = None if how.get("guard") else super().append([])
            try:
                return super().append(payloads, **how)
            except LockTimeoutError:
                assert position is not None
                return position


@_found_by(_STOPPED, _KILLED)
class ShowsWhatIsNotJudgedYet(SharedSuite):
    class log_type(FaultyLog):  # noqa: N801
        def append(self, payloads: list[Payload], **how: Any) -> Position:
            guard = how.pop("guard", None)
            position = super().append(payloads, **how)
            if guard is not None:
                guard()
            return position


@_found_by(_STOPPED)
class AppendsAgainAfterALongTime(SharedSuite):
    class log_type(FaultyLog):  # noqa: N801
        def append(self, payloads: list[Payload], **how: Any) -> Position:
            position = super().append(payloads, **how)
            if how.pop("guard", None) is not None:
                super().append(payloads, **how)
            return position


@_found_by(_STOPPED)
class GivesTheLockUpWhileItJudges(SharedSuite):
    class log_type(FaultyLog):  # noqa: N801
        def append(self, payloads: list[Payload], **how: Any) -> Position:
            guard = how.pop("guard", None)
            found: Position | None = guard() if guard is not None else None
            return super().append(payloads, **how) if found is None else found


@_found_by(_ANYWHERE)
class LosesEachThirdAppend(SharedSuite):
    class log_type(FaultyLog):  # noqa: N801
        count = 0
        last: Position | None = None

        def append(self, payloads: list[Payload], **how: Any) -> Position:
            self.count += 1
            if self.last is None or self.count % 3:
                self.last = super().append(payloads, **how)
            return self.last


@_found_by(_STOPPED, _ANYWHERE)
class AppendsInPieces(SharedSuite):
    class log_type(FaultyLog):  # noqa: N801
        def append(self, payloads: list[Payload], **how: Any) -> Position:
            guard = how.pop("guard", None)
            first = super().append(payloads[:1], guard=guard, **how)
            return super().append(payloads[1:], **how) if payloads[1:] else first


@_found_by(_FENCED)
class RecordsWhatIsRefused(SharedSuite):
    class log_type(FaultyLog):  # noqa: N801
        def append(self, payloads: list[Payload], **how: Any) -> Position:
            guard = how.pop("guard", None)

            def lenient() -> Position | None:
                try:
                    found: Position | None = guard()
                except Exception:  # noqa: BLE001 - that is the fault
                    return None
                return found

            return super().append(payloads, guard=guard and lenient, **how)


@_found_by(_FENCED)
class RetiresNobody(SharedSuite):
    patience_s = 2.0

    class workers_type(WorkerFiles):  # noqa: N801
        def retire(self, worker_id: str) -> None:
            pass
