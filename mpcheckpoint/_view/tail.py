"""Tails of logs: what was appended since the last call, without waiting for more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpcheckpoint._logfile.mutex import Mutex
from mpcheckpoint._store.process import process
from mpcheckpoint._types import Cursor
from mpcheckpoint.errors import CheckpointError, ClosedError, RecordsLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mpcheckpoint._logfile.chunk import Chunk
    from mpcheckpoint._types import Position, Record
    from mpcheckpoint._view.followed import FollowedLogs

# As many as a read of all logs makes (``StoreHandle``).
_MOST_PASSES = 16


class Tail:
    """What was appended since the last call, of one log or of all, without waiting; get it from ``Log.tail`` or
    ``Checkpoint.tail``.

    A context manager. A tail from the start of a long log gives all of it at the first call; to go through that in
    bounded memory use ``read``, and take the tail from after its last record.

    Concurrency: any number of threads; each record is returned to one of them. A forked child has a tail of its own,
    which goes on from the place where it was forked; one that is pickled, from the place where it was pickled.
    """

    def __init__(
        self,
        followed: FollowedLogs,
        require_open: Callable[[], None],
        again: Callable[[Cursor], Tail],
        name: str,
    ) -> None:
        """Have a tail of these logs.

        Args:
            require_open: raises if the handle is closed; it notices forks that ran no hooks.
            again: makes a tail from after that cursor, in the process where it is unpickled.
            name: of the log or the store, for messages.
        """
        self._followed = followed
        self._require_open = require_open
        self._again = again
        self._name = name
        self._mutex = Mutex(f"a tail of {name}")
        self._is_closed = False
        # Where all stands that was returned; another object at each change, so it needs no mutex. What ``followed``
        # says is further on while a thread is inside ``new``.
        self._given = dict(followed.positions)
        # What kept a log from being read on, when there were records of others to return.
        self._failure: CheckpointError | None = None
        process.register(self)

    @property
    def cursor(self) -> Cursor:
        """The place after all that was returned: hand it to ``tail`` or ``follow``, in any process, to go on there."""
        return Cursor.of(self._given)

    def new(self) -> list[Record]:
        """Return the records that were appended since the last call, in any process; [] if there are none.

        Sees every append that returned before this call. Those of all logs come in the merged order: what one call
        returns holds no record without those that its writer had read before, if these were not returned earlier. Later
        calls may return records of other logs with lower stamps. (Where writers never pause while a call looks at many
        logs again and again, the last of 16 such looks has to do, as for every read of all logs.)

        Raises:
            CorruptLogError, ReadFailedError, LogNotFoundError, FormatVersionError: a log cannot be read on. Where there
                is something to return, before the damage or of other logs, that comes first, and the error at the next
                call.
            RecordsLostError: what was returned is not in the log any more: a server lost it.
            InvalidPositionError: a restore took it out.
            ClosedError: the tail or its handle is closed.
            What ``flush`` raises, where the tail gives durable records only (``durable=True``).
            After each of them nothing is lost: a further call goes on from where the last list ended.
        """
        self._require_open()
        mutex = self._mutex
        if mutex.lock._is_owned():
            mutex.refuse_reentry()
        with mutex.lock:
            if self._is_closed:
                raise ClosedError(f"the tail of {self._name} is closed", reason="closed")
            if self._failure is not None:
                kept, self._failure = self._failure, None
                raise kept
            try:
                polled, alone = None, self._followed.alone
                if alone is not None and not (polled := alone.reader.poll()):
                    return []  # most of the time
                found, failure = self._passes(polled)
            except BaseException:
                self._followed.start_over(self._given)
                raise
            if failure is not None and not found:
                raise failure
            if found:
                self._given, self._failure = dict(self._followed.positions), failure
            return found

    def _passes(self, polled: Iterable[Chunk] | None) -> tuple[list[Record], CheckpointError | None]:
        """Return what is new, and why a log cannot be read on.

        Whatever a record was written because of was visible before it was. So what a pass misses of that, since it had
        read the other log before, the next one finds; one that finds nothing ends it.
        """
        found: list[Record] = []
        failure: CheckpointError | None = None
        followed = self._followed
        for _ in range(_MOST_PASSES):
            count = len(found)
            is_moment = polled is None and followed.look()
            for log_key in list(followed.logs):
                try:
                    for record in followed.news_of(log_key, polled):
                        found.append(record)
                        followed.positions[log_key] = record.position
                except CheckpointError as error:
                    failure = failure or error
                    if not isinstance(error, RecordsLostError):  # its reader raises that again and again
                        followed.drop(log_key)
            if len(found) == count or is_moment or followed.is_one:
                break
        if not followed.is_one:
            found.sort(key=lambda record: (record.stamp_us, record.log_key))
        return found, failure

    def close(self) -> None:
        """Give back files. Closing twice is fine."""
        self._is_closed = True
        if not self._mutex.is_owned():  # else a signal handler has interrupted ``new``
            with self._mutex.lock:
                self._followed.start_over(self._given)

    def __enter__(self) -> Tail:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def go_back(self, positions: Mapping[str, Position]) -> None:
        """In a forked child: go on from after these positions, where what was found since is the parent's."""
        self._given = dict(positions)
        self._followed.start_over(self._given)

    def reset_after_fork(self) -> None:
        """In a forked child: go on with files of its own, from after what was returned before the fork."""
        self._mutex = Mutex(f"a tail of {self._name}")
        self._followed.start_over(self._given)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._again, (self.cursor,)

    def __repr__(self) -> str:
        return f"<Tail of {self._name}>"
