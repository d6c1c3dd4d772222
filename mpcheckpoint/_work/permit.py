"""Whether a map that failures end may still start items: a file that its workers in all processes see."""

from __future__ import annotations

from functools import partial
from typing import Any

from mpcheckpoint import _system as system
from mpcheckpoint._logfile.faults import translated
from mpcheckpoint._work.halt import Halt
from mpcheckpoint._work.workers import Worker
from mpcheckpoint.errors import CheckpointError


class Permit:
    """The permit to start items. It stands until the failures that end the map are recorded, or the map is over.

    A worker that claims an item checks it. If the first failure ends the map, the worker that records one revokes it.
    Both happen under the append lock of the log that holds claims and outcomes. So in the log no claim of this map
    comes after the failure, however many items are queued, and in whatever processes. If it takes several failures,
    only the process that started the map counts them, and revokes the permit; a few items may be claimed until then.

    Rejected: to ask the process that started the map. It hears of a failure after its workers have started other items.

    Pickles, to a copy for a worker process. The file belongs to the process that made it.
    """

    def __init__(self, path: str, owner: Worker | None = None, *, is_for_one: bool = True) -> None:
        self._path = path
        self._owner = owner
        self.is_for_one = is_for_one

    @classmethod
    def given(cls, directory: str, *, is_for_one: bool = True) -> Permit:
        """Make a permit in the directory of the store's workers. It is void as soon as this process dies.

        Args:
            is_for_one: the first failure ends the map.
        """
        owner = Worker(directory)
        return cls(owner.path, owner, is_for_one=is_for_one)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Permit, self._path, is_for_one=self.is_for_one), ()

    @property
    def loss(self) -> CheckpointError:
        """The error for a map whose permit was removed although no item of it failed."""
        return CheckpointError(
            f"the map stopped although none of its items failed: the file that lets its workers start items, "
            f"{self._path}, was removed. What ran is recorded; start the map again to carry on",
            path=self._path,
            reason="permit removed",
        )

    def is_valid(self) -> bool:
        """Return whether items may be started."""
        return system.exists(self._path)

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
        with translated("halting a map by removing", self._path):
            system.remove(self._path)

    def retire(self) -> None:
        """Remove the file: the map is over. Twice is fine."""
        if self._owner is not None:
            self._owner.retire()


def permit_for(halt: Halt, directory: str) -> Permit:
    """Return a permit for a map that these failures end."""
    return Permit.given(directory, is_for_one=halt.is_at_first)
