"""`crash_test` finds what is wrong with a program, shown by planted bugs, and passes programs that are right."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint.testing._kills.crash_test import crash_test
from mpcheckpoint.testing._kills.points import Point
from mpcheckpoint.testing._kills.program import Program
from mpcheckpoint.testing._kills.records import RecordsError, check_records
from mpcheckpoint.testing._kills.report import CrashTestFailure
from mpcheckpoint.testing._power_cuts.loopback import why_no_power_cut
from support import tally
from support.capabilities import require

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint.testing._kills.report import Report

NUMBERS = range(12)


# --- a program, and what may be found in its store --------------------------------------------------------------

# Each waits where a crash hurts it, so that few kills are enough.
BEGINNING = """
import json, os, sys, time
store = sys.argv[1]
records, state, lock = (os.path.join(store, name) for name in ("records", "state.json", "lock"))

def found():
    return [int(line) for line in open(records)] if os.path.exists(records) else []

def append(number):
    with open(records, "a") as file:
        file.write(f"{number}\\n")

"""

RIGHT = """
done = found()
for number in range(12):
    if number not in done:
        append(number)
        print("recorded", number, flush=True)
        time.sleep(0.001)
print("that was all", flush=True)
"""

ACKNOWLEDGES_BEFORE_IT_WRITES = """
for number in range(len(found()), 12):
    print("recorded", number, flush=True)
    time.sleep(0.005)
    append(number)
"""

WRITES_AGAIN_WHAT_IT_HAD_WRITTEN = """
done = json.load(open(state)) if os.path.exists(state) else 0
for number in range(done, 12):
    append(number)
    print("recorded", number, flush=True)
    time.sleep(0.005)
    open(state + ".new", "w").write(json.dumps(number + 1))
    os.replace(state + ".new", state)
"""

TAKES_WHAT_IS_LEFT_FROM_BEHIND = """
done = found()
left = [number for number in range(12) if number not in done]
for number in reversed(left) if done else left:
    append(number)
    print("recorded", number, flush=True)
    time.sleep(0.002)
"""

INVENTS_WHAT_IT_DOES_NOT_KNOW = (
    """
if len(found()) not in (0, 12):
    append(99)
"""
    + RIGHT
)

HAS_A_LOCK_THAT_OUTLIVES_IT = (
    """
while True:
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
        break
    except FileExistsError:
        time.sleep(0.001)
"""
    + RIGHT
    + """
os.remove(lock)
"""
)

WRITES_ITS_STATE_IN_PLACE = """
done = json.load(open(state)) if os.path.exists(state) else []
for number in range(len(done), 12):
    done.append(number)
    with open(state, "w") as file:
        file.write(json.dumps(done)[:-1])
        file.flush()
        time.sleep(0.005)
        file.write("]")
    append(number)
    print("recorded", number, flush=True)
"""


def recorded(line: str) -> int | None:
    word, _, number = line.partition(" ")
    return int(number) if word == "recorded" else None


def check(store: Path, acknowledged: list[int]) -> None:
    path = store / "records"
    found = [int(line) for line in path.read_text().splitlines()] if path.exists() else []
    check_records(found, acknowledged=acknowledged, attempted=NUMBERS, order=lambda number: ("", number))


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], list[str]]:
    """Return a function that makes of a program's text what starts it."""

    def make(text: str) -> list[str]:
        path = tmp_path / "program.py"
        path.write_text(BEGINNING + text)
        return [sys.executable, "-I", "-S", str(path), "{store}"]  # starts in a few milliseconds

    return make


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return where crash tests are made."""
    place = tmp_path / "place"
    place.mkdir()
    return place


def killed(argv: list[str], **options: Any) -> Report:
    report = crash_test(argv, **{"kills": 15, "ack": recorded, "check": check, "timeout_s": 30, **options})
    tally.add("kills", report.kills)
    return report


def failure_of(argv: list[str], **options: Any) -> CrashTestFailure:
    with pytest.raises(CrashTestFailure) as caught:
        killed(argv, **options)
    tally.add("kills", caught.value.kill + 1 - caught.value.first_kill)
    return caught.value


def assert_repeatable(failure: CrashTestFailure, place: Path, kind: str, **names: Any) -> None:
    """The line that the failure gives fails in the same way: at a named point always, at random instants soon."""
    assert failure.reproduce in str(failure)
    known = {"crash_test": crash_test, "ack": recorded, "check": check, "place": place, **names}
    kinds = []
    while not kinds:
        kinds = kinds_of_failure(f"{failure.reproduce.removesuffix(')')}, place=place)", known)
        assert kinds or "points=" not in failure.reproduce
    assert kinds == [kind]


def kinds_of_failure(line: str, known: dict[str, Any]) -> list[str]:
    try:
        eval(line, known)
    except CrashTestFailure as failure:
        return [failure.kind]
    return []


# --- programs that are right -------------------------------------------------------------------------------------


def test_program_that_is_right_passes_and_leaves_nothing_behind(
    program: Callable[[str], list[str]], place: Path, intensity: int
) -> None:
    report = killed(program(RIGHT), kills=25 * intensity, place=place, seed=3)

    assert (report.kills, report.seed, report.power_cuts) == (25 * intensity, 3, 0)
    assert report.restarts == report.kills
    assert report.checks == report.kills + report.lives
    assert 0 < report.kills_before_first_ack < report.kills
    assert report.acknowledged <= report.lives * len(NUMBERS)
    assert str(report).startswith(f"{report.kills} kills ({report.kills_before_first_ack} before ")
    assert str(report).endswith("seed 3: nothing wrong found")
    assert list(place.iterdir()) == []


def test_program_of_any_language_is_tested(place: Path) -> None:
    """A shell script whose records are files."""
    script = "cd $0; for n in 1 2 3 4 5; do [ -e $n ] || { : > $n; echo $n; sleep 0.002; }; done; echo 0"

    def all_there(store: Path, acknowledged: list[str]) -> bool:
        return {path.name for path in store.iterdir()} >= set(acknowledged) - {"0"}

    report = killed(["sh", "-c", script, "{store}"], kills=5, ack=str, check=all_there, place=place)

    assert report.kills == 5


def test_program_that_learns_of_its_store_by_the_environment_is_tested(place: Path) -> None:
    script = 'echo here > "$STORE/file"; echo 0'

    killed(
        ["sh", "-c", script],
        kills=0,
        env={**os.environ, "STORE": "{store}"},
        ack=str,
        check=lambda store, acknowledged: (store / "file").read_text() == "here\n",
        place=place,
    )


def test_program_without_kills_is_run_once_and_checked(
    program: Callable[[str], list[str]], place: Path
) -> None:
    report = killed(program(RIGHT), kills=0, place=place)

    assert (report.kills, report.lives, report.checks, report.acknowledged) == (0, 1, 1, 12)


def test_check_may_write_to_the_store_it_is_given(program: Callable[[str], list[str]], place: Path) -> None:
    def check_and_destroy(store: Path, acknowledged: list[int]) -> None:
        check(store, acknowledged)
        (store / "records").write_text("nothing is left")

    killed(program(RIGHT), kills=4, check=check_and_destroy, place=place)


# --- planted bugs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "records"),
    [
        (ACKNOWLEDGES_BEFORE_IT_WRITES, "lost"),
        (WRITES_AGAIN_WHAT_IT_HAD_WRITTEN, "duplicated"),
        (TAKES_WHAT_IS_LEFT_FROM_BEHIND, "reordered"),
        (INVENTS_WHAT_IT_DOES_NOT_KNOW, "invented"),
    ],
)
def test_program_that_spoils_its_records_is_found_out(
    program: Callable[[str], list[str]], place: Path, text: str, records: str
) -> None:
    failure = failure_of(program(text), place=place, seed=1)

    assert failure.kind == "check"
    assert isinstance(failure.__cause__, RecordsError)
    assert getattr(failure.__cause__, records)
    assert f"RecordsError: {failure.__cause__}" in str(failure)
    assert failure.kept is not None
    assert failure.kept.is_relative_to(place)
    assert (failure.kept / "records").exists()
    assert_repeatable(failure, place, "check")


def test_program_that_waits_for_the_lock_of_a_dead_one_is_found_out(
    program: Callable[[str], list[str]], place: Path
) -> None:
    failure = failure_of(program(HAS_A_LOCK_THAT_OUTLIVES_IT), place=place, seed=1, timeout_s=1)

    assert failure.kind == "hang"
    assert "it neither acknowledged anything nor ended for 1 s" in str(failure)
    assert failure.kept is not None
    assert (failure.kept / "lock").exists()
    before = failure.kept.with_name("store-as-judged")
    assert f"as the last kill had left it: {before}" in str(failure)
    assert (before / "lock").exists()
    assert_repeatable(failure, place, "hang")


def test_program_that_cannot_read_its_torn_state_is_found_out(
    program: Callable[[str], list[str]], place: Path
) -> None:
    failure = failure_of(program(WRITES_ITS_STATE_IN_PLACE), place=place, seed=1)

    assert failure.kind == "exit"
    assert "the program ended with exit code 1" in str(failure)
    assert "stderr: json.decoder.JSONDecodeError" in str(failure)
    assert_repeatable(failure, place, "exit")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("print('recorded 1', flush=True); sys.exit(3)", "ended with exit code 3"),
        ("print('recorded 1', flush=True); os.kill(os.getpid(), 15)", "ended by signal 15"),
    ],
)
def test_program_that_fails_before_any_kill_is_told_apart(
    program: Callable[[str], list[str]], place: Path, text: str, complaint: str
) -> None:
    failure = failure_of(program(text), place=place, kills=3)

    assert (failure.kind, failure.kill) == ("exit", 0)
    assert complaint in str(failure)
    assert "before any kill, in life 1" in str(failure)
    assert "stdout: recorded 1" in str(failure)


# --- tests that would prove nothing --------------------------------------------------------------------------------


def test_program_of_which_no_line_is_an_acknowledgement_is_refused(
    program: Callable[[str], list[str]], place: Path
) -> None:
    failure = failure_of(program(RIGHT), ack=lambda line: None, place=place)

    assert failure.kind == "missed"
    assert "ack() returned None for every line" in str(failure)
    assert "stdout: that was all" in str(failure)


def test_check_that_returns_false_has_failed(program: Callable[[str], list[str]], place: Path) -> None:
    failure = failure_of(program(RIGHT), check=lambda store, acknowledged: False, place=place)

    assert failure.kind == "check"
    assert "the check returned False at the end of the program" in str(failure)


@pytest.mark.parametrize(
    ("argv", "points", "complaint"),
    [
        (["program"], (), "where is the store"),
        (["program", "{store}"], ["before write_at 1"], "run by a Python interpreter, not by 'program'"),
        (["python3.12", "-c", "pass", "{store}"], ["before write_at 1"], "not for python -c"),
        (["program", "{store}"], ["sometime"], "not a point"),
    ],
)
def test_call_that_cannot_be_meant_is_refused(
    argv: list[str], points: list[str], complaint: str, place: Path
) -> None:
    with pytest.raises(ValueError, match=complaint):
        crash_test(argv, kills=1, points=points, ack=recorded, check=check, place=place)

    assert list(place.iterdir()) == []


def test_exception_of_ack_is_the_caller_s(program: Callable[[str], list[str]], place: Path) -> None:
    def cannot_read(line: str) -> int:
        raise ZeroDivisionError(line)

    with pytest.raises(ZeroDivisionError, match="recorded 0"):
        crash_test(program(RIGHT), kills=1, ack=cannot_read, check=check, place=place)


@pytest.mark.parametrize(
    ("argv", "position"),
    [
        (["python", "script.py", "-m", "{store}"], 1),
        (["/usr/bin/python3.11", "-X", "dev", "-W", "error", "-u", "script.py", "{store}"], 6),
        (["pypy3", "-O", "-m", "module", "{store}"], 2),
        ([sys.executable, "script.py", "{store}"], 1),
    ],
)
def test_program_that_is_to_die_at_a_point_keeps_its_interpreter_s_options(
    argv: list[str], position: int
) -> None:
    program = Program(argv, None, None, recorded, 1)

    armed = program.command(Path("/s"), Point("in", "write_at", 3))

    added = ["-m", "mpcheckpoint.testing.killed_at", "in write_at 3"]
    assert armed == [*argv[:position], *added, *argv[position:-1], "/s"]


# --- what counts as acknowledged -----------------------------------------------------------------------------------

PRINTS_HALF_A_LINE = """
if not found():
    append(1)
    print("recorded 1", flush=True)
    append(12)
    print("recorded 1", end="", flush=True)
    time.sleep(0.2)
    print("2", flush=True)
"""


def test_line_cut_short_by_the_kill_acknowledges_nothing(
    program: Callable[[str], list[str]], place: Path
) -> None:
    seen: list[list[int]] = []

    def remember(store: Path, acknowledged: list[int]) -> None:
        seen.append(acknowledged)

    killed(program(PRINTS_HALF_A_LINE), kills=4, check=remember, place=place, seed=1)

    assert [1] in seen  # killed between the halves
    assert all(acknowledged in ([], [1], [1, 12]) for acknowledged in seen)


def test_last_line_without_an_end_counts_if_the_program_left_it_at_that(
    program: Callable[[str], list[str]], place: Path
) -> None:
    seen: list[list[int]] = []

    def remember(store: Path, acknowledged: list[int]) -> None:
        seen.append(acknowledged)

    killed(program("print('recorded 1\\nrecorded 2', end='')"), kills=0, check=remember, place=place)

    assert seen == [[1, 2]]


LEAVES_A_CHILD_BEHIND = (
    """
if os.fork() == 0:
    os.setsid()
    while True:
        time.sleep(1)
"""
    + RIGHT
)


def test_children_that_left_the_process_group_are_killed_too(
    program: Callable[[str], list[str]], place: Path
) -> None:
    report = killed(program(LEAVES_A_CHILD_BEHIND), kills=3, place=place)

    # A process left behind fails the test by itself, as any does.
    assert report.kills == 3


# --- programs that use this library ----------------------------------------------------------------------------------

COUNTS = """
import sys
from mpcheckpoint import Checkpoint
log = Checkpoint(sys.argv[1]).log("numbers", )
for number in range(log.count("x"), 6):
    log.append("x", number)
    print("recorded", number, flush=True)
"""

COUNTS_TOO_EARLY = COUNTS.replace(
    "    log.append", "    print('recorded', number, flush=True)\n    log.append", 1
)


@pytest.fixture
def counting(tmp_path: Path) -> Callable[[str], list[str]]:
    """Return a function that makes of the text of a program that uses this library what starts it."""

    def make(text: str) -> list[str]:
        (tmp_path / "counting.py").write_text(text)
        return [sys.executable, str(tmp_path / "counting.py"), "{store}"]

    return make


def check_counting(store: Path, acknowledged: list[int]) -> None:
    events = Checkpoint(store).log("numbers").events("x")
    check_records(events, acknowledged=acknowledged, attempted=range(6), order=lambda number: ("", number))
    Checkpoint(store).log("numbers").append("x", "goes on")


@pytest.mark.guarantee(1)
@pytest.mark.guarantee(2)
def test_program_killed_at_named_points_and_at_random_is_right(
    counting: Callable[[str], list[str]], place: Path
) -> None:
    points = [r"in write_at 3 on numbers\.jsonl$", "after publish 1", "before sync_data 4"]

    report = killed(counting(COUNTS), kills=2, points=points, check=check_counting, place=place)

    assert report.kills == 5
    assert report.lives >= 5


def test_program_wrong_at_one_point_is_found_out_there_every_time(
    counting: Callable[[str], list[str]], place: Path
) -> None:
    points = [r"after write_at 2 on numbers\.jsonl$", r"in write_at 4 on numbers\.jsonl$"]

    failure = failure_of(
        counting(COUNTS_TOO_EARLY), kills=0, points=points, check=check_counting, place=place
    )

    assert (failure.kind, failure.kill) == ("check", 0)
    assert isinstance(failure.__cause__, RecordsError)
    assert "1 lost: 3" in str(failure)
    assert f"points=[{points[1]!r}]" in failure.reproduce
    assert "to repeat it exactly: " in str(failure)
    assert_repeatable(failure, place, "check", check=check_counting)


def test_point_that_is_not_reached_is_a_failure(counting: Callable[[str], list[str]], place: Path) -> None:
    failure = failure_of(
        counting(COUNTS), kills=0, points=["in write_at 999"], check=check_counting, place=place
    )

    assert failure.kind == "missed"
    assert "the program ended without getting there" in str(failure)
    assert "on the way to 'in write_at 999'" in str(failure)


# --- loss of power -----------------------------------------------------------------------------------------------

SYNCS = RIGHT.replace("append(number)", "append(number); sync(records); sync(store)")
SYNCS_NOTHING = RIGHT
SYNC = """
def sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
"""


@pytest.mark.powercut
@pytest.mark.xdist_group("loop")
@pytest.mark.parametrize("fstype", ["ext4", "xfs"])
def test_program_that_syncs_is_right_under_power_cuts_and_one_that_does_not_is_found_out(
    program: Callable[[str], list[str]], place: Path, fstype: Any
) -> None:
    obstacle = why_no_power_cut(fstype)
    require(not obstacle, f"a power cut needs root, loop devices and mkfs.{fstype}: {obstacle}")

    report = killed(program(SYNC + SYNCS), kills=3, power_cut=fstype, place=place)
    # More kills than it takes: one that comes before the first acknowledgement can find nothing lost.
    failure = failure_of(program(SYNCS_NOTHING), kills=15, power_cut=fstype, place=place)

    tally.add("power cuts", report.power_cuts)
    assert report.power_cuts == 3
    assert failure.kind == "check"
    assert isinstance(failure.__cause__, RecordsError)
    assert failure.__cause__.lost
    assert f"power_cut={fstype!r}" in failure.reproduce


# --- the fixture for pytest ----------------------------------------------------------------------------------------

CONFTEST = 'pytest_plugins = ["mpcheckpoint.testing.pytest_plugin"]\n'

TEST = """
import pathlib, sys

def test_job(crash_test):
    crash_test(
        [sys.executable, "-I", "-S", pathlib.Path(__file__).with_name("program.py"), "{store}"],
        kills=12, ack=recorded, check=check,
    )

def recorded(line):
    return line if line.startswith("recorded") else None

def check(store, acknowledged):
    path = store / "records"
    found = path.read_text().splitlines() if path.exists() else []
    assert {f"recorded {number}" for number in found} >= set(acknowledged)
"""


def run_pytest(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    options = ["-p", "no:cacheprovider", "-rP", "--basetemp", str(directory / "basetemp"), "-c", os.devnull]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir", str(directory), *arguments],
        cwd=directory,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture
def project(tmp_path: Path, program: Callable[[str], list[str]]) -> Callable[[str], Path]:
    """Return a function that makes a project of a program, with a test of it."""

    def make(text: str) -> Path:
        program(text)
        (tmp_path / "conftest.py").write_text(CONFTEST)
        (tmp_path / "test_job.py").write_text(TEST)
        return tmp_path

    return make


def test_fixture_reports_what_it_did(project: Callable[[str], Path]) -> None:
    run = run_pytest(project(RIGHT), "--crash-seed=7", "--crash-factor=2", "test_job.py")
    tally.add("kills", 24)

    assert run.returncode == 0, run.stdout
    assert "\n24 kills (" in run.stdout
    assert "seed 7: nothing wrong found" in run.stdout


def test_fixture_says_how_to_repeat_a_failure(project: Callable[[str], Path]) -> None:
    directory = project(ACKNOWLEDGES_BEFORE_IT_WRITES)
    run = run_pytest(directory, "test_job.py")
    (line,) = [line for line in run.stdout.splitlines() if "with pytest: pytest " in line]
    arguments = line.partition("with pytest: pytest ")[2].split()

    for _ in range(5):  # a random instant comes again only about where it was
        again = run_pytest(directory, *arguments)
        if again.returncode:
            break

    for failed in (run, again):
        assert failed.returncode == 1, failed.stdout
        assert "CrashTestFailure: the check failed right after the kill" in failed.stdout
    assert arguments[1] in again.stdout  # the seed
