"""Several processes, several handles, crashes, faults, repairs and losses of power, against one dictionary.

Hypothesis drives it; a model of the disk stands below. After every step a new process finds exactly what the model
says, and so does every handle that is still alive.
"""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint.errors import (
    CheckpointError,
    ConflictError,
    NotAStoreError,
    OutcomeUnknownError,
    StoreNotFoundError,
    UnfinishedBackupError,
)
from mpcheckpoint.maintenance import repair, restore
from mpcheckpoint.testing import SimulatedCrash, SimulatedDisk, SimulatedProcess
from support import tally
from support.verbs import tear

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mpcheckpoint import Position

BUDGET_S = float(os.environ.get("MPCHECKPOINT_MACHINE_S", "20"))
IN_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
PLAYERS = range(3)
MOST_IMAGES = 12
LOG_KEYS = ("a", "b")
OBJECTS = ("x", "y")
Records = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Batch:
    """What the model holds of one batch: its records, and whether a loss of power must leave it there.

    Attributes:
        forgets: an object that is forgotten by it.
        dropped, ids: how many records of which objects a compaction left out, and under which ids records are known.
    """

    records: Records = ()
    is_durable: bool = False
    forgets: str | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    ids: frozenset[tuple[str, str]] = frozenset()


Batches = list[Batch]


class Seen(NamedTuple):
    """What a reader sees of a log: the records in it, those of objects that views show, and how many are counted."""

    records: Records = ()
    shown: Records = ()
    counts: tuple[int, ...] = (0,) * len(OBJECTS)


def seen_of(batches: Sequence[Batch]) -> Seen:
    """Return what a reader sees of a log that holds these."""
    shown: Records = ()
    counts: Counter[str] = Counter()
    for batch in batches:
        counts.update(batch.dropped)
        counts.update(key for key, _ in batch.records)
        counts[batch.forgets or ""] = 0
        shown = tuple(record for record in (*shown, *batch.records) if record[0] != batch.forgets)
    records = tuple(record for batch in batches for record in batch.records)
    return Seen(records, shown, tuple(counts[key] for key in OBJECTS))


def ids_of(batches: Sequence[Batch]) -> frozenset[tuple[str, str]]:
    """Return the objects and ids under which records are known."""
    known: frozenset[tuple[str, str]] = frozenset()
    for batch in batches:
        known = frozenset(each for each in known | batch.ids if each[0] != batch.forgets)
    return known


def compacted(batches: Sequence[Batch], keep_last: int) -> Batches:
    """Return what a compaction leaves."""
    seen = seen_of(batches)
    kept: list[Records] = []
    left = Counter(dict.fromkeys(OBJECTS, keep_last))
    shown = set(map(repr, seen.shown))
    for batch in reversed(batches):
        stays: Records = ()
        for record in reversed(batch.records):
            if repr(record) in shown and left[record[0]]:
                left[record[0]] -= 1
                stays = (record, *stays)
        kept.insert(0, stays)
    there = Counter(key for records in kept for key, _ in records)
    dropped = {key: count - there[key] for key, count in zip(OBJECTS, seen.counts, strict=True)}
    first = Batch((), is_durable=True, dropped=dropped, ids=ids_of(batches))
    return [first, *(Batch(records, is_durable=True) for records in kept if records)]


def durable(batches: Sequence[Batch]) -> Batches:
    """Return the same, of which a loss of power takes nothing."""
    return [replace(batch, is_durable=True) for batch in batches]


def without_unsynced(batches: Sequence[Batch]) -> Iterator[Batches]:
    """Yield what a loss of power may leave, longest first."""
    left = list(batches)
    yield left
    while left and not left[-1].is_durable:
        left = left[:-1]
        yield left


@dataclass(frozen=True)
class BadLuck:
    """What goes wrong within one step: at which call, of which kind."""

    kind: str  # "before", "in", "after" a call the process dies; or the name of an error that the call meets
    at: int
    call: str | None = None

    def plan(self, disk: SimulatedDisk) -> None:
        if self.kind in ("before", "in", "after"):
            disk.crash(at=self.at, when=self.kind, name=self.call)  # type: ignore[arg-type] # checked above
        elif self.kind == "short":
            disk.write_short(self.at)
        else:
            disk.fail(getattr(errno, self.kind), at=self.at, name=self.call)


BAD_LUCK = st.builds(
    BadLuck,
    st.sampled_from(["before", "in", "after", "EIO", "ENOSPC", "EINTR", "short"]),
    st.integers(1, 30),
) | st.builds(
    BadLuck,
    st.sampled_from(["before", "in", "after", "EIO", "ENOSPC"]),
    st.integers(1, 2),
    st.sampled_from(["write_at", "sync_data", "sync_directory", "truncate", "replace", "unlock"]),
)


class Player:
    """One of the processes, and the handle that it has."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._process = SimulatedProcess()
        self._checkpoint: Checkpoint | None = None

    def do(self, action: Callable[[Checkpoint], Any], *, is_opened: bool = True) -> Any:
        with self._process:
            if not is_opened:
                return action(None)  # type: ignore[arg-type] # it does not look
            if self._checkpoint is None:
                self._checkpoint = Checkpoint(self._store)
            return action(self._checkpoint)

    def kill(self) -> None:
        self._process.kill()
        self._checkpoint = None


class CrashingProcesses(RuleBasedStateMachine):
    """The model: of each log the batches that a reader sees, in order. One dictionary, from log key to list."""

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, Batches] = {log_key: [] for log_key in LOG_KEYS}
        # Of a log that a compaction or a restore changed which died before it returned: what a loss of power may bring
        # back.
        self.before: dict[str, Batches] = {}
        # What a backup may hold: None for no backup.
        self.saved: list[dict[str, Batches] | None] = [None]
        self.number = 0

    @initialize(seed=st.integers(0, 1000))
    def start(self, seed: int) -> None:
        self.directory = tempfile.TemporaryDirectory(dir=IN_MEMORY)
        self.disk = SimulatedDisk(Path(self.directory.name).resolve(), seed=seed)
        self.disk.__enter__()
        self.store = self.disk.root / "new" / "store"
        self.place = self.disk.root / "backup"
        self.players = [Player(self.store) for _ in PLAYERS]

    def teardown(self) -> None:
        if hasattr(self, "disk"):
            for player in self.players:
                player.kill()
            self.disk.__exit__(None, None, None)
            self.directory.cleanup()

    # --- steps ------------------------------------------------------------------------------------------------

    @rule(
        player=st.sampled_from(PLAYERS),
        log_key=st.sampled_from(LOG_KEYS),
        objects=st.lists(st.sampled_from(OBJECTS), min_size=1, max_size=4),
        length=st.sampled_from([1, 600, 5000]),
        durability=st.sampled_from(["always", "never"]),
        luck=st.lists(BAD_LUCK, max_size=2),
    )
    def append(
        self,
        player: int,
        log_key: str,
        objects: Sequence[str],
        length: int,
        durability: str,
        luck: list[BadLuck],
    ) -> None:
        records = self.new_records(objects, length)
        self.attempt(
            player,
            log_key,
            [Batch(records)],
            lambda log: log.append_many(records, durability=durability),
            luck,
            is_durable=durability == "always",
        )

    @rule(
        player=st.sampled_from(PLAYERS),
        log_key=st.sampled_from(LOG_KEYS),
        object_key=st.sampled_from(OBJECTS),
        luck=st.lists(BAD_LUCK, max_size=1),
    )
    def append_with_an_id_until_it_is_there(
        self, player: int, log_key: str, object_key: str, luck: list[BadLuck]
    ) -> None:
        records = self.new_records([object_key], 1)
        record_id = f"id {self.number}"

        def append(log: Log) -> Position:
            return log.append(*records[0], record_id=record_id)

        batch = Batch(records, ids=frozenset({(object_key, record_id)}))
        self.attempt(player, log_key, [batch], append, luck, is_durable=True)
        is_there = any(each.records == records for each in self.model[log_key])
        self.attempt(
            (player + 1) % len(PLAYERS), log_key, [] if is_there else [batch], append, [], is_durable=True
        )

    @precondition(lambda self: any(map(ids_of, self.model.values())))
    @rule(player=st.sampled_from(PLAYERS), number=st.integers(0, 50), luck=st.lists(BAD_LUCK, max_size=1))
    def append_with_an_id_that_is_known(self, player: int, number: int, luck: list[BadLuck]) -> None:
        known = [
            (log_key, *each) for log_key, batches in self.model.items() for each in sorted(ids_of(batches))
        ]
        # Rather one that a compaction left out.
        known = [each for each in known if each[1:] in self.model[each[0]][0].ids] or known
        log_key, object_key, record_id = known[number % len(known)]
        self.attempt(
            player,
            log_key,
            [],
            lambda log: log.append(object_key, "twice", record_id=record_id),
            luck,
            is_durable=True,
        )

    @rule(
        player=st.sampled_from(PLAYERS),
        log_key=st.sampled_from(LOG_KEYS),
        object_key=st.sampled_from(OBJECTS),
        is_right=st.booleans(),
        luck=st.lists(BAD_LUCK, max_size=1),
    )
    def append_on_a_condition(
        self, player: int, log_key: str, object_key: str, is_right: bool, luck: list[BadLuck]
    ) -> None:
        records = self.new_records([object_key], 1)
        count = seen_of(self.model[log_key]).counts[OBJECTS.index(object_key)]
        expected = count if is_right else count + 1
        self.attempt(
            player,
            log_key,
            [Batch(records)] if is_right else [],
            lambda log: log.append(*records[0], expected_count=expected),
            luck,
            is_durable=True,
        )

    @rule(
        player=st.sampled_from(PLAYERS),
        log_key=st.sampled_from(LOG_KEYS),
        object_key=st.sampled_from(OBJECTS),
        luck=st.lists(BAD_LUCK, max_size=1),
    )
    def append_in_a_transaction(
        self, player: int, log_key: str, object_key: str, luck: list[BadLuck]
    ) -> None:
        records = self.new_records([object_key, *OBJECTS], 1)
        shown = seen_of(self.model[log_key]).shown
        before = tuple(event for key, event in shown if key == object_key)

        def append(log: Log) -> None:
            with log.transaction() as transaction:
                assert tuple(transaction.events(object_key)) == before
                for record in records:
                    transaction.append(*record)

        self.attempt(player, log_key, [Batch(records)], append, luck, is_durable=True)

    @rule(
        player=st.sampled_from(PLAYERS),
        log_key=st.sampled_from(LOG_KEYS),
        luck=st.lists(BAD_LUCK, max_size=1),
    )
    def flush(self, player: int, log_key: str, luck: list[BadLuck]) -> None:
        self.attempt(player, log_key, [], lambda log: log.flush(), luck, is_durable=True)

    @rule(
        player=st.sampled_from(PLAYERS),
        log_key=st.sampled_from(LOG_KEYS),
        luck=st.lists(BAD_LUCK, max_size=2),
    )
    def recover(self, player: int, log_key: str, luck: list[BadLuck]) -> None:
        self.attempt(player, log_key, [], lambda log: log.recover(), luck, is_durable=True)

    @rule(
        player=st.sampled_from(PLAYERS),
        log_key=st.sampled_from(LOG_KEYS),
        object_key=st.sampled_from(OBJECTS),
        luck=st.lists(BAD_LUCK, max_size=1),
    )
    def forget(self, player: int, log_key: str, object_key: str, luck: list[BadLuck]) -> None:
        batch = Batch(forgets=object_key)
        self.attempt(player, log_key, [batch], lambda log: log.forget(object_key), luck, is_durable=True)
        tally.add("forgets in the state machine")

    @rule(
        player=st.sampled_from(PLAYERS),
        log_key=st.sampled_from(LOG_KEYS),
        keep_last=st.integers(1, 2),
        purge=st.booleans(),
        luck=st.lists(BAD_LUCK, max_size=2),
    )
    def compact(self, player: int, log_key: str, keep_last: int, purge: bool, luck: list[BadLuck]) -> None:
        before = self.model[log_key]
        after = compacted(before, keep_last)
        is_done = self.try_it(
            player,
            lambda checkpoint: checkpoint.log(log_key).compact(keep_last=keep_last, purge=purge),
            luck,
        )
        if is_done:
            is_changed = seen_of(after).records != seen_of(before).records
            self.model[log_key] = after if is_changed else before
            if is_changed:
                self.before.pop(log_key, None)
        elif self.found().get(log_key, Seen()) != seen_of(before):
            self.model[log_key] = after
            self.before.setdefault(log_key, before)
        tally.add("compactions in the state machine")

    @precondition(lambda self: any(self.model.values()))
    @rule(player=st.sampled_from(PLAYERS), luck=st.lists(BAD_LUCK, max_size=1))
    def back_up(self, player: int, luck: list[BadLuck]) -> None:
        now = {log_key: durable(batches) for log_key, batches in self.model.items()}
        if self.try_it(player, lambda checkpoint: checkpoint.backup(self.place), luck):
            self.model, self.saved = dict(now), [now]
            self.before.clear()
        else:
            self.saved.append(now)
        tally.add("backups in the state machine")

    @precondition(lambda self: self.saved != [None])
    @rule(player=st.sampled_from(PLAYERS), luck=st.lists(BAD_LUCK, max_size=1))
    def restore(self, player: int, luck: list[BadLuck]) -> None:
        found = self.found_at(self.place, is_repaired=True)
        saved = [each for each in self.saved if each is not None and _seen(each) == _whole(found)]
        assert saved or None in self.saved
        if not saved:
            return
        logs = self.found().keys()
        is_done = self.try_it(
            player,
            lambda checkpoint: restore(self.place, self.store, lock_timeout_s=10),
            luck,
            is_opened=False,
        )
        before, after = self.model, dict(saved[0])
        found = self.found_at(self.store, is_repaired=True)
        if logs - found.keys():  # a handle that knows a log which was taken out raises
            for each in self.players:
                each.kill()
        if is_done or _whole(found) != _seen(before):
            self.model = after
            self.before = {} if is_done else {**before, **self.before}
        tally.add("restores in the state machine")

    @rule(player=st.sampled_from(PLAYERS))
    def kill(self, player: int) -> None:
        self.players[player].kill()

    @precondition(lambda self: self.model["a"])
    @rule(torn=st.binary(min_size=1, max_size=700))
    def tear(self, torn: bytes) -> None:
        tear(self.store, b'["000000ff",17' + torn.replace(b"\n", b" "))

    @rule(free_bytes=st.integers(0, 3000), player=st.sampled_from(PLAYERS), log_key=st.sampled_from(LOG_KEYS))
    def append_until_the_disk_is_full(self, free_bytes: int, player: int, log_key: str) -> None:
        self.disk.fill_up(free_bytes)
        try:
            for _ in range(4):
                records = self.new_records(["x"], 1000)
                self.attempt(
                    player,
                    log_key,
                    [Batch(records)],
                    lambda log, records=records: log.append_many(records),  # type: ignore[misc] # bound as default
                    [],
                    is_durable=True,
                    clears=False,
                )
        finally:
            self.disk.clear()

    # Drawn from a fixed range. How many images there are depends on the clock and on inode numbers, too, and a bound
    # that differs when Hypothesis repeats an example is reported as a flaky strategy, in the place of what had failed.
    @rule(number=st.integers(0, MOST_IMAGES - 1))
    def lose_power(self, number: int) -> None:
        for player in self.players:
            player.kill()
        images = self.disk.images(MOST_IMAGES)
        self.disk.restore(images[number % len(images)])
        tally.add("losses of power in the state machine")
        found = self.found()
        for log_key, batches in self.model.items():
            may_be = list(without_unsynced(batches))
            if log_key in self.before:
                may_be += without_unsynced(self.before.pop(log_key))
            is_there = found.get(log_key, Seen())
            # Where none is what is found, the invariants say so.
            self.model[log_key] = durable(
                next((each for each in may_be if seen_of(each) == is_there), batches)
            )

    # --- what is true after every step --------------------------------------------------------------------------

    @invariant()
    def a_new_process_finds_what_the_model_says(self) -> None:
        if hasattr(self, "disk"):
            found = self.found()
            for log_key in LOG_KEYS:
                assert found.get(log_key, Seen()) == seen_of(self.model[log_key]), log_key

    @invariant()
    def every_handle_shows_what_the_model_says(self) -> None:
        if not hasattr(self, "disk"):
            return
        seen = {log_key: seen_of(self.model[log_key]) for log_key in LOG_KEYS}
        for player in self.players:
            there, counts = player.do(_shown)
            for key in OBJECTS:
                expected = sorted(event for each in seen.values() for of, event in each.shown if of == key)
                assert sorted(there[key]) == expected
            for log_key, count in counts.items():
                assert count == seen[log_key].counts, log_key

    # --- how ----------------------------------------------------------------------------------------------------

    def attempt(
        self,
        player: int,
        log_key: str,
        more: Batches,
        action: Callable[[Log], object],
        luck: list[BadLuck],
        *,
        is_durable: bool,
        clears: bool = True,
    ) -> None:
        """Do something that appends ``more``, with bad luck; then the model holds it, or not, or as is found."""
        is_done = self.try_it(
            player,
            lambda checkpoint: action(checkpoint.log(log_key)),
            luck,
            is_conflict=not any(batch.records for batch in more),
            clears=clears,
        )
        batches = [*self.model[log_key], *more]
        if more and (is_done or (is_done is False and self.found().get(log_key, Seen()) == seen_of(batches))):
            self.model[log_key] = batches
        if is_done and is_durable:
            self.model[log_key] = durable(self.model[log_key])
            self.before.pop(log_key, None)

    def try_it(
        self,
        player: int,
        action: Callable[[Checkpoint], object],
        luck: list[BadLuck],
        *,
        is_conflict: bool = False,
        is_opened: bool = True,
        clears: bool = True,
    ) -> bool | None:
        """Do something with bad luck; return whether it was acknowledged, and None if it was surely refused."""
        for each in luck:
            each.plan(self.disk)
        try:
            self.players[player].do(action, is_opened=is_opened)
        except SimulatedCrash:
            tally.add("crashes in the state machine")
            return False
        except OutcomeUnknownError:
            return False
        except ConflictError:
            assert is_conflict
            return None
        except CheckpointError:
            return None
        finally:
            if self.disk.is_crashed:
                self.players[player].kill()
                self.disk.revive()
            if clears:
                self.disk.clear()
        return True

    def found(self) -> dict[str, Seen]:
        """Return what a new process reads."""
        return self.found_at(self.store)

    def found_at(self, store: Path, *, is_repaired: bool = False) -> dict[str, Seen]:
        """Return what a new process reads there; it repairs what was left unfinished, if it is told to."""
        observer = Player(store)
        try:
            with suppress(FileNotFoundError, NotAStoreError, StoreNotFoundError):
                if (store / ".checkpoint").is_dir():
                    try:
                        return dict(observer.do(_read_all))
                    except UnfinishedBackupError:
                        if not is_repaired:
                            raise
                        with SimulatedProcess():
                            list(repair(store))
                        return dict(observer.do(_read_all))
            return {}
        finally:
            observer.kill()

    def new_records(self, objects: Sequence[str], length: int) -> Records:
        """Return records unlike all others."""
        self.number += 1
        return tuple((key, [self.number, part, "." * length]) for part, key in enumerate(objects))


def _read_all(checkpoint: Checkpoint) -> dict[str, Seen]:
    found = {}
    for log_key in checkpoint.logs():
        log = checkpoint.log(log_key)
        records = tuple((record.object_key, record.event) for record in log.read())
        shown = {(key, repr(event)) for key in OBJECTS for event in log.events(key)}
        in_order = tuple(record for record in records if (record[0], repr(record[1])) in shown)
        assert len(in_order) == len(shown)
        found[log_key] = Seen(records, in_order, tuple(map(log.count, OBJECTS)))
    return found


def _shown(checkpoint: Checkpoint) -> tuple[dict[str, Sequence[Any]], dict[str, tuple[int, ...]]]:
    """Return what a handle shows of each object, and what each log counts of them."""
    counts = {log_key: tuple(map(checkpoint.log(log_key).count, OBJECTS)) for log_key in checkpoint.logs()}
    return {key: checkpoint.get(key, ()) for key in OBJECTS}, counts


def _seen(model: Mapping[str, Batches]) -> dict[str, Seen]:
    return {log_key: seen_of(batches) for log_key, batches in model.items()}


def _whole(found: Mapping[str, Seen]) -> dict[str, Seen]:
    return {log_key: found.get(log_key, Seen()) for log_key in LOG_KEYS}


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(BUDGET_S * 10 + 120)
@pytest.mark.guarantee(1)
@pytest.mark.guarantee(2)
@pytest.mark.guarantee(5)
@pytest.mark.guarantee(6)
@pytest.mark.guarantee(9)
@pytest.mark.parametrize("half", [1, 2])
def test_processes_that_crash_and_disks_that_fail_leave_what_the_model_says(
    half: int, intensity: int, request: pytest.FixtureRequest
) -> None:
    if half == 2:
        request.getfixturevalue("early_padding")
    deadline = time.monotonic() + BUDGET_S / 2 * intensity
    rounds = 0
    while time.monotonic() < deadline:
        run_state_machine_as_test(  # type: ignore[no-untyped-call] # Hypothesis leaves it untyped
            CrashingProcesses,
            settings=settings(
                max_examples=30,
                stateful_step_count=25,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=(Phase.generate, Phase.shrink),
            ),
        )
        rounds += 1
    assert rounds
