"""Linearizability of a history: is there one order of its operations that explains every answer?

A history is linearizable if each operation can be given an instant between its call and its return, such that all of
them, done one after the other at these instants, give the recorded answers. For a log that is G3 and G4 in one.

The search is Lowe's just-in-time linearization. It goes through calls and returns in the order of time and keeps every
set of open operations that may have happened. It lets further ones happen only when an operation returns, which must
have happened by then. That is cheap here because a log only grows:

- Of two reads of the same thing, one begins with the other, or there is no order. So the longest read is what the log
  *has* to become, and no append can happen before its turn. See ``HistoryState.obstacle``.
- So the content of a log follows from *which* operations have happened, in whatever order: a state is a set of
  operations. A history of n operations, of which at most k run at a time, has at most n * 2**k states, and few if there
  are reads or positions.
- An operation that changes nothing is best taken as soon as its answer is right.

J. Wing, C. Gong, "Testing and verifying concurrent objects", Journal of Parallel and Distributed Computing 17, 1993.
G. Lowe, "Testing for linearizability", Concurrency and Computation: Practice and Experience 29 (4), 2017.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from mpcheckpoint.testing._histories.known import known_of
from mpcheckpoint.testing._histories.sequential import (
    HistoryState,
    forget_ranks,
    rank_by_position,
    step_of,
)
from mpcheckpoint.testing._histories.verdict import (
    HistorySummary,
    NotLinearizableError,
    UndecidedHistoryError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mpcheckpoint.testing._histories.known import Lane, Token
    from mpcheckpoint.testing._histories.operation import Operation
    from mpcheckpoint.testing._histories.sequential import Step

MOST_STATES = 1_000_000
_MOST_SHOWN = 10


def check_history(
    operations: Iterable[Operation], *, use_positions: bool = True, most_states: int = MOST_STATES
) -> HistorySummary:
    """Raise unless each log's operations are linearizable.

    Each log is judged by itself: a history is linearizable if all its logs are. Two operations are concurrent unless
    one ended before the other started. One of unknown outcome may have happened at any time after its start, or never.

    Some answers can be judged only by what was read of the whole log: an ``expected_end`` has a place among the
    positions of its records, and the events that ``last`` gives, or ``events`` from a start on, are somewhere among
    those of an object. So let a ``read`` come after all else. Where none shows enough, a history is not accepted.

    Nobody may forget objects or compact the log meanwhile: these are no operations of a history.

    Args:
        operations: in any order.
        use_positions: also require that the positions that appends returned tell their order.
        most_states: how many states of a log to try before giving up.

    Raises:
        NotLinearizableError: there is no such order; its text is a short example.
        UndecidedHistoryError: ``most_states`` did not suffice, or no read shows enough.
    """
    by_log: dict[str, list[Operation]] = defaultdict(list)
    processes = set()
    for operation in operations:
        processes.add(operation.process)
        if _says_something(operation):
            by_log[operation.log_key].append(operation)
    states = 0
    for log_key, of_log in sorted(by_log.items()):
        of_log.sort(key=lambda operation: operation.start_ns)
        states += _check_log(log_key, of_log, use_positions=use_positions, most_states=most_states)
    ordered = [operation for of_log in by_log.values() for operation in of_log]
    unknown = sum(operation.outcome == "unknown" for operation in ordered)
    return HistorySummary(len(ordered), unknown, len(by_log), len(processes), states)


def _says_something(operation: Operation) -> bool:
    """Return whether the operation has an answer to explain, or may explain one."""
    return operation.outcome != "refused" and (operation.is_append or operation.outcome != "unknown")


def _check_log(
    log_key: str, operations: Sequence[Operation], *, use_positions: bool, most_states: int
) -> int:
    known = known_of(log_key, operations)
    steps = [step_of(number, operation, known) for number, operation in enumerate(operations)]
    states = _states_tried(log_key, steps, known.lanes, use_positions=use_positions, most_states=most_states)
    for step in steps:
        if not step.is_judged:
            raise UndecidedHistoryError(
                f"log {log_key!r}: undecided, since no read shows enough of it to judge\n"
                f"  {step.operation.described(operations[0].start_ns)}\n"
                "Read the log whole once all its writers are done."
            )
    return states


def _states_tried(
    log_key: str,
    steps: Sequence[Step],
    known: Mapping[Lane, Sequence[Token]],
    *,
    use_positions: bool,
    most_states: int,
) -> int:
    """Return how many states were tried to find an order; raise if there is none."""
    if not use_positions:
        return _Search(log_key, steps, known, most_states).run()
    rank_by_position(log_key, steps)
    try:
        return _Search(log_key, steps, known, most_states).run()
    except NotLinearizableError as error:
        forget_ranks(steps)
        try:
            _Search(log_key, steps, known, most_states).run()
        except (NotLinearizableError, UndecidedHistoryError):
            raise error from None
        hint = "\nThere is an order that explains all but the positions that appends returned."
        raise NotLinearizableError(f"{error}{hint}", *error.args[1:]) from None


# --- the search ----------------------------------------------------------------------------------------------

# The numbers of the open operations that have happened.
Taken = frozenset[int]


class _Search:
    """Goes through the calls and returns of one log.

    Invariant: ``_states`` holds which open operations have happened, and the state of the log then, for enough of the
    orders that explain all returns so far: if any order can go on to the end, one that is held can.
    """

    def __init__(
        self, log_key: str, steps: Sequence[Step], known: Mapping[Lane, Sequence[Token]], most_states: int
    ) -> None:
        self._log_key = log_key
        self._steps = steps
        self._known = known
        self._most_states = most_states
        self._looked_at = 0
        self._now_ns = 0
        self._open: dict[int, Step] = {}
        # The open ones that may happen without changing anything.
        self._waiting: dict[int, Step] = {}
        self._states: dict[Taken, HistoryState] = {frozenset(): HistoryState()}
        self._looked_until_ns = _looked_until_ns(steps)

    def run(self) -> int:
        """Return how many states were tried; raise if there is no order."""
        for time_ns, is_return, step in _calls_and_returns(self._steps):
            self._now_ns = time_ns
            if is_return:
                self._return(step)
            else:
                self._call(step)
        return self._looked_at

    def _call(self, step: Step) -> None:
        self._open[step.number] = step
        if step.is_known and (not step.adds or step.key is not None):
            self._waiting[step.number] = step
        self._states = dict(self._settled(taken, state) for taken, state in self._states.items())

    def _return(self, step: Step) -> None:
        """Keep the states in which the operation has happened, and those that follow from others when it does."""
        explained: dict[Taken, HistoryState] = {}
        reached: dict[Taken, HistoryState] = {}
        for taken, state in self._states.items():
            if step.number in taken:
                explained[taken - {step.number}] = state
            else:
                reached[taken] = state
        for taken, state in list(reached.items()):
            self._go_on(step, taken, state, explained, reached)
        if not explained:
            raise self._error(step, reached.values())
        del self._open[step.number]
        self._waiting.pop(step.number, None)
        self._states = self._without_idle(explained)

    def _go_on(
        self,
        step: Step,
        taken: Taken,
        state: HistoryState,
        explained: dict[Taken, HistoryState],
        reached: dict[Taken, HistoryState],
    ) -> None:
        """Let open appends happen, from one state on, in every order in which the operation comes last."""
        appends = self._concerned(step, state)
        to_do = [(taken, state)]
        while to_do:
            for after, state_after in self._next(*to_do.pop(), appends):
                if step.number in after:
                    explained.setdefault(after - {step.number}, state_after)
                elif after not in reached:
                    reached[after] = state_after
                    to_do.append((after, state_after))

    def _next(
        self, taken: Taken, state: HistoryState, appends: Sequence[Step]
    ) -> Iterator[tuple[Taken, HistoryState]]:
        """Yield the states that are one append further."""
        for step in appends:
            if step.number in taken or state.is_left_alone_by(step) or state.obstacle(step, self._known):
                continue
            self._looked_at += 1
            if self._looked_at > self._most_states:
                raise UndecidedHistoryError(
                    f"log {self._log_key!r}: undecided after {self._most_states} states; "
                    f"{len(self._open)} operations were open then"
                )
            yield self._settled(taken | {step.number}, state.after(step))

    def _settled(self, taken: Taken, state: HistoryState) -> tuple[Taken, HistoryState]:
        """Let all operations happen that change nothing and give their answers now: later they might not."""
        for step in self._waiting.values():
            if (
                step.number not in taken
                and state.is_left_alone_by(step)
                and not state.obstacle(step, self._known)
            ):
                taken, state = taken | {step.number}, state.after(step)
        return taken, state

    # --- what need not be tried -----------------------------------------------------------------------------------

    def _concerned(self, step: Step, state: HistoryState) -> list[Step]:
        """Return the open appends of which some may have to happen before an operation does.

        The others can wait: they do the same before and after it, and after those that it waits for. So do two appends
        to an object once no reader of it can tell them apart.
        """
        rest = [each for each in self._open.values() if each.adds]
        binding = self._binding_lanes(state)
        lanes, rank = set(step.lanes & binding), -1
        concerned: list[Step] = []
        more = [step]
        while more:
            for each in more:
                lanes |= each.lanes & binding
                rank = max(rank, -1 if each.rank is None else each.rank)
            more = [
                each
                for each in rest
                if each is step
                or (each.rank is not None and each.rank < rank)
                or not lanes.isdisjoint(each.lanes)
            ]
            rest = [each for each in rest if each not in more]
            concerned += more
        return concerned

    def _binding_lanes(self, state: HistoryState) -> frozenset[Lane]:
        """Return the lanes whose order matters: some operation reads them, or requires their length."""
        required = frozenset().union(*(each.asks for each in self._open.values()))
        lanes = frozenset().union(*(each.lanes for each in self._open.values()))
        return frozenset(
            lane
            for lane in lanes
            if self._matters(lane)
            and (lane in required or state.lengths.get(lane, 0) < len(self._known.get(lane, ())))
        )

    def _matters(self, lane: Lane) -> bool:
        """Return whether an operation that is known to return depends on the length of a lane from now on."""
        return self._looked_until_ns.get(lane, -1) >= self._now_ns

    def _without_idle(self, states: dict[Taken, HistoryState]) -> dict[Taken, HistoryState]:
        """Forget operations of unknown outcome that no later read can see: it does not matter whether they happened."""
        if self._matters(None):
            return states
        idle = {
            number
            for number, step in self._open.items()
            if not step.is_known and not any(self._matters(lane) for lane in step.lanes)
        }
        if not idle:
            return states
        for number in idle:
            del self._open[number]
        return {taken - idle: state for taken, state in states.items()}

    # --- counterexamples -----------------------------------------------------------------------------------------

    def _error(self, step: Step, reached: Iterable[HistoryState]) -> NotLinearizableError:
        state = max(reached, key=lambda state: (-_distance(state, step), state.how_many))
        ordered = state.order()
        numbers = {each.number for each in ordered}
        others = [each for each in self._open.values() if each is not step and each.number not in numbers]
        text = "\n".join(self._lines(step, state, ordered, others))
        operations = ([each.operation for each in steps] for steps in (ordered, others))
        return NotLinearizableError(text, self._log_key, step.operation, *map(tuple, operations))

    def _lines(
        self, step: Step, state: HistoryState, ordered: Sequence[Step], others: Sequence[Step]
    ) -> Iterator[str]:
        origin_ns = self._steps[0].operation.start_ns
        yield f"log {self._log_key!r} is not linearizable: no order of its operations explains"
        yield f"  {step.operation.described(origin_ns)}"
        yield f"    {state.obstacle(step, self._known)}"
        near = [each for each in ordered if step.is_near(each)]
        shown = near[-_MOST_SHOWN:]
        yield (
            f"{len(ordered)} operations can be put in an order that explains what returned before; "
            f"the last {len(shown)} of the {len(near)} that concern the same:"
        )
        for each in shown:
            yield f"  {each.operation.described(origin_ns)}"
        if others:
            yield "Others that had been called by then:"
        for each in sorted(others, key=step.is_near, reverse=True)[:_MOST_SHOWN]:
            yield f"  {each.operation.described(origin_ns)}"
            yield f"    {state.obstacle(each, self._known) or 'it could come next, and would not help'}"
        if len(others) > _MOST_SHOWN:
            yield f"  and {len(others) - _MOST_SHOWN} more"


def _distance(state: HistoryState, step: Step) -> int:
    """Return how many records an operation is off what it requires."""
    return sum(
        min(abs(length - state.lengths.get(lane, 0)) for length in (lengths[0], lengths[-1]))
        for lane, lengths in step.requires.items()
        if lengths and state.lengths.get(lane, 0) not in lengths
    )


def _calls_and_returns(steps: Sequence[Step]) -> Iterator[tuple[int, bool, Step]]:
    """Yield the time of each call and return, whether it is a return, and its step: by time, calls before returns."""
    times = [(step.operation.start_ns, False, step.number) for step in steps]
    times += [
        (step.operation.end_ns, True, step.number) for step in steps if step.operation.end_ns is not None
    ]
    for time_ns, is_return, number in sorted(times):
        yield time_ns, is_return, steps[number]


def _looked_until_ns(steps: Iterable[Step]) -> dict[Lane, int]:
    """Return until when an operation that is known to have happened depends on the length of each lane.

    One of unknown outcome hands that on: if what it adds matters, so do the lanes that decide whether it can happen.
    """
    until_ns: dict[Lane, int] = {}
    unknown = []
    for step in steps:
        if step.operation.end_ns is None:
            unknown.append(step)
            continue
        for lane in step.asks:
            until_ns[lane] = max(step.operation.end_ns, until_ns.get(lane, -1))
    more = True
    while more:
        more = False
        for step in unknown:
            last_ns = max((until_ns.get(lane, -1) for lane in step.adds), default=-1)
            for lane in step.asks:
                if until_ns.get(lane, -1) < last_ns:
                    until_ns[lane], more = last_ns, True
    return until_ns
