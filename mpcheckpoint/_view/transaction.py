"""Read, decide, append: one batch, if nothing that was read has changed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

from mpcheckpoint._format.codec import decode_event, encode_payload
from mpcheckpoint.errors import ClosedError, ConflictError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._types import Position
    from mpcheckpoint._view.log_handle import LogHandle
    from mpcheckpoint._view.view import ObjectState

T = TypeVar("T")


class Transaction:
    """Collect records without any lock and append them as one atomic batch when the block ends.

    The batch lands only if every object read in the block still has exactly the events that were read; else
    ConflictError is raised at the end of the block and nothing is written. An exception in the block writes
    nothing. A transaction that only reads conflicts in the same way: when its block ends quietly, what it
    read was true together.

    Durability: as the log's setting says, when the block has ended.
    Concurrency: for one thread; any number of transactions in any number of processes. Void in a forked child.
    """

    def __init__(self, log: LogHandle) -> None:
        log.for_writing()  # refuses a handle that may not write, before anything is decided
        self._log = log
        self._pid = os.getpid()
        # The events of each object that was read, and the state it was in.
        self._reads: dict[str, tuple[list[bytes], ObjectState]] = {}
        self._writes: list[tuple[str, Payload]] = []
        self._is_open = False
        self._position: Position | None = None
        # The conflict of this transaction's own commit: ``update`` tells it from one that the block raised.
        self.conflict: ConflictError | None = None

    @property
    def position(self) -> Position | None:
        """The position of the batch once the block has ended; None if nothing was appended."""
        return self._position

    def events(self, object_key: str) -> tuple[Any, ...]:
        """Return the events of an object in this log, this transaction's own appends included."""
        own = [payload.event for written, payload in self._writes if written == object_key]
        return tuple(decode_event(event) for event in [*self._read(object_key), *own])

    def __contains__(self, object_key: object) -> bool:
        return isinstance(object_key, str) and bool(self.events(object_key))

    def append(self, object_key: str, event: object, *, default: Callable[[Any], Any] | None = None) -> None:
        """Add a record to the batch. Nothing is written before the block ends.

        Args:
            object_key, event, default: as for ``Log.append``.

        Raises:
            InvalidKeyError, InvalidEventError, LimitExceededError: the record is refused; the transaction goes on.
            And what ``default`` raises; the transaction goes on, too.
        """
        self._require_open()
        payload = encode_payload(object_key, event, None, default or self._log.default)
        self._writes.append((object_key, payload))

    def __enter__(self) -> Transaction:
        if self._is_open or self._position is not None:
            raise ClosedError("a transaction can be entered once; take another", reason="used")
        self._is_open = True
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._is_open = False
            return
        self._require_open()
        self._is_open = False
        states = {object_key: state for object_key, (_, state) in self._reads.items()}
        try:
            self._position = self._log.commit([payload for _, payload in self._writes], states)
        except ConflictError as conflict:
            self.conflict = conflict
            raise

    def _read(self, object_key: str) -> list[bytes]:
        self._require_open()
        if object_key not in self._reads:
            self._reads[object_key] = self._log.events_and_state(object_key)
        return self._reads[object_key][0]

    def _require_open(self) -> None:
        if not self._is_open:
            raise ClosedError("the transaction is not open: use it inside its with block", reason="closed")
        if self._pid != os.getpid():
            raise ClosedError(
                "the transaction was opened before a fork and belongs to the parent", reason="forked"
            )


def update(log: LogHandle, fn: Callable[[Transaction], T]) -> T:
    """Run ``fn`` until its batch lands. See ``Log.update``."""
    while True:
        transaction = Transaction(log)
        try:
            with transaction:
                result = fn(transaction)
        except ConflictError as error:
            if transaction.conflict is not error:
                raise  # fn raised it
        else:
            return result
