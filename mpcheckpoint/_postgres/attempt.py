"""One append to a log of a server, over all its tries: by what each of them is found again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._postgres.rows import body_of, concerns_of, hashes_of, int4
from mpcheckpoint._postgres.sessions import Retry

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._types import Position

_ID_BYTES, _TRY_BYTES = 14, 2
_MOST_TRIES = 2 ** (8 * _TRY_BYTES) - 1


class _Batch(NamedTuple):
    """Lines: how many, hashes of what they concern, and the body."""

    size: bytes
    concerns: bytes
    body: bytes


def _encoded(payloads: list[Payload]) -> _Batch:
    return _Batch(int4(len(payloads)), hashes_of(concerns_of(payloads)), body_of(payloads))


class Attempt:
    """One append, over all its tries.

    Attributes:
        guard: the condition of the batch, if there is one.
        timeout_s, is_durable: how long it may wait for locks, and whether for the disk.
        id: of the batch that this try appends. Each try has its own: a server that crashes may lose what the first one
            appended, with what others had appended before it, and readers would take the second one's batch for that.
        base_us: the stamp that the first try proposed.
        stamp_us: the one that this try proposes.
        may_be_there: whether a try had no answer.
    """

    def __init__(
        self,
        payloads: list[Payload],
        guard: Callable[[], Position | None] | None,
        *,
        timeout_s: float | None,
        is_durable: bool,
        retry_s: float,
    ) -> None:
        self._payloads = payloads
        self.guard = guard
        self.timeout_s = timeout_s
        self.is_durable = is_durable
        self._batch = _encoded(payloads) if guard is None else None  # else it may choose others
        self._append_id = os.urandom(_ID_BYTES)
        self._tries = 0
        self.id = self._append_id + bytes(_TRY_BYTES)
        self.base_us = self.stamp_us = clock.next(0)
        self.may_be_there = False
        self._retry_s = retry_s
        self._retry: Retry | None = None

    def batch(self) -> _Batch:
        """Return the lines, as the server takes them."""
        return self._batch or _encoded(self._payloads)

    def again(self, *, may_be_there: bool) -> bool:
        """Wait a while before the next try; return False if there was no time left."""
        self.next_try(may_be_there=may_be_there)
        if self._retry is None:
            self._retry = Retry(self._retry_s)
        return self._retry.pause()

    def next_try(self, *, may_be_there: bool) -> None:
        """Begin the next try."""
        self.may_be_there = self.may_be_there or may_be_there
        self._tries += 1
        self.id = self._append_id + int.to_bytes(min(self._tries, _MOST_TRIES), _TRY_BYTES, "big")
        self.stamp_us = max(self.stamp_us, clock.next(0))
