"""How far a map is: counted by the MapRun, and shown by bars, lines and bars of the caller's."""

from __future__ import annotations

import io
import os
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from tqdm import tqdm

from mpcheckpoint import Checkpoint, Log, Outcome
from mpcheckpoint._progress.choice import display_for
from mpcheckpoint._progress.pace import Pace
from mpcheckpoint._progress.snapshot import Snapshot, line_of, running_text
from mpcheckpoint._progress.tqdm_bar import TqdmBar
from mpcheckpoint._progress.words import rate, span
from mpcheckpoint._work.counts import Counts
from support.shell import CommandLine
from support.verbs import wait_until

if TYPE_CHECKING:
    from pathlib import Path

ITEMS = [f"item{number}" for number in range(6)]


def fails_on_2(item: str) -> str:
    if item == "item2":
        raise ValueError("no good")
    return item


class Recorded:
    """A bar that notes what it is told."""

    def __init__(self, total: int | None = None, **_: Any) -> None:
        self.total, self.n = total, 0
        self.is_closed = False

    def update(self, number: int) -> None:
        self.n += number

    def close(self) -> None:
        self.is_closed = True


# --- counts ------------------------------------------------------------------------------------------------


def test_map_run_counts_what_is_done_failed_running_and_left(log: Log, threads: ThreadPoolExecutor) -> None:
    gate = threading.Event()

    def gated(item: str) -> str:
        if item == "item5":
            gate.wait(30)
        return fails_on_2(item)

    with log.map(gated, ITEMS, executor=threads) as run:
        assert len(run) == 6
        assert bool(run)
        given = [next(run) for _ in range(5)]

        assert (run.done, run.failed, run.left, run.running) == (5, 1, 1, 1)
        gate.set()
        given += run
        assert (run.done, run.failed, run.left, run.running) == (6, 1, 0, 0)
    assert {each.object_key for each in given} == set(ITEMS)


def test_counts_include_what_was_done_before_and_items_that_come_twice(
    log: Log, threads: ThreadPoolExecutor
) -> None:
    list(log.map(fails_on_2, ITEMS, executor=threads))

    run = log.map(fails_on_2, [*ITEMS, "item2", "item9"], executor=threads, include_done=False)

    assert len(list(run)) == 1
    assert (len(run), run.done, run.failed, run.left) == (8, 8, 2, 0)


def test_item_that_comes_again_while_it_runs_counts_as_often(log: Log, threads: ThreadPoolExecutor) -> None:
    gate = threading.Event()

    with log.map(lambda _: gate.wait(30), ["a", "a", "b", "a"], executor=threads) as run:
        gate.set()
        list(run)

    assert (len(run), run.done, run.left) == (4, 4, 0)


def test_length_of_a_map_of_unknown_length_is_known_at_its_end(log: Log, threads: ThreadPoolExecutor) -> None:
    run = log.map(fails_on_2, (f"item{number}" for number in range(100)), executor=threads)

    with pytest.raises(TypeError, match="how many items there are is not known"):
        len(run)
    assert run.left is None
    assert bool(run)
    assert len(list(run)) == 100
    assert (len(run), run.left) == (100, 0)


def test_empty_map_is_true_and_has_no_length(log: Log, threads: ThreadPoolExecutor) -> None:
    run = log.map(fails_on_2, [], executor=threads)

    assert bool(run)
    assert (len(run), list(run), run.done, run.left) == (0, [], 0, 0)


def test_items_that_others_run_are_not_counted_as_running_here(log: Log, threads: ThreadPoolExecutor) -> None:
    gate = threading.Event()

    def gated(item: str) -> bool:
        return gate.wait(30)

    with log.claim("other") as claim, log.map(gated, ["item0"], executor=threads) as run:
        assert claim is not None
        wait_until(lambda: len((log.map_status() or raised()).running) == 2, "both run")

        assert run.running == 1
        gate.set()
        list(run)


def raised() -> NoReturn:
    raise AssertionError


def test_items_that_a_halt_leaves_out_are_left(log: Log) -> None:
    with ThreadPoolExecutor(1) as one:
        run = log.map(fails_on_2, ITEMS, executor=one, jobs=1, on_error="halt")
        list(run)

    assert run.is_halted
    assert run.done + (run.left or 0) == len(run)
    assert run.failed == 1
    assert run.left


# --- rate and words ----------------------------------------------------------------------------------------


def test_rate_is_that_since_the_start_for_the_first_half_minute() -> None:
    pace = Pace(began_s=10.0)
    assert pace.per_second(10.0) == 0.0
    pace.take(10.1)
    assert pace.per_second(10.2) == 1.0  # the first one says little
    pace.take(11.0)

    assert pace.per_second(14.0) == 0.5
    assert pace.per_second(60.0) == 0.0


def test_counts_tell_what_others_did_since_the_start_from_what_was_done_before() -> None:
    counts = Counts(joined_us=1000)

    for ended_us, repeated in [(999, True), (1000, True), (999, False)]:
        counts.take(Outcome("a", "a", False, None, "why\nwhere", 1.0, repeated, ended_us=ended_us), 2)
        assert counts.last_failure == ("a: why" if counts.done > 2 else None)

    assert (counts.done, counts.before, counts.failed) == (6, 2, 6)


def test_rate_is_of_the_last_half_minute() -> None:
    pace = Pace(began_s=0.0)
    for second in range(100):
        for _ in range(1 if second < 50 else 10):
            pace.take(float(second))

    assert pace.per_second(99.0) == pytest.approx(10, rel=0.1)


def test_time_left_follows_from_the_rate() -> None:
    snapshot = Snapshot(100, 40, 30, 2, per_second=0.5)

    assert snapshot.left_s == 120
    assert line_of(snapshot) == "40 of 100 items done, 2 failed, 30.0/min, 2:00 left"
    assert line_of(snapshot._replace(items=None)) == "40 items done, 2 failed, 30.0/min"
    assert line_of(Snapshot(1, 1, 1, 0)) == "1 of 1 item done, 0 failed"
    assert (span(59.6), span(3661), rate(41.25), rate(1 / 60)) == ("1:00", "1:01:01", "41.2/s", "1.0/min")


def test_running_items_are_named_in_one_line_that_a_terminal_does_not_obey() -> None:
    running = (("a\n\x1b[31m", 65.0), ("b", 0.5), ("c", 0.1), ("d", 0.0))

    assert running_text(Snapshot(None, 0, 0, 0, running)) == "4 running: a\\n\\x1b[31m (1:05), b, c, ..."
    assert running_text(Snapshot(None, 0, 0, 0)) == ""


# --- bars of the caller's ----------------------------------------------------------------------------------


def test_bar_that_a_function_makes_is_moved_to_the_end_and_closed(
    log: Log, threads: ThreadPoolExecutor
) -> None:
    made: list[Recorded] = []

    def make(**options: Any) -> Recorded:
        made.append(Recorded(**options))
        return made[-1]

    list(log.map(fails_on_2, ITEMS, executor=threads, progress=make))

    assert [(bar.total, bar.n, bar.is_closed) for bar in made] == [(6, 6, True)]


def test_bar_of_the_caller_is_moved_and_left_open_and_told_the_total_when_it_is_known(
    log: Log, threads: ThreadPoolExecutor
) -> None:
    bar = Recorded()

    list(log.map(fails_on_2, iter(ITEMS), executor=threads, progress=bar))

    assert (bar.total, bar.n, bar.is_closed) == (6, 6, False)


def test_bar_is_closed_if_the_map_is_not_iterated_to_its_end(log: Log, threads: ThreadPoolExecutor) -> None:
    bars: list[Recorded] = []

    with log.map(
        fails_on_2,
        ITEMS,
        executor=threads,
        progress=lambda **options: bars.append(Recorded(**options)) or bars[0],
    ):
        pass

    assert bars[0].is_closed


def test_tqdm_shows_all_items_and_a_rate_of_those_that_ran_now() -> None:
    out = io.StringIO()
    bar = tqdm(total=1000, file=out, smoothing=0)
    bar.start_t -= 10  # ten seconds ago
    display = TqdmBar(bar, is_ours=True)

    display.show(Snapshot(1000, 900, 900, 0))
    display.show(Snapshot(1000, 920, 900, 3, last_failure="x: why"))

    assert (bar.n, bar.initial, bar.total) == (920, 900, 1000)
    shown = bar.format_dict
    assert (shown["n"] - shown["initial"]) / shown["elapsed"] == pytest.approx(2, rel=0.1)
    assert shown["postfix"] == "3 failed, last x: why"
    display.close()
    assert bar.disable


@pytest.mark.parametrize("tool", ["tqdm", "tqdm.auto"])
def test_classes_of_tqdm_can_be_handed_in(
    log: Log, threads: ThreadPoolExecutor, tool: str, capfd: pytest.CaptureFixture[str]
) -> None:
    from importlib import import_module

    list(log.map(fails_on_2, ITEMS, executor=threads, progress=import_module(tool).tqdm))

    shown = capfd.readouterr().err
    assert "6/6" in shown
    assert "1 failed" in shown


def test_map_run_in_a_tqdm_has_a_total(log: Log, threads: ThreadPoolExecutor) -> None:
    with log.map(fails_on_2, ITEMS, executor=threads) as run:
        bar = tqdm(run, file=io.StringIO())

        assert bar.total == 6
        assert len(list(bar)) == 6


@pytest.mark.parametrize("progress", ["yes", 1.5, [], object()])
def test_progress_that_is_none_is_refused_before_anything_runs(log: Log, progress: Any) -> None:
    with pytest.raises(TypeError, match="progress is True, False, a function that makes a bar"):
        log.map(fails_on_2, ITEMS, progress=progress)

    assert log.map_status() is None


# --- progress=True -----------------------------------------------------------------------------------------


SCRIPT = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from mpcheckpoint import Checkpoint

def fn(item):
    time.sleep(float(sys.argv[2]))
    if item == "item2":
        raise ValueError("no good")
    return item

if __name__ == "__main__":
    items = [f"item{number}" for number in range(int(sys.argv[1]))]
    log = Checkpoint("store").log("k")
    for outcome in log.map(fn, items, jobs=2, progress=True):
        pass
"""


def test_bar_starts_no_thread_and_leaves_the_streams_alone() -> None:
    from mpcheckpoint._progress.bar import ProgressBars

    before = threading.active_count(), sys.stdout, sys.stderr
    bar = ProgressBars()
    try:
        assert (threading.active_count(), sys.stdout, sys.stderr) == before
    finally:
        bar.close()
        bar.close()


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    (tmp_path / "script.py").write_text(SCRIPT)
    return CommandLine(tmp_path)


def lines_of(shown: str) -> list[str]:
    return [line.rstrip() for line in shown.replace("\r", "\n").split("\n")]


@pytest.mark.parametrize("columns", [100, 60, 30])
def test_progress_in_python_is_a_bar_that_fits_the_terminal(cli: CommandLine, columns: int) -> None:
    ended = cli.on_terminal("6", "0.4", columns=columns, program=[sys.executable, "script.py"])

    lines = lines_of(ended.out)
    assert ended.code == 0
    assert max(map(len, lines)) <= columns
    assert any(line.startswith("items 6/6 1 failed") for line in lines)
    assert "running: item" in ended.out
    assert "last failure: item2: " in ended.out
    assert "━" in ended.out


def test_progress_without_a_terminal_has_no_control_characters(cli: CommandLine) -> None:
    import subprocess

    for env in ({}, {"FORCE_COLOR": "1"}):
        ended = subprocess.run(
            [sys.executable, "script.py", "3", "0"],
            cwd=cli.directory,
            env=os.environ | env,
            capture_output=True,
            check=True,
        )
        assert (ended.stdout, ended.stderr) == (b"", b"")  # it was over before a line was due


def test_lines_of_progress_come_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    display = display_for(True, 6)
    assert display is not None

    for seconds in (0, 9, 10.5, 11, 21):
        monkeypatch.setattr(time, "monotonic", lambda seconds=seconds: now_s + seconds)
        display.show(Snapshot(6, int(seconds) // 4, 0, 1, per_second=0.5))

    assert capsys.readouterr().err == (
        "mpcheckpoint: 2 of 6 items done, 1 failed, 30.0/min, 0:08 left\n"
        "mpcheckpoint: 5 of 6 items done, 1 failed, 30.0/min, 0:02 left\n"
    )


def test_resumed_map_takes_none_of_what_was_done_before_into_its_rate(log: Log) -> None:
    list(log.map(len, [f"old{number}" for number in range(300)], jobs=1))
    before = [f"old{number}" for number in range(300)]
    shown: list[Snapshot] = []

    class Display:
        def show(self, snapshot: Snapshot) -> None:
            shown.append(snapshot)

        def print(self, line: str) -> None: ...

        def close(self) -> None: ...

    with ThreadPoolExecutor(1) as one, pytest.MonkeyPatch.context() as patch:
        patch.setattr("mpcheckpoint._work.start_map.display_for", lambda progress, items: Display())
        list(log.map(lambda _: time.sleep(0.1), [*before, *ITEMS], executor=one, progress=True))

    last = shown[-1]
    assert (last.items, last.done, last.before, last.failed) == (306, 306, 300, 0)
    assert 0 < max(snapshot.per_second for snapshot in shown) <= 10
    middle = [snapshot for snapshot in shown if snapshot.running]
    assert middle
    assert {key for snapshot in middle for key, _ in snapshot.running} <= set(ITEMS)


# --- on the command line -----------------------------------------------------------------------------------

COLOUR = re.compile(rb"\x1b\[[0-9;]+m")
MAP = ("map", "--store", "store", "--key", "k", "-j", "2")


@pytest.mark.parametrize("columns", [100, 60, 30])
def test_bar_of_map_fits_the_terminal_with_rate_time_left_running_and_last_failure(
    cli: CommandLine, columns: int
) -> None:
    command = ("--", "sh", "-c", 'sleep 0.4; test "$1" != b', "sh", ":::", *"abcdefgh")

    ended = cli.on_terminal(*MAP, *command, columns=columns)

    lines = lines_of(ended.out)
    bars = [line for line in lines if line.startswith("items ")]
    assert ended.code == 1
    assert max(map(len, bars)) <= columns
    assert any(line.startswith("items 8/8 1 failed") for line in bars)
    assert any("2 running: " in line for line in lines)
    assert "last failure: b: exit code 1" in ended.out
    if columns >= 60:
        assert any(" left " in line for line in bars)
        assert any("━" in line for line in bars)
    assert "\x1b[?25l" not in ended.out


def test_no_color_leaves_a_bar_without_colours(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    monkeypatch.setenv("NO_COLOR", "1")

    cli.on_terminal(*MAP, "--", "true", ":::", "a", react=seen.append)
    plain = seen[-1]
    monkeypatch.delenv("NO_COLOR")
    cli.on_terminal(*MAP[:-2], "-j", "1", "--rerun", "x", "--", "true", ":::", "a", react=seen.append)

    assert not COLOUR.search(plain)
    assert b"1/1" in plain
    assert COLOUR.search(seen[-1])


def test_map_that_is_killed_and_started_again_shows_a_rate_of_what_runs_now(cli: CommandLine) -> None:
    items = [str(number) for number in range(220)]
    (cli.directory / "items").write_text("".join(f"{item}\n" for item in items))
    command = (*MAP, "-a", "items", "--", "sh", "-c", 'test "$1" -lt 200 || sleep 0.5', "sh")
    log = None
    with cli.beside(*command) as beside:

        def done() -> int:
            nonlocal log
            try:
                log = log or Checkpoint(cli.directory / "store", read_only=True).log("k", create=False)
                return sum(1 for _ in log.results())
            except Exception:  # noqa: BLE001 - there is no store yet
                return 0

        wait_until(lambda: done() >= 202, "two hundred quick items are done")
        beside.process.kill()

    ended = cli.on_terminal(*command, columns=60)

    bars = [line for line in lines_of(ended.out) if line.startswith("items ")]
    rates = [float(part[:-2]) for line in bars for part in line.split() if part.endswith("/s")]
    assert ended.code == 0
    assert any("220/220" in line for line in bars)
    assert max(rates, default=0) <= 8  # two at a time, half a second each; not 200 at once
