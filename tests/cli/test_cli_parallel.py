"""What ``mpcheckpoint map`` has of GNU parallel beside its templates: tags, pauses, the load, job logs."""

from __future__ import annotations

import itertools
import os
import signal
import stat
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from mpcheckpoint import Checkpoint, Outcome
from mpcheckpoint._cli import main
from mpcheckpoint._cli.maps.command_pool import CommandPool
from mpcheckpoint._cli.maps.joblog import command_of
from mpcheckpoint._cli.maps.start_gate import StartGate, current_load, load_limit
from mpcheckpoint._work.inputs import Input
from mpcheckpoint._work.plan import LogRef, Plan
from mpcheckpoint._work.pool import default_jobs
from mpcheckpoint._work.report import Kind
from mpcheckpoint._work.run_item import FunctionCall
from mpcheckpoint._work.runs import join_run
from mpcheckpoint.log import handle_of
from support.capabilities import require
from support.shell import MPCHECKPOINT, Ended
from support.verbs import wait_until

if TYPE_CHECKING:
    from support.processes import Children

HEAD = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand"


class Run(Protocol):
    """What runs a command on the store within this process."""

    def __call__(self, command: str, *arguments: str, items: str | None = None) -> Ended: ...


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)

    def called(command: str, *arguments: str, items: str | None = None) -> Ended:
        source = []
        if items is not None:
            Path("items").write_text(items)
            source = ["-a", "items"]
        code = main([command, "--store", "store", "--key", "k", *source, *arguments])
        printed = capfd.readouterr()
        assert "Traceback" not in printed.err
        return Ended(code, printed.out, printed.err)

    return called


# --- tags --------------------------------------------------------------------------------------------------


def test_tag_begins_each_line_of_an_output_now_and_from_the_record(run: Run) -> None:
    line = ("-j", "1", "--tag", "--", "sh", "-c", 'printf "%s\\n%s" 1 2; test "$1" = b || echo 3', "sh")

    for _ in range(2):
        assert run("map", *line, items="a\nb\n").out == "a\t1\na\t23\nb\t1\nb\t2\n"


@pytest.mark.parametrize(
    ("arguments", "items", "tag"),
    [
        ([":::", "a b", ":::", "c"], None, "a b c"),
        (["--jsonl"], '{"id": 7,  "x": 1}\n', '{"id": 7,  "x": 1}'),
        (["--jsonl", "--item-key", "id"], '{"id": 7,  "x": 1}\n', "7"),
        (["--csv"], "id,x\n7,1\n", "7,1"),
        (["--null"], "a\nb\0", "a\\nb"),
    ],
)
def test_tag_is_the_item_or_its_key(arguments: list[str], items: str | None, tag: str, run: Run) -> None:
    lists = arguments if arguments[0] == ":::" else []
    options = [] if lists else arguments

    assert run("map", *options, "--tag", "--", "echo", "x", "{#}", *lists, items=items).out == f"{tag}\tx 1\n"


def test_item_without_output_has_no_tag(run: Run) -> None:
    assert run("map", "--tag", "--", "true", items="a\n").out == ""


# --- pauses and load ---------------------------------------------------------------------------------------


def test_delay_keeps_starts_apart_however_many_may_run(run: Run) -> None:
    command = ("sh", "-c", "date +%s.%N >> began; sleep 0.5")
    assert run("map", "-j", "8", "--delay", "0.3", "--", *command, items="a\nb\nc\nd\n").code == 0

    began = sorted(map(float, Path("began").read_text().split()))
    assert min(later - earlier for earlier, later in itertools.pairwise(began)) > 0.2
    durations = [outcome.duration_s for outcome in Checkpoint("store", read_only=True).log("k").results()]
    assert max(durations) < 1.2  # the wait is nobody's duration: it would make one of 1.4


def test_delay_keeps_starts_apart_of_commands_that_take_no_time(run: Run) -> None:
    command = ("sh", "-c", "date +%s.%N >> began")
    assert run("map", "-j", "1", "--delay", "0.3", "--", *command, items="a\nb\nc\nd\n").code == 0

    began = sorted(map(float, Path("began").read_text().split()))
    assert min(later - earlier for earlier, later in itertools.pairwise(began)) > 0.2


def test_map_that_waits_to_start_ends_at_once_when_it_is_told_to(tmp_path: Path, children: Children) -> None:
    (tmp_path / "items").write_text("a\nb\nc\n")
    options = ["--store", "store", "--key", "k", "-a", "items", "--delay", "1h"]
    with (tmp_path / "said").open("wb") as said:
        child = children.start_command(
            [*MPCHECKPOINT, "map", *options, "--", "touch"],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stderr=said,
        )
    wait_until((tmp_path / "a").exists, "the first command ran")
    began_s = time.monotonic()
    os.kill(child.pid, signal.SIGTERM)

    assert child.wait(30) == 143
    assert time.monotonic() - began_s < 10
    assert not (tmp_path / "b").exists()


def test_gate_lets_commands_through_once_the_load_is_low_and_tells_of_a_long_wait() -> None:
    loads = iter([9.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 7.9, 1.0])
    told: list[str] = []
    gate = StartGate(0.0, 8.0, told.append, load=lambda: next(loads))

    gate.wait()
    gate.wait()

    assert told == ["the load is 8, and --load starts commands below 8: waiting"]
    assert list(loads) == []


def test_gate_that_is_opened_lets_all_through_that_wait() -> None:
    gate = StartGate(3600.0, 1.0, lambda text: None, load=lambda: 0.5)
    gate.wait()
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(gate.wait) for _ in range(4)]
        gate.open()
        for each in waiting:
            each.result(timeout=10)


def test_item_that_waits_to_start_can_be_taken_back(tmp_path: Path) -> None:
    begun, may_go = threading.Event(), threading.Event()
    ran: list[str] = []

    def gate() -> None:
        begun.set()
        assert may_go.wait(30)

    with Checkpoint(tmp_path / "store") as checkpoint:
        log = handle_of(checkpoint.log("a"))
        plan = Plan(LogRef(log), join_run(log, ""), FunctionCall(ran.append))
        pool = CommandPool(plan, 1, gate=gate)
        first, second, third = (Input(place, name, name, {}) for place, name in enumerate("abc"))
        pool.submit(first)
        pool.submit(second)
        assert begun.wait(30)
        assert pool.recall() == [first, second]
        pool.submit(third)
        may_go.set()

        assert [(entry, report.kind) for entry, report in pool.collect(30)] == [(third, Kind.RECORDED)]
        pool.stop(is_interrupted=False)

    assert ran == ["c"]


def test_item_that_was_taken_back_at_the_gate_and_given_out_anew_runs_once(tmp_path: Path) -> None:
    turns = threading.Semaphore(0)
    ran: list[str] = []
    with Checkpoint(tmp_path / "store") as checkpoint:
        log = handle_of(checkpoint.log("a"))
        pool = CommandPool(
            Plan(LogRef(log), join_run(log, ""), FunctionCall(ran.append)),
            2,
            gate=lambda: turns.acquire() and None,
        )
        entry = Input(0, "a", "a", {})
        pool.submit(entry)
        wait_until(lambda: bool(pool._at_gate), "it waits at the gate")
        assert pool.recall() == [entry]
        again = entry._replace(attempts=0)
        pool.submit(again)
        wait_until(lambda: bool(pool._at_gate), "it waits there again")
        turns.release(3)

        assert [(one, report.kind) for one, report in pool.collect(30)] == [(again, Kind.RECORDED)]
        pool.stop(is_interrupted=False)

    assert ran == ["a"]


def test_load_counts_what_runs_now() -> None:
    require(Path("/proc/loadavg").exists(), "the system does not tell what runs")
    running = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(3)]
    try:
        wait_until(lambda: current_load() >= 2, "several processes run")
    finally:
        for each in running:
            each.kill()
            each.wait()


@pytest.mark.parametrize(("text", "share"), [("8", None), ("0.5", None), ("50%", 0.5), ("200%", 2.0)])
def test_load_is_a_number_or_a_share_of_the_processors(text: str, share: float | None) -> None:
    assert load_limit(text) == (float(text) if share is None else share * default_jobs())


@pytest.mark.parametrize("text", ["0", "0%", "-1", "x", "", "1e3", "nan"])
def test_load_that_is_none_is_refused(text: str, run: Run) -> None:
    ended = run("map", "--load", text, "--", "touch", "ran", items="a\n")

    assert (ended.code, Path("ran").exists()) == (2, False)
    assert "a load is a number above 0, as 8, or a share of the processors" in ended.err


# --- job logs ----------------------------------------------------------------------------------------------


def rows(text: str) -> list[list[str]]:
    head, *lines = text.splitlines()
    assert head == HEAD
    return [line.split("\t") for line in lines]


WAYS = """case $1 in ok) echo 12345; sleep 0.2;; bad) exit 3;; segv) kill -SEGV $$;; late) sleep 60;; esac"""


def test_job_log_has_an_item_a_line_as_gnu_parallel_writes_it(run: Run) -> None:
    began_s = time.time()
    command = ("-j", "1", "--timeout", "2", "--", "sh", "-c", WAYS, "sh")
    run("map", "--joblog", "log", *command, items="ok\nbad\nsegv\nlate\n")

    found = rows(Path("log").read_text())
    assert [row[:2] for row in found] == [["1", ":"], ["2", ":"], ["3", ":"], ["4", ":"]]
    assert [row[4:8] for row in found] == [
        ["0", "6", "0", "0"],
        ["0", "0", "3", "0"],
        ["0", "0", "0", str(int(signal.SIGSEGV))],
        ["0", "0", "-1", str(int(signal.SIGTERM))],
    ]
    assert [row[8].rpartition(" ")[2] for row in found] == ["ok", "bad", "segv", "late"]
    assert found[0][8] == f"sh -c '{WAYS}' sh ok"
    starts = [float(row[2]) for row in found]
    assert starts == sorted(starts)
    assert began_s - 1 < starts[0] < time.time()
    assert 0.2 <= float(found[0][3]) < 2
    assert len(found[0][3]) == 10  # right-aligned, as there


def test_job_log_is_that_of_the_log_whoever_recorded_it(run: Run) -> None:
    run("map", "-j", "1", "--", "echo", items="a\n")
    run("map", "-j", "1", "--joblog", "log", "--", "echo", items="b\n")

    assert [row[8] for row in rows(Path("log").read_text())] == ["echo a", "echo b"]
    assert run("results", "--joblog", "-").out == Path("log").read_text()
    assert rows(run("results", "--joblog", "-", "--failed").out) == []


def test_what_could_not_be_started_has_the_codes_of_a_shell(run: Run, tmp_path: Path) -> None:
    Path("tool").write_text("x")
    run("map", "-j", "1", "--jsonl", "--", "{}", "x", items='"./nothing"\n"./tool"\n')

    assert [row[6:] for row in rows(run("results", "--joblog", "-").out)] == [
        ["127", "0", "./nothing x"],
        ["126", "0", "./tool x"],
    ]


def test_results_of_a_function_have_a_line_too(run: Run, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        list(Checkpoint("store").log("k").map(int, ["1", "x"], version="v 1", executor=threads))

    assert [row[5:] for row in rows(run("results", "--joblog", "-").out)] == [
        ["0", "0", "0", "v 1 1"],
        ["0", "1", "0", "v 1 x"],
    ]


def outcome(item: object, object_key: str, version: str) -> Outcome:
    return Outcome(item, object_key, True, {"exit_code": 0, "output": ""}, None, 1.0, True, version=version)


@pytest.mark.parametrize(
    ("item", "object_key", "version", "command"),
    [
        ("a b", "a b", "echo '{.}' {} '{#}'", "echo 'a b' 'a b' '{#}'"),
        ("a", "a", "echo", "echo a"),
        ("\\xff", "\\xff", "cat {}", "cat '\\xff'"),
        (["a", "b"], '["a","b"]', "e '{2}-{1}' {}", "e b-a 'a b'"),
        ({"id": 1, "p": "x/y.z"}, "1", "e '{p/.}' '{id}' '{2}'", "e y 1 x/y.z"),
        ({"id": 1}, "1", "e '{gone}'", "e '{gone}' 1"),
        ("a", "a", "e 'never closed", "e 'never closed a"),
        (7, "7", "e {}", "e 7"),
    ],
)
def test_command_is_the_one_that_ran(item: object, object_key: str, version: str, command: str) -> None:
    assert command_of(outcome(item, object_key, version)) == command


def test_other_file_is_left_alone_and_nothing_is_run(run: Run) -> None:
    Path("notes").write_text("mine")

    for command in (("map", "--joblog", "notes", "--", "touch", "ran"), ("results", "--joblog", "notes")):
        ended = run(*command, items="a\n" if command[0] == "map" else None)
        assert ended.code == 2
        assert "notes is no job log: it is left alone. Give the name of another file" in ended.err
    assert Path("notes").read_text() == "mine"
    assert not Path("ran").exists()


def test_job_log_is_replaced_as_a_whole_and_keeps_its_mode(run: Run) -> None:
    run("map", "--joblog", "log", "--", "true", items="a\n")
    assert stat.S_IMODE(Path("log").stat().st_mode) == 0o666 & ~current_umask()
    Path("log").chmod(0o640)
    os.symlink("log", "link")
    run("map", "--joblog", "link", "--", "true", items="b\n")

    assert Path("link").is_symlink()
    assert len(rows(Path("log").read_text())) == 2
    assert stat.S_IMODE(Path("log").stat().st_mode) == 0o640
    assert sorted(path.name for path in Path().iterdir()) == ["items", "link", "log", "store"]


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_job_log_goes_into_a_pipe(run: Run, tmp_path: Path) -> None:
    os.mkfifo("pipe")
    with ThreadPoolExecutor(1) as reader:
        received = reader.submit(Path("pipe").read_text, encoding="utf-8")
        assert run("map", "--joblog", "pipe", "--", "true", items="a\n").code == 0
        assert [row[0] for row in rows(received.result(timeout=60))] == ["1"]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("nowhere/log", "No such file or directory"),
        ("items/log", "Not a directory"),
        ("sealed/log", "Permission"),
    ],
)
def test_job_log_without_a_directory_it_can_be_written_to_is_refused_before_anything_runs(
    path: str, why: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("sealed").mkdir()
    real = os.access

    def access(place: str, mode: int, **options: bool) -> bool:  # root may write anywhere
        is_sealed = mode & os.W_OK and os.path.basename(place) == "sealed"
        return not is_sealed and real(place, mode, **options)

    monkeypatch.setattr(os, "access", access)

    ended = run("map", "--joblog", path, "--", "touch", "ran", items="a\n")

    assert ended.code == 2
    assert f"cannot write the job log {path}: {why}" in ended.err
    assert not Path("ran").exists()
    assert not Path("store").exists()


def test_job_log_that_cannot_be_written_is_said_and_the_outcomes_are_there(run: Run) -> None:
    ended = run("map", "--joblog", "/dev/full", "--", "true", items="a\n")

    assert ended.code == 2
    assert "cannot write the job log /dev/full: No space left on device" in ended.err
    assert len(rows(run("results", "--joblog", "-").out)) == 1


def test_job_log_goes_with_no_other_way_to_print(run: Run) -> None:
    run("map", "--", "true", items="a\n")
    for option in ("--json", "--summary", "--watch"):
        assert "--joblog excludes" in run("results", "--joblog", "-", option).err
