"""Whether a map that stops at the first failure may still begin items: a file, seen by its workers in any process."""

from __future__ import annotations

from typing import Any

from mpcheckpoint import _system as system
from mpcheckpoint._logfile.faults import translated
from mpcheckpoint._work.workers import Worker
from mpcheckpoint.errors import CheckpointError


class Permit:
    """The permit to begin items. It stands until the first failure is recorded, or the map is over.

    A worker that takes an item asks for it, and one that records a failure revokes it, both under the append lock of
    the log that holds claims and outcomes. So no claim of this map comes after the failure in the log, however many
    items are queued, and in whatever processes.

    Rejected: to ask the process that started the map. It hears of a failure after its workers have begun others.

    Pickles, to a copy for a worker process; the file belongs to the process that made it.
    """

    def __init__(self, path: str, owner: Worker | None = None) -> None:
        self._path = path
        self._owner = owner

    @classmethod
    def given(cls, directory: str) -> Permit:
        """Make one, in the directory of the store's workers: it is void as soon as this process dies."""
        owner = Worker(directory)
        return cls(owner.path, owner)

    def __reduce__(self) -> tuple[Any, ...]:
        return Permit, (self._path,)

    @property
    def loss(self) -> CheckpointError:
        """The error for a map whose permit was taken away though no item of it has failed."""
        return CheckpointError(
            f"the map has stopped, though none of its items has failed: {self._path} was removed, by which its workers "
            "know that. What ran is recorded; start the map again to carry on",
            path=self._path,
            reason="permit removed",
        )

    def is_valid(self) -> bool:
        """Return whether items may be begun."""
        return system.exists(self._path)

    def revoke(self) -> None:
        """Have nothing more begun. Twice is fine.

        Raises:
            StoreAccessError, WriteFailedError: it could not be revoked.
        """
        with translated("halting a map by removing", self._path):
            system.remove(self._path)

    def retire(self) -> None:
        """Let go of the file: the map is over. Twice is fine."""
        if self._owner is not None:
            self._owner.retire()
