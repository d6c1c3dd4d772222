"""The kill harness and the checker of records find what is wrong, each with a planted bug, and pass what is right."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import threading
from itertools import count, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint.testing._kills.instants import Instant, Pace, look_of
from mpcheckpoint.testing._kills.points import Point, kill_at
from mpcheckpoint.testing._kills.records import RecordsError, by_writer, check_records
from mpcheckpoint.testing._kills.report import CrashTestFailure
from mpcheckpoint.testing._kills.workers import kill_workers
from support import tally
from support.processes import call
from support.verbs import assert_goes_on, log_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint.testing._kills.workers import KillReport

    Acknowledge = Callable[..., None]
    Identity = tuple[str, str, int]

A0, A1, A2 = ("log", "a", 0), ("log", "a", 1), ("log", "a", 2)
B0, B1 = ("log", "b", 0), ("other log", "b", 1)


# --- the checker -------------------------------------------------------------------------------------------


def verdict(found: list[Identity], acknowledged: list[Identity], attempted: list[Identity]) -> RecordsError:
    with pytest.raises(RecordsError) as caught:
        check_records(found, acknowledged=acknowledged, attempted=attempted, order=by_writer)
    return caught.value


def test_records_that_are_all_there_pass() -> None:
    check_records(
        [A0, B0, A1, B1], acknowledged=[A0, A1, B0, B0], attempted=[A0, A1, A2, B0, B1], order=by_writer
    )


@pytest.mark.parametrize(
    ("found", "kind", "records"),
    [
        ([A0, B0], "lost", (A1,)),
        ([], "lost", (A0, A1)),
        ([A0, A1, B0, A0, B0], "duplicated", (A0, B0)),
        ([A1, A0], "reordered", (A0,)),
        ([A2, A0, A1], "reordered", (A0, A1)),
        ([A0, A1, ("log", "c", 0)], "invented", (("log", "c", 0),)),
    ],
)
def test_records_that_are_wrong_are_named(
    found: list[Identity], kind: str, records: tuple[Identity, ...]
) -> None:
    error = verdict(found, [A0, A1], [A0, A1, A2, B0, B1])

    wrong = {name: getattr(error, name) for name in ("lost", "duplicated", "reordered", "invented")}
    assert wrong == {"lost": (), "duplicated": (), "reordered": (), "invented": ()} | {kind: records}
    assert str(error).startswith(f"{len(records)} {kind}: {records[0]!r}")


def test_records_wrong_in_every_way_are_told_in_one_line_that_is_not_endless() -> None:
    many = [("log", "z", number) for number in range(100)]

    error = verdict([A1, A0, A0, *many], [A2], [A0, A1, A2])

    assert len(error.invented) == 100
    assert str(error).splitlines() == [str(error)]
    assert str(error).endswith("and 95 more")
    assert "1 lost: ('log', 'a', 2); 1 duplicated: ('log', 'a', 0); 1 reordered: " in str(error)


def test_records_without_an_order_or_attempts_are_not_judged_by_them() -> None:
    check_records([A1, A0, B1], acknowledged=[A0])


def test_error_about_records_that_is_pickled_stays_what_it_is() -> None:
    error = pickle.loads(pickle.dumps(verdict([A1, A0], [A2], [A0])))

    assert (error.lost, error.reordered, error.invented) == ((A2,), (A0,), (A1,))


# --- named points ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("before write_at 3", Point("before", "write_at", 3)),
        ("in write_at", Point("in", "write_at", 1)),
        (r"after sync_data 12 on \.jsonl$", Point("after", "sync_data", 12, r"\.jsonl$")),
        ("after publish on a b", Point("after", "publish", 1, "a b")),
    ],
)
def test_point_from_its_text_is_what_it_says_and_has_a_text_again(text: str, point: Point) -> None:
    assert Point.parse(text) == point
    assert Point.parse(str(point)) == point


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("write_at", "not a point"),
        ("before write_at 0", "not a point"),
        ("during write_at", "not 'during'"),
        ("before fly 1", "no function of the seam: 'fly'"),
        ("in sync_data 1", "done whole or not"),
    ],
)
def test_point_that_is_none_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Point.parse(text)


def append_and_die(store: Path, point: str) -> None:
    log = Checkpoint(store).log("a")
    log.append("x", 0)
    with kill_at(point):
        for number in range(1, 4):
            log.append("x", number)


@pytest.mark.parametrize(
    ("point", "left"),
    [
        (r"before write_at 2 on \.jsonl$", [0, 1]),
        (r"in write_at 2 on \.jsonl$", [0, 1]),
        (r"after write_at 2 on \.jsonl$", [0, 1, 2]),
        ("before sync_data 1", [0, 1]),
        ("after sync_data 3", [0, 1, 2, 3]),
    ],
)
def test_process_that_reaches_a_point_dies_there(tmp_path: Path, point: str, left: list[int]) -> None:
    store = tmp_path / "store"

    with pytest.raises(ChildProcessError, match=f"ended with {-signal.SIGKILL}"):
        call(append_and_die, store, point, method="fork")
    tally.add("kills")

    is_torn = not log_file(store).read_bytes().rstrip(b"\n").endswith(b'"]')
    assert is_torn == point.startswith("in ")
    assert_goes_on(Checkpoint(store).log("a"), left)


def test_process_that_does_not_reach_a_point_lives(tmp_path: Path) -> None:
    call(append_and_die, tmp_path / "store", "before write_at 1 on nowhere", method="fork")

    assert Checkpoint(tmp_path / "store").log("a").events("x") == (0, 1, 2, 3)


SCRIPT = """
import os, sys
from beside import NAME
from mpcheckpoint import Checkpoint
assert __name__ == "__main__"
log = Checkpoint(sys.argv[1]).log(NAME)
for number in range(3):
    if number == 2 and sys.argv[2:] == ["fork"] and os.fork():
        os.wait()
    log.append("x", number)
    print(number, flush=True)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("NAME = 'a'")
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path / "script.py"


def run_killed_at(point: str, *arguments: Any, cwd: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "mpcheckpoint.testing.killed_at", point, *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=60, check=False, cwd=cwd, env=environment
    )


@pytest.mark.parametrize("arguments", [["script.py"], ["-m", "script"]])
def test_program_started_to_be_killed_dies_at_the_point(script: Path, arguments: list[str]) -> None:
    run = run_killed_at(r"in write_at 3 on a\.jsonl$", *arguments, "store", cwd=script.parent)
    tally.add("kills")

    assert (run.returncode, run.stdout, run.stderr) == (-signal.SIGKILL, "0\n1\n", "")
    assert_goes_on(Checkpoint(script.parent / "store").log("a"), [0, 1])


def test_program_started_to_be_killed_dies_with_the_child_that_got_there(script: Path) -> None:
    point = r"before write_at 3 on a\.jsonl$"
    run = run_killed_at(point, "script.py", "store", "fork", cwd=script.parent)
    tally.add("kills")

    assert (run.returncode, run.stdout) == (-signal.SIGKILL, "0\n1\n")


def test_program_that_does_not_get_to_its_point_ends_as_ever(script: Path) -> None:
    run = run_killed_at("before write_at 99", script, "store", cwd=script.parent)

    assert (run.returncode, run.stdout, run.stderr) == (0, "0\n1\n2\n", "")


# --- instants ------------------------------------------------------------------------------------------------


def test_instants_chosen_with_the_same_seed_are_the_same() -> None:
    pace = Pace(acknowledgements=20, start_s=0.1, gap_s=0.01, end_s=0.1)

    first, second = ([Instant.choose(random.Random(seed), pace, 5) for seed in range(200)] for _ in range(2))

    assert first == second
    assert {instant.acknowledgements for instant in first} == set(range(16))  # none, and all that are left
    assert {instant.changes for instant in first} == {0, 1, 2, 3, 4}


def test_look_of_a_directory_changes_with_whatever_is_done_to_a_file(tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    deeds: list[Callable[[], object]] = [
        deep.mkdir,
        (deep / "file").touch,
        lambda: (deep / "file").write_bytes(b"x"),
        lambda: (deep / "file").rename(deep / "renamed"),
        (deep / "renamed").unlink,
        deep.rmdir,
    ]
    looks = [look_of(tmp_path)]
    for deed in deeds:
        deed()
        looks.append(look_of(tmp_path))
        assert look_of(tmp_path) == looks[-1]

    assert all(look != following for look, following in pairwise(looks))
    assert look_of(tmp_path / "not there") == frozenset()


# --- workers that are killed ---------------------------------------------------------------------------------


def append_numbers(store: Path, name: str, acknowledge: Acknowledge) -> None:
    log = Checkpoint(store).log("a")
    for number in count():
        log.append(name, number)
        acknowledge(number)


def judge(store: Path, report: KillReport) -> None:
    """Every acknowledged number is there once and in order, and at most one more of each worker."""
    found = [(record.object_key, record.event) for record in Checkpoint(store).log("a").read()]
    numbers: dict[str, int] = dict.fromkeys(report.workers, 0)
    for name, number in report.acknowledged:
        numbers[name] = max(numbers[name], number + 1)
    attempted = [(name, number) for name, numbers_ in numbers.items() for number in range(numbers_ + 1)]
    check_records(found, acknowledged=report.acknowledged, attempted=attempted, order=by_writer)


@pytest.mark.guarantee(1)
@pytest.mark.guarantee(7)
@pytest.mark.guarantee(8)
@pytest.mark.parametrize(
    ("method", "kills", "points"),
    [
        ("fork", 12, [r"in write_at 3 on \.jsonl$", "before sync_data 2", "after lock 3"]),
        ("spawn", 2, [r"in write_at 3 on \.jsonl$"]),
        ("forkserver", 2, [r"in write_at 3 on \.jsonl$"]),
    ],
)
def test_workers_of_any_kind_that_are_killed_lose_nothing(
    tmp_path: Path, method: str, kills: int, points: list[str], intensity: int
) -> None:
    kills *= intensity

    report = kill_workers(
        append_numbers, tmp_path / "store", kills=kills, points=points, workers=2, method=method
    )
    tally.add("kills", report.kills)

    assert report.kills == kills + len(points) + 2  # those that still ran in the end
    assert len(report.workers) == report.kills
    assert {name for name, _ in report.acknowledged} <= set(report.workers)
    assert str(report).startswith(f"{report.kills} kills of {report.kills} workers, ")
    judge(tmp_path / "store", report)


def acknowledge_before_appending(store: Path, name: str, acknowledge: Acknowledge) -> None:
    log = Checkpoint(store).log("a")
    for number in count():
        acknowledge(number)
        threading.Event().wait(0.005)
        log.append(name, number)


def append_twice(store: Path, name: str, acknowledge: Acknowledge) -> None:
    log = Checkpoint(store).log("a")
    for number in count():
        log.append(name, number)
        log.append(name, number)
        acknowledge(number)


@pytest.mark.parametrize(
    ("worker", "kind"), [(acknowledge_before_appending, "lost"), (append_twice, "duplicated")]
)
def test_workers_with_a_planted_bug_are_found_out(tmp_path: Path, worker: Any, kind: str) -> None:
    report = kill_workers(worker, tmp_path / "store", kills=4, workers=2, method="fork")
    tally.add("kills", report.kills)

    with pytest.raises(RecordsError) as caught:
        judge(tmp_path / "store", report)

    assert getattr(caught.value, kind)


def work_under_a_stale_lock(store: Path, name: str, acknowledge: Acknowledge) -> None:
    store.mkdir(exist_ok=True)
    for number in count():
        while True:
            try:
                lock = os.open(store / "lock", os.O_CREAT | os.O_EXCL)
                break
            except FileExistsError:
                threading.Event().wait(0.001)
        acknowledge(number)
        threading.Event().wait(0.001)
        os.close(lock)
        (store / "lock").unlink()


def test_workers_held_up_by_a_dead_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(CrashTestFailure, match=r"worker \d+ \(process \d+, running, ") as caught:
        kill_workers(
            work_under_a_stale_lock,
            tmp_path / "store",
            kills=100,
            workers=2,
            method="fork",
            seed=7,
            timeout_s=1,
        )

    tally.add("kills", caught.value.kill)
    assert caught.value.kind == "hang"
    assert caught.value.reproduce == (
        "kill_workers(work_under_a_stale_lock, ..., workers=2, method='fork', seed=7)"
    )


def end_with_an_error(store: Path, name: str, acknowledge: Acknowledge) -> None:
    acknowledge(0)
    raise SystemExit(3)


def test_worker_that_ends_with_an_error_is_named(tmp_path: Path) -> None:
    with pytest.raises(CrashTestFailure, match=r"worker \d .*ended with exit code 3") as caught:
        kill_workers(end_with_an_error, tmp_path / "store", kills=100, method="fork")

    assert caught.value.kind == "exit"


def test_worker_that_does_not_get_to_its_point_is_named(tmp_path: Path) -> None:
    with pytest.raises(CrashTestFailure, match="did not get to 'before truncate 1'") as caught:
        kill_workers(
            append_numbers,
            tmp_path / "store",
            kills=0,
            points=["before truncate 1"],
            method="fork",
            workers=1,
            timeout_s=1,
        )

    assert caught.value.kind == "missed"


def append_one(store: Path, name: str, acknowledge: Acknowledge) -> None:
    Checkpoint(store).log("a").append(name, 0)
    acknowledge(0)


def test_workers_that_come_to_an_end_are_replaced_too(tmp_path: Path) -> None:
    report = kill_workers(append_one, tmp_path / "store", kills=3, workers=2, method="fork")
    tally.add("kills", report.kills)

    assert len(report.workers) > report.kills >= 3
    judge(tmp_path / "store", report)


def start_a_child_and_acknowledge(store: Path, name: str, acknowledge: Acknowledge) -> None:
    if os.fork() == 0:
        while True:
            signal.pause()
    for number in count():
        acknowledge(number)
        threading.Event().wait(0.001)


def test_children_of_killed_workers_die_with_them(tmp_path: Path) -> None:
    report = kill_workers(start_a_child_and_acknowledge, tmp_path, kills=3, workers=2, method="fork")

    # A child left behind fails the test by itself, as any process does.
    assert report.kills == 5


def test_failure_that_is_pickled_stays_what_it_is() -> None:
    failure = CrashTestFailure("what", "hang", 7, 2, 3, Path("kept"), "again()")

    copy = pickle.loads(pickle.dumps(failure))

    assert (str(copy), copy.kind, copy.seed, copy.first_kill, copy.kill) == ("what", "hang", 7, 2, 3)
    assert (copy.kept, copy.reproduce) == (Path("kept"), "again()")
