"""One log through a handle: append, read, follow."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

from mpcheckpoint._format.codec import decode_event, encode_key, encode_payload, encode_payloads
from mpcheckpoint._format.frame import MAX_BATCH_BYTES, batch_bytes_bound
from mpcheckpoint._logfile.paths import WORKERS
from mpcheckpoint._store.durability import Durability
from mpcheckpoint._view.follow import Follower, Source, StatedDurable
from mpcheckpoint._view.merged_read import Choice
from mpcheckpoint._view.transaction import Transaction
from mpcheckpoint.errors import ConflictError, LimitExceededError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from mpcheckpoint._format.frame import Line, Payload
    from mpcheckpoint._logfile.read import Chunk
    from mpcheckpoint._store.protocol import Reader, StoredLog
    from mpcheckpoint._types import Position, Record, Repair
    from mpcheckpoint._view.handle import LogState, Session
    from mpcheckpoint._view.view import LogView

T = TypeVar("T")


class RecordLog:
    """One append-only log of records (object key, event)."""

    def __init__(self, session: Session, log_key: str) -> None:
        self._session = session
        self._log_key = log_key

    @property
    def log_key(self) -> str:
        """The key of this log."""
        return self._log_key

    # --- write ------------------------------------------------------------------------------------------------

    def append(
        self,
        object_key: str,
        event: object,
        *,
        expected_count: int | None = None,
        record_id: str | None = None,
        durability: str | None = None,
    ) -> Position:
        """Record that ``event`` happened to ``object_key``.

        Args:
            object_key: any string.
            event: any JSON value: None, bool, int, finite float, str, list, dict with string keys.
            expected_count: append only if exactly so many events were ever appended for this object to this log.
            record_id: the caller's id. If the log holds it for this object already, nothing is written and the first
                record's position is returned, so that a retry is safe.
            durability: overrides the handle's setting for this append.

        Returns:
            The position right behind the record.

        Raises:
            InvalidKeyError, InvalidEventError, LimitExceededError: the record is refused; nothing was written.
            ConflictError: ``expected_count`` did not hold; nothing was written.
            LockTimeoutError, WriteFailedError, CorruptLogError, PoisonedLogError, ReadOnlyError: nothing was written.
            OutcomeUnknownError: it was written, and its sync failed.

        Durability: as the setting says; by default the record survives a loss of power when this returns.
        Concurrency: any number of threads and processes.
        """
        session = self._session
        stored = session.stored_for_writing(self._log_key)
        if expected_count is None and record_id is None and durability is None:
            return stored.append(
                [encode_payload(object_key, event)],
                durability=session.durability,
                timeout_s=session.settings.lock_timeout_s,
            )
        if expected_count is not None and (type(expected_count) is not int or expected_count < 0):
            raise ValueError(
                f"expected_count is a number of events, at least 0, or None, not {expected_count!r}"
            )
        payload = encode_payload(object_key, event, record_id)
        guard: Callable[[], Position | None] | None = None
        if expected_count is not None or record_id is not None:
            self._catch_up()  # outside the lock, so that only the rest is read inside

            def guard() -> Position | None:
                return self._checked(object_key, expected_count, record_id)

        return self._append(stored, [payload], guard, durability)

    def append_many(
        self, records: Iterable[tuple[str, object]], *, durability: str | None = None
    ) -> Position | None:
        """Append records as one batch, with one sync: after a crash all of them are there or none.

        Args:
            records: pairs of object key and event. None at all is fine.
            durability: overrides the handle's setting for this batch.

        Returns:
            The position right behind the last record; None if there were none.

        Raises:
            As ``append``; if one record is refused, nothing of the batch was written.
        """
        state = self._for_writing()
        payloads = encode_payloads(records)
        if not payloads:
            return None
        return self._append(state.stored, payloads, None, durability)

    def transaction(self) -> Transaction:
        """Return a transaction: read, decide, append, all or nothing. Use it in a ``with`` statement."""
        self._for_writing()
        return Transaction(self)

    def update(self, fn: Callable[[Transaction], T]) -> T:
        """Run ``fn(transaction)`` until its batch lands; return what it returned that time.

        ``fn`` runs again, with a new transaction, each time what it read was changed before its batch landed. Each such
        conflict means that another writer got on, so not everybody can be kept waiting.
        """
        while True:
            transaction = self.transaction()
            try:
                with transaction:
                    result = fn(transaction)
            except ConflictError as error:
                if transaction.conflict is not error:
                    raise  # it came out of fn
            else:
                return result

    def flush(self) -> None:
        """Make everything durable that the log holds now, whoever wrote it.

        Raises:
            OutcomeUnknownError: the sync failed.
        """
        self._for_writing().stored.flush(self._session.settings.lock_timeout_s)

    def recover(self) -> None:
        """Make the log take appends again after a failed sync (PoisonedLogError).

        Copies every record into a new generation, makes that durable, and puts it in place. Positions and cursors stay
        valid. Do it when the cause is gone: a sound disk, enough space.

        Raises:
            CorruptLogError, WriteFailedError, LockTimeoutError: nothing was changed.
        """
        self._for_writing().stored.recover(self._session.settings.lock_timeout_s)

    # --- read -------------------------------------------------------------------------------------------------

    def events(self, object_key: str) -> tuple[Any, ...]:
        """Return the events of an object in this log, in the order they were appended; () if there are none.

        Sees every append that returned before this call, in any process.
        """
        return tuple(map(decode_event, self.raw_events(object_key)))

    def count(self, object_key: str) -> int:
        """Return how many events were ever appended for an object to this log."""
        encode_key(object_key)
        return self.look(lambda view: len(view.entries(object_key)))

    def read(
        self, after: Position | None = None, *, object_key: str | None = None, durable: bool = False
    ) -> Iterator[Record]:
        """Yield the records of this log, in order, in bounded memory.

        Args:
            after: begin behind this position; None for the start.
            object_key: only those of this object; the events of others are not even decoded. None for all.
            durable: only what is known durable, syncing first if need be. A read-only handle cannot sync: it yields
                what the log itself states to be durable.

        Raises:
            CorruptLogError: at the damage, after the records before it were yielded.
            InvalidPositionError: ``after`` is no position of this log.
            InvalidKeyError: ``object_key`` is no key.
        """
        state = self._state()
        if object_key is not None:
            encode_key(object_key)
        source = Source(state.stored, self._only_durable(state.stored) if durable else None)
        if after is not None:
            source.reader.seek(after)
        try:
            yield from source.records(Choice(object_key))
        finally:
            source.reader.release()

    def follow(
        self,
        after: Position | str = "start",
        *,
        idle_timeout_s: float | None = None,
        durable: bool = False,
    ) -> Follower:
        """Return an iterator over the log's records that waits for more.

        Args:
            after: begin behind this position, at the "start", or at the "end" as it is now.
            idle_timeout_s: end quietly when nothing came for so many seconds; None waits for ever.
            durable: as for ``read``.
        """
        stored = self._state().stored
        return Follower(
            lambda: [stored],
            after=after,
            idle_timeout_s=idle_timeout_s,
            only=self._only_durable if durable else None,
        )

    # --- look after -------------------------------------------------------------------------------------------

    def repairs(self) -> list[Repair]:
        """Return what repairs of torn ends have cut off this log so far, and where the bytes are kept."""
        return self._state().stored.repairs()

    def stats(self) -> dict[str, object]:
        """Return figures of this log, by name. The first call reads the log, later ones what is new; memory is
        bounded, apart from the keys of its objects.

        Returns:
            ``records``, ``objects``: how many it holds.
            ``first_us``, ``last_us``: when the first and the last record were made, in microseconds since 1970; None
                if there is none.
            ``size_bytes``, ``path``: of its file, with padding.
            ``batches``: how many appends the records came by, of all processes, a batch being one.
            ``stated_syncs``: how many syncs the log's own lines tell of, of all processes, in its present
                generation. There may have been more: one that covered nothing new, or came after the last line.
            ``appends``, ``syncs``: how many of each this process did.
            ``repairs``: how many torn ends were cut off.
            ``state``: "whole"; "pending": a write seems to be in progress; "torn": the next writer cuts off what a
                dying one left; "poisoned": a sync failed, ``recover`` helps. The worst of them.
            ``is_poisoned``: whether a sync failed.
            ``lock``: whether somebody holds its append lock now: "free", "held", or "unknown" where the system does
                not tell (it does on Linux, in the first name space of processes).
            ``holder_pid``, ``holder_command``, ``is_holder_stopped``: who does; None if nobody, or it cannot be told.
            ``waiters``: how many processes and threads sleep until they get it; None if that cannot be told.

        Raises:
            CorruptLogError, ReadFailedError, LogNotFoundError: ``mpcheckpoint.maintenance.survey`` tells what it can.

        Concurrency: takes no lock that anybody else could meet.
        """
        state = self._state()
        with self._session.mutex.guard():
            census = self._session.census(self._log_key)
            of_process = state.stored.stats()
            states = census.states(is_poisoned=bool(of_process["is_poisoned"]))
            figures = census.figures
            counted: dict[str, object] = {
                "records": figures.records,
                "objects": len(figures.object_keys),
                "first_us": figures.first_us,
                "last_us": figures.last_us,
                "batches": figures.batches,
                "stated_syncs": figures.stated_syncs,
                "state": states[0],
            }
        return counted | of_process

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._log_key!r} of {self._session.settings.path}>"

    # --- for claims and maps ----------------------------------------------------------------------------------

    def look(self, judge: Callable[[LogView], T]) -> T:
        """Return what ``judge`` makes of this log's view, brought up to date."""
        self._state()
        with self._session.mutex.guard():
            return judge(self._session.refresh_log(self._log_key))

    def append_if(
        self, payloads: list[Payload], judge: Callable[[LogView], None], *, durability: str | None = None
    ) -> Position:
        """Append a batch unless ``judge`` raises when shown the view under the append lock.

        ``judge`` must neither wait nor call back into the store.
        """
        state = self._for_writing()
        self._catch_up()
        return self._append(state.stored, payloads, lambda: self.look(judge), durability)

    @property
    def workers_directory(self) -> str:
        """The directory in which live workers hold a lock on a file each."""
        return os.path.join(self._session.store_path, WORKERS)

    # --- for imports ------------------------------------------------------------------------------------------

    def reader(self) -> Reader:
        """Return a reader of its own at the start of the log: what it reads takes no memory in the view."""
        return self._state().stored.reader(resumes=True)

    def append_guarded(self, payloads: list[Payload], guard: Callable[[], None]) -> Position:
        """Append a batch unless ``guard`` raises under the append lock; it must neither wait nor append."""
        return self._append(self._for_writing().stored, payloads, guard, None)

    # --- for transactions -------------------------------------------------------------------------------------

    def raw_events(self, object_key: str) -> list[bytes]:
        """Return the events of an object, undecoded, as they are now."""
        encode_key(object_key)
        session = self._session
        session.writable(self._log_key)
        with session.mutex.guard():
            return session.refresh_log(self._log_key).held.events_of(object_key)

    def commit(self, payloads: list[Payload], counts: Mapping[str, int]) -> Position | None:
        """Append a transaction's batch if every object read has still as many events as were read."""
        self._for_writing()

        def judge(view: LogView) -> None:
            for object_key, expected in counts.items():
                _require_count(view, object_key, expected)

        if payloads:
            return self.append_if(payloads, judge)
        self.look(judge)  # one look at one log is consistent in itself: to have read, no lock is needed
        return None

    # --- within -----------------------------------------------------------------------------------------------

    def _state(self) -> LogState:
        return self._session.writable(self._log_key)

    def _for_writing(self) -> LogState:
        self._session.require_writable()
        return self._state()

    def _append(
        self,
        stored: StoredLog,
        payloads: list[Payload],
        guard: Callable[[], Position | None] | None,
        durability: str | None,
    ) -> Position:
        size = batch_bytes_bound(payloads)
        if size > MAX_BATCH_BYTES:
            raise LimitExceededError(
                f"a batch of {len(payloads)} record{'' if len(payloads) == 1 else 's'} takes {size} bytes; one holds "
                f"at most {MAX_BATCH_BYTES}. "
                "Append it in parts.",
                reason="batch too large",
            )
        return stored.append(
            payloads,
            durability=self._session.durability if durability is None else Durability.parse(durability),
            timeout_s=self._session.settings.lock_timeout_s,
            guard=guard,
        )

    def _catch_up(self) -> None:
        with self._session.mutex.guard():
            self._session.refresh_log(self._log_key)

    def _checked(self, object_key: str, expected_count: int | None, record_id: str | None) -> Position | None:
        """Judge the conditions of an append. Runs under the append lock, so nothing can change until the write."""
        with self._session.mutex.guard():
            view = self._session.refresh_log(self._log_key)
            found = view.position_of_id(object_key, record_id) if record_id is not None else None
            if found is None and expected_count is not None:
                _require_count(view, object_key, expected_count)
            return found

    def _only_durable(self, stored: StoredLog) -> Callable[[Chunk], Sequence[Line]]:
        if self._session.settings.read_only:
            return StatedDurable()

        def synced(chunk: Chunk) -> Sequence[Line]:
            stored.flush(self._session.settings.lock_timeout_s)
            return chunk.lines

        return synced


def _require_count(view: LogView, object_key: str, expected: int) -> None:
    entries = view.entries(object_key)
    if len(entries) != expected:
        unexpected = entries[expected] if 0 <= expected < len(entries) else None
        raise ConflictError(
            object_key,
            expected=expected,
            found=len(entries),
            position=view.position_of(unexpected) if unexpected is not None else None,
        )
