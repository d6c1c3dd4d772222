"""SIGKILL of compactions, and of writers, under load: counts are right, what is left is whole, nothing stays behind."""

from __future__ import annotations

import os
import threading
from itertools import count
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint.maintenance import restore
from support import tally
from support.load import (
    back_up_for_ever,
    compact_for_ever,
    require_sound,
    retain_for_ever,
    settled,
    tell_through,
    told_through,
    write_for_ever,
)
from support.verbs import inside, seeded

if TYPE_CHECKING:
    from pathlib import Path

    from support.processes import Children

pytestmark = [pytest.mark.slow, pytest.mark.guarantee(1), pytest.mark.guarantee(8), pytest.mark.guarantee(12)]

WRITERS, KILLS = 3, 25


def write(store: Path, told: str, number: int, first: int) -> None:
    """Append for ever, each time on the condition that nothing was lost; tell what was acknowledged."""
    log = Checkpoint(store).log("a")
    fd = os.open(told, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for event in count(first):
        log.append_many([("noise", event), ("noise", event)], durability="never")
        log.append(f"by {number}", event, expected_count=event)
        os.write(fd, b"%d\n" % event)


def compact(store: Path) -> None:
    log = Checkpoint(store).log("a")
    while True:
        log.compact(keep_last=3)


def acknowledged(told: Path) -> int:
    """Return how many appends of a writer were acknowledged."""
    return len(told.read_bytes().splitlines()) if told.exists() else 0


def test_killed_compactions_and_writers_lose_nothing_and_leave_nothing(
    store: Path, tmp_path: Path, children: Children
) -> None:
    chance = seeded("killed compactions")
    Checkpoint(store).log("a").append("x", 0)
    told = [tmp_path / f"writer {number}" for number in range(WRITERS)]
    writers = [
        children.start(write, store, str(told[number]), number, 0, method="fork") for number in range(WRITERS)
    ]
    pause = threading.Event()
    for turn in range(KILLS):
        compactor = children.start(compact, store, method="fork")
        pause.wait(0.02 + chance.random() * 0.15)
        compactor.kill()
        if turn % 5 == 4:
            number = chance.randrange(WRITERS)
            writers[number].kill()
            there = Checkpoint(store, read_only=True).log("a").count(f"by {number}")
            assert there - acknowledged(told[number]) in (0, 1)
            with told[number].open("a") as file:
                file.write("0\n" * (there - acknowledged(told[number])))
            writers[number] = children.start(write, store, str(told[number]), number, there, method="fork")
    children.kill_all()

    log = Checkpoint(store).log("a")
    for number in range(WRITERS):
        there, events = log.count(f"by {number}"), log.events(f"by {number}")
        assert there - acknowledged(told[number]) in (0, 1)
        assert events == tuple(range(there - len(events), there))
        assert len(events) >= min(3, there)
    log.append_many([("noise", 0)] * 4)
    log.compact(keep_last=1)
    assert not [path.name for path in inside(store).glob("a.jsonl?*")]
    tally.add("compactions killed under load", KILLS)


def write_and_tell(store: Path, name: str, told: str) -> None:
    write_for_ever(store, name, tell_through(told))


@pytest.mark.guarantee(11)
def test_whoever_is_killed_while_logs_shrink_and_are_backed_up_spoils_nothing(
    store: Path, tmp_path: Path, children: Children, intensity: int
) -> None:
    chance = seeded("killed while logs shrink")
    place = tmp_path / "backup"
    told = {f"w{number}": str(tmp_path / f"told {number}") for number in range(2)}
    handle = Checkpoint(store).log("a")  # asleep through many compactions
    handle.append("noise", 0)
    work = [(write_and_tell, store, name, path) for name, path in told.items()] + [
        (compact_for_ever, store),
        (retain_for_ever, store),
        (back_up_for_ever, store, place),
    ]
    running = [children.start(*each, method="fork") for each in work]
    pause = threading.Event()
    for turn in range(20 * intensity):
        pause.wait(0.02 + chance.random() * 0.1)
        victim = chance.randrange(len(work))
        running[victim].kill()
        if turn % 4 == 0:
            fresh = Checkpoint(store, read_only=True).log("a")
            before = {name: handle.count(name) for name in told}
            assert all(before[name] <= fresh.count(name) <= handle.count(name) for name in told)
        running[victim] = children.start(*work[victim], method="fork")
    children.kill_all()

    acknowledged = [each for path in told.values() for each in told_through(path)]
    assert {what for what, *_ in acknowledged} == {"wrote", "forgot"}
    assert {name: handle.count(name) for name in told} == {
        name: Checkpoint(store, read_only=True).log("a").count(name) for name in told
    }
    require_sound(store, acknowledged, most_more=1 + 20 * intensity)
    for name in told:
        assert handle.events(name) == Checkpoint(store, read_only=True).log("a").events(name)
    if settled(place):
        restore(place, tmp_path / "restored")
        restored = Checkpoint(tmp_path / "restored").log("a")
        for name in told:
            written, events = restored.count(name), restored.events(name)
            assert events == tuple(range(written - len(events), written))
            assert written <= handle.count(name)
    assert Checkpoint(store).backup(place).is_of_one_moment
    assert settled(place)
    tally.add("kills while logs shrink", 20 * intensity)
