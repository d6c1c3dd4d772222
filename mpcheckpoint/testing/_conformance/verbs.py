"""What the tests are made of: batches, what a log holds, threads, and a held lock."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar
from unittest import TestCase

from mpcheckpoint._format.codec import decode_event, encode_payload, record_id_of
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._store.durability import Durability
from mpcheckpoint._types import Position

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._store.protocol import Reader, StoredLog

UNSYNCED = Durability.parse("never")

T = TypeVar("T")

# Expect a block to raise an error; any other error passes through.
raises = TestCase().assertRaises


class Background(Generic[T]):
    """A call in a thread of its own, so that a hanging call fails its test and nothing more."""

    def __init__(self, function: Callable[..., T], *args: Any) -> None:
        self._future: Future[T] = Future()
        threading.Thread(target=self._run, args=(function, args), daemon=True).start()

    def _run(self, function: Callable[..., T], args: tuple[Any, ...]) -> None:
        try:
            self._future.set_result(function(*args))
        except BaseException as error:  # noqa: BLE001 - it is raised by `result`
            self._future.set_exception(error)

    @property
    def is_done(self) -> bool:
        """Whether the call has returned or raised."""
        return self._future.done()

    def result(self, timeout_s: float) -> T:
        """Return or raise what the call did. Raises AssertionError if it is not done in time."""
        assert wait([self._future], timeout_s).done, f"it still waits after {timeout_s} s"
        return self._future.result()


class Seen(NamedTuple):
    """One record as a reader gave it."""

    object_key: str
    event: Any
    record_id: str | None
    stamp_us: int
    more: int
    position: Position


def payload(event: object, object_key: str = "x", record_id: str | None = None) -> Payload:
    """Return the payload of a record."""
    return encode_payload(object_key, event, record_id)


def wait_until(holds: Callable[[], object], patience_s: float) -> None:
    """Return once ``holds()`` is true. Raises AssertionError if it is not in time."""
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline, f"still not so after {patience_s} s"
        time.sleep(0.002)


def append(
    log: StoredLog,
    *events: object,
    guard: Callable[[], Position | None] | None = None,
    timeout_s: float | None = 30.0,
    durability: Durability = UNSYNCED,
) -> Position:
    """Append events of one object as one batch."""
    return log.append(
        [payload(event) for event in events], durability=durability, timeout_s=timeout_s, guard=guard
    )


def news_of(reader: Reader, log_key: str) -> list[Seen]:
    """Return what is new to a reader; what it gave before is void if the log came anew."""
    found: list[Seen] = []
    for chunk in reader.poll():
        if chunk.is_reset:
            found = []
        for line in chunk.lines:
            assert line.object_key is not None, "a control line was given as a record"
            place = chunk.generation, line.end, line.stamp_us, line.more, chunk.lineage
            position = Position(log_key, *place)
            event, record_id = decode_event(line.event), record_id_of(line.meta)
            found.append(Seen(line.object_key, event, record_id, line.stamp_us, line.more, position))
    return found


def records(log: StoredLog) -> list[Seen]:
    """Return all records of a log, by a new reader."""
    reader = log.reader()
    try:
        return news_of(reader, log.log_key)
    finally:
        reader.release()


def events(log: StoredLog) -> list[Any]:
    """Return the events of a log's records, by a new reader."""
    return [record.event for record in records(log)]


def batches(found: list[Seen]) -> list[list[Any]]:
    """Return the events, batch by batch, as the lines tell."""
    cut: list[list[Any]] = []
    more = 0
    for index, record in enumerate(found):
        if more == 0:
            cut.append([])
        else:
            assert record.more == more - 1, f"record {index}: more is {record.more} after {more}"
            assert record.stamp_us == found[index - 1].stamp_us, f"record {index}: another stamp in one batch"
        cut[-1].append(record.event)
        more = record.more
    assert more == 0, f"the last batch lacks {more} records"
    return cut


class _LetGoError(Exception):
    """Ends a guard that only held the lock."""


@contextmanager
def held(log: StoredLog, patience_s: float) -> Iterator[None]:
    """Hold ``log`` during the block, inside an append in another thread that writes nothing."""
    is_inside, may_leave = threading.Event(), threading.Event()

    def guard() -> None:
        is_inside.set()
        may_leave.wait(4 * patience_s)
        raise _LetGoError

    def hold() -> None:
        with raises(_LetGoError):
            append(log, "never", guard=guard, timeout_s=patience_s)

    holder = Background(hold)
    try:
        assert is_inside.wait(patience_s), "the guard was not called"
        yield
    finally:
        may_leave.set()
    holder.result(patience_s)


@contextmanager
def clock_of_another_process(stamp_us: int = 0) -> Iterator[None]:
    """Let this process, during the block, have seen no stamp above ``stamp_us``, as if it were another process."""
    seen_us, clock.highest_us = clock.highest_us, stamp_us
    try:
        yield
    finally:
        clock.highest_us = seen_us
