"""Transactions in a task: what waits is done in a thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from mpcheckpoint._view.transaction import Transaction
from mpcheckpoint.errors import ClosedError, ConflictError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from mpcheckpoint._aio.opened import OpenedLog
    from mpcheckpoint._aio.threads import Threads
    from mpcheckpoint._types import Position

T = TypeVar("T")


class AsyncTransaction:
    """Collect records without any lock and append them as one atomic batch when the ``async with`` block ends.

    As ``Transaction``: the batch lands only if every object read in the block still has exactly the events that were
    read; else ConflictError is raised at the end of the block and nothing is written. An exception in the block, a
    cancellation too, writes nothing. Cancelled while the block ends, see ``under_way``.

    Concurrency: for one task.
    """

    def __init__(self, open_log: Callable[[], Awaitable[OpenedLog]], reads: Threads) -> None:
        self._open_log = open_log
        self._reads = reads
        self._inner: Transaction | None = None

    @property
    def position(self) -> Position | None:
        """The position of the batch once the block has ended; None if nothing was appended."""
        return None if self._inner is None else self._inner.position

    @property
    def conflict(self) -> ConflictError | None:
        """The conflict by which the block ended; None if there was none."""
        return None if self._inner is None else self._inner.conflict

    async def events(self, object_key: str, *, start: int = 0) -> tuple[Any, ...]:
        """Return the events of an object in this log, this transaction's own appends included; see
        ``Transaction.events``."""
        inner = self._entered()
        return await self._reads.run(lambda: inner.events(object_key, start=start))

    async def last(self, object_key: str, n: int = 1) -> tuple[Any, ...]:
        """Return the last ``n`` events of an object; see ``Transaction.last``."""
        inner = self._entered()
        return await self._reads.run(lambda: inner.last(object_key, n))

    async def count(self, object_key: str) -> int:
        """Return how many events an object has; see ``Transaction.count``."""
        inner = self._entered()
        return await self._reads.run(lambda: inner.count(object_key))

    def append(self, object_key: str, event: object, *, default: Callable[[Any], Any] | None = None) -> None:
        """Add a record to the batch. Nothing is written before the block ends, so nothing is awaited here.

        Raises:
            InvalidKeyError, InvalidEventError, LimitExceededError: the record is refused; the transaction goes on.
            And what ``default`` raises; the transaction goes on, too.
        """
        self._entered().append(object_key, event, default=default)

    async def __aenter__(self) -> AsyncTransaction:
        opened = await self._open_log()
        self._writes = opened.writes
        if self._inner is None:
            self._inner = Transaction(opened.handle)
        self._inner.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        inner = self._entered()
        if kind is not None:
            inner.__exit__(kind, error, traceback)
            return
        await self._writes.run(lambda: inner.__exit__(None, None, None), writes=True)

    def _entered(self) -> Transaction:
        if self._inner is None:
            raise ClosedError(
                "the transaction is not open: use it inside its async with block", reason="closed"
            )
        return self._inner


async def update(
    transaction: Callable[[], AsyncTransaction], fn: Callable[[AsyncTransaction], Awaitable[T]]
) -> T:
    """Run ``fn`` until its batch lands. See ``AsyncLog.update``."""
    while True:
        attempt = transaction()
        try:
            async with attempt:
                result = await fn(attempt)
        except ConflictError as error:
            if attempt.conflict is not error:
                raise  # fn raised it
        else:
            return result
