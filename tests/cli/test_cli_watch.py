"""``mpcheckpoint results --summary`` and ``--watch``: a map seen from elsewhere."""

from __future__ import annotations

import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._cli import main
from mpcheckpoint._cli.maps.watch import Watched
from mpcheckpoint._types import Position, Record
from mpcheckpoint._work.reruns import History, RunNote
from support.shell import MPCHECKPOINT, CommandLine
from support.verbs import become_a_new_process, log_file, tree, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.processes import Child, Children

OF_K = ("--store", "store", "--key", "k")


class Gated:
    """A map over four items, two at a time, that goes on when it is told to; the first fails at once."""

    def __init__(self, directory: Path, children: Children) -> None:
        self.shell = CommandLine(directory)
        self._directory = directory
        (directory / "items").write_text("bad\na\nb\nc\n")
        command = "echo x >> runs; [ $1 = bad ] && exit 3; while [ ! -e go ]; do sleep 0.05; done"
        self.child: Child = children.start_command(
            [*MPCHECKPOINT, "map", *OF_K, "-j", "2", "-a", "items", "--", "sh", "-c", command, "x"],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: self.runs == 3, "one item has failed and two run")

    @property
    def runs(self) -> int:
        path = self._directory / "runs"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def go_on(self) -> None:
        """Let all items end."""
        (self._directory / "go").touch()


@pytest.fixture
def gated(tmp_path: Path, children: Children) -> Iterator[Gated]:
    gated = Gated(tmp_path, children)
    yield gated
    gated.go_on()
    gated.child.wait()


def test_summary_counts_what_is_done_and_names_what_runs(gated: Gated) -> None:
    before = tree(gated.shell.directory / "store")
    text = gated.shell.run("results", *OF_K, "--summary")
    (row,) = gated.shell.run("results", *OF_K, "--summary", "--json").rows
    assert tree(gated.shell.directory / "store") == before

    assert text.code == 1  # one has failed
    assert re.search(
        r"^done +1 of 4: 0 ok, 1 failed\nrunning +2\n +\d+\.\d s  [ab]\n +\d+\.\d s  [ab]\nunder way in process",
        text.out,
        re.MULTILINE,
    )
    assert (row["done"], row["items"], row["ok"], row["failed"], row["to_retry"]) == (1, 4, 0, 1, 0)
    assert {item["object_key"] for item in row["running"]} == {"a", "b"}
    assert row["starts"] == [{"pid": gated.child.pid, "items": 4, "rerun": None}]
    assert (row["run"], row["rerun"]) == (1, None)

    gated.go_on()
    gated.child.wait()
    assert gated.shell.run("results", *OF_K, "--summary").out.splitlines()[1:] == [
        "done      4: 3 ok, 1 failed",
        "not under way",
    ]


def test_watch_elsewhere_prints_what_comes_and_ends_with_the_map(gated: Gated) -> None:
    shell = gated.shell
    with (
        shell.beside("results", *OF_K, "--watch") as lines,
        shell.beside("results", *OF_K, "--watch", "--json") as rows,
        shell.beside("results", *OF_K, "--watch") as interrupted,
    ):
        lines.wait_for(lambda text: "failed: bad: exit code 3\n" in text)
        rows.wait_for(lambda text: '"item":"bad"' in text)
        interrupted.wait_for(lambda text: "failed: bad" in text)
        assert (lines.process.poll(), rows.process.poll()) == (None, None)

        gone = interrupted.interrupt()
        assert (gone.code, gone.err.strip()) == (130, "mpcheckpoint: interrupted")
        assert gated.child.is_running
        gated.go_on()
        ended, listed = lines.wait(), rows.wait()

    assert (ended.code, listed.code) == (1, 1)
    assert ended.out.endswith("done      4: 3 ok, 1 failed\nnot under way\n")
    assert sorted(row["item"] for row in listed.rows) == ["a", "b", "bad", "c"]
    assert gated.child.wait() == 1
    no_reader = subprocess.run(
        [
            "bash",
            "-c",
            f"(sleep 0.01; {' '.join([*MPCHECKPOINT, 'results', *OF_K, '--watch'])}; echo $? > code) | true",
        ],
        cwd=shell.directory,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert no_reader.stderr == b""
    assert (shell.directory / "code").read_text() == f"{128 + signal.SIGPIPE}\n"


def test_watch_on_a_terminal_is_a_screen_that_goes_when_the_map_has_ended(gated: Gated) -> None:
    def go_on(shown: bytes) -> None:
        if b"1 of 4 done" in shown and b"last failures" in shown:
            gated.go_on()

    shown = gated.shell.on_terminal("results", *OF_K, "--watch", react=go_on)

    assert shown.code == 1
    assert "1 of 4 done, 1 failed" in shown.out
    assert "━" in shown.out
    assert re.search(r"running: 2 *\n +\d\.\d s  [ab]", shown.out)
    assert "last failures:" in shown.out
    assert "bad: exit code 3" in shown.out
    assert "done      4: 3 ok, 1 failed\nnot under way" in shown.out


@pytest.mark.parametrize("option", ["--summary", "--watch"])
def test_what_cannot_be_watched_is_one_line_and_nothing_is_written(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def refused() -> str:
        before = tree(tmp_path)
        assert main(["results", *OF_K, option]) == 2
        assert tree(tmp_path) == before
        printed = capfd.readouterr()
        assert (printed.out, len(printed.err.splitlines())) == ("", 1)
        return printed.err

    assert "no store" in refused()
    log = Checkpoint("store").log("k")
    log.append("x", 1)
    assert "no map has run" in refused()
    with ThreadPoolExecutor(1) as one:
        list(log.map(len, ["a", "b", "c", "\x1b]0;x\x07\n"], executor=one))
    assert main(["results", *OF_K, option]) == 0
    assert capfd.readouterr().out == "what      (a function)\ndone      4: 4 ok, 0 failed\nnot under way\n"
    path = log_file(tmp_path / "store", "k")
    content = bytearray(path.read_bytes())
    content[content.index(b'"map"') + 1] ^= 1
    path.write_bytes(content)
    become_a_new_process()
    assert "corrupt at offset" in refused()
    path.write_bytes(bytes(content).replace(b'"version":1', b'"version":9', 1))
    become_a_new_process()
    assert "version 9" in refused()


def test_summary_and_watch_exclude_each_other(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["results", *OF_K, "--watch", "--summary"]) == 2
    assert "exclude each other" in capfd.readouterr().err


def record(object_key: str, event: object, stamp_us: int = 1) -> Record:
    return Record("k", object_key, event, stamp_us, None, Position("k", "0" * 32, 1, stamp_us))


def test_item_that_is_recorded_again_is_counted_once() -> None:
    watched = Watched("v", None, History([RunNote(1, "v"), RunNote(2, "v")]))
    for object_key, event in [
        ("old", {"run": 1, "ok": True}),
        ("other", {"ok": True, "run": 2}),
        ("other", [2, True]),
        ("other", {"run": 3, "ok": True}),
        ("other", {"run": 2, "ok": "yes"}),
        ("other", {"run": True, "ok": True}),
        ("a", {"run": 2, "attempt": 1, "error": "e", "pause_s": 1}),
        ("b", {"run": 2, "ok": False, "error": "e"}),
        ("a", {"run": 2, "ok": False, "error": "e"}),
        ("b", {"run": 2, "ok": False, "error": "again"}),
        ("a", {"run": 2, "ok": True}),
    ]:
        watched.take(record(object_key, event))

    assert (watched.done, watched.failed, watched.to_retry) == (2, 1, set())
    assert [outcome.object_key for outcome in watched.failures] == ["b", "a", "b"]
    assert watched.rate() == 0.0  # all that was long ago
