"""A recorder of the package ``eventsourcing`` on a log, by what every program can call: an example, and a benchmark's.

An aggregate is an object, each of its events a record; the number of a record in the log is the notification's id. So
the log must not be compacted. What was read of the log is kept in memory, and brought up to date by a tail.
"""

from __future__ import annotations

from collections import defaultdict
from threading import Event, RLock
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    IntegrityError,
    ListenNotifySubscription,
    Notification,
    StoredEvent,
    Subscription,
)

from mpcheckpoint.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mpcheckpoint import Log, Record


class LogAggregateRecorder(AggregateRecorder):
    """Records aggregates in a log.

    Concurrency: any number of threads, and of processes with recorders of their own on the same log.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._lock = RLock()
        self._tail = log.tail()
        self._records: list[Record] = []
        # Of each aggregate, by version, the number of its record.
        self._numbers: dict[str, dict[int, int]] = defaultdict(dict)

    def insert_events(self, stored_events: Sequence[StoredEvent], **_: Any) -> Sequence[int] | None:
        """Append the events as one batch, if none of these versions is there."""
        self._insert(stored_events)
        return None

    def _insert(self, stored_events: Sequence[StoredEvent]) -> list[tuple[str, int]]:
        """Return the object and the version of each event."""
        object_keys = {each.originator_id: str(each.originator_id) for each in stored_events}
        named = [(object_keys[each.originator_id], each.originator_version) for each in stored_events]
        if len(set(named)) < len(named):
            raise IntegrityError(f"an event is there twice: {stored_events}")
        batch = [(object_keys[each.originator_id], _encoded(each)) for each in stored_events]
        while batch:
            with self._lock:
                for object_key, version in named:
                    if version in self._numbers[object_key]:
                        raise IntegrityError(f"recorded already: version {version} of {object_key}")
                counts = {object_key: len(self._numbers[object_key]) for object_key in object_keys.values()}
            try:  # without the lock: appends of several threads share a sync
                self._log.append_many(batch, expected_counts=counts)
                break
            except ConflictError:  # another one recorded something that was not read yet
                with self._lock:
                    self._catch_up()
        return named

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """Return events of an aggregate, by version."""
        with self._lock:
            self._catch_up()
            numbers = self._numbers.get(str(originator_id), {})
            versions: Iterable[int] = sorted(numbers, reverse=desc)
            chosen = [
                version
                for version in versions
                if (gt is None or version > gt) and (lte is None or version <= lte)
            ]
            return [_decoded(self._records[numbers[version]]) for version in chosen[:limit]]

    def _catch_up(self) -> None:
        """Read what is new in the log, by whomever. Requires: the lock."""
        new = self._tail.new()
        for number, record in enumerate(new, len(self._records)):
            self._numbers[record.object_key][record.event[0]] = number
        self._records += new


def _encoded(event: StoredEvent) -> list[Any]:
    # Each byte is a character: of a state that is JSON, as most are, the same text.
    state = event.state.decode("latin-1")
    return [event.originator_version, event.topic, state, isinstance(event.originator_id, UUID)]


def _decoded(record: Record) -> StoredEvent:
    version, topic, state, is_uuid = record.event
    originator_id = UUID(record.object_key) if is_uuid else record.object_key
    return StoredEvent(originator_id, version, topic, state.encode("latin-1"))


class LogApplicationRecorder(LogAggregateRecorder, ApplicationRecorder):
    """Records an application: its events are numbered from 1."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self._listeners: set[Event] = set()

    def insert_events(self, stored_events: Sequence[StoredEvent], **_: Any) -> Sequence[int] | None:
        """Append the events as one batch; return their numbers."""
        named = self._insert(stored_events)
        with self._lock:
            self._catch_up()
            numbers = [1 + self._numbers[object_key][version] for object_key, version in named]
        for listener in tuple(self._listeners):
            listener.set()
        return numbers

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """Return events in the order of the log."""
        first = max(1, 1 if start is None else start if inclusive_of_start else start + 1)
        found: list[Notification] = []
        with self._lock:
            self._catch_up()
            for number in range(first, min(stop or len(self._records), len(self._records)) + 1):
                if len(found) == limit:
                    break
                event = _decoded(self._records[number - 1])
                if not topics or event.topic in topics:
                    found.append(
                        Notification(
                            event.originator_id, event.originator_version, event.topic, event.state, number
                        )
                    )
        return found

    def max_notification_id(self) -> int | None:
        """Return how many events there are; None for none."""
        with self._lock:
            self._catch_up()
            return len(self._records) or None

    def subscribe(
        self, gt: int | None = None, topics: Sequence[str] = ()
    ) -> Subscription[ApplicationRecorder]:
        """Return an iterator over events as they are recorded in this process."""
        return LogSubscription(self, gt, topics)

    def listen(self, listener: Event) -> None:
        """Have an event set after each insert."""
        self._listeners.add(listener)

    def unlisten(self, listener: Event) -> None:
        """Set it no more."""
        self._listeners.discard(listener)


class LogSubscription(ListenNotifySubscription[LogApplicationRecorder]):
    """Events as they are recorded."""

    def __init__(self, recorder: LogApplicationRecorder, gt: int | None, topics: Sequence[str]) -> None:
        super().__init__(recorder=recorder, gt=gt, topics=topics)
        recorder.listen(self._has_been_notified)

    def stop(self) -> None:
        """End the iteration."""
        super().stop()
        self._recorder.unlisten(self._has_been_notified)
