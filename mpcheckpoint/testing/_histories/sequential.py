"""What operations do to a log, one after the other."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mpcheckpoint.testing._histories.verdict import contradiction

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mpcheckpoint._types import Position
    from mpcheckpoint.testing._histories.operation import Operation

# --- operations as the search sees them ----------------------------------------------------------------------

# What grows: the events of the object of this key; None for the records of the whole log.
Lane = str | None
Token = Any


@dataclass(slots=True, eq=False)
class Step:
    """One operation: what it adds to which lanes, and what it requires.

    Attributes:
        adds: what it appends, lane by lane; nothing if it only reads.
        lane, required: how long this lane must be when it happens; None for any length.
        lanes: all lanes that it concerns.
        key: object key and record id, if it has one: a second record of this key is not written.
        absent: such a key that must not be in the log, or None.
        rank: how many others with known positions precede its record in the log, or None.
    """

    number: int
    operation: Operation
    adds: dict[Lane, tuple[Token, ...]] = field(default_factory=dict)
    lane: Lane = None
    required: int | None = None
    key: tuple[str, str] | None = None
    absent: tuple[str, str] | None = None
    rank: int | None = None
    lanes: frozenset[Lane] = frozenset()

    @property
    def is_known(self) -> bool:
        """Whether it is known to have happened."""
        return self.operation.end_ns is not None

    @property
    def depends(self) -> bool:
        """Whether it asks how far ``lane`` has got, or what is in it."""
        return self.required is not None or self.key is not None

    def is_near(self, other: Step) -> bool:
        """Return whether both concern the same object, or one of them only the whole log."""
        return None in (self.lane, other.lane) or not self.lanes.isdisjoint(other.lanes - {None})


def step_of(number: int, operation: Operation) -> Step:
    """Return an operation as the search sees it."""
    step = Step(number, operation)
    if operation.kind == "append_many" or (operation.kind == "append" and operation.outcome != "conflict"):
        adds: dict[Lane, list[Token]] = defaultdict(list)
        for object_key, event in operation.records:
            token = _token(event)
            adds[object_key].append(token)
            adds[None].append((object_key, token, operation.record_id))
        step.adds = {lane: tuple(tokens) for lane, tokens in adds.items()}
        step.lane, step.required = operation.records[0][0], operation.expected_count
        if operation.record_id is not None:
            step.key = (operation.records[0][0], operation.record_id)
    elif operation.kind == "append":
        step.lane, step.required = operation.records[0][0], operation.result
        if operation.record_id is not None:
            step.absent = (operation.records[0][0], operation.record_id)
    elif operation.kind == "read":
        step.lane, step.required = None, len(operation.result)
    elif operation.kind == "count":
        step.lane, step.required = operation.object_key, operation.result
    else:
        step.lane, step.required = operation.object_key, len(operation.result)
    step.lanes = frozenset([*step.adds, step.lane])
    return step


def _token(event: object) -> Token:
    """Return what is equal for equal JSON values only: in Python 1, 1.0 and True are equal."""
    return event if type(event) in (str, int) else (json.dumps(event, sort_keys=True),)


def _text(token: Token) -> str:
    """Return an event, or a record of the whole log, for people."""
    if not isinstance(token, tuple):
        return repr(token)
    return str(token[0]) if len(token) == 1 else f"{token[0]!r}: {_text(token[1])}"


def known_of(log_key: str, operations: Sequence[Operation]) -> dict[Lane, Sequence[Token]]:
    """Return what each lane has to become, as far as it was read.

    Raises:
        NotLinearizableError: two reads contradict each other, or a conflict states what was expected.
    """
    reads: dict[Lane, list[tuple[Sequence[Token], Operation]]] = defaultdict(list)
    for operation in operations:
        if operation.outcome == "ok" and operation.kind == "events":
            reads[operation.object_key].append(([_token(event) for event in operation.result], operation))
        elif operation.outcome == "ok" and operation.kind == "read":
            tokens = [
                (object_key, _token(event), record_id) for object_key, event, record_id in operation.result
            ]
            reads[None].append((tokens, operation))
        elif operation.outcome == "conflict" and operation.result == operation.expected_count:
            raise contradiction(log_key, "a conflict states the count that was expected", operation)
    if reads[None]:
        whole, operation = max(reads[None], key=lambda read: len(read[0]))
        objects: dict[str, list[Token]] = defaultdict(list)
        for object_key, token, _ in whole:
            objects[object_key].append(token)
        for lane, of_object in objects.items():
            reads[lane].append((of_object, operation))
    return {lane: _longest(log_key, of_lane) for lane, of_lane in reads.items()}


def _longest(log_key: str, reads: list[tuple[Sequence[Token], Operation]]) -> Sequence[Token]:
    """Return the longest of some reads, if each begins with every shorter one."""
    reads.sort(key=lambda read: len(read[0]))
    for (shorter, one), (longer, other) in pairwise(reads):
        if longer[: len(shorter)] != shorter:
            raise contradiction(
                log_key, "two reads contradict each other: neither begins with the other", one, other
            )
    return reads[-1][0] if reads else ()


def rank_by_position(log_key: str, steps: Iterable[Step]) -> None:
    """Number the appends in the order of the positions they returned.

    Those with the same record id for the same object share a record and its rank, even if their own outcome is unknown.

    Raises:
        NotLinearizableError: two records have one position, or one record has two.
    """
    owners: dict[Position, Step] = {}
    by_key: dict[tuple[str, str], Step] = {}
    for step in steps:
        position = step.operation.result
        if not step.adds or position is None:
            continue
        owner = owners.setdefault(position, step)
        first = step if step.key is None else by_key.setdefault(step.key, step)
        if owner is not step and (step.key is None or owner.key != step.key):
            raise contradiction(log_key, "two records have one position", owner.operation, step.operation)
        if first.operation.result != position:
            raise contradiction(log_key, "one record has two positions", first.operation, step.operation)
    ranks = {position: rank for rank, position in enumerate(sorted(owners))}
    for step in steps:
        if step.adds:
            named = step if step.key is None else by_key.get(step.key, step)
            step.rank = ranks.get(named.operation.result)


def forget_ranks(steps: Iterable[Step]) -> None:
    """Ignore the positions that appends returned."""
    for step in steps:
        step.rank = None


# --- what a log holds ----------------------------------------------------------------------------------------

_Trail = tuple["Step", "_Trail | None"]


@dataclass(frozen=True, slots=True)
class HistoryState:
    """What a log holds after certain operations have happened.

    Invariant: each lane is the first ``lengths[lane]`` of what is known of it, as far as that goes (``obstacle``).

    Attributes:
        lengths: of each lane.
        keys: the record ids that are in the log, with their objects.
        rank: how many records with a known position are in the log.
        trail: the operations in the order in which they happened, last first.
        how_many: how many operations that are.
    """

    lengths: dict[Lane, int] = field(default_factory=dict)
    keys: frozenset[tuple[str, str]] = frozenset()
    rank: int = 0
    trail: _Trail | None = field(default=None, repr=False)
    how_many: int = 0

    def obstacle(self, step: Step, known: Mapping[Lane, Sequence[Token]]) -> str:
        """Return why an operation cannot happen here; "" if it can."""
        if step.key is not None and step.key in self.keys:
            return ""  # nothing is written, and no condition is checked
        if step.required is not None:
            length = self.lengths.get(step.lane, 0)
            if length != step.required:
                return f"it needs {_amount(step.required, step.lane)}, and there are {length}"
        if step.absent in self.keys:
            return "its record id is in the log, so that it would not have been refused"
        if step.rank is not None and step.rank != self.rank:
            return "by its position others come first, and they have not happened yet"
        for lane, tokens in step.adds.items():
            begin = self.lengths.get(lane, 0)
            there = known.get(lane, ())[begin : begin + len(tokens)]
            for index, (token, seen) in enumerate(zip(tokens, there, strict=False), begin):
                if token != seen:
                    return f"it would be number {index + 1} of {_name(lane)}, where {_text(seen)} was read"
        return ""

    def is_left_alone_by(self, step: Step) -> bool:
        """Return whether it would change nothing if it happened here."""
        return not step.adds or (step.key is not None and step.key in self.keys)

    def after(self, step: Step) -> HistoryState:
        """Return the state after an operation that can happen here."""
        trail = (step, self.trail)
        if self.is_left_alone_by(step):
            return HistoryState(self.lengths, self.keys, self.rank, trail, self.how_many + 1)
        lengths = self.lengths.copy()
        for lane, tokens in step.adds.items():
            lengths[lane] = lengths.get(lane, 0) + len(tokens)
        keys = self.keys if step.key is None else self.keys | {step.key}
        return HistoryState(lengths, keys, self.rank + (step.rank is not None), trail, self.how_many + 1)

    def order(self) -> list[Step]:
        """Return the operations that have happened, in their order."""
        steps = []
        trail = self.trail
        while trail is not None:
            step, trail = trail
            steps.append(step)
        return steps[::-1]


def _name(lane: Lane) -> str:
    return "the log" if lane is None else f"object {lane!r}"


def _amount(length: int, lane: Lane) -> str:
    what = "record" if lane is None else "event"
    return f"exactly {length} {what}{'' if length == 1 else 's'} in {_name(lane)}"
