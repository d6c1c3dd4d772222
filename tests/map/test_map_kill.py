"""``mpcheckpoint map`` killed at any instant, and started again: only what is missing runs, and nothing overlaps."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint
from support import process_tree, tally
from support.verbs import inside, seeded, wait_until

if TYPE_CHECKING:
    from support.processes import Child, Children

pytestmark = pytest.mark.guarantee(8)

JOBS = 3
ITEMS = 60
NAMES = [f"item{number}" for number in range(ITEMS)]
COMMAND = ("sh", "-c", 'echo "begin $1" >> runs; sleep 0.01; echo "end $1" >> runs', "work")


class Job:
    """A map over ITEMS items whose commands take a note when they begin and when they end."""

    def __init__(self, directory: Path, children: Children) -> None:
        self.directory = directory
        self.store = directory / "store"
        self.runs = directory / "runs"
        self.items = directory / "items"
        self.items.write_text("".join(f"{name}\n" for name in NAMES))
        self._children = children

    def start(self, *command: str, jobs: int = JOBS) -> Child:
        """Start the line, at the head of a process group of its own."""
        arguments = [
            "map",
            "--store",
            "store",
            "--key",
            "k",
            "--jobs",
            str(jobs),
            "--",
            *(command or COMMAND),
        ]
        with self.items.open("rb") as stdin:
            return self._children.start_command(
                [sys.executable, "-m", "mpcheckpoint", *arguments],
                cwd=self.directory,
                stdin=stdin,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def notes(self) -> list[tuple[str, str]]:
        """Return (begin or end, item), in the order in which they happened."""
        if not self.runs.exists():
            return []
        return [
            (note, item)
            for note, _, item in (line.partition(" ") for line in self.runs.read_text().splitlines())
        ]

    def begun(self) -> dict[str, int]:
        """Return how often each item was begun."""
        counts = dict.fromkeys(NAMES, 0)
        for note, item in self.notes():
            counts[item] += note == "begin"
        return counts

    def recorded(self) -> set[str]:
        """Return the items that have an outcome."""
        if not self.store.exists():
            return set()
        with Checkpoint(self.store, read_only=True) as checkpoint:
            if "k" not in checkpoint.logs():
                return set()
            return {outcome.object_key for outcome in checkpoint.log("k").results()}

    def wait_for_progress(self, more: int, child: Child) -> None:
        """Wait until so many more items were begun, or the map has ended."""
        goal = len(self.notes()) + more
        wait_until(lambda: len(self.notes()) >= goal or not child.is_running, "the map goes on")


@pytest.fixture
def job(tmp_path: Path, children: Children) -> Job:
    return Job(tmp_path, children)


@pytest.mark.parametrize("whom", ["process", "group"])
def test_killed_again_and_again_it_runs_only_what_is_missing_and_nothing_overlaps(
    whom: str, job: Job, intensity: int
) -> None:
    chance = seeded(f"kills of the {whom}")
    kills = 0
    frozen: dict[str, int] = {}  # how often an item was begun by the time it was seen to be recorded
    while len(job.recorded()) < ITEMS and kills < 8 * intensity:
        child = job.start()
        job.wait_for_progress(chance.randrange(0, 2 * ITEMS // 10), child)
        if whom == "group":
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        else:
            child.kill()
        kills += 1
        begun = job.begun()
        frozen |= {item: begun[item] for item in job.recorded() if item not in frozen}
    tally.add("kills of a map", kills)

    last = job.start()

    assert last.wait() == 0
    begun = job.begun()
    assert job.recorded() == set(NAMES)
    assert min(begun.values()) >= 1
    assert sum(begun.values()) <= ITEMS + kills * JOBS
    assert {item: begun[item] for item in frozen} == frozen
    if whom == "process":
        assert_nothing_overlapped(job)
    assert list(inside(job.store, "workers").iterdir()) == []


def assert_nothing_overlapped(job: Job) -> None:
    """Commands outlived the process that started them: each must have ended before its item was begun again."""
    running: set[str] = set()
    for note, item in job.notes():
        if note == "begin":
            assert item not in running, f"{item} was begun while it ran"
            running.add(item)
        else:
            running.discard(item)
    assert running == set()


def test_command_that_outlives_its_killed_map_is_not_overlapped_and_everything_else_goes_on(
    job: Job, tmp_path: Path, children: Children
) -> None:
    wait = "while [ $1 = item0 ] && [ ! -e go ]; do sleep 0.01; done"
    script = f'echo "begin $1" >> runs; {wait}; echo "end $1" >> runs'
    command = ("sh", "-c", script, "work")
    first = job.start(*command, jobs=1)
    wait_until(lambda: job.begun()["item0"] == 1, "the first item runs")
    first.kill()

    second = job.start(*command, jobs=2)
    wait_until(lambda: len(job.recorded()) == ITEMS - 1, "all others are done")
    assert second.is_running
    assert job.begun()["item0"] == 1
    (tmp_path / "go").touch()

    assert second.wait() == 0
    assert job.begun() == dict.fromkeys(NAMES, 1) | {"item0": 2}
    assert_nothing_overlapped(job)


def test_command_that_is_killed_each_time_has_failed_the_third_time_and_the_map_goes_on(job: Job) -> None:
    script = 'echo "begin $1" >> runs; [ $1 != item1 ] || kill -9 $$; echo "end $1" >> runs'

    assert job.start("sh", "-c", script, "work").wait() == 1

    with Checkpoint(job.store, read_only=True) as checkpoint:
        failed = [outcome for outcome in checkpoint.log("k").results() if not outcome.ok]
    assert [(outcome.item, outcome.error) for outcome in failed] == [
        ("item1", "killed by signal 9 (SIGKILL), 3 times")
    ]
    assert job.begun() == dict.fromkeys(NAMES, 1) | {"item1": 3}


def test_commands_that_share_a_store_carry_on_when_one_of_them_is_killed(job: Job, intensity: int) -> None:
    chance = seeded("kills of one of two")
    survivor = job.start(jobs=1)
    kills = 0
    while survivor.is_running and kills < 5 * intensity:
        other = job.start(jobs=2)
        job.wait_for_progress(chance.randrange(1, 12), other)
        other.kill()
        kills += 1
    tally.add("kills of a map", kills)

    assert survivor.wait() == 0
    assert job.recorded() == set(NAMES)
    assert sum(job.begun().values()) <= ITEMS + kills * 2
    assert_nothing_overlapped(job)


def note(runs: Path, item: str) -> str:
    with runs.open("ab") as file:
        file.write(f"begin {item}\n".encode())
    return item


def test_python_map_whose_worker_processes_are_killed_all_the_time_records_every_item(
    job: Job, intensity: int
) -> None:
    chance = seeded("kills of workers")
    goal = 30 * intensity
    names = [f"item{number}" for number in range(150 * intensity)]
    earlier = process_tree.living_descendants()
    is_over = threading.Event()
    killed: list[int] = []

    def kill_workers() -> None:
        while len(killed) < goal and not is_over.wait(0.004):
            workers = sorted(process_tree.living_descendants() - earlier)
            if workers:
                killed.append(chance.choice(workers))
                with suppress(ProcessLookupError):  # it ended by itself meanwhile
                    os.kill(killed[-1], signal.SIGKILL)

    log = Checkpoint(job.store).log("k")
    killer = threading.Thread(target=kill_workers)
    context = multiprocessing.get_context("fork")
    # Workers killed before they are up, three in a row, are taken for such as cannot start: the map ends.
    outcomes: set[str] = set()
    killer.start()
    try:
        for _ in range(goal + 1):
            try:
                outcomes |= {
                    outcome.object_key
                    for outcome in log.map(partial(note, job.runs), names, jobs=JOBS, mp_context=context)
                }
                break
            except Exception as error:  # noqa: BLE001 - looked at right here
                assert "could not start" in str(error)  # noqa: PT017
    finally:
        is_over.set()
        killer.join()
    tally.add("kills", len(killed))

    assert outcomes == set(names)
    begun = [item for _, item in job.notes()]
    assert len(begun) <= len(names) + len(killed)
