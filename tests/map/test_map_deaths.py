"""A signal to the whole job fails no item, and neither does one kill, or two: deaths are counted in the log."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint._cli.maps.watch import Watched
from mpcheckpoint._work import retries
from mpcheckpoint._work.reruns import head_of_decoded, history_of
from mpcheckpoint._work.retries import HELD_S, is_kill, is_told_to_end
from mpcheckpoint._work.runs import join_run, state_of
from mpcheckpoint.log import handle_of
from support.shell import MPCHECKPOINT, CommandLine
from support.verbs import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from support.processes import Child, Children

pytestmark = pytest.mark.guarantee(11)

JOB = ("map", "--store", "store", "--key", "k", "-j", "2", "-a", "items")


class Shell(CommandLine):
    """Maps commands that take a note of their runs, in a directory."""

    def start(self, children: Children, items: str, *command: str) -> Child:
        """Start ``map`` beside the test; what it says goes into the file ``said``."""
        (self.directory / "items").write_text(items)
        with (self.directory / "said").open("ab") as said:
            return children.start_command(
                [*MPCHECKPOINT, *JOB, "--", *command], cwd=self.directory, stderr=said, start_new_session=True
            )

    @property
    def said(self) -> str:
        """What it has said."""
        return (self.directory / "said").read_text()

    @property
    def runs(self) -> list[str]:
        """What commands took a note of: item and process."""
        path = self.directory / "runs"
        return path.read_text().splitlines() if path.exists() else []

    def log(self) -> Log:
        """Return the log, to read."""
        return Checkpoint(self.directory / "store", read_only=True).log("k")


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def kind_of(event: Any) -> str | None:
    """Return what an event tells of the first run of a map."""
    told = head_of_decoded(event)
    if told is None or told.run != b"1":
        return None
    return "ok" if told.is_outcome else "death" if told.is_death else "attempt"


def noting(rest: str) -> tuple[str, ...]:
    """Return a command that takes a note, and then does the rest."""
    return ("sh", "-c", f'echo "$1 $$" >> runs; {rest}', "x")


# --- a signal to the whole job -----------------------------------------------------------------------------


@pytest.mark.rule(40)
@pytest.mark.parametrize("how", ["by the signal", "with 128 + n"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_commands_that_a_signal_to_the_job_ends_first_are_given_back(
    number: signal.Signals, how: str, shell: Shell, children: Children
) -> None:
    name = number.name.removeprefix("SIG")
    trap = f"trap 'exit {128 + number}' {name}; " if how == "with 128 + n" else ""
    items = "a\nb\n"
    child = shell.start(children, items, *noting(f"{trap}[ -e go ] || while true; do sleep 0.05; done"))
    wait_until(lambda: len(shell.runs) == 2, "both items run")

    for run in shell.runs:
        os.kill(int(run.split()[1]), number)
    wait_until(lambda: not any(os.path.exists(f"/proc/{run.split()[1]}") for run in shell.runs), "they ended")
    threading.Event().wait(0.4)  # a job's signal may come so late to the map
    os.kill(child.pid, number)

    assert child.wait() == 128 + number
    assert list(shell.log().results()) == []
    (shell.directory / "go").touch()
    again = shell.start(children, items, *noting(f"{trap}[ -e go ] || while true; do sleep 0.05; done"))
    assert again.wait() == 0
    assert sorted(run.split()[0] for run in shell.runs) == ["a", "a", "b", "b"]


@pytest.mark.parametrize(
    ("rest", "error"),
    [("kill -TERM $$", "killed by signal 15 (SIGTERM)"), ("exit 129", "exit code 129")],
)
def test_command_that_alone_is_told_to_end_has_failed_after_a_second(
    rest: str, error: str, shell: Shell, children: Children
) -> None:
    started_s = time.monotonic()

    assert shell.start(children, "a\n", *noting(rest)).wait() == 1

    assert time.monotonic() - started_s >= HELD_S
    assert [outcome.error for outcome in shell.log().results()] == [error]
    assert len(shell.runs) == 1


def test_exit_codes_that_tell_of_signals() -> None:
    assert [code for code in range(-64, 256) if is_told_to_end(code)] == [-15, -2, -1, 129, 130, 143]
    assert [code for code in range(-64, 256) if is_kill(code)] == [-9, 137]


# --- killed from elsewhere ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rest", ["kill -9 $$", "exit 137"])
def test_command_that_is_killed_runs_again_and_its_deaths_are_in_the_log(
    rest: str, shell: Shell, children: Children
) -> None:
    script = f"[ $1 = b ] || [ $(grep -c a runs) -gt 2 ] || {rest}"

    assert shell.start(children, "a\nb\n", *noting(script)).wait() == 0

    assert [run.split()[0] for run in shell.runs].count("a") == 3
    assert [run.split()[0] for run in shell.runs].count("b") == 1
    first, second, last = shell.log().events("a")
    assert [list(event)[:2] for event in (first, second, last)] == [
        ["run", "death"],
        ["run", "death"],
        ["run", "ok"],
    ]
    assert (first["death"], second["death"], last["ok"]) == (1, 2, True)
    assert "death 1 of 3: a: " in shell.said
    assert "again in 1.0 s" in shell.said
    assert "2 items: 2 run now (2 ok, 0 failed)" in shell.said


def test_deaths_are_counted_over_starts_and_the_third_is_a_failure(shell: Shell, children: Children) -> None:
    command = noting("kill -9 $$")
    child = shell.start(children, "a\n", *command)
    wait_until(lambda: "death 1 of 3" in shell.said, "it has died once")
    os.kill(child.pid, signal.SIGINT)
    assert child.wait() == 130
    summary = shell.good("results", "--store", "store", "--key", "k", "--summary").out

    assert shell.start(children, "a\n", *command).wait() == 1

    assert "to retry  1\n" in summary
    assert len(shell.runs) == 3
    assert "failed: a: killed by signal 9 (SIGKILL), 3 times" in shell.said
    (row,) = shell.good("results", "--store", "store", "--key", "k", "--json").rows
    assert (row["ok"], row["error"]) == (False, "killed by signal 9 (SIGKILL), 3 times")
    assert row["value"]["exit_code"] == -9
    shown = [
        json.loads(line) for line in shell.good("show", "--store", "store", "a", "--json").out.splitlines()
    ]
    assert len(shown) == 3


def test_maps_that_share_the_items_share_the_count(shell: Shell, children: Children) -> None:
    items = "a\nb\nc\n"
    maps = [shell.start(children, items, *noting("sleep 0.1; kill -9 $$")) for _ in range(3)]

    assert [child.wait() for child in maps] == [1, 1, 1]

    items_run = sorted(run.split()[0] for run in shell.runs)
    assert items_run == ["a"] * 3 + ["b"] * 3 + ["c"] * 3


def test_command_that_was_killed_for_its_time_limit_has_died_once(shell: Shell) -> None:
    script = "trap '' TERM; kill -STOP $$"

    ended = shell.run(
        *("map", "--store", "store", "--key", "k", "--timeout", "0.2", "--", *noting(script)), stdin=b"a\n"
    )

    assert ended.code == 1
    assert len(shell.runs) == 1
    assert "timed out after 0.2 s" in ended.err
    assert "death" not in ended.err


def test_item_that_failed_for_its_deaths_has_three_more_when_it_is_retried(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "_REST_S", 0.0)
    fork = multiprocessing.get_context("fork")
    for retry_failed in (False, True):
        (outcome,) = log.map(kill_itself, ["x"], jobs=1, mp_context=fork, retry_failed=retry_failed)
        assert outcome.error == "the process that ran it died: it was killed by signal 9 (SIGKILL), 3 times"

    assert [kind_of(event) for event in log.events("x")] == ["death", "death", "ok"] * 2


# --- functions ---------------------------------------------------------------------------------------------


def kill_itself(item: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stay(runs: Path, item: str) -> str:
    with runs.open("a") as file:
        file.write(f"{item} {os.getpid()}\n")
    if len(runs.read_text().splitlines()) < 2:
        threading.Event().wait(60)
    return item


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_worker_process_that_is_told_to_end_with_its_map_leaves_nothing_behind(
    number: signal.Signals, log: Log, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    fork = multiprocessing.get_context("fork")
    run = log.map(partial(stay, runs), ["a"], jobs=1, mp_context=fork)
    wait_until(lambda: len(lines_of(runs)) == 1, "it runs")

    os.kill(int(lines_of(runs)[0].split()[1]), number)
    run._advance()  # the death comes
    run.close()

    assert log.events("a") == ()
    assert [outcome.ok for outcome in log.map(partial(stay, runs), ["a"], jobs=1, mp_context=fork)] == [True]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_worker_process_that_alone_is_told_to_end_dies_once_and_its_item_runs_again(
    number: signal.Signals, log: Log, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    run = log.map(partial(stay, runs), ["a"], jobs=1, mp_context=multiprocessing.get_context("fork"))
    wait_until(lambda: len(lines_of(runs)) == 1, "it runs")
    started_s = time.monotonic()

    os.kill(int(lines_of(runs)[0].split()[1]), number)
    (outcome,) = run

    assert outcome.ok
    assert time.monotonic() - started_s >= HELD_S
    assert [kind_of(event) for event in log.events("a")] == ["death", "ok"]


def run_a_command(runs: Path, script: str, item: str) -> str:
    with runs.open("a") as file:
        file.write(f"{item} {os.getpid()}\n")
    subprocess.run(["sh", "-c", script], check=True)
    return item


def test_function_whose_command_is_told_to_end_with_the_job_leaves_nothing_behind(
    log: Log, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    call = partial(run_a_command, runs, "kill -TERM $$")
    run = log.map(call, ["a"], jobs=1, mp_context=multiprocessing.get_context("fork"))
    wait_until(lambda: len(lines_of(runs)) == 1, "it runs")

    threading.Event().wait(0.3)  # its command has ended
    os.kill(int(lines_of(runs)[0].split()[1]), signal.SIGTERM)
    run._advance()
    run.close()

    assert log.events("a") == ()


def test_function_whose_command_was_killed_runs_again_three_times_in_all(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "_REST_S", 0.0)
    runs = tmp_path / "runs"
    call = partial(run_a_command, runs, "kill -9 $$")

    (outcome,) = log.map(call, ["a"], jobs=1, mp_context=multiprocessing.get_context("fork"))

    assert len(lines_of(runs)) == 3
    assert not outcome.ok
    assert "3 times" in (outcome.error or "")
    assert [kind_of(event) for event in log.events("a")] == ["death", "death", "ok"]


def fail(item: str) -> None:
    raise ValueError(item)


def test_outcome_of_a_rerun_ends_the_count_of_deaths_without_a_name_and_not_the_other_way(log: Log) -> None:
    fork = multiprocessing.get_context("fork")
    plain, named = join_run(handle_of(log), ""), join_run(handle_of(log), "", rerun="a")
    for run in (plain, named):
        log.append("x", {"run": run.note.number, "death": 1, "error": "killed"})

    def counts() -> list[int]:
        workers = handle_of(log).workers
        states = [
            handle_of(log).query(partial(state_of, run=run, object_key="x", workers=workers))
            for run in (plain, named)
        ]
        return [each.attempts.deaths for each in states]

    assert counts() == [1, 1]

    list(log.map(fail, ["x"], jobs=1, mp_context=fork, rerun="a"))
    log.append("x", {"run": named.note.number, "death": 1, "error": "killed"})
    list(log.map(fail, ["x"], jobs=1, mp_context=fork, retry_failed=True))

    assert counts() == [0, 1]


# --- what others make of it --------------------------------------------------------------------------------


def test_death_counts_as_to_retry_until_there_is_an_outcome(log: Log) -> None:
    fork = multiprocessing.get_context("fork")
    run = log.map(kill_itself, ["x"], jobs=1, mp_context=fork)
    wait_until(lambda: run._advance() and log.count("x") == 1, "it has died once")
    run.close()
    status = log.map_status()
    assert status is not None

    assert (status.to_retry, status.failed, status.ok) == (1, 0, 0)
    assert list(log.results()) == []
    assert list(log.pending(["x"])) == ["x"]
    watched = Watched("", None, handle_of(log).query(history_of))
    for record in log.read():
        watched.take(record)
    assert watched.to_retry == {"x"}
    assert watched.done == 0


def test_map_of_before_deaths_were_recorded_takes_them_for_none_of_its_own(log: Log) -> None:
    event: dict[str, Any] = {"run": 1, "death": "?", "error": None}
    log.append("x", event)

    (outcome,) = log.map(str, ["x"], jobs=1, mp_context=multiprocessing.get_context("fork"))

    assert outcome.ok
    told = head_of_decoded({"run": 2, "death": 1})
    assert told is not None
    assert (told.run, told.is_death, told.is_outcome) == (b"2", True, False)
