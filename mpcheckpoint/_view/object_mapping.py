"""What a store and a log have in common: a mapping from object to its events."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import ItemsView, Mapping, ValuesView
from typing import TYPE_CHECKING, Any, TypeVar

from mpcheckpoint._format.codec import decode_event
from mpcheckpoint._view.moments import choice_of
from mpcheckpoint._view.object_index import list_objects
from mpcheckpoint._view.view import merged, object_count, ordered_object_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mpcheckpoint._store.protocol import StoredLog
    from mpcheckpoint._view.moments import Moment
    from mpcheckpoint._view.object_index import ObjectSummary
    from mpcheckpoint._view.records import Cut, Records

    T = TypeVar("T")


class ObjectMapping(Mapping[str, tuple[Any, ...]]):
    """A read-only mapping from object key to the tuple of its events, as they are now.

    An object of which a compaction or ``forget`` has left no event is not in it.
    """

    @abstractmethod
    def _events_of(self, object_key: str) -> list[bytes]:
        """Return the events of an object, undecoded, as they are now; [] if there are none, or if it is no key."""

    @abstractmethod
    def _ask(self, judge: Callable[[dict[str, Records]], T]) -> T:
        """Return what ``judge`` makes of the records of the log, or the logs, by log key, as they are now."""

    @abstractmethod
    def _logs(self) -> Iterable[StoredLog]:
        """Return the log, or the logs."""

    def __getitem__(self, object_key: str) -> tuple[Any, ...]:
        events = self._events_of(object_key)
        if not events:
            raise KeyError(object_key)
        return tuple(map(decode_event, events))

    def __contains__(self, object_key: object) -> bool:
        return isinstance(object_key, str) and self._ask(
            lambda logs: any(object_key in log.objects for log in logs.values())
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._ask(ordered_object_keys))

    def __len__(self) -> int:
        return self._ask(object_count)

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    # Mapping's own would take the KeyError of a lost log for an object that is not there.
    def get(self, object_key: str, default: Any = None) -> Any:
        """Return the events of an object, or ``default`` if it is unknown. It raises what ``items`` raises."""
        return tuple(map(decode_event, self._events_of(object_key))) or default

    # Mapping's own would read each object at another moment.
    def items(self) -> ItemsView[str, tuple[Any, ...]]:
        """Return the items of one refreshed cut: pairs of object key and tuple of events, as they are at this call.

        Raises:
            CorruptLogError, ReadFailedError, LogNotFoundError, FormatVersionError: a log cannot be read.
            ClosedError, LogNotOpenError: the handle was closed, or the log.
        """
        return self.snapshot().items()

    def values(self) -> ValuesView[tuple[Any, ...]]:
        """Return the values of one refreshed cut: tuples of events. It raises what ``items`` raises."""
        return self.snapshot().values()

    def snapshot(self) -> Snapshot:
        """Return the state as it is now, frozen: one refreshed cut. It raises what ``items`` raises."""
        return Snapshot(self._ask(lambda logs: {log_key: log.cut() for log_key, log in logs.items()}))

    def objects(
        self, *, since: Moment | None = None, until: Moment | None = None, match: str | None = None
    ) -> Iterator[ObjectSummary]:
        """Yield what is recorded of each object, in the order in which they were first recorded.

        Reads the log, or the logs, not the views: memory is bounded, apart from one entry an object.

        Args:
            since, until: only records made from then to then, both included; as for ``Log.read``.
            match: only objects whose key matches this shell pattern (``fnmatch``); None for all.

        Raises:
            CorruptLogError, ReadFailedError, LogNotFoundError, FormatVersionError: in the iteration, after all that can
                be read was given out.
        """
        return list_objects(self._logs(), choice_of(None, since, until), match)


class Snapshot(Mapping[str, tuple[Any, ...]]):
    """A frozen cut of a store or of a log: object key -> tuple of events. Nothing changes it, and it no longer needs
    what it was taken from."""

    def __init__(self, cuts: dict[str, Cut]) -> None:
        self._cuts = cuts
        self._object_keys = dict.fromkeys(ordered_object_keys(cuts))

    def __getitem__(self, object_key: str) -> tuple[Any, ...]:
        if object_key not in self._object_keys:
            raise KeyError(object_key)
        return tuple(map(decode_event, merged(self._cuts, object_key)))

    def __contains__(self, object_key: object) -> bool:
        return object_key in self._object_keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._object_keys)

    def __len__(self) -> int:
        return len(self._object_keys)

    def __repr__(self) -> str:
        return f"<Snapshot of {len(self)} objects>"
