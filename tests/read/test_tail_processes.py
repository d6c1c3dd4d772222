"""A tail beside processes that write, compact, and are killed: at once, everything, once, in order."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint
from support.verbs import seeded, wait_until

if TYPE_CHECKING:
    from mpcheckpoint import Tail
    from support.processes import Child, Children

pytestmark = [pytest.mark.guarantee(4), pytest.mark.guarantee(8), pytest.mark.guarantee(12)]

WRITERS = {"forked in a": "fork", "spawned in a": "spawn", "forked in b": "fork"}
KILLS = 6
_pause = threading.Event()


def write_for_ever(store: Path, name: str, told: str) -> None:
    """Append numbers from the next one on, each with what a compaction drops, and say so after each."""
    log = Checkpoint(store, durability="never").log(name[-1])
    number = log.count(name)
    with Path(told).open("ab", buffering=0) as file:
        file.write(b"." * (number - file.tell()))  # who was killed may have appended one more
        while True:
            log.append_many([(name, number), ("noise", number)])
            file.write(b".")
            number += 1
            _pause.wait(0.002)  # so that who looks on, on a busy machine, is not left behind


def compact_for_ever(store: Path) -> None:
    checkpoint = Checkpoint(store, durability="never")
    while True:
        for log_key in "ab":
            checkpoint.log(log_key).compact(drop="noise")
        _pause.wait(0.01)


class Watch:
    """What a tail has given, of each writer."""

    def __init__(self, tail: Tail) -> None:
        self.tail = tail
        self.seen: dict[str, list[int]] = {name: [] for name in WRITERS}

    def take(self, told: dict[str, Path], log_keys: str) -> None:
        """Take what is new: at least all that was acknowledged before."""
        acknowledged = {name: path.stat().st_size for name, path in told.items() if path.exists()}
        for record in self.tail.new():
            if record.object_key != "noise":
                self.seen[record.object_key].append(record.event)
        for name, count in acknowledged.items():
            if name[-1] in log_keys:
                assert self.seen[name] == list(range(len(self.seen[name])))
                assert len(self.seen[name]) >= count


def test_tail_misses_and_doubles_nothing_beside_compactions_and_killed_writers(
    store: Path, tmp_path: Path, children: Children
) -> None:
    chance = seeded("tails")
    told = {name: tmp_path / name for name in WRITERS}
    checkpoint = Checkpoint(store)
    of_log, of_all = Watch(checkpoint.log("a").tail()), Watch(checkpoint.tail())
    checkpoint.log("b")

    def start(name: str) -> Child:
        return children.start(write_for_ever, store, name, str(told[name]), method=WRITERS[name])

    writers = {name: start(name) for name in WRITERS}
    compactors = [children.start(compact_for_ever, store, method="fork")]
    for _ in range(KILLS):
        before = {name: len(of_all.seen[name]) for name in WRITERS}

        def all_got_on(before: dict[str, int] = before) -> bool:
            of_log.take(told, "a")
            of_all.take(told, "ab")
            return all(len(of_all.seen[name]) > before[name] + 5 for name in WRITERS)

        wait_until(all_got_on, "each writer has got on", timeout_s=60)
        name = chance.choice(sorted(WRITERS))
        writers[name].kill()
        writers[name] = start(name)
        compactors[-1].kill()
        compactors.append(children.start(compact_for_ever, store, method="fork"))
    children.kill_all()

    of_log.take(told, "a")
    of_all.take(told, "ab")
    for name in WRITERS:
        there = Checkpoint(store).log(name[-1]).events(name)
        assert tuple(of_all.seen[name]) == there
        assert tuple(of_log.seen[name]) == (there if name[-1] == "a" else ())
