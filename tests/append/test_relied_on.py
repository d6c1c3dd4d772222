"""What a condition says it relies on is all that it depends on: lines that do not concern that change nothing.

On the engine in memory, which judges a condition anew only after lines that concern it, as an engine does that asks a
server. Here it judges it each time, and compares.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpcheckpoint import Log, Retention
from mpcheckpoint._format.codec import encode_key, encode_payload
from mpcheckpoint._format.concern import concern_of, concerns_of_objects
from mpcheckpoint._format.control import CLAIM, Note, forget_payload, note_payload
from mpcheckpoint._format.frame import Payload
from mpcheckpoint._logfile.judged import Judged
from mpcheckpoint._store.durability import Durability
from mpcheckpoint._work.claims import TakenError, claim_payload, give_back, take
from mpcheckpoint._work.inputs import Input
from mpcheckpoint._work.item_batch import Finish, ItemBatch, Start
from mpcheckpoint._work.outcomes import Result, attempt_payload, outcome_payload
from mpcheckpoint._work.plan import LogRef, Plan
from mpcheckpoint._work.reruns import IfChanged, Keeps, RunNote
from mpcheckpoint._work.run_item import FunctionCall
from mpcheckpoint._work.runs import JoinedRun, join_run
from mpcheckpoint.checkpoint import checkpoint_on
from mpcheckpoint.errors import ChangedVersionError, ConflictError
from mpcheckpoint.log import handle_of
from support.memory_storage import MemoryLog, MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mpcheckpoint._types import Position

pytestmark = [pytest.mark.guarantee(3), pytest.mark.guarantee(8)]

# A key that reads like a note's name, and two that have to be escaped.
OBJECT_KEYS = ["x", "map", 'say "x"', "\\é\n"]
VERSIONS = ["1", "2"]


# --- what comes between ------------------------------------------------------------------------------------


class CheckedLog(MemoryLog):
    """Lets others append after a condition was judged, once; and judges again what it takes without judging."""

    between: list[list[Payload]] = []  # noqa: RUF012 - all logs of a test share it: that is its purpose
    taken = 0

    def append(
        self,
        payloads: list[Payload],
        *,
        durability: Durability,
        timeout_s: float | None,
        guard: Callable[[], Position | None] | None = None,
    ) -> Position:
        self._payloads = payloads
        batches, CheckedLog.between = self.between, []
        if isinstance(guard, Judged):
            for batch in batches:
                MemoryLog(self.content).append(batch, durability=durability, timeout_s=timeout_s)
        return super().append(payloads, durability=durability, timeout_s=timeout_s, guard=guard)

    def is_met(self, guard: Judged) -> bool:
        if not super().is_met(guard):
            return False
        CheckedLog.taken += 1
        chosen = self._payloads.copy()
        try:
            found = guard()
        except Exception as error:
            raise AssertionError(f"taken, and not met: {error!r}") from error
        assert found is None, f"taken, and found at {found}"
        assert self._payloads == chosen, "taken with a batch that would not be chosen now"
        return True


class CheckedStore(MemoryStore):
    log_type = CheckedLog


# --- who appends on conditions -----------------------------------------------------------------------------


class Caller:
    """All that appends on conditions, through one handle."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.handle = handle_of(log)
        self.worker = self.handle.workers.begin()
        self.run = JoinedRun(RunNote(1, VERSIONS[0]), 0)
        self._number = 0

    def close(self) -> None:
        """End its worker."""
        self.worker.retire()

    def count(self, object_key: str, _: str) -> None:
        """Append on a count."""
        self.log.append(object_key, "counted", expected_count=self.log.count(object_key))

    def count_in_a_batch(self, object_key: str, other: str) -> None:
        """Append a batch on the counts of two objects."""
        counts = {each: self.log.count(each) for each in (object_key, other)}
        self.log.append_many([(object_key, "counted")], expected_counts=counts)

    def append_at_the_end(self, object_key: str, _: str) -> None:
        """Append on the end of the log."""
        end = max((record.position for record in self.log.read()), default=None)
        self.log.append_many([(object_key, "at the end")], expected_end=end or "start")

    def identify(self, object_key: str, other: str) -> None:
        """Append under an id, which is there the second time."""
        self.log.append(object_key, "named", record_id=other)

    def transact(self, object_key: str, other: str) -> None:
        """Read two objects, and append to one."""
        with self.log.transaction() as transaction:
            transaction.events(object_key)
            if other != object_key:
                transaction.events(other)
            transaction.append("written", 0)

    def transact_on_parts(self, object_key: str, other: str) -> None:
        """Read the count of an object and the last event of another, and append to a third."""
        with self.log.transaction() as transaction:
            transaction.count(object_key)
            transaction.last(other)
            transaction.append("written", 0)

    def write_blindly(self, object_key: str, _: str) -> None:
        """Append in a transaction that read nothing."""
        with self.log.transaction() as transaction:
            transaction.append(object_key, 0)

    def take(self, object_key: str, _: str) -> None:
        """Claim an object."""
        take(self.handle, object_key, self.worker)

    def give_back(self, object_key: str, _: str) -> None:
        """Give an object back."""
        give_back(self.handle, object_key, self.worker)

    def join(self, _: str, other: str) -> None:
        """Begin a run of a map, or join one."""
        version = VERSIONS[OBJECT_KEYS.index(other) % 2]
        self.run = join_run(self.handle, version, if_changed=IfChanged.KEEP)

    def finish_and_start(self, object_key: str, other: str) -> None:
        """Record the outcome of an item, and claim the next one."""
        plan = Plan(LogRef(self.handle), self.run, FunctionCall(len))
        entry, following = (Input(0, each, each, {}) for each in (object_key, other))
        record, _ = outcome_payload(self.run, entry, Result(True, 1), 0.1)
        start = Start(following, self.worker) if other != object_key else None
        ItemBatch(plan, Finish(entry, self.worker, record, is_outcome=True), start).append()

    def try_again(self, object_key: str, _: str) -> None:
        """Record a failed attempt."""
        plan = Plan(LogRef(self.handle), self.run, FunctionCall(len))
        entry = Input(0, object_key, object_key, {})
        record = attempt_payload(self.run, entry, Result(False, None, "no"), 0.1, 0.0)
        ItemBatch(plan, Finish(entry, self.worker, record), None).append()

    def retain(self, _: str, other: str) -> None:
        """Record a retention, as ``Checkpoint.log`` does."""
        retention = Retention(keep_last=1 + OBJECT_KEYS.index(other), max_bytes=2**40)
        self.handle.append_if([note_payload(retention._note())], lambda _: None, relies_on=frozenset())


CALLS = [name for name in vars(Caller) if not name.startswith("_") and name != "close"]
REFUSALS = (ConflictError, TakenError, ChangedVersionError)

# After these calls there is nothing to append on a condition.
NEVER_MET = {
    (before, call)
    for call, met in {"give_back": {"take"}}.items()
    for before in ("retain", "take", "identify", "try_again", "join")
    if before not in met
} | {("identify", "identify"), ("take", "take"), ("join", "join")}
# What relies on anything is judged again after any line.
NEVER_MET |= {(before, "append_at_the_end") for before in ("retain", "take", "identify", "try_again", "join")}

Step = tuple[str, str, str, list[list[Payload]]]

keys = st.sampled_from(OBJECT_KEYS)
WORKER_ID = uuid.uuid4().hex


def payloads_of(kind: str, object_key: str) -> Payload:
    """Return a line of another process."""
    entry, run = Input(0, object_key, object_key, {}), JoinedRun(RunNote(1, VERSIONS[0]), 0)
    return {
        "record": lambda: encode_payload(object_key, "late"),
        "named": lambda: encode_payload(object_key, "named", object_key),
        "outcome": lambda: outcome_payload(run, entry, Result(True, 2), 0.1)[0],
        "attempt": lambda: attempt_payload(run, entry, Result(False, None, "no"), 0.1, 0.0),
        "forget": lambda: forget_payload(object_key),
        "claim": lambda: claim_payload(object_key, WORKER_ID),
        "free": lambda: claim_payload(object_key, None),
        "run": lambda: note_payload(RunNote(2, VERSIONS[1], None, Keeps.ALL).note()),
        "note": lambda: note_payload(Note("another", {"object_key": object_key})),
        "import": lambda: note_payload(Note("import", {"source": object_key})),
    }[kind]()


KINDS = ["record", "named", "outcome", "attempt", "forget", "claim", "free", "run", "note", "import"]
lines = st.builds(payloads_of, st.sampled_from(KINDS), keys)
between = st.lists(st.lists(lines, min_size=1, max_size=3), max_size=3)
steps = st.lists(st.tuples(st.sampled_from(CALLS), keys, keys, between), min_size=1, max_size=8)


def play(taken: list[Step]) -> int:
    """Make the calls, each with what comes between its judgement and its append.

    Returns:
        How many conditions were taken for met without being judged again.
    """
    before = CheckedLog.taken
    place: Any = uuid.uuid4().hex
    handle = checkpoint_on(CheckedStore(place), durability="never")
    caller = Caller(handle.log("a"))
    elsewhere = caller.handle.workers.begin()
    live = WORKER_ID.encode(), elsewhere.id.encode()  # of those that come between
    try:
        for call, object_key, other, batches in taken:
            CheckedLog.between = [
                [each._replace(event=each.event.replace(*live)) for each in batch] for batch in batches
            ]
            with suppress(*REFUSALS):
                getattr(caller, call)(object_key, other)
    finally:
        CheckedLog.between = []
        caller.close()
        elsewhere.retire()
        handle.close()
        CheckedStore.forget(place)
    return CheckedLog.taken - before


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", KINDS)
def test_condition_before_which_one_line_comes_is_met_if_it_is_taken_for_met(call: str, kind: str) -> None:
    for object_key in OBJECT_KEYS[:2]:
        step = (call, "x", "map", [[payloads_of(kind, object_key)]])
        for before in ("retain", "take", "identify", "try_again", "join"):
            beforehand: Step = (before, "x", "map", [])
            taken = play([beforehand, step]) - play([beforehand])
            assert taken or kind != "note" or (before, call) in NEVER_MET, "nothing was tried"


@given(steps)
def test_conditions_before_which_lines_come_are_met_if_they_are_taken_for_met(taken: list[Step]) -> None:
    play(taken)


# --- what is taken -----------------------------------------------------------------------------------------


def test_condition_is_judged_once_beside_lines_that_do_not_concern_it(store: Path) -> None:
    log, theirs = (checkpoint_on(MemoryStore(store), durability="never").log("a") for _ in range(2))
    judged: list[int] = []

    def judge(view: Any) -> None:
        judged.append(view.count_of("x"))
        if len(judged) == 1:
            theirs.append_many([("y", 1), ("z", 2)])
            handle_of(theirs).append_if([claim_payload("y", None)], lambda _: None)

    handle_of(log).append_if([encode_payload("x", 1)], judge, relies_on=concerns_of_objects("x"))
    assert judged == [0]
    judged.clear()
    handle_of(log).append_if([encode_payload("x", 2)], judge)  # relies on anything
    assert judged == [1, 1]


# --- concerns ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("object_key", [*OBJECT_KEYS, "", "null", "claim"])
def test_record_forget_and_claim_concern_their_object(object_key: str) -> None:
    concerns = {
        concern_of(payload)
        for payload in (
            encode_payload(object_key, 1),
            forget_payload(object_key),
            claim_payload(object_key, "w"),
            claim_payload(object_key, None),
        )
    }
    assert concerns == concerns_of_objects([object_key]) == {encode_key(object_key)}


def test_other_notes_concern_their_name_which_is_no_object() -> None:
    names = ["map", "import", "retention", "another", "forgotten"]
    found = [concern_of(note_payload(Note(name, {"object_key": "x"}))) for name in names]

    assert found == [name.encode() for name in names]
    assert not concerns_of_objects(names) & set(found)


def test_claim_to_nothing_concerns_no_object() -> None:
    """No version of this library writes one, and views pass it over."""
    assert concern_of(note_payload(Note(CLAIM, {"object_key": 1}))) == b"claim"
    assert concern_of(note_payload(Note(CLAIM, {}))) == b"claim"


@pytest.mark.parametrize("spelt", [rb'"\u0078"', rb'"x"', rb'"\u0078\/"'])
def test_key_that_another_program_spelt_otherwise_is_the_same_object(spelt: bytes) -> None:
    wanted = "x/" if b"/" in spelt else "x"

    assert concern_of(Payload(spelt, b"1")) == encode_key(wanted)
