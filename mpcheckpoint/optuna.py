"""A journal for Optuna: ``optuna.storages.JournalStorage(JournalBackend("study-dir"))`` in the place of its own file.

It takes Optuna, 4.0 or newer: ``pip install 'mpcheckpoint[optuna]'``. Without it, importing this raises
MissingExtraError.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import zlib
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

from mpcheckpoint._format.columns import Lines
from mpcheckpoint._format.control import DROPPED
from mpcheckpoint._format.dropped import dropped_of
from mpcheckpoint._store.process import process
from mpcheckpoint._types import Position
from mpcheckpoint._view.log_handle import LogHandle
from mpcheckpoint._view.merged_read import ALL, records_in
from mpcheckpoint.checkpoint import Checkpoint
from mpcheckpoint.errors import (
    CheckpointError,
    InvalidEventError,
    InvalidPositionError,
    JournalError,
    LogNotFoundError,
    MissingExtraError,
)
from mpcheckpoint.log import Log

try:
    import optuna
except ImportError as error:
    raise MissingExtraError("optuna", "optuna") from error
from optuna.storages.journal import BaseJournalBackend
from optuna.storages.journal._base import BaseJournalSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from mpcheckpoint._format.frame import Line
    from mpcheckpoint._logfile.chunk import Chunk
    from mpcheckpoint._postgres.address import Address
    from mpcheckpoint._store.protocol import StoredLog
    from mpcheckpoint._types import Record
    from mpcheckpoint._view.durable import Only
    from mpcheckpoint._view.tail import Tail

__all__ = ["JournalBackend"]

_USUAL_KEY = "optuna"
# The object of all records, in the log and in that of the snapshots: to forget it is to forget the journal.
_JOURNAL = "journal"
_TAG_BYTES = 8
# Storages that share a backend may have read up to different places.
_MOST_PLACES = 64

logger = logging.getLogger("mpcheckpoint")
_encode = json.JSONEncoder(separators=(",", ":")).encode


class JournalBackend(BaseJournalBackend, BaseJournalSnapshot):
    """Keeps the journal of a ``JournalStorage`` in a log, in the place of Optuna's ``JournalFileBackend``.

    One record is one operation, as Optuna would write it to its own file. Behind the id of the worker in it stands a
    tag of this backend in this process, taken off again where the same one reads it: a fork copies the id, and parent
    and child would take each other's trials for their own.

    Durability: as the log's; by default an operation survives a loss of power when Optuna's call returns.
    Concurrency: any number of processes and threads; survives fork on both sides. It pickles, to a new backend on the
    same log.
    """

    def __init__(self, store: str | os.PathLike[str] | Address | Log, log_key: str | None = None) -> None:
        """Open the journal, creating it if need be.

        Args:
            store: a directory, or the address of a store on a server, as for ``Checkpoint``; or an open log, whose
                settings (``durability``, ``lock_timeout_s``) then hold.
            log_key: the log of the store; None for "optuna". Snapshots go to a log of the same key and ".snapshots".

        Raises:
            JournalError: the log holds something else.
            TypeError: an open log was given, and a ``log_key``.
            And what ``Checkpoint`` and ``Checkpoint.log`` raise.
        """
        if not isinstance(store, Log):
            self._log = Checkpoint(store, log_keys=()).log(_USUAL_KEY if log_key is None else log_key)
        elif log_key is None:
            self._log = store
        else:
            raise TypeError(f"the open log has a key of its own; log_key is to be left out, not {log_key!r}")
        # By the number of a record, the place before it: where reading ended lately.
        self._places: dict[int, Position] = {}
        # Where the last reading of each thread ended: its number, and the place.
        self._read_up_to = threading.local()
        # The generation of the log in which nothing is known to be missing.
        self._whole = ""
        # The place of the operation number 0; None if there was none yet. Another one begins another journal.
        self._first: Position | None = None
        self.reset_after_fork()
        process.register(self)
        first = next(self._log.read(), None)
        if first is not None:
            self._operation(first)

    def reset_after_fork(self) -> None:
        """In a forked child: be another worker, with a mutex and an open file of its own."""
        self._mutex = threading.Lock()
        self._tag = f"@{os.urandom(_TAG_BYTES).hex()}"
        # Gives the records from ``_number`` on, as they come; None if there is none at the moment.
        self._tail: Tail | None = None
        self._number = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return JournalBackend, (self._log,)

    # --- operations -------------------------------------------------------------------------------------------

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append operations, all of them or none.

        Raises:
            TypeError: one is no JSON, not even by ``json.dumps``. Nothing was written.
            And what ``Log.append`` raises.
        """
        process.notice_fork()
        texts = [_encode(self._tagged(log)) for log in logs]
        try:
            self._append([json.loads(text) for text in texts])
        except InvalidEventError:
            # Infinities and NaN, which JSON does not have, and what else only Python's json takes: as a text.
            self._append(texts)

    def _append(self, events: list[Any]) -> None:
        if len(events) == 1:
            self._log.append(_JOURNAL, events[0])
        else:
            self._log.append_many((_JOURNAL, event) for event in events)

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Return the operations from that number on; the first that was ever appended has the number 0.

        Sees every append that returned before this call, in any process.

        Raises:
            JournalError: the log holds something else, or not all that was appended to it, or was forgotten.
            CorruptLogError, ReadFailedError, LogNotFoundError, InvalidPositionError, RecordsLostError: here, or in the
                iteration.
        """
        process.notice_fork()
        with self._mutex:
            tail, self._tail = self._tail, None  # until all has gone well
            if tail is None or log_number_from != self._number:
                if log_number_from not in self._places:
                    return self._operations_from(log_number_from)
                tail = self._log._handle.tail(self._places[log_number_from], _unforgotten(is_begun=True))
                self._number = log_number_from
            records = tail.new()
            operations = [self._operation(record) for record in records]
            if records:
                self._number += len(records)
                self._ended(self._number, records[-1].position)
            self._tail = tail
        return operations

    def _operations_from(self, number: int) -> Iterator[dict[str, Any]]:
        """Yield the operations from ``number`` on: there may be many, so not from a list."""
        with self._mutex:
            at = max((known for known in self._places if known <= number), default=0)
            place = self._places.get(at)
        only = _unforgotten(is_begun=place is not None)
        for record in self._log._handle.read(place, ALL, None, only):
            operation = self._operation(record)
            at, place = at + 1, record.position
            if at > number:
                yield operation
        if at < number:
            raise JournalError(
                f"{number} operations were read of the journal {self._log.log_key!r}, and it holds {at}",
                reason="operations lost",
                advice="open the study anew",
            )
        with self._mutex:
            self._ended(at, place)

    def _ended(self, number: int, place: Position | None) -> None:
        self._read_up_to.place = number, place
        if place is not None:
            self._places[number] = place
            while len(self._places) > _MOST_PLACES:
                del self._places[next(iter(self._places))]

    def _operation(self, record: Record) -> dict[str, Any]:
        if record.position.generation != self._whole:
            self._require_whole()
            self._whole = record.position.generation
        operation = record.event
        if record.object_key == _JOURNAL and type(operation) is str:
            operation = json.loads(operation)
        if record.object_key != _JOURNAL or type(operation) is not dict:
            raise _no_journal(record)
        worker = operation.get("worker_id")
        if type(worker) is str and worker.endswith(self._tag):
            operation["worker_id"] = worker.removesuffix(self._tag)
        return operation

    def _tagged(self, operation: dict[str, Any]) -> dict[str, Any]:
        worker = operation.get("worker_id")
        return {**operation, "worker_id": worker + self._tag} if isinstance(worker, str) else operation

    def _require_whole(self) -> None:
        """Raise JournalError if a compaction left something out: the operations would be counted wrongly.

        It says what it dropped, but of objects that were forgotten nothing: then another operation is the first one.
        """
        reader = self._log._handle.reader()
        try:
            for chunk in reader.poll():
                if any(note.name == DROPPED and dropped_of(note.fields).objects for note in chunk.notes):
                    raise JournalError(
                        f"operations were dropped from the journal {self._log.log_key!r} by a compaction, and Optuna "
                        "cannot do without them",
                        reason="operations dropped",
                        advice="restore a backup",
                    )
                if chunk.lines:  # what was dropped is told of before all records
                    first = next(
                        records_in(Lines.of(chunk.lines), ALL, chunk.origin(self._log.log_key))
                    ).position
                    break
            else:
                return  # a record is there that this reader does not find: its own reading tells why
        finally:
            reader.release()
        if self._first is None:
            self._first = first
        if first != self._first:
            raise JournalError(
                f"the journal {self._log.log_key!r} was forgotten, and a compaction has dropped it",
                reason="journal forgotten",
                advice="open the study anew",
            )

    # --- snapshots --------------------------------------------------------------------------------------------

    def save_snapshot(self, snapshot: bytes) -> None:
        """Keep Optuna's state, as of what this thread has read last, in the place of what was kept before.

        It spares those that open the journal to read all of it, and is nothing more, so where that cannot be done
        (LimitExceededError, WriteFailedError and the like), there is a warning in the logger "mpcheckpoint".

        Durability: always; so is the part of the journal that it stands for.
        """
        number, place = getattr(self._read_up_to, "place", (0, None))
        event = {
            "optuna": optuna.__version__,
            "number": number,
            "first": None if self._first is None else str(self._first),
            "after": None if place is None else str(place),
            "snapshot": b64encode(zlib.compress(snapshot, 1)).decode(),
        }
        try:
            # Crash: a snapshot of operations that a loss of power took would put others in their place.
            self._log.flush()
            snapshots = self._snapshots(create=True)
            snapshots.append(_JOURNAL, event, durability="always")
            snapshots.compact(keep_last=1)
        except CheckpointError as error:
            logger.warning("no snapshot of the journal %r was kept: %s", self._log.log_key, error)

    def load_snapshot(self) -> bytes | None:
        """Return the state that was kept last; None if there is none, or none of this version of Optuna and this log.

        Raises:
            JournalError: the log of the snapshots holds something else.
            CorruptLogError, ReadFailedError
        """
        process.notice_fork()
        try:
            last = next(self._snapshots(create=False).read(last=1), None)
        except LogNotFoundError:
            return None
        kept: dict[str, Any] = {} if last is None else last.event
        if kept.get("optuna") != optuna.__version__:
            return None  # another version may have pickled something else
        if kept["after"] is not None:
            place = Position.parse(kept["after"])
            first = kept.get("first")
            if first is None or Position.parse(first) != self._first:
                return None  # the journal was forgotten, and is begun anew, or may have been
            try:
                self._log.tail(place)
            except InvalidPositionError:
                return None  # the log was made anew, or restored to an earlier state
            with self._mutex:
                self._ended(kept["number"], place)
        return zlib.decompress(b64decode(kept["snapshot"]))

    def _snapshots(self, *, create: bool) -> Log:
        handle = self._log._handle
        log_key = f"{handle.log_key}.snapshots"
        handle.store.open(log_key, create=create)
        snapshots = Log(LogHandle(handle.store, log_key))
        first = next(snapshots.read(), None)
        if first is not None and not (first.object_key == _JOURNAL and type(first.event) is dict):
            raise _no_journal(first)  # before anything is compacted away
        return snapshots


def _unforgotten(*, is_begun: bool) -> Only:
    """Return what gives the records of each chunk, until the journal is forgotten.

    What was forgotten is given out until a compaction drops it. Then what came after it has other numbers.

    Args:
        is_begun: whether operations were read before.
    """

    def chosen(stored: StoredLog) -> Callable[[Chunk], Sequence[Line]]:
        is_there = is_begun

        def records(chunk: Chunk) -> Sequence[Line]:
            nonlocal is_there
            # What says so stays where all before it was dropped.
            if any(each.object_key == _JOURNAL and (is_there or each.at) for each in chunk.forgets):
                raise JournalError(
                    f"the journal {stored.log_key!r} was forgotten, and no compaction has dropped it yet",
                    reason="journal forgotten",
                    advice="compact the log, and open the study anew",
                )
            is_there = is_there or bool(chunk.lines)
            return chunk.lines

        return records

    return chosen


def _no_journal(record: Record) -> JournalError:
    return JournalError(
        f"the log {record.log_key!r} is no journal of Optuna: it holds a record of {record.object_key!r}",
        reason="no journal",
        advice="give another log_key",
    )
