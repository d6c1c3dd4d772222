"""What operations do to a log, one after the other."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mpcheckpoint.testing._histories.known import tokens_of
from mpcheckpoint.testing._histories.verdict import contradiction

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mpcheckpoint._types import Position
    from mpcheckpoint.testing._histories.known import Known, Lane, Token
    from mpcheckpoint.testing._histories.operation import Operation

# --- operations as the search sees them ----------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Step:
    """One operation: what it adds to which lanes, and what it requires.

    Attributes:
        adds: what it appends, lane by lane; nothing if it only reads.
        requires: how long lanes must be when it happens: one of these lengths, lowest first.
        is_judged: whether that is all it requires; False if it cannot be told, for want of a read.
        asks: the lanes whose length matters to it.
        lanes: all lanes that it concerns.
        key: object key and record id, if it has one: a second record of this key is not written.
        absent: such a key that must not be in the log, or None.
        rank: how many others with known positions precede its record in the log, or None.
    """

    number: int
    operation: Operation
    adds: dict[Lane, tuple[Token, ...]] = field(default_factory=dict)
    requires: dict[Lane, Sequence[int]] = field(default_factory=dict)
    is_judged: bool = True
    key: tuple[str, str] | None = None
    absent: tuple[str, str] | None = None
    rank: int | None = None
    asks: frozenset[Lane] = frozenset()
    lanes: frozenset[Lane] = frozenset()

    @property
    def is_known(self) -> bool:
        """Whether it is known to have happened."""
        return self.operation.end_ns is not None

    def is_near(self, other: Step) -> bool:
        """Return whether both concern the same object, or one of them only the whole log."""
        return None in self.asks | other.asks or not self.lanes.isdisjoint(other.lanes - {None})


def step_of(number: int, operation: Operation, known: Known) -> Step:
    """Return an operation as the search sees it."""
    step = Step(number, operation)
    required = known.lengths_at(operation)
    step.requires = {lane: lengths for lane, lengths in required.items() if lengths is not None}
    step.is_judged = len(step.requires) == len(required)
    key = None if operation.record_id is None else (operation.records[0][0], operation.record_id)
    if operation.outcome == "conflict":
        step.absent = key
    else:
        adds: dict[Lane, list[Token]] = defaultdict(list)
        tokens = tokens_of(event for _, event in operation.records)
        for (object_key, _), token in zip(operation.records, tokens, strict=True):
            adds[object_key].append(token)
            adds[None].append((object_key, token, operation.record_id))
        step.adds = {lane: tuple(tokens) for lane, tokens in adds.items()}
        step.key = key
    step.asks = frozenset(step.requires if step.key is None else [*step.requires, step.key[0]])
    step.lanes = step.asks.union(step.adds)
    return step


def _text(token: Token) -> str:
    """Return an event, or a record of the whole log, for people."""
    if not isinstance(token, tuple):
        return repr(token)
    return str(token[0]) if len(token) == 1 else f"{token[0]!r}: {_text(token[1])}"


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
        for lane, lengths in step.requires.items():
            length = self.lengths.get(lane, 0)
            if length not in lengths:
                return f"it needs {_amount(lengths, lane)}, and there are {length}"
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


def _amount(lengths: Sequence[int], lane: Lane) -> str:
    what = "record" if lane is None else "event"
    if len(lengths) == 1:
        return f"exactly {lengths[0]} {what}{'' if lengths[0] == 1 else 's'} in {_name(lane)}"
    if not lengths:
        return f"other {what}s in {_name(lane)} than were read there"
    return f"{lengths[0]} to {lengths[-1]} {what}s in {_name(lane)}, and these as last"
