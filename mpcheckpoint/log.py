"""One log of a store, for users."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

from mpcheckpoint._compaction.compacting import compact
from mpcheckpoint._format.codec import decode_event
from mpcheckpoint._view.log_path import log_path
from mpcheckpoint._view.moments import choice_of, require_last
from mpcheckpoint._view.object_mapping import ObjectMapping
from mpcheckpoint._view.transaction import Transaction, update
from mpcheckpoint._work.claims import claimed
from mpcheckpoint._work.file_marks import chosen
from mpcheckpoint._work.reruns import history_of, require_rerun_name
from mpcheckpoint._work.results import results
from mpcheckpoint._work.start_map import start_map
from mpcheckpoint._work.status import pending_of, status_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from mpcheckpoint._store.protocol import StoredLog
    from mpcheckpoint._types import Cursor, Position, Record, Repair
    from mpcheckpoint._view.follow import Follower
    from mpcheckpoint._view.log_handle import LogHandle
    from mpcheckpoint._view.moments import Moment
    from mpcheckpoint._view.records import Records
    from mpcheckpoint._view.tail import Tail
    from mpcheckpoint._work.claims import Claim
    from mpcheckpoint._work.status import MapStatus

__all__ = ["Log"]

T = TypeVar("T")


class Log(ObjectMapping):
    """One append-only log of a store; get it from ``Checkpoint.log``.

    A read-only mapping from object key to the tuple of its events in this log, as ``Checkpoint`` is one over all logs:
    ``len(log)`` counts its objects, not its records. It is always true, and equal only to itself.

    Concurrency: any number of threads; survives fork on both sides; pickles, to a new handle on the same log.
    """

    def __init__(self, handle: LogHandle) -> None:
        self._handle = handle

    @property
    def log_key(self) -> str:
        """The key of this log."""
        return self._handle.log_key

    @property
    def path(self) -> Path | None:
        """The absolute path of the log's file; None if the store is on a server."""
        return log_path(self._handle.store, self.log_key)

    # --- write ------------------------------------------------------------------------------------------------

    def append(
        self,
        object_key: str,
        event: object,
        *,
        expected_count: int | None = None,
        record_id: str | None = None,
        durability: Literal["always", "interval", "never"] | str | None = None,
        default: Callable[[Any], Any] | None = None,
    ) -> Position:
        """Record that ``event`` happened to ``object_key``.

        Args:
            object_key: any string.
            event: any JSON value: None, bool, int, finite float, str, list, dict with string keys.
            expected_count: append only if exactly so many events were ever appended for this object to this log.
            record_id: the caller's id. If the log holds it for this object already, nothing is written and the first
                record's position is returned, so that a retry is safe.
            durability: overrides the handle's setting for this append.
            default: a function that makes JSON of a value that is none, as ``json.dumps`` has it; None for that of the
                handle. It is asked for every value in ``event`` that would be refused without it, a tuple and NaN
                included, and again for such values in what it returned; not for the names in a dict. What it made is
                what is recorded and read back.

        Returns:
            The position right after the record.

        Raises:
            InvalidKeyError, InvalidEventError, LimitExceededError: the record is refused; nothing was written.
            What ``default`` raises: nothing was written.
            ConflictError: ``expected_count`` did not hold; nothing was written.
            LockTimeoutError, WriteFailedError, CorruptLogError, PoisonedLogError, ReadOnlyError: nothing was written.
            OutcomeUnknownError: it was written, and its sync failed.

        Durability: as the setting says; by default the record survives a loss of power when this returns.
        Concurrency: any number of threads and processes.
        """
        return self._handle.append(object_key, event, expected_count, record_id, durability, default)

    def append_many(
        self,
        records: Iterable[tuple[str, object]],
        *,
        durability: Literal["always", "interval", "never"] | str | None = None,
        default: Callable[[Any], Any] | None = None,
        expected_counts: Mapping[str, int] | None = None,
        expected_end: Position | Literal["start"] | None = None,
    ) -> Position | None:
        """Append records as one batch, with one sync: after a crash all of them are there or none.

        Args:
            records: pairs of object key and event. None at all is fine: then it is only found out whether what is
                expected holds.
            durability: overrides the handle's setting for this batch.
            default: as for ``append``.
            expected_counts: append only if exactly so many events were ever appended for each of these objects to this
                log, those of ``records`` or others. It costs the same for an object of any length.
            expected_end: append only if no record was appended to this log after this position, and no object
                forgotten: it is that of the last record you know of, what an append returned, or the ``end`` of a
                ConflictError (which it takes where the last records were dropped or forgotten: that of the last one
                that is left does not do then). "start": the log never had a record. Claims and what maps note do not
                count. Compared with a count it conflicts with every writer of the log.

        Returns:
            The position right after the last record; None if there were none.

        Raises:
            As ``append``, and TypeError for what is no pair; if one is refused, nothing of the batch was written.
            ConflictError: something that is expected does not hold; nothing was written. Of counts it names the object,
                what was expected and found, and the first record too many; of the end the first record after it, and
                where the log ends now.
            InvalidPositionError: ``expected_end`` is no position of this log, or was lost; nothing was written.
        """
        return self._handle.append_many(records, durability, default, expected_counts, expected_end)

    def transaction(self) -> Transaction:
        """Return a transaction: read, decide, append, all or nothing. Use it in a ``with`` statement."""
        return Transaction(self._handle)

    def update(self, fn: Callable[[Transaction], T]) -> T:
        """Run ``fn(transaction)`` until its batch lands; return what it returned that time.

        ``fn`` runs again, with a new transaction, each time what it read was changed before its batch landed. Each such
        conflict means that another writer made progress, so some process always does.
        """
        return update(self._handle, fn)

    def forget(self, object_keys: str | Iterable[str]) -> Position | None:
        """Forget objects: from when this returns, no view shows them, their counts begin at 0, and their record ids are
        new ones. All of them at once.

        Their records stay in the file, and ``read`` and ``follow`` give them, until the next ``compact``; what was cut
        off by repairs stays until ``compact(purge=True)``, after which no byte of them is left in the store.

        Args:
            object_keys: the objects, or one of them. Those that the log does not hold are no error.

        Returns:
            The position of this in the log; None if there are no objects.

        Raises:
            As ``append``.

        Durability: as the handle's setting says; by default it survives a loss of power when this returns.
        """
        return self._handle.forget([object_keys] if isinstance(object_keys, str) else object_keys)

    def flush(self) -> None:
        """Make all durable that the log holds now, written by any process.

        Raises:
            OutcomeUnknownError: the sync failed; or a restore took out what this process had appended with the
                durability ``interval`` and was not durable yet. (Of ``never`` nothing tells.)
        """
        self._handle.for_writing().flush(self._handle.store.settings.lock_timeout_s)

    def recover(self) -> None:
        """Make the log take appends again after a failed sync (PoisonedLogError), once its cause is gone.

        Copies every record into a new generation, makes that durable, and puts it in place. Positions and cursors stay
        valid.

        Raises:
            CorruptLogError, WriteFailedError, LockTimeoutError: nothing was changed.
        """
        self._handle.for_writing().recover(self._handle.store.settings.lock_timeout_s)

    # Defined, with its documentation, where its arguments are checked.
    compact = compact

    # --- read -------------------------------------------------------------------------------------------------

    def events(self, object_key: str, *, start: int = 0) -> tuple[Any, ...]:
        """Return the events of an object in this log, in the order they were appended; () if there are none. What a
        compaction left out is not among them; ``count`` counts it.

        Sees every append that returned before this call, in any process.

        Args:
            start: only from that number on, at the cost of these alone. Numbers begin at 0 and go up to ``count``:
                what compactions left out counts, as the first ones. So ``events(key, start=n)`` is what came since
                ``count(key)`` was ``n``.
        """
        if start == 0:
            return tuple(map(decode_event, self._handle.raw_events(object_key)))
        return tuple(map(decode_event, self._handle.events_from(object_key, start)))

    def last(self, object_key: str, n: int = 1) -> tuple[Any, ...]:
        """Return the last ``n`` events of an object in this log, in the order they were appended; fewer if there are
        no more. It costs what these take, however many came before.
        """
        return tuple(map(decode_event, self._handle.last_events(object_key, n)))

    def count(self, object_key: str) -> int:
        """Return how many events were ever appended for an object to this log, those included that a compaction left
        out: it may be more than ``len(events(object_key))``.
        """
        return self._handle.count(object_key)

    def read(
        self,
        after: Position | None = None,
        *,
        object_key: str | None = None,
        last: int | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        durable: bool = False,
    ) -> Iterator[Record]:
        """Yield the records of this log, in order, in bounded memory. If only its end is wanted, only that is read.

        Args:
            after: begin after this position; None for the start.
            object_key, last, since, until: as for ``Checkpoint.read``.
            durable: only what is known to be durable, syncing first if need be. A read-only handle cannot sync, and
                yields what the log itself states to be durable.

        Raises:
            CorruptLogError: at the damage, after the records before it were yielded.
            InvalidPositionError: ``after`` is no position of this log.
            InvalidKeyError, TypeError, ValueError: at once, as ``Checkpoint.read``.
        """
        return self._handle.read(
            after, choice_of(object_key, since, until), require_last(last), self._handle.only(durable=durable)
        )

    def follow(
        self,
        after: Cursor | Position | Literal["start", "end"] = "start",
        *,
        idle_timeout_s: float | None = None,
        durable: bool = False,
    ) -> Follower:
        """Return an iterator over the log's records that waits for more.

        Args:
            after: begin after this position or cursor, at the "start", or at the "end" as it is now.
            idle_timeout_s: end quietly when nothing came for so many seconds; None waits for ever.
            durable: as for ``read``.
        """
        return self._handle.follow(after, idle_timeout_s, self._handle.only(durable=durable))

    def tail(
        self, after: Cursor | Position | Literal["start", "end"] = "start", *, durable: bool = False
    ) -> Tail:
        """Return what gives, at each call of ``new``, the records that came since the last one, without waiting.

        Args:
            after: as for ``follow``, or the ``cursor`` of an earlier tail.
            durable: as for ``read``.

        Raises:
            InvalidPositionError: ``after`` is no position of this log.
        """
        return self._handle.tail(after, self._handle.only(durable=durable))

    # What a mapping asks for.
    def _events_of(self, object_key: str) -> list[bytes]:
        return self._handle.store.events_in(self.log_key, object_key)

    def _ask(self, judge: Callable[[dict[str, Records]], T]) -> T:
        return self._handle.query(lambda view: judge({self.log_key: view.records}))

    def _logs(self) -> list[StoredLog]:
        return [self._handle.store.opened(self.log_key)]

    # --- look after -------------------------------------------------------------------------------------------

    def repairs(self) -> list[Repair]:
        """Return what repairs of torn ends have cut off this log so far, and where the bytes are kept."""
        return self._handle.store.opened(self.log_key).repairs()

    def stats(self) -> dict[str, object]:
        """Return figures of this log, by name. The first call reads the log, later ones what is new; memory is
        bounded, apart from the keys of its objects.

        Returns:
            ``records``, ``objects``: how many it holds. ``size_bytes``, ``path``: of its file, with padding.
            ``first_us``, ``last_us``: when the first and the last record were made (unix microseconds), or None.
            ``batches``: how many appends wrote the records, in all processes; a batch is one.
            ``stated_syncs``: how many syncs the log's own lines tell of, in all processes, in its present generation.
                There may have been more: those that covered nothing new, or came after the last line.
            ``appends``, ``syncs``: how many of each this process did. ``repairs``: how many torn ends were cut off.
            ``state``, ``is_poisoned``: "whole"; "pending": a write seems to be in progress; "torn": a dying writer left
                bytes that the next one cuts off; "poisoned": a sync failed, ``recover`` helps. The worst of them.
            ``lock``: whether its append lock is held now: "free", "held", or "unknown" where the system does not tell
                (Linux does, in the first name space of processes).
            ``holder_pid``, ``holder_command``, ``is_holder_stopped``: who does; None if nobody, or it cannot be told.
            ``waiters``: how many processes and threads wait for it; None if that cannot be told.
            ``core``: what this process runs: "native", or "pure" for Python alone.

        Raises:
            CorruptLogError, ReadFailedError, LogNotFoundError: ``mpcheckpoint.maintenance.survey`` tells what it can.

        Concurrency: takes no lock that another process could wait for.
        """
        return self._handle.stats()

    # --- work -------------------------------------------------------------------------------------------------

    def claim(self, object_key: str) -> AbstractContextManager[Claim | None]:
        """Take the sole right to work on an object, for a ``with`` block.

        The block gets a claim, or None if another live worker has the object: another process, thread, or claim of
        this process. The object is free again when the block ends, and at once when this process dies: no claim has to
        age. A claim keeps other claims out, not appends.

        Raises:
            InvalidKeyError: it is no key.
            ReadOnlyError, LockTimeoutError, WriteFailedError, PoisonedLogError: nothing was taken.

        Durability: none needed; after a loss of power no worker lives.
        Concurrency: any number of threads and processes. A forked child does not share the claim.
        """
        return claimed(self._handle, object_key)

    def pending(
        self,
        items: Iterable[T],
        *,
        key: Callable[[T], str] | None = None,
        rerun: str | None = None,
        changed_files: bool | Literal["stat", "hash"] = False,
        file: Callable[[T], Any] | None = None,
    ) -> Iterator[T]:
        """Yield the items that are not done, each judged when its turn comes. If a map ran on this log, an item is done
        once it has an outcome, even a failure; else once it has an event.

        Args:
            items, key: as for ``map``.
            rerun: an item is done once it has an outcome under this name; see ``map``.
            changed_files, file: an item is not done if its file has changed since; see ``map``.

        Raises:
            TypeError, InvalidKeyError: an item has no object key, or names no file.
            ValueError: ``rerun`` is no name, or ``changed_files`` no way to compare.
        """
        require_rerun_name(rerun)
        changed, file_of = chosen(changed_files, file)
        return pending_of(self._handle, items, key, rerun, changed, file_of)

    # Defined, with its documentation, where its arguments are checked.
    map = start_map

    # Defined, with its documentation, where its arguments are checked.
    results = results

    def reruns(self) -> tuple[str, ...]:
        """Return the names of the reruns on this log, in the order in which they were begun."""
        return tuple(name for name in self._handle.query(history_of).latest if name is not None)

    def map_status(self, *, rerun: str | None = None) -> MapStatus | None:
        """Return how far the log's map is, in whatever process it runs; None if no map ran on this log. Counts what is
        recorded, and checks which workers and map processes are alive. Takes no lock and writes nothing.

        Args:
            rerun: count the outcomes under this name. None for the rerun that is under way, if all starts that live now
                work on the same one; else for each item's last outcome. ``MapStatus.rerun`` tells which.

        Raises:
            CorruptLogError, ReadFailedError: the log cannot be read.
            ValueError: ``rerun`` is no name.
        """
        return status_of(self._handle, require_rerun_name(rerun))

    def __reduce__(self) -> tuple[Any, ...]:
        return Log, (self._handle,)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.log_key!r} of {self._handle.store.settings.path}>"


def handle_of(log: Log) -> LogHandle:
    """Return the handle of a log, for the layers above, which do more than users may."""
    return log._handle
