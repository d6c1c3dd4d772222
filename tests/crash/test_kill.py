"""SIGKILL at random instants, against acknowledgements kept outside: nothing acknowledged is lost, nobody is held up.

Each writer has a name of its own and works through numbered steps; what a step appends follows from writer and number
alone, so every record found can be compared with the one record it may be.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections import defaultdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from support import tally
from support.processes import METHODS, call
from support.verbs import (
    Faults,
    assert_goes_on,
    inside,
    log_file,
    seeded,
    wait_until,
    write_padding_early,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal, AcknowledgementWriter
    from support.processes import Child, Children

pytestmark = [pytest.mark.guarantee(1), pytest.mark.guarantee(2), pytest.mark.guarantee(8)]

LOG_KEYS = ("a", "b", "c")
PROGRESS_TIMEOUT_S = 30
MOST_BYTES_A_WRITE = 100_000
Step = list[tuple[str, list[Any]]]


# --- what writers do, and what may be found ------------------------------------------------------------------


def step_of(name: str, number: int, largest_bytes: int) -> tuple[str, str, Step]:
    """Return how a writer's step appends, to which log, and its records: they follow from the arguments alone."""
    chance = random.Random(f"{name} {number}")
    how = chance.choice(("append", "append", "append_many", "transaction"))
    size = 1 if how == "append" else chance.randint(2, 5)
    records = [
        (f"object {chance.randint(0, 20)}", [name, number, part, "x" * _size(chance, largest_bytes)])
        for part in range(size)
    ]
    return how, chance.choice(LOG_KEYS), records


def _size(chance: random.Random, largest_bytes: int) -> int:
    return int(chance.choice((1, 100, largest_bytes / 50, largest_bytes)) * chance.random())


def perform(checkpoint: Checkpoint, how: str, log_key: str, records: Step) -> None:
    log = checkpoint.log(log_key)
    if how == "append":
        log.append(*records[0])
    elif how == "append_many":
        log.append_many(records)
    else:
        log.update(lambda transaction: [_read_and_append(transaction, *record) for record in records])


def _read_and_append(transaction: Any, object_key: str, event: list[Any]) -> None:
    transaction.events(object_key)
    transaction.append(object_key, event)


def work(store: Path, name: str, writer: AcknowledgementWriter, largest_bytes: int) -> None:
    """Go through steps for ever; acknowledge each when it has returned."""
    if random.Random(name).random() < 0.5:
        write_padding_early()
    checkpoint = Checkpoint(store)
    with pytest.MonkeyPatch.context() as patches:
        # The kernel takes megabytes in one go, all but unkillable. What it may do is to take less.
        Faults(patches).act("write_at", take_a_part, times=sys.maxsize, on=r"\.jsonl$")
        for number in count():
            perform(checkpoint, *step_of(name, number, largest_bytes))
            writer.acknowledge(name, number)


def take_a_part(real: Callable[..., int], fd: int, data: memoryview, offset: int) -> int:
    return real(fd, data[:MOST_BYTES_A_WRITE], offset)


def verify(store: Path, acknowledged: list[tuple[Any, ...]], largest_bytes: int) -> None:
    """Compare a store with what was acknowledged.

    Each writer's steps must be there from its first to its last acknowledged one, perhaps one more, each whole, once,
    and in its log in order.
    """
    found: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    numbers: dict[str, set[int]] = defaultdict(set)
    checkpoint = Checkpoint(store, read_only=True)
    for log_key in checkpoint.logs():
        for record in checkpoint.log(log_key).read():
            name, number, part, _ = record.event
            _, expected_log, records = step_of(name, number, largest_bytes)
            assert (record.log_key, record.object_key, record.event) == (expected_log, *records[part])
            found[f"{name} in {log_key}"].append((name, number, part))
            numbers[name].add(number)
    for log_key_of_name, seen in found.items():
        assert seen == sorted(set(seen)), log_key_of_name
    for name, has in numbers.items():
        parts = sum(len(step_of(name, number, largest_bytes)[2]) for number in has)
        assert parts == sum(len(seen) for key, seen in found.items() if key.startswith(f"{name} in ")), name
        assert has == set(range(len(has))), name
    for name, last in _last_acknowledged(acknowledged).items():
        assert last + 1 <= len(numbers[name]) <= last + 2, name


def _last_acknowledged(acknowledged: list[tuple[Any, ...]]) -> dict[str, int]:
    last: dict[str, int] = {}
    for name, number in acknowledged:
        last[name] = max(number, last.get(name, -1))
    return last


# --- killing -----------------------------------------------------------------------------------------------


class Crowd:
    """Writers of one store that are killed and replaced."""

    def __init__(
        self,
        store: Path,
        children: Children,
        journal: AcknowledgementJournal,
        largest_bytes: int,
        method: str,
    ) -> None:
        self._store = store
        self._children = children
        self._journal = journal
        self._largest_bytes = largest_bytes
        self._method = method
        self._started = 0
        self.running: dict[str, Child] = {}

    def fill_up(self, size: int) -> None:
        """Start as many writers as are missing, and wait until all have got on."""
        while len(self.running) < size:
            name = f"{self._store.name} writer {self._started}"
            self._started += 1
            arguments = (self._store, name, self._journal.writer, self._largest_bytes)
            self.running[name] = self._children.start(work, *arguments, method=self._method)
        self.require_progress()

    def kill(self, names: list[str]) -> None:
        """Kill them at one instant."""
        killed = [self.running.pop(name) for name in names]
        for child in killed:
            os.kill(child.pid, signal.SIGKILL)
        tally.add("kills", len(killed))
        for child in killed:
            child.wait()

    def await_instant(self, chance: random.Random) -> None:
        """Return at a random instant, half of the time within a write: a file that has just grown is still growing."""
        if chance.random() < 0.5:
            before = self._sizes()
            wait_until(lambda: self._sizes() != before, "a log has grown", PROGRESS_TIMEOUT_S, pause_s=0)
        else:
            threading.Event().wait(chance.uniform(0, 0.05))

    def _sizes(self) -> list[int]:
        return [path.stat().st_size for path in inside(self._store).glob("*.jsonl")]

    def require_progress(self) -> None:
        """Raise TimeoutError unless each writer that runs acknowledges something new soon: nobody may be held up."""
        before = _last_acknowledged(self._journal.acknowledged())

        def have_all_got_on() -> bool:
            now = _last_acknowledged(self._journal.acknowledged())
            return all(now.get(name, -1) > before.get(name, -1) for name in self.running)

        wait_until(have_all_got_on, "every writer that was not killed has got on", PROGRESS_TIMEOUT_S)

    def acknowledged(self) -> list[tuple[Any, ...]]:
        return [each for each in self._journal.acknowledged() if each[0].startswith(f"{self._store.name} ")]


# Small events make many instants between records, large ones make writes that tear.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("largest_bytes", "episodes", "method"),
    [(300, 6, "fork"), (100_000, 5, "fork"), (2_000_000, 4, "fork"), (100_000, 1, "spawn")],
)
def test_writers_killed_at_random_lose_nothing_and_hold_nobody_up(
    tmp_path: Path,
    children: Children,
    acknowledgements: AcknowledgementJournal,
    intensity: int,
    largest_bytes: int,
    episodes: int,
    method: str,
) -> None:
    chance = seeded(f"kills {largest_bytes} {method}")
    for episode in range(episodes * intensity):
        crowd = Crowd(tmp_path / f"store{episode}", children, acknowledgements, largest_bytes, method)
        for _ in range(3):
            crowd.fill_up(4)
            crowd.await_instant(chance)
            crowd.kill(chance.sample(sorted(crowd.running), 2))
            crowd.require_progress()
        crowd.fill_up(4)
        crowd.await_instant(chance)
        crowd.kill(list(crowd.running))
        store = tmp_path / f"store{episode}"

        verify(store, crowd.acknowledged(), largest_bytes)
        call(append_to_every_log, store, method="fork")
        verify_repairs(store)


def append_to_every_log(store: Path) -> None:
    checkpoint = Checkpoint(store)
    for log_key in checkpoint.logs():
        log = checkpoint.log(log_key)
        log.append("x", "end")
        assert log.events("x") == ("end",)


def verify_repairs(store: Path) -> None:
    """The repairs that are listed are the files in quarantine, byte for byte as long as said."""
    checkpoint = Checkpoint(store, read_only=True)
    repairs = [repair for log_key in checkpoint.logs() for repair in checkpoint.log(log_key).repairs()]
    kept = {str(path): path.stat().st_size for path in inside(store, "quarantine").glob("*")}
    assert {repair.path: repair.length_bytes for repair in repairs} == kept
    tally.add("torn ends repaired", len(repairs))


# --- dying at a certain instant ------------------------------------------------------------------------------


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def append_and_die(store: Path, instant: str, taken_bytes: int) -> None:
    """Append a batch and die: with ``taken_bytes`` of it written, or before or behind a call of the system."""
    log = Checkpoint(store).log("a")
    log.append("x", 0)
    with pytest.MonkeyPatch.context() as patches:
        faults = Faults(patches)
        if instant == "in write_at":
            faults.act("write_at", lambda real, fd, data, offset: die(real(fd, data[:taken_bytes], offset)))
        elif instant.startswith("before"):
            faults.act(instant.split()[1], die)
        else:
            faults.act(instant.split()[1], lambda real, *args: die(real(*args)))
        log.append_many([("x", number) for number in range(1, 6)])


def killed(function: Callable[..., object], *args: object) -> None:
    with pytest.raises(ChildProcessError):
        call(function, *args, method="fork")
    tally.add("kills")


@pytest.mark.guarantee(6)
@pytest.mark.rule(1)
@pytest.mark.parametrize("taken_bytes", [1, 9, 30, 80, 150, 250, -1])
def test_batch_whose_writer_dies_in_it_is_gone_and_its_bytes_are_kept(
    tmp_path: Path, taken_bytes: int
) -> None:
    store = tmp_path / "store"
    killed(append_and_die, store, "in write_at", taken_bytes)
    log = Checkpoint(store).log("a")
    (record,) = log.read()
    torn = log_file(store).read_bytes()[record.position.offset :]

    assert_goes_on(log, [0])

    (repair,) = log.repairs()
    assert repair.offset == record.position.offset
    assert Path(repair.path).read_bytes() == torn


@pytest.mark.rule(16)
@pytest.mark.parametrize("instant", ["behind write_at", "before sync_data", "behind sync_data"])
def test_batch_whose_writer_dies_behind_its_write_is_whole(tmp_path: Path, instant: str) -> None:
    store = tmp_path / "store"
    killed(append_and_die, store, instant, 0)

    assert_goes_on(Checkpoint(store).log("a"), [0, 1, 2, 3, 4, 5])


@pytest.mark.parametrize("instant", ["before try_lock", "behind try_lock", "before unlock", "behind unlock"])
def test_lock_whose_holder_dies_is_free_at_once(tmp_path: Path, instant: str) -> None:
    store = tmp_path / "store"
    killed(append_and_die, store, instant, 0)

    log = Checkpoint(store, lock_timeout_s=0).log("a")
    log.append("x", "next")

    assert log.events("x")[-1] == "next"
    assert len(log.events("x")) in {2, 7}


@pytest.mark.rule(8)
@pytest.mark.parametrize("number", range(1, 15))
def test_creation_of_a_store_and_log_killed_at_any_call_is_done_by_the_next(
    tmp_path: Path, number: int
) -> None:
    store = tmp_path / "new" / "store"
    killed(create_until_killed, store, number)

    log = Checkpoint(store, lock_timeout_s=5).log("a")

    assert_goes_on(log, [])
    assert list(inside(store).glob("a*.tmp")) == []
    assert Checkpoint(store).logs() == ["a"]


def create_until_killed(store: Path, number: int) -> None:
    with pytest.MonkeyPatch.context() as patches:
        Faults(patches).any_call(number, die)
        Checkpoint(store).log("a").append("x", 0)


@pytest.mark.parametrize("method", METHODS)
def test_process_of_any_kind_killed_in_a_write_is_repaired_by_the_next(
    tmp_path: Path, children: Children, method: str
) -> None:
    store = tmp_path / "store"
    child = children.start(append_and_die, store, "in write_at", 100, method=method)
    assert child.wait() != 0
    tally.add("kills")

    log = Checkpoint(store).log("a")
    assert_goes_on(log, [0])
    verify_repairs(store)
