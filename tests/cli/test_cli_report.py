"""``mpcheckpoint report``: what it makes, what it refuses, and its exit codes."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._cli import main
from mpcheckpoint._report.page import BEGINNING
from support.shell import CommandLine
from support.verbs import become_a_new_process, flip, inside, log_file, tree

if TYPE_CHECKING:
    from pathlib import Path

OF_STORE = ("report", "--store", "store")
TO_FILE = (*OF_STORE, "-o", "report.html")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a store, in which a map has run on the log k."""
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(2) as threads:
        list(Checkpoint("store").log("k").map(len, ["a", "b", "c"], executor=threads))
    become_a_new_process()
    return tmp_path


def refused(capfd: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    assert main(arguments) == code
    printed = capfd.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


def test_report_of_a_command_s_map_shows_what_it_printed(tmp_path: Path) -> None:
    shell = CommandLine(tmp_path)
    command = "echo said $1; [ $1 != bad ]"
    shell.run(
        "map", "--store", "store", "--key", "k", "--", "sh", "-c", command, "sh", "{}", stdin=b"good\nbad\n"
    )
    before = tree(tmp_path / "store")

    made = shell.good(*TO_FILE)

    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert made.err == "mpcheckpoint: report.html shows 1 log\n"
    assert made.out == ""
    assert page.startswith(BEGINNING)
    assert "<pre>said bad\n</pre>" in page
    assert "exit code 1" in page
    assert tree(tmp_path / "store") == before
    assert shell.good(*OF_STORE, "-o", "-").out.startswith(BEGINNING)


def test_earlier_report_is_replaced_and_another_file_is_left_alone(
    work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = work / "report.html"
    path.write_text("mine")
    assert "is no report: it is left alone" in refused(capfd, *TO_FILE)
    assert path.read_text() == "mine"
    path.write_text(BEGINNING + "an earlier one")

    assert main(TO_FILE) == 0

    assert "an earlier one" not in path.read_text(encoding="utf-8")
    assert [each.name for each in work.iterdir()] in (["store", "report.html"], ["report.html", "store"])
    capfd.readouterr()
    assert "cannot write nowhere/x.html: No such file" in refused(capfd, *OF_STORE, "-o", "nowhere/x.html")
    assert "cannot write .: Is a directory" in refused(capfd, *OF_STORE, "-o", ".")


def test_page_goes_into_a_pipe_and_a_device_that_is_full_is_told(
    work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo("pipe")
    with ThreadPoolExecutor(1) as reader:
        received = reader.submit((work / "pipe").read_text, encoding="utf-8")
        assert main((*OF_STORE, "-o", "pipe")) == 0
        assert received.result(timeout=60).startswith(BEGINNING)
    capfd.readouterr()
    assert "cannot write /dev/full: No space left" in refused(capfd, *OF_STORE, "-o", "/dev/full")


def test_store_whose_name_is_no_utf_8_is_named_in_its_report(work: Path) -> None:
    (work / "store").rename(os.fsdecode(b"st\xff"))

    assert main(("report", "--store", os.fsdecode(b"st\xff"), "-o", "report.html")) == 0

    assert "<h1><bdi>st\\xff</bdi></h1>" in (work / "report.html").read_text(encoding="utf-8")


def test_what_cannot_be_reported_is_one_line_and_no_page(
    work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "no store" in refused(capfd, "report", "--store", "nowhere", "-o", "report.html")
    assert "it has 'k'" in refused(capfd, *TO_FILE, "--key", "unknown")
    assert "-o" in refused(capfd, *OF_STORE)
    Checkpoint("empty")
    assert "has no logs yet" in refused(capfd, "report", "--store", "empty", "-o", "report.html")
    Checkpoint("store").log("events").append("x", "DONE")
    said = refused(capfd, *TO_FILE, "--key", "events")
    assert "no map has run on 'events' of store; it has also 'k'" in said
    Checkpoint("other").log("events").append("x", "DONE")
    assert "no map has run on any log of other" in refused(
        capfd, "report", "--store", "other", "-o", "report.html"
    )
    assert not (work / "report.html").exists()


def test_damaged_log_is_shown_up_to_the_damage_with_its_own_exit_code(
    work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = Checkpoint("store").log("k")
    for number in range(2):
        log.append("later", number)
    become_a_new_process()
    path = log_file(work / "store", "k")
    flip(work / "store", path.read_bytes().index(b'"later",0') + 1, "k")

    assert main(TO_FILE) == 1

    assert "corrupt at offset" in capfd.readouterr().err
    page = (work / "report.html").read_text(encoding="utf-8")
    assert "The log is told up to a damage" in page
    assert "<b>3</b><span>ok</span>" in page
    inside(work / "store", "k.jsonl").write_bytes(b"no log\n")
    become_a_new_process()
    (work / "report.html").unlink()
    assert "header" in refused(capfd, *TO_FILE)
    assert not (work / "report.html").exists()


def test_report_without_jinja2_says_what_to_install(
    work: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)

    assert "pip install 'mpcheckpoint[report]'" in refused(capfd, *TO_FILE)
    assert not (work / "report.html").exists()


def test_other_commands_do_not_import_what_only_a_report_takes(tmp_path: Path) -> None:
    program = (
        "import sys; from mpcheckpoint._cli.commands import cli; every = [*cli.commands.values()]; "
        "print('jinja2' in sys.modules)"
    )

    import subprocess

    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"False\n"
    )
