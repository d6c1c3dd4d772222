"""Histories of logs that forget and are compacted: recorded, and searched for an order that explains every answer.

`mpcheckpoint.testing` does so for logs that only grow, where what a log holds follows from which operations have
happened. Here it does not. But stamps tell the order of all that was written; what is left to be found are the places
of readers and conditions in it, and the two instants of each compaction: when it decides, and when it takes effect.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from itertools import count, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mpcheckpoint.errors import CompactionError, ConflictError, InvalidPositionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

# What a call to a log is, what was given to it, and what it answered.
Given = dict[str, Any]
_MOST_STATES = 2_000_000


# --- records -------------------------------------------------------------------------------------------------


class Recorder:
    """Writes down the calls of one process, each when it begins and when it has returned."""

    def __init__(self, directory: Path, process: str) -> None:
        self._process = process
        self._numbers = count(1)
        path = directory / f"{process}-{secrets.token_hex(4)}.calls"
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o666)

    def do(
        self,
        kind: str,
        log_key: str,
        act: Callable[[], Any],
        answer: Callable[[Any], Any] = lambda result: result,
        **given: Any,
    ) -> Any:
        """Return what a call returns, and None if it is refused; an error that nobody expects is raised."""
        number = next(self._numbers)
        self._write([number, kind, log_key, given, time.monotonic_ns()])
        result, outcome, told = None, "ok", None
        try:
            result = act()
            end_ns = time.monotonic_ns()
            told = answer(result)
        except ConflictError as conflict:
            end_ns, outcome, told = time.monotonic_ns(), "conflict", conflict.found
        except (CompactionError, InvalidPositionError) as error:
            end_ns, outcome, told = time.monotonic_ns(), "refused", type(error).__name__
        self._write([number, outcome, told, end_ns])
        return result

    def dies(self) -> None:
        """Record that this process is dead: whatever it had begun happens no more."""
        self._write([next(self._numbers), "dead", "", {}, time.monotonic_ns()])

    def _write(self, line: list[Any]) -> None:
        os.write(self._fd, json.dumps([self._process, *line]).encode() + b"\n")


@dataclass(frozen=True, slots=True)
class Call:
    """One call; it has no end if its process was killed."""

    process: str
    kind: str
    log_key: str
    given: Given
    start_ns: int
    end_ns: int | None = None
    outcome: str = "unknown"
    result: Any = None

    def __str__(self) -> str:
        return f"{self.process}: {self.kind}({self.given}) -> {self.outcome} {self.result}"


def load_calls(directory: Path) -> list[Call]:
    """Return what recorders wrote into a directory."""
    calls: dict[tuple[str, str, int], Call] = {}
    for path in sorted(directory.glob("*.calls")):
        for line in path.read_bytes().splitlines():
            process, number, *rest = json.loads(line)
            known = calls.get((path.name, process, number))
            if known is None:
                calls[path.name, process, number] = Call(process, *rest)
            else:
                outcome, result, end_ns = rest
                calls[path.name, process, number] = replace(
                    known, outcome=outcome, result=result, end_ns=end_ns
                )
    return list(calls.values())


# --- the model -----------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """A record that a log holds."""

    object_key: str
    event: tuple[int, ...]
    stamp_us: int
    part: int


class Decided(NamedTuple):
    """What a compaction is going to do: which records go, and which ones others take the place of."""

    number: int
    written: int
    dropped: frozenset[tuple[int, int]]
    folded: Mapping[tuple[int, int], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class State:
    """What a log holds after certain calls have happened.

    Attributes:
        written: how many of the calls that wrote have happened, in the order of their stamps.
        compactions: those that took effect, and how much was written when they decided.
        decided: of one that has not taken effect yet.
    """

    written: int = 0
    compactions: frozenset[tuple[int, int]] = frozenset()
    entries: tuple[Entry, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    ids: Mapping[tuple[str, str], int] = field(default_factory=dict)
    forgotten_us: Mapping[str, int] = field(default_factory=dict)
    decided: Decided | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """What the rest follows from."""
        return self.written, self.compactions, self.decided and self.decided[:2]

    def shown(self, object_key: str) -> list[Entry]:
        """Return what views show of an object."""
        after_us = self.forgotten_us.get(object_key, -1)
        return [each for each in self.entries if each.object_key == object_key and each.stamp_us > after_us]

    def with_records(self, records: Iterable[tuple[str, list[int]]], stamp_us: int, given: Given) -> State:
        """Return the state after a batch."""
        counts, entries, ids = dict(self.counts), list(self.entries), self.ids
        for part, (object_key, event) in enumerate(records):
            counts[object_key] = counts.get(object_key, 0) + 1
            entries.append(Entry(object_key, tuple(event), stamp_us, part))
            if "record_id" in given:
                ids = {**ids, (object_key, given["record_id"]): stamp_us}
        return replace(self, written=self.written + 1, counts=counts, entries=tuple(entries), ids=ids)

    def with_forgotten(self, object_key: str, stamp_us: int) -> State:
        """Return the state in which an object is as if it had never been."""
        counts = {each: number for each, number in self.counts.items() if each != object_key}
        ids = {each: stamp for each, stamp in self.ids.items() if each[0] != object_key}
        forgotten_us = {**self.forgotten_us, object_key: stamp_us}
        return replace(self, written=self.written + 1, counts=counts, ids=ids, forgotten_us=forgotten_us)

    def deciding(self, number: int, rules: Given) -> State:
        """Return the state after a compaction has decided."""
        dropped: set[tuple[int, int]] = set()
        folded: dict[tuple[int, int], tuple[int, ...]] = {}
        by_object: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.entries:
            if entry.stamp_us > self.forgotten_us.get(entry.object_key, -1):
                by_object[entry.object_key].append(entry)
            else:
                dropped.add(entry[2:])
        for object_key, entries in by_object.items():
            if object_key == rules.get("drop"):
                dropped.update(entry[2:] for entry in entries)
                continue
            first = entries[: max(0, len(entries) - rules["keep_last"])] if "keep_last" in rules else []
            if rules.get("fold") and len(first) > 1:
                dropped.update(entry[2:] for entry in first[:-1])
                folded[first[-1][2:]] = sum((entry.event for entry in first), ())
            elif not rules.get("fold"):
                dropped.update(entry[2:] for entry in first)
        return replace(self, decided=Decided(number, self.written, frozenset(dropped), folded))

    def switched(self) -> State:
        """Return the state after what was decided took effect."""
        assert self.decided is not None
        dropped, folded = self.decided.dropped, self.decided.folded
        entries = tuple(
            entry._replace(event=folded.get(entry[2:], entry.event))
            for entry in self.entries
            if entry[2:] not in dropped
        )
        return replace(self, entries=entries, decided=None, compactions=self.compactions | {self.decided[:2]})


# --- the search ----------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Step:
    """A call as the search sees it; ``rank`` is its place among those that wrote, by stamp."""

    number: int
    call: Call
    rank: int | None = None

    def moves(self, state: State) -> Iterator[tuple[bool, State]]:
        """Yield what may become of the log next by this call, and whether the call is then over."""
        call, given = self.call, self.call.given
        if call.kind == "compact":
            yield from self._compacting(state)
        elif self._is_answer(state):
            yield True, state
        elif self.rank == state.written and call.kind == "forget":
            yield True, state.with_forgotten(given["object_key"], call.result)
        elif self.rank == state.written and call.kind == "append" and not self._is_found(state):
            there = state.counts.get(given["records"][0][0], 0)
            if given.get("expected_count") in (None, there):
                yield True, state.with_records(given["records"], call.result, given)

    def _is_found(self, state: State) -> bool:
        given = self.call.given
        return (given["records"][0][0], given.get("record_id")) in state.ids

    def _is_answer(self, state: State) -> bool:
        """Return whether the call changes nothing and gives its answer now."""
        call, given = self.call, self.call.given
        if call.kind == "append":
            object_key = given["records"][0][0]
            found_us = state.ids.get((object_key, given.get("record_id", "")))
            if call.outcome == "conflict":
                is_other = call.result != given["expected_count"]
                return found_us is None and is_other and state.counts.get(object_key, 0) == call.result
            return found_us is not None and found_us == call.result
        if call.kind == "count":
            return bool(call.result == state.counts.get(given["object_key"], 0))
        if call.kind == "events":
            return bool(call.result == [list(each.event) for each in state.shown(given["object_key"])])
        if call.kind == "read":
            after_us = given.get("after_us", -1)
            there = [
                [each.object_key, list(each.event)] for each in state.entries if each.stamp_us > after_us
            ]
            return bool(call.result == there)
        return False

    def _compacting(self, state: State) -> Iterator[tuple[bool, State]]:
        if state.decided is not None:
            if state.decided.number == self.number:
                yield True, state.switched()
            return
        result = self.call.result
        if result is not None and result["records_before"] != len(state.entries):
            return
        decided = state.deciding(self.number, self.call.given)
        assert decided.decided is not None
        left = len(state.entries) - len(decided.decided.dropped)
        if result is None or (result["records_after"] == left and result["is_changed"]):
            yield False, decided
        elif result["records_after"] == left == result["records_before"]:
            yield True, state


Taken = frozenset[int]


class _Search:
    """Goes through the calls and returns of one log, with every set of open calls that may have happened."""

    def __init__(self, log_key: str, calls: Iterable[Call]) -> None:
        self._log_key = log_key
        ordered = sorted(calls, key=lambda call: call.start_ns)
        self._steps = [Step(number, call) for number, call in enumerate(ordered)]
        stamps = sorted({step.call.result for step in self._steps if _is_written(step.call)})
        for step in self._steps:
            if _is_written(step.call):
                step.rank = stamps.index(step.call.result)
        self._open: dict[int, Step] = {}
        self._states: dict[tuple[Taken, Any], tuple[Taken, State]] = {}
        self._looked_at = 0
        self._put(frozenset(), State(), self._states)

    def run(self) -> None:
        """Raise AssertionError if there is no order."""
        times = [(step.call.start_ns, 0, step) for step in self._steps]
        times += [(step.call.end_ns, 1, step) for step in self._steps if step.call.end_ns is not None]
        for _, is_return, step in sorted(times, key=lambda each: (each[0], each[1])):
            if step.call.kind == "dead":
                self._end(step.call.process)
            elif is_return:
                self._return(step)
            else:
                self._open[step.number] = step
                self._states = dict(self._settled(*state) for state in self._states.values())

    def _put(self, taken: Taken, state: State, states: dict[Any, tuple[Taken, State]]) -> bool:
        key, settled = self._settled(taken, state)
        is_new = key not in states
        states[key] = settled
        return is_new

    def _settled(self, taken: Taken, state: State) -> tuple[tuple[Taken, Any], tuple[Taken, State]]:
        """Let all happen that changes nothing and gives its answer now: later it might not."""
        for step in self._open.values():
            if step.number not in taken and step.call.end_ns is not None and step._is_answer(state):
                taken |= {step.number}
        return (taken, state.key), (taken, state)

    def _return(self, step: Step) -> None:
        explained: dict[Any, tuple[Taken, State]] = {}
        reached = dict(self._states)
        to_do = list(reached.values())
        del self._open[step.number]
        while to_do:
            taken, state = to_do.pop()
            if step.number in taken:
                self._put(taken - {step.number}, state, explained)
                continue
            for mover in (step, *self._open.values()):
                if mover.number in taken:
                    continue
                for is_over, after in mover.moves(state):
                    if after is state and mover is not step and mover.call.kind != "compact":
                        continue  # it had happened when it could first
                    self._looked_at += 1
                    assert self._looked_at < _MOST_STATES, f"log {self._log_key!r}: too many orders"
                    now = taken | {mover.number} if is_over else taken
                    _, settled = self._settled(now, after)
                    if (settled[0], after.key) not in reached:
                        reached[settled[0], after.key] = settled
                        to_do.append(settled)
        assert explained, self._why(step)
        self._states = explained

    def _end(self, process: str) -> None:
        """Let nothing happen any more that a dead process had begun."""
        dead = [
            each for each in self._open.values() if each.call.process == process and each.call.end_ns is None
        ]
        for step in dead:
            del self._open[step.number]
            states: dict[Any, tuple[Taken, State]] = {}
            for taken, state in self._states.values():
                is_pending = state.decided is not None and state.decided.number == step.number
                self._put(
                    taken - {step.number}, replace(state, decided=None) if is_pending else state, states
                )
            self._states = states

    def _why(self, step: Step) -> str:
        states = [state for _, state in self._states.values()][:5]
        key = step.call.given.get("object_key") or step.call.given.get("records", [["", []]])[0][0]
        shown = [
            f"  {state.written} written, {len(state.entries)} held, {state.decided and state.decided.number} decided; "
            f"of {key!r} {state.counts.get(key, 0)} counted, shown {[each.event for each in state.shown(key)]}"
            for state in states
        ]
        text = "\n".join([f"log {self._log_key!r}: no order of its calls explains", f"  {step.call}", *shown])
        others = [f"  open: {each.call}" for each in self._open.values()]
        return "\n".join([text, f"of {len(self._states)} states before", *others])


def _is_written(call: Call) -> bool:
    return call.kind in ("append", "forget") and call.outcome == "ok"


def check_shrinking(calls: Iterable[Call]) -> int:
    """Raise AssertionError unless there is one order that explains all calls of each log; return how many those are.

    Compactions may have an unknown outcome, if their process was killed and said to be ``dead``; other calls may not.
    """
    by_log: dict[str, list[Call]] = defaultdict(list)
    dead = [call for call in calls if call.kind == "dead"]
    for call in calls:
        if (
            call.kind in ("append", "forget", "compact", "events", "count", "read")
            and call.outcome != "refused"
        ):
            assert call.end_ns is not None or call.kind == "compact", call
            by_log[call.log_key].append(call)
    for log_key, of_log in by_log.items():
        _Search(log_key, [*of_log, *dead]).run()
    return sum(map(len, by_log.values()))


def check_claims(calls: Iterable[Call]) -> int:
    """Raise AssertionError if two had an object at a time, or one was refused it that nobody had; return how many had.

    A claim is surely held from its return to the call that gives it back, and perhaps from its call to the return of
    that one.
    """
    claims: dict[tuple[str, str], list[Call]] = defaultdict(list)
    for call in sorted(calls, key=lambda call: call.start_ns):
        if call.kind in ("claim", "release"):
            claims[call.log_key, call.given["object_key"]].append(call)
    taken = 0
    for of_object in claims.values():
        holds: list[tuple[Call, Call]] = []
        refused = [call for call in of_object if call.kind == "claim" and not call.result]
        for call in of_object:
            if call.kind == "claim" and call.result:
                own = (each for each in of_object if each.kind == "release" and each.process == call.process)
                holds.append((call, next(each for each in own if each.start_ns >= _end_ns(call))))
        holds.sort(key=lambda hold: _end_ns(hold[0]))
        for (one, its_end), (other, _) in pairwise(holds):
            assert its_end.start_ns <= _end_ns(other), f"two had it: {one}, {other}"
        for call in refused:
            assert any(
                claim.start_ns <= _end_ns(call) and call.start_ns <= _end_ns(release)
                for claim, release in holds
            ), call
        taken += len(holds)
    return taken


def _end_ns(call: Call) -> int:
    assert call.end_ns is not None, call
    return call.end_ns
