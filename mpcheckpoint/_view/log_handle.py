"""One log through one handle: what ``Log``, claims, maps, imports and transactions call."""

from __future__ import annotations

import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from mpcheckpoint import _core
from mpcheckpoint._format.codec import encode_key, encode_payload, encode_payloads
from mpcheckpoint._format.control import forget_payload
from mpcheckpoint._format.frame import MAX_BATCH_BYTES, MAX_LINE_BYTES, Line, Payload, batch_bytes_bound
from mpcheckpoint._logfile.judged import Judged
from mpcheckpoint._store.durability import Durability
from mpcheckpoint._view.conditions import Conditions, conditions, require_count, require_number
from mpcheckpoint._view.durable import StatedDurable
from mpcheckpoint._view.follow import Follower
from mpcheckpoint._view.followed import FollowedLogs
from mpcheckpoint._view.log_read import read_log
from mpcheckpoint._view.settings import Settings, sendable
from mpcheckpoint._view.store_handle import StoreHandle
from mpcheckpoint._view.tail import Tail
from mpcheckpoint._view.view import MovedError
from mpcheckpoint.errors import ConflictError, LimitExceededError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from mpcheckpoint._format.made_json import Default
    from mpcheckpoint._logfile.chunk import Chunk
    from mpcheckpoint._store.protocol import Reader, StoredLog
    from mpcheckpoint._types import Cursor, Position, Record
    from mpcheckpoint._view.durable import Only
    from mpcheckpoint._view.earlier import Earlier
    from mpcheckpoint._view.merged_read import Choice
    from mpcheckpoint._view.view import LogView, ObjectState

T = TypeVar("T")

# A view of this age will do where what is judged on it is judged again under the append lock.
RECENT_S = 0.02


# What claims and maps ask for at each append.
_KNOWN = {setting: Durability.parse(setting) for setting in ("always", "never")}


class LogHandle:
    """One log, through one handle on its store.

    Concurrency: any number of threads. It pickles, to a handle of its own on the same log.
    """

    def __init__(self, store: StoreHandle, log_key: str) -> None:
        self.store = store
        self.log_key = log_key
        self.default = store.settings.default
        self.workers = store.workers
        self._judged_s = -math.inf  # when the view was last brought up to date to judge a condition

    def __reduce__(self) -> tuple[Any, ...]:
        return self._sent_with(sendable(self.store.settings))

    def without_default(self) -> tuple[Any, ...]:
        """Return what pickles to a handle that has no ``default``: for those who append JSON only."""
        return self._sent_with(self.store.settings._replace(default=None))

    def _sent_with(self, settings: Settings) -> tuple[Any, ...]:
        return _reopen, (settings._replace(log_keys=(self.log_key,)), self.log_key)

    # --- write ------------------------------------------------------------------------------------------------

    def for_writing(self) -> StoredLog:
        """Return the stored log. Few calls: each append asks.

        Raises:
            ClosedError, ReadOnlyError, LogNotOpenError
        """
        return self.store.opened_for_writing(self.log_key)

    def append(
        self,
        object_key: str,
        event: object,
        expected_count: int | None,
        record_id: str | None,
        durability: str | None,
        default: Default | None = None,
    ) -> Position:
        """See ``Log.append``."""
        if default is None:
            default = self.default
        stored = self.store.opened_for_writing(self.log_key)
        if expected_count is None and record_id is None and durability is None:
            return stored.append(
                [encode_payload(object_key, event, None, default)],
                durability=self.store.durability,
                timeout_s=self.store.settings.lock_timeout_s,
            )
        if expected_count is not None:
            require_number("expected_count", expected_count)
        payload = encode_payload(object_key, event, record_id, default)
        if expected_count is None and record_id is None:
            return self._append(stored, [payload], None, durability)

        def judge(view: LogView) -> Position | None:
            found = view.position_of_id(object_key, record_id) if record_id is not None else None
            if found is None and expected_count is not None:
                require_count(view, object_key, expected_count)
            return found

        def is_met(view: LogView) -> bool:
            try:
                return judge(view) is None
            except ConflictError:
                return False  # what counts is what the log holds under the lock

        guard = self._judged(judge, is_met, frozenset((payload.object_key,)))
        return self._append(stored, [payload], guard, durability)

    def append_many(
        self,
        records: Iterable[tuple[str, object]],
        durability: str | None = None,
        default: Default | None = None,
        expected_counts: Mapping[str, int] | None = None,
        expected_end: Position | str | None = None,
    ) -> Position | None:
        """See ``Log.append_many``."""
        stored = self.for_writing()
        expected = conditions(expected_counts, expected_end)
        payloads = encode_payloads(records, default or self.default)
        if expected is not None:
            return self.append_on(payloads, expected, durability)
        return self._append(stored, payloads, None, durability) if payloads else None

    def append_on(
        self, payloads: list[Payload], expected: Conditions, durability: str | None = None
    ) -> Position | None:
        """Append a batch if what is expected is true; of an empty one only find out.

        Raises:
            ConflictError, InvalidPositionError: it is not.
        """
        self.for_writing()

        def judge(view: LogView) -> None:
            expected.require(self.store.state_of(self.log_key))

        if payloads:
            return self.append_if(payloads, judge, relies_on=expected.relies_on, durability=durability)
        self.query(judge)  # one look at one log is consistent in itself: to have read, no lock is needed
        return None

    def append_if(
        self,
        payloads: list[Payload],
        judge: Callable[[LogView], list[Payload] | None],
        *,
        relies_on: frozenset[bytes] | None = None,
        durability: str | None = None,
        may_repeat: bool = True,
        earlier: Earlier | None = None,
    ) -> Position:
        """Append a batch unless ``judge`` raises when shown the view of the log that it is appended to.

        ``judge`` must neither wait nor call back into the store. It may return those of ``payloads`` that are to be
        appended, at least one; None for all. It is called without the append lock first, several times perhaps: what it
        says is taken if nothing was appended since that concerns what it ``relies_on``. If it raises, or others append
        such lines all the time, it is called under the lock, and that is what counts.

        Args:
            relies_on: all that what ``judge`` says depends on (``_format.concern``); None for anything. Where something
                is missing in it, a storage may append what ``judge`` would have refused.
            may_repeat: whether ``judge`` changes nothing; else it is called once, under the lock.
            earlier: what may spare the first look; for a batch that is appended whole.
        """
        stored = self.for_writing()
        batch = payloads.copy()

        def choose(view: LogView) -> None:
            chosen = judge(view)
            batch[:] = payloads if chosen is None else chosen

        def is_met(view: LogView) -> bool:
            try:
                choose(view)
            except Exception:  # noqa: BLE001 - it may be met under the lock
                return False
            return True

        if not may_repeat:
            # Outside the lock, so that only the rest is read inside. Not for what others appended in the last few
            # milliseconds: reading it takes less time than writing it took.
            self.query(_nothing, max_age_s=RECENT_S)
            return self._append(stored, batch, lambda: self._query_locked(choose), durability)
        guard = self._judged(choose, is_met, relies_on, earlier)
        position = self._append(stored, batch, guard, durability)
        if earlier is not None:
            earlier.appended = guard.appended
        return position

    def _judged(
        self,
        judge: Callable[[LogView], Position | None],
        is_met: Callable[[LogView], bool],
        relies_on: frozenset[bytes] | None,
        earlier: Earlier | None = None,
    ) -> Judged:
        """Return a condition that was judged for the first time, without the append lock."""
        guard = Judged(
            lambda: self._query_locked(judge), lambda: self.store.seen_if(self.log_key, is_met), relies_on
        )
        if earlier is not None:
            age_s = time.monotonic() - self._judged_s
            guard.seen = earlier.seen(lambda: self.store.known(self.log_key), self.store.mutex, age_s)
        if guard.seen is None:
            self._judged_s = time.monotonic()
            guard.is_met_anew()
        return guard

    def forget(self, object_keys: Iterable[str]) -> Position | None:
        """See ``Log.forget``."""
        keys = list(object_keys)
        payloads = [forget_payload(object_key) for object_key in keys if encode_key(object_key)]
        return self._append(self.for_writing(), payloads, None, None) if payloads else None

    def append_guarded(self, payloads: list[Payload], guard: Callable[[], None]) -> Position:
        """Append a batch unless ``guard`` raises under the append lock; it must neither wait nor append."""
        return self._append(self.for_writing(), payloads, guard, None)

    @staticmethod
    def require_fitting(payloads: list[Payload]) -> None:
        """Refuse a batch that is larger than the format allows.

        Raises:
            LimitExceededError: it is. Nothing was written.
        """
        size = batch_bytes_bound(payloads)
        if size > MAX_LINE_BYTES and max(batch_bytes_bound([each]) for each in payloads) > MAX_LINE_BYTES:
            raise LimitExceededError(  # of a record it was found out before: it is a forget, or a note
                f"what is to be said of an object takes more than the {MAX_LINE_BYTES} bytes that a line holds",
                reason="line too long",
            )
        if size > MAX_BATCH_BYTES:
            raise LimitExceededError(
                f"a batch of {len(payloads)} record{'' if len(payloads) == 1 else 's'} takes {size} bytes; one holds "
                f"at most {MAX_BATCH_BYTES}. "
                "Append it in parts.",
                reason="batch too large",
            )

    def _append(
        self,
        stored: StoredLog,
        payloads: list[Payload],
        guard: Callable[[], Position | None] | None,
        durability: str | None,
    ) -> Position:
        self.require_fitting(payloads)
        while True:
            try:
                return stored.append(
                    payloads,
                    durability=self.store.durability if durability is None else _parsed(durability),
                    timeout_s=self.store.settings.lock_timeout_s,
                    guard=guard,
                )
            except MovedError:
                self.query(
                    _nothing
                )  # outside the lock; each turn takes another compaction that ends just then

    def _query_locked(self, judge: Callable[[LogView], T]) -> T:
        """Return what ``judge`` makes of the view, under the append lock."""
        return self.store.query(self.log_key, judge, is_locked=True)

    # --- read -------------------------------------------------------------------------------------------------

    def query(self, judge: Callable[[LogView], T], *, max_age_s: float = 0.0) -> T:
        """Return what ``judge`` makes of this log's view, brought up to date if it is older than ``max_age_s``."""
        return self.store.query(self.log_key, judge, max_age_s=max_age_s)

    def known_note(self, judge: Callable[[LogView], T]) -> T | None:
        """Return what ``judge`` makes of the view as far as it was read before; None if it was not."""
        with self.store.mutex.guard():
            known = self.store.known(self.log_key)
            return None if known is None else judge(known.view)

    def raw_events(self, object_key: str) -> list[bytes]:
        """Return the events of an object, undecoded, as they are now."""
        if type(object_key) is not str:
            encode_key(object_key)
        events = self.store.events_in(self.log_key, object_key)
        if not events:
            encode_key(object_key)  # what is no key is not in the log either
        return events

    def events_from(self, object_key: str, start: int) -> list[bytes]:
        """Return the events of an object from that number on, undecoded."""
        encode_key(object_key)
        require_number("start", start)
        return self.query(lambda view: view.events_from(object_key, start))

    def last_events(self, object_key: str, n: int) -> list[bytes]:
        """Return the last events of an object, undecoded."""
        encode_key(object_key)
        require_number("n", n)
        return self.query(lambda view: view.records.last_of(object_key, n))

    def read_object(
        self, object_key: str, read: Callable[[LogView], list[bytes]]
    ) -> tuple[list[bytes], ObjectState]:
        """Return what is read of an object, and its state (``LogView.state_of``), at one moment."""
        encode_key(object_key)
        return self.query(lambda view: (read(view), view.state_of(object_key)))

    def count(self, object_key: str) -> int:
        """See ``Log.count``."""
        encode_key(object_key)
        return self.query(lambda view: view.count_of(object_key))

    def reader(self) -> Reader:
        """Return a new reader at the start of the log: what it reads takes no memory in the view."""
        return self.store.opened(self.log_key).reader(resumes=True)

    def read(
        self, after: Position | None, choice: Choice, last: int | None, only: Only | None
    ) -> Iterator[Record]:
        """See ``Log.read``. Of each chunk, give out what ``only`` makes of it."""
        return read_log(self.store.opened(self.log_key), after, choice, last, only)

    def follow(
        self, after: Cursor | Position | str, idle_timeout_s: float | None, only: Only | None
    ) -> Follower:
        """See ``Log.follow``; ``only`` as for ``read``."""
        return Follower(self._followed(after, only), idle_timeout_s)

    def tail(self, after: Cursor | Position | str, only: Only | None) -> Tail:
        """See ``Log.tail``; ``only`` as for ``read``."""
        return Tail(
            self._followed(after, only),
            self.store.require_open,
            partial(self.tail, only=only),
            f"the log {self.log_key!r} of {self.store.path}",
        )

    def _followed(self, after: Cursor | Position | str, only: Only | None) -> FollowedLogs:
        found = True, [self.store.opened(self.log_key)]
        return FollowedLogs(lambda _: found, after, only, is_one=True)

    def only(self, *, durable: bool) -> Only | None:
        """Return what chooses durable records, if that is asked."""
        return self._only_durable if durable else None

    def _only_durable(self, stored: StoredLog) -> Callable[[Chunk], Sequence[Line]]:
        if self.store.settings.read_only:
            return StatedDurable()

        def synced(chunk: Chunk) -> Sequence[Line]:
            stored.flush(self.store.settings.lock_timeout_s)
            return chunk.lines

        return synced

    # --- look after -------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, object]:
        """See ``Log.stats``."""
        stored = self.store.opened(self.log_key)
        with self.store.mutex.guard():
            statistics = self.store.statistics(self.log_key)
            of_process = stored.stats()
            states = statistics.states(is_poisoned=bool(of_process["is_poisoned"]))
            figures = statistics.figures
            counted: dict[str, object] = {
                "records": figures.records,
                "objects": len(figures.object_keys),
                "first_us": figures.first_us,
                "last_us": figures.last_us,
                "batches": figures.batches,
                "stated_syncs": figures.stated_syncs,
                "state": states[0],
                "core": _core.kind,
            }
        return counted | of_process


def _parsed(durability: object) -> Durability:
    known = _KNOWN.get(durability) if type(durability) is str else None
    return Durability.parse(durability) if known is None else known


def _reopen(settings: Settings, log_key: str) -> LogHandle:
    return LogHandle(StoreHandle(settings), log_key)


def _nothing(view: LogView) -> None:
    """Judge nothing: the view was brought up to date."""
