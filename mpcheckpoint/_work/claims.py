"""Claims on objects: a note in the log names the worker that has the object. It counts while that worker lives."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpcheckpoint._format.codec import encode_key
from mpcheckpoint._format.concern import concerns_of_objects
from mpcheckpoint._format.control import CLAIM, Note, note_payload
from mpcheckpoint._view.earlier import Earlier
from mpcheckpoint.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._store.worker_protocol import Worker, Workers
    from mpcheckpoint._view.log_handle import LogHandle
    from mpcheckpoint._view.view import LogView


@dataclass(frozen=True, slots=True)
class Claim:
    """The sole right to work on one object, until its block or this process ends.

    Attributes:
        object_key: the object.
        worker: the id of the worker that has it.
    """

    object_key: str
    worker: str


class TakenError(Exception):
    """Another live worker has the object."""


def claim_payload(object_key: str, worker_id: str | None) -> Payload:
    """Return the note that gives an object to a worker; None gives it back."""
    return note_payload(Note(CLAIM, {"object_key": object_key, "worker": worker_id}))


def durability_of_claims(workers: Workers) -> str:
    """Return how durable claims have to be, and what is recorded of attempts: as durable as their workers live."""
    return "always" if workers.may_outlive_records else "never"


def is_taken(view: LogView, object_key: str, workers: Workers, worker_id: str | None = None) -> bool:
    """Return whether a live worker other than ``worker_id`` has the object. The claim of a dead worker is void."""
    holder = view.claim_of(object_key)
    if holder is None or holder == worker_id:
        return False
    return workers.is_live(holder)


def take(log: LogHandle, object_key: str, worker: Worker) -> Earlier:
    """Claim an object for ``worker``; return what ``give_back`` may be spared a look by.

    Raises:
        TakenError: another live worker has it.
    """
    workers = log.workers
    earlier = Earlier(lambda view: view.claim_of(object_key) is None)

    def free(view: LogView) -> None:
        if is_taken(view, object_key, workers):
            raise TakenError

    claim, relies_on = claim_payload(object_key, worker.id), concerns_of_objects([object_key])
    durability = durability_of_claims(workers)
    log.append_if([claim], free, relies_on=relies_on, durability=durability, earlier=earlier)
    return earlier


def give_back(log: LogHandle, object_key: str, worker: Worker, earlier: Earlier | None = None) -> None:
    """Note in the log that the object is free. Best effort: it is free anyway as soon as the worker has retired."""
    if not worker.is_mine:
        return

    def held(view: LogView) -> None:
        if view.claim_of(object_key) != worker.id:
            raise TakenError

    claim, relies_on = claim_payload(object_key, None), concerns_of_objects([object_key])
    try:
        durability = durability_of_claims(log.workers)
        log.append_if([claim], held, relies_on=relies_on, durability=durability, earlier=earlier)
    except (CheckpointError, TakenError):
        pass  # a full disk, a closed handle: the caller should hear of what its block did, not of this


@contextmanager
def claimed(log: LogHandle, object_key: str) -> Iterator[Claim | None]:
    """Hold an object for the block; None if another live worker has it. See ``Log.claim``."""
    encode_key(object_key)
    log.append_many(())  # refuses a handle that may not write, before a file is made
    with log.workers.begin() as worker:
        earlier = None
        try:
            earlier = take(log, object_key, worker)
        except TakenError:
            claim = None
        else:
            claim = Claim(object_key, worker.id)
        try:
            yield claim
        finally:
            if claim is not None:
                give_back(log, object_key, worker, earlier)
