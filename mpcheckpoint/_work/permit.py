"""Whether a map that failures end may still start items: a worker that stands for that, seen by all processes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from mpcheckpoint.errors import CheckpointError

if TYPE_CHECKING:
    from mpcheckpoint._store.worker_protocol import Worker, Workers
    from mpcheckpoint._work.halt import Halt


class Permit:
    """The permit to start items. It stands until the failures that end the map are recorded, or the map is over.

    A worker that claims an item checks it. If the first failure ends the map, the worker that records one revokes it.
    Both happen under the append lock of the log that holds claims and outcomes. So in the log no claim of this map
    comes after the failure, however many items are queued, and in whatever processes. If it takes several failures,
    only the process that started the map counts them, and revokes the permit; a few items may be claimed until then.

    Rejected: to ask the process that started the map. It hears of a failure after its workers have started other items.

    Pickles, to a copy for a worker process. It belongs to the process that made it, and is void once that has died.
    """

    def __init__(
        self, workers: Workers, worker_id: str, owner: Worker | None = None, *, is_for_one: bool = True
    ) -> None:
        self._workers = workers
        self._id = worker_id
        self._owner = owner
        self.is_for_one = is_for_one

    @classmethod
    def given(cls, workers: Workers, *, is_for_one: bool = True) -> Permit:
        """Make a permit.

        Args:
            is_for_one: the first failure ends the map.
        """
        owner = workers.begin()
        return cls(workers, owner.id, owner, is_for_one=is_for_one)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Permit, self._workers, self._id, is_for_one=self.is_for_one), ()

    def renew(self) -> None:
        """In the process that made it: have it stand again, after the session with the server was lost that kept it.

        Requires: no item of the map runs, and none has failed, so that nobody has revoked it, or will.

        Raises:
            CheckpointError: it was removed otherwise, or another process has it.
            StoreUnavailableError: the server could not be reached.
        """
        if self._owner is None or not self._owner.live_again():
            # Items were left out: the map must not end as if all were done.
            raise self._loss()

    def _loss(self) -> CheckpointError:
        return CheckpointError(
            "the map stopped although none of its items failed: what lets its workers start items, "
            f"{self._workers.name_of(self._id)}, was removed. What ran is recorded; start the map again to carry on",
            path=self._workers.name_of(self._id),
            reason="permit removed",
        )

    def is_valid(self) -> bool:
        """Return whether items may be started."""
        return self._workers.is_known(self._id)

    def take_failure(self) -> None:
        """In a worker that records a failure, under the append lock: let no more items be started if it ends the map.

        Raises: as ``revoke``.
        """
        if self.is_for_one:
            self.revoke()

    def revoke(self) -> None:
        """Let no more items be started. Revoking twice is fine.

        Raises:
            StoreAccessError, WriteFailedError: it could not be revoked.
        """
        self._workers.retire(self._id)

    def retire(self) -> None:
        """The map is over. Twice is fine."""
        if self._owner is not None:
            self._owner.retire()


def permit_for(halt: Halt, workers: Workers) -> Permit:
    """Return a permit for a map that these failures end."""
    return Permit.given(workers, is_for_one=halt.is_at_first)
