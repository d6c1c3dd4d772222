"""Read, decide, append: one batch, if nothing that was read has changed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

from mpcheckpoint._format.codec import decode_event, encode_payload
from mpcheckpoint._view.conditions import Conditions, require_number
from mpcheckpoint.errors import ClosedError, ConflictError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._types import Position
    from mpcheckpoint._view.log_handle import LogHandle
    from mpcheckpoint._view.view import LogView, ObjectState

T = TypeVar("T")


class Transaction:
    """Collect records without any lock and append them as one atomic batch when the block ends.

    The batch lands only if every object read in the block still has exactly the events that were read; else
    ConflictError is raised at the end of the block and nothing is written. An exception in the block writes
    nothing. A transaction that only reads conflicts in the same way: when its block ends quietly, what it
    read was true together. Where an object is read again and has changed since, ConflictError is raised at once.

    Cost: of what is read; to judge whether it has changed takes the same for objects of any length.
    Durability: as the log's setting says, when the block has ended.
    Concurrency: for one thread; any number of transactions in any number of processes. Void in a forked child.
    """

    def __init__(self, log: LogHandle) -> None:
        log.for_writing()  # refuses a handle that may not write, before anything is decided
        self._log = log
        self._pid = os.getpid()
        # What is relied on: of objects of which events were read, the state they were in; of others, the count.
        self._states: dict[str, ObjectState] = {}
        self._counts: dict[str, int] = {}
        # All events, of objects of which all were read.
        self._whole: dict[str, list[bytes]] = {}
        self._writes: list[Payload] = []
        self._own: dict[str, list[bytes]] = {}
        self._is_used = self._is_open = False
        self._position: Position | None = None
        # The conflict of this transaction's own reads and commit: ``update`` tells it from one that the block raised.
        self.conflict: ConflictError | None = None

    @property
    def position(self) -> Position | None:
        """The position of the batch once the block has ended; None if nothing was appended."""
        return self._position

    def events(self, object_key: str, *, start: int = 0) -> tuple[Any, ...]:
        """Return the events of an object in this log, this transaction's own appends included.

        Args:
            start: only from that number on, counted as ``Log.events`` does. It costs what these take, and the batch
                lands only if the object has not changed at all.

        Raises:
            ConflictError: it was read before in this transaction, and has changed.
        """
        self._require_open()
        require_number("start", start)
        own = self._own.get(object_key, [])
        if not start:
            return tuple(map(decode_event, [*self._read_whole(object_key), *own]))
        if object_key in self._whole:
            whole, count = self._whole[object_key], self._states[object_key].events
            found = whole[max(0, len(whole) - max(0, count - start)) :]
        else:
            found, state = self._read(object_key, lambda view: view.events_from(object_key, start))
            count = state.events
        return tuple(map(decode_event, [*found, *own[max(0, start - count) :]]))

    def last(self, object_key: str, n: int = 1) -> tuple[Any, ...]:
        """Return the last ``n`` events of an object, as ``Log.last`` does, this transaction's own appends included. It
        costs what these take, and the batch lands only if the object has not changed at all.

        Raises:
            ConflictError: it was read before in this transaction, and has changed.
        """
        self._require_open()
        require_number("n", n)
        own = self._own.get(object_key, [])
        left = max(0, n - len(own))
        if object_key in self._whole:
            whole = self._whole[object_key]
            found = whole[max(0, len(whole) - left) :]
        else:
            found, _ = self._read(object_key, lambda view: view.records.last_of(object_key, left))
        return tuple(map(decode_event, [*found, *own[len(own) - (n - left) :]]))

    def count(self, object_key: str) -> int:
        """Return how many events an object has, as ``Log.count`` does, this transaction's own appends included.

        It takes the same for any number. If only the count was read of an object, the batch lands if that is the same
        at the end of the block, whatever the events are.

        Raises:
            ConflictError: it was read before in this transaction, and has changed.
        """
        self._require_open()
        state = self._states.get(object_key)
        count = state.events if state is not None else self._counts.get(object_key)
        if count is None:
            count = self._counts[object_key] = self._log.count(object_key)
        return count + len(self._own.get(object_key, []))

    def __contains__(self, object_key: object) -> bool:
        return isinstance(object_key, str) and bool(self.last(object_key))

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
        self._writes.append(payload)
        self._own.setdefault(object_key, []).append(payload.event)

    def __enter__(self) -> Transaction:
        if self._is_used:  # what a block that failed had collected is not for another one to write
            raise ClosedError("a transaction can be entered once; take another", reason="used")
        self._is_used = self._is_open = True
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._is_open = False
            return
        self._require_open()
        self._is_open = False
        relied_on = Conditions(self._counts, self._states)
        try:
            self._position = self._log.append_on(self._writes, relied_on)
        except ConflictError as conflict:
            self.conflict = conflict
            raise

    def _read(
        self, object_key: str, read: Callable[[LogView], list[bytes]]
    ) -> tuple[list[bytes], ObjectState]:
        """Return what is read of an object's events, and the state that it is in, which the batch relies on now."""
        found, state = self._log.read_object(object_key, read)
        known = self._states.setdefault(object_key, state)
        expected = self._counts.get(object_key, known.events)
        if not known.is_same(state) or expected != state.events:
            self.conflict = ConflictError(object_key, expected=expected, found=state.events, position=None)
            raise self.conflict
        return found, state

    def _read_whole(self, object_key: str) -> list[bytes]:
        if object_key not in self._whole:
            found, _ = self._read(object_key, lambda view: view.records.events_of(object_key))
            self._whole[object_key] = found
        return self._whole[object_key]

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
