"""One append an item: what became of it, its return, and the claim on the next item, in one batch with one sync.

Which lines the batch has is chosen under the append lock of the one log that holds claims and outcomes. So one worker
runs an item, however many try at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint._format.concern import concern_of_notes, concerns_of_objects
from mpcheckpoint._view.view import MAP
from mpcheckpoint._work.claims import claim_payload, durability_of_claims
from mpcheckpoint._work.report import Kind
from mpcheckpoint._work.runs import state_of

if TYPE_CHECKING:
    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._store.worker_protocol import Worker
    from mpcheckpoint._view.view import LogView
    from mpcheckpoint._work.inputs import Input
    from mpcheckpoint._work.plan import Plan
    from mpcheckpoint._work.runs import ItemState


class Finish(NamedTuple):
    """What is to be recorded of an item that ``worker`` ran.

    Attributes:
        is_outcome: whether ``record`` is the item's outcome, which has to be durable; else it is a failed attempt, or a
            death. A loss of power costs one more of these.
        is_failure: whether ``record`` is an outcome that is a failure. If the first one ends the map, no more items
            start from now on.
    """

    entry: Input
    worker: Worker
    record: Payload
    is_outcome: bool = False
    is_failure: bool = False


class Start(NamedTuple):
    """An item that ``worker`` is to begin.

    Attributes:
        is_over: nothing will run: a failure is to be recorded in place of a worker that ended.
    """

    entry: Input
    worker: Worker
    is_over: bool = False


class ItemBatch:
    """A batch that ends an item, begins one, or both.

    Attributes:
        finish_refusal: why ``finish`` was not recorded: FOUND or TAKEN; None if it was.
        start_refusal: why the item of ``start`` was not claimed: FOUND, TAKEN or HALTED; None if it was.
        stamp_us: of the batch; 0 until it is appended.
    """

    def __init__(self, plan: Plan, finish: Finish | None, start: Start | None) -> None:
        self._plan = plan
        self._finish = finish
        self._start = start
        self.finish_refusal: Kind | None = None
        self.start_refusal: Kind | None = None
        self.stamp_us = 0

    def append(self) -> None:
        """Append what is not refused. It can be called again if it raised a shortage.

        Returns when the outcome is durable, if there is one. A claim is synced only where workers may outlive it.

        Raises:
            CheckpointError: nothing was recorded; or, OutcomeUnknownError, perhaps all of it.
        """
        finish, start = self._finish, self._start
        ending: list[Payload] = []
        if finish is not None:
            ending = [finish.record, claim_payload(finish.entry.object_key, None)]
        claim = [] if start is None else [claim_payload(start.entry.object_key, start.worker.id)]

        def choose(view: LogView) -> list[Payload]:
            self.finish_refusal = None if finish is None else self._refusal_of_finish(view, finish)
            is_ending = finish is not None and self.finish_refusal is None
            # Of a map that failures end: this may be the last one.
            permit = self._plan.permit if is_ending and finish is not None and finish.is_failure else None
            is_halting = permit is not None and permit.is_for_one
            if start is None:
                self.start_refusal = None
            else:
                self.start_refusal = Kind.HALTED if is_halting else self._refusal_of_start(view, start)
            chosen = ending if is_ending else []
            if self.start_refusal is None:
                chosen = chosen + claim
            if not chosen:
                raise _NothingError
            if permit is not None:
                permit.take_failure()
            return chosen

        object_keys = [each.entry.object_key for each in (finish, start) if each is not None]
        log, is_durable = self._plan.log.log, finish is not None and finish.is_outcome
        try:
            appended = log.append_if(
                ending + claim,
                choose,
                relies_on=concerns_of_objects(object_keys) | {concern_of_notes(MAP)},
                durability="always" if is_durable else durability_of_claims(log.workers),
                may_repeat=self._plan.permit is None,  # else what is chosen may take the permit
            )
            self.stamp_us = appended.stamp_us
        except _NothingError:
            pass

    def _refusal_of_finish(self, view: LogView, finish: Finish) -> Kind | None:
        """Return why a worker has no say any more on what became of its item.

        A worker's file may be removed, or its lock lost, while it is stopped or at work; others then take the item for
        free. It has no say once another live worker has the item, or an outcome is there, or the map went on as another
        run. A claim that merely vanished refuses nothing: the item ran, and nobody else runs it. A forked child has its
        parent's worker, but was given nothing.

        Raises:
            ChangedVersionError: the map went on as another run.
        """
        if not finish.worker.is_mine:
            return Kind.TAKEN
        state = self._state_of(view, finish.entry, finish.worker.id)
        if state.outcome is not None:
            return Kind.FOUND
        if state.is_taken:
            return Kind.TAKEN
        return None

    def _refusal_of_start(self, view: LogView, start: Start) -> Kind | None:
        """Return why an item may not begin.

        Raises:
            ChangedVersionError: the map went on as another run.
        """
        plan, entry = self._plan, start.entry
        state = self._state_of(view, entry)
        if state.outcome is not None:
            return Kind.FOUND
        if state.attempts.failed != entry.attempts:
            return Kind.TAKEN  # another worker tried it since, and it rests now
        # The failure of a process that died is recorded even if the map halts.
        if not start.is_over and plan.permit is not None and not plan.permit.is_valid():
            return Kind.HALTED
        return Kind.TAKEN if state.is_taken else None

    def _state_of(self, view: LogView, entry: Input, worker_id: str | None = None) -> ItemState:
        """Return the state of an item, as it is for this map: an outcome that does not count for it is none."""
        plan = self._plan
        workers = plan.log.log.workers
        return state_of(view, plan.run, entry.object_key, workers, worker_id, void_us=entry.void_us)


class _NothingError(Exception):
    """Nothing of the batch may be appended."""
