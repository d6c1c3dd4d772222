"""The storage protocol, of workers: what claims and maps ask a storage about who works. See ``_store.protocol``."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from mpcheckpoint._system import LockHolder


class Worker(Protocol):
    """Stands for the work on one object at a time, from the claim to the outcome; or for a start of a map, or a permit.

    It lives until it retires, or its process dies, however that dies. In a forked child it is not the child's, and the
    child does not keep it alive.

    Attributes:
        id: 32 hex digits that no other worker of the store has had, or will have.
    """

    id: str

    @property
    def fd(self) -> int:
        """A descriptor for a command to inherit; -1 for none. Where the storage can, the command keeps the worker alive
        by it."""

    @property
    def is_mine(self) -> bool:
        """Whether this process began the worker, and is no fork of that one."""

    @property
    def is_lost(self) -> bool:
        """Whether this process knows, without asking, that the worker is dead: the session that kept it alive was lost.
        False where no session does."""

    def live_again(self) -> bool:
        """Have a worker that died since the session that kept it alive was lost live again, in the session that this
        process has now; return False if that session was not lost, it has retired, or another process has the worker.

        Requires: no claim names it. It is a permit: nobody acted upon its death.

        Raises:
            StoreUnavailableError, StoreAccessError, WriteFailedError
        """

    def begin_again(self) -> bool:
        """Note that this worker begins another object now; return False if it is known no longer: its claims count no
        more, and another one has to be begun."""

    def show(self, data: bytes) -> None:
        """Show those who watch these bytes, instead of earlier ones. Best effort: nothing depends on it."""

    def others(self) -> list[LockHolder]:
        """Return the other processes on this machine that keep the worker alive, where that can be told."""

    def retire(self) -> None:
        """End the worker. Twice is fine.

        Raises:
            StoreAccessError, WriteFailedError
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None:
        """Retire."""


class WorkerHolder(NamedTuple):
    """Which process keeps a worker alive.

    Attributes:
        process: it; None if that cannot be told.
        is_left: the process that began the worker is gone, but something that it started still keeps the worker alive:
            a command that outlived its map.
    """

    process: LockHolder | None
    is_left: bool = False


class Workers(Protocol):
    """The workers of a store: those of all stores on the same place. It pickles. Any number of threads may use it.

    Who lives is never told from how long ago something happened, nor from what a process says of itself.

    Attributes:
        may_outlive_records: whether workers go on living where a crash takes what was appended and not synced: that of
            a server whose clients live on. Then claims are synced, too; else two workers could have one object.
    """

    may_outlive_records: bool

    def begin(self) -> Worker:
        """Begin a worker.

        Raises:
            StoreAccessError, WriteFailedError, NotAStoreError
        """

    def is_live(self, worker_id: str) -> bool:
        """Return whether that worker lives; False for what is no id of this storage. Asked under append locks.

        A worker that was found dead never lives again, unless it is a permit.

        Raises:
            ReadFailedError, StoreAccessError
        """

    def is_known(self, worker_id: str) -> bool:
        """Return whether a worker has neither retired nor been retired. It may be dead. Asked under append locks."""

    def retire(self, worker_id: str) -> None:
        """Retire a worker, which may be another process's. Twice is fine. Called under append locks.

        Raises:
            StoreAccessError, WriteFailedError
        """

    def name_of(self, worker_id: str) -> str:
        """Return what a message calls a worker: where an administrator finds it."""

    def begun_us(self, worker_id: str) -> int | None:
        """Return since when a worker has its object, in microseconds since 1970; None if it does not live."""

    def shown(self) -> Iterable[bytes]:
        """Return what each live worker that shows something shows; spaces may follow it."""

    def holders(self, worker_ids: Collection[str]) -> dict[str, WorkerHolder]:
        """Return what keeps each of these workers alive, of those that live."""

    def clear(self) -> None:
        """Remove what dead workers have left. Best effort."""
