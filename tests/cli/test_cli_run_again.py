"""``mpcheckpoint map``: which items that are done run again."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Protocol

import pytest

from mpcheckpoint import _system as system
from mpcheckpoint._cli import main
from support.shell import Ended


class RunMap(Protocol):
    """What runs ``map`` within this process."""

    def __call__(self, *arguments: str, items: str = "") -> Ended: ...


@pytest.fixture
def run_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> RunMap:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, items: str = "") -> Ended:
        Path("items").write_text(items)
        code = main(["map", "--store", "store", "--key", "k", "-j", "2", "-a", "items", *arguments])
        printed = capfd.readouterr()
        assert "Traceback" not in printed.err
        return Ended(code, printed.out, printed.err)

    return run


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """The names of two files in the working directory."""
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    return ["a", "b"]


def touch(name: str) -> None:
    os.utime(name, ns=(0, Path(name).stat().st_mtime_ns + 1))


def ran(ended: Ended) -> str:
    """Return how many items ran, as the summary has it."""
    assert ended.code == 0, ended.err
    return ended.err.split(" run now")[0].split()[-1]


def test_items_whose_file_changed_run_again_and_a_dry_run_says_so(run_map: RunMap, files: list[str]) -> None:
    line = ("--changed-files", "--", "cat")
    items = "a\nb\nhttp://c\n"
    assert ran(run_map("--changed-files", "--", "true", items=items)) == "3"
    touch("b")

    dry = run_map("--dry-run", "--changed-files", "--", "true", items=items)
    assert (dry.out, dry.code) == ("b\n", 0)
    assert ran(run_map("--changed-files", "--", "true", items=items)) == "1"
    assert ran(run_map("--changed-files", "--", "true", items=items)) == "0"
    assert ran(run_map("--", "true", items=items)) == "0"
    assert "started as" in run_map(*line, items=items).err


def test_content_counts_with_hash(run_map: RunMap, files: list[str]) -> None:
    line = ("--changed-files", "--hash", "--", "true")
    assert ran(run_map(*line, items="a\nb\n")) == "2"
    touch("a")
    assert ran(run_map(*line, items="a\nb\n")) == "0"
    Path("a").write_text("b")
    assert ran(run_map(*line, items="a\nb\n")) == "1"


def test_field_names_the_file_of_a_json_item(run_map: RunMap, files: list[str]) -> None:
    items = "".join(json.dumps({"id": n, "path": name}) + "\n" for n, name in enumerate(files))
    line = ("--jsonl", "--item-key", "id", "--changed-files", "--file-field", "path", "--", "true", "{id}")
    assert ran(run_map(*line, items=items)) == "2"
    touch("b")
    assert ran(run_map(*line, items=items)) == "1"


@pytest.mark.parametrize(
    ("arguments", "items", "complaint"),
    [
        (["--hash"], "a\n", "--hash says how --changed-files compares; give both. Nothing was run"),
        (["--jsonl", "--file-field", "path"], "1\n", "--file-field says which file --changed-files compares"),
        (
            ["--changed-files", "--file-field", "path"],
            "a\n",
            "JSON items, which take --jsonl, or a column",
        ),
        (
            ["--changed-files", "--jsonl"],
            "{}\n",
            "line 1 of items is no string that names a file; --file-field says",
        ),
        (
            ["--changed-files", "--jsonl", "--file-field", "path"],
            '{"path": 1}\n',
            "line 1 of items has no string in the field 'path', which --file-field names; nothing was run",
        ),
        (
            ["--if-changed"],
            "a\n",
            "is not one of refuse, keep, keep-ok: what becomes of outcomes if COMMAND",
        ),
        (["--if-changed", "files"], "a\n", "'files' is not one of refuse, keep, keep-ok"),
    ],
)
def test_choice_that_means_nothing_is_one_line_and_runs_nothing(
    arguments: list[str], items: str, complaint: str, run_map: RunMap
) -> None:
    ended = run_map(*arguments, "--", "touch", "ran", items=items)

    assert ended.code == 2
    assert complaint in ended.err
    assert ended.err.count("\n") == 1
    assert not Path("ran").exists()


def test_bare_if_changed_says_what_is_wanted_for_files(run_map: RunMap) -> None:
    assert (
        "To run items again whose file has changed, give --changed-files"
        in run_map("--if-changed", "--", "true").err
    )


# --- which failures run again, and how many halt the map ---------------------------------------------------

SCRIPT = """case $1 in
137) exit 137;; killed) kill -SEGV $$;; timed-out) sleep 60;; bad*) exit 3;; fine) ;; esac"""
WAYS = "bad\nkilled\ntimed-out\nfine\n"


def test_failures_are_chosen_by_exit_code_and_cause(run_map: RunMap) -> None:
    command = ("--timeout", "1", "--", "sh", "-c", SCRIPT, "sh")
    assert run_map(*command, items=WAYS).code == 1

    for where, items in (("exit=3", "bad\n"), ("killed", "killed\n"), ("timed-out", "timed-out\n")):
        line = ("--retry-failed", "--where", where, "--dry-run", *command)
        assert run_map(*line, items=WAYS).out == items
    both = run_map("--retry-failed", "--where", "exit=3", "--where", "killed", *command, items=WAYS)
    assert "2 run now (0 ok, 2 failed), 2 done already (1 of them failed)" in both.err


@pytest.mark.skipif(not system.can_tell_memory(), reason="nothing tells the memory of a process")
def test_command_that_had_too_much_memory_is_chosen(run_map: RunMap) -> None:
    eat = "x = bytearray(120 << 20); import time; time.sleep(60)"
    script = f"case $1 in eat) exec {sys.executable} -c '{eat}';; *) exit 3;; esac"
    command = ("--memory", "60M", "--", "sh", "-c", script, "sh")
    assert run_map(*command, items="eat\nbad\n").code == 1

    for where, chosen in (("over-memory", "eat\n"), ("killed", ""), ("exit=137", "")):
        line = ("--retry-failed", "--where", where, "--dry-run", *command)
        assert run_map(*line, items="eat\nbad\n").out == chosen


def test_command_that_could_not_be_started_is_chosen(run_map: RunMap) -> None:
    items = json.dumps({"program": "./tool"}) + "\n"
    command = ("--jsonl", "--", "{program}")
    assert "could not be started" in run_map(*command, items=items).err
    Path("tool").write_text("#!/bin/sh\n")
    Path("tool").chmod(0o755)

    assert ran(run_map("--retry-failed", "--where", "not-started", *command, items=items)) == "1"


def test_map_halts_after_so_many_failures_and_says_so(run_map: RunMap) -> None:
    items = "".join(f"bad{number}\n" for number in range(60))
    ended = run_map("--halt", "5", "--", "sh", "-c", SCRIPT, "sh", items=items)

    assert ended.code == 1
    count = int(ended.err.split(" run now")[0].split()[-1])
    assert 5 <= count <= 9
    assert (
        f"halted by {count} failures; what ran is recorded. Start the same line again to run the others"
        in ended.err
    )


def test_map_halts_once_a_share_has_failed(run_map: RunMap) -> None:
    items = "".join(f"bad{number}\n" for number in range(60))
    ended = run_map("--halt", "10%", "--", "sh", "-c", SCRIPT, "sh", items=items)

    assert "halted by 1" in ended.err
    assert 10 <= int(ended.err.split(" run now")[0].split()[-1]) <= 14


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--where", "killed"],
            "--where says which failures --retry-failed runs again; give both. Nothing was run",
        ),
        (
            ["--retry-failed", "--where", "sad"],
            "'sad' is no way to fail; there are exit=CODE, timed-out, over-memory, killed, not-",
        ),
        (
            ["--halt", "now,fail=1"],
            "a map is halted by a number of failures, at least 1, or a share above 0%",
        ),
        (["--halt", "0"], "not '0'"),
        (
            ["--halt", "5", "--halt-on-error"],
            "--halt and --halt-on-error, which is --halt 1, exclude each other",
        ),
    ],
)
def test_choice_of_failures_that_means_nothing_is_one_line_and_runs_nothing(
    arguments: list[str], complaint: str, run_map: RunMap
) -> None:
    ended = run_map(*arguments, "--", "touch", "ran", items="a\n")

    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert complaint in ended.err
    assert not Path("ran").exists()
