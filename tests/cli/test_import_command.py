"""``mpcheckpoint import`` from a shell: what people type, what they are told, and the exit codes of scripts."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._cli.commands import run
from support.shell import CommandLine
from support.verbs import inside, log_file, tree

if TYPE_CHECKING:
    from pathlib import Path

TO_K = ("import", "--store", "store", "--key", "k")


@pytest.fixture
def shell(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


def lines(*values: Any) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def numbered(count: int) -> bytes:
    return lines(*({"object_key": f"{number}", "event": number} for number in range(count)))


def events(store: Path, log_key: str = "k") -> list[Any]:
    with Checkpoint(store, read_only=True) as checkpoint:
        return [record.event for record in checkpoint.log(log_key).read()]


def test_import_of_a_file_says_what_it_did_and_carries_on(shell: CommandLine, tmp_path: Path) -> None:
    source = tmp_path / "photos.jsonl"
    source.write_bytes(lines({"id": 1, "status": "UP"}, {"id": 2, "status": "UP"}))
    before = source.stat()

    dry = shell.good(*TO_K, "--object", "id", "--event", "status", "--dry-run", "photos.jsonl")
    assert dry.out == "photos.jsonl -> k: 2 records would be imported\n"
    assert not (tmp_path / "store").exists()
    first = shell.good(*TO_K, "--object", "id", "--event", "status", "photos.jsonl")
    assert (first.out, first.err) == ("photos.jsonl -> k: 2 records imported\n", "")
    second = shell.good(*TO_K, "--object", "id", "--event", "status", "--json", "photos.jsonl")

    assert second.rows == [
        {
            "source": str(source.resolve()),
            "key": "k",
            "records": 0,
            "records_before": 2,
            "known": 0,
            "skipped": 0,
            "skipped_before": 0,
            "offset_bytes": before.st_size,
            "left_bytes": 0,
        }
    ]
    assert events(tmp_path / "store") == ["UP", "UP"]
    after = source.stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def test_import_with_only_an_object_field_takes_the_whole_line(shell: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(lines({"id": "a", "n": 1}))

    shell.good(*TO_K, "--object", "id", "x")

    assert events(tmp_path / "store") == [{"id": "a", "n": 1}]


def test_import_of_standard_input_goes_on_by_its_name(shell: CommandLine, tmp_path: Path) -> None:
    refusal = shell.refused(*TO_K, "-", stdin=numbered(2))
    assert "--as NAME" in refusal
    assert not (tmp_path / "store").exists()

    assert shell.good(*TO_K, "--as", "in", "-", stdin=numbered(2)).out == "in -> k: 2 records imported\n"
    third = shell.good(*TO_K, "--as", "in", "-", stdin=numbered(3))

    assert third.out == "in -> k: 1 record imported, 2 before\n"
    assert events(tmp_path / "store") == [0, 1, 2]


def test_import_of_bad_lines_ends_or_passes_them_over(shell: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(numbered(1) + b"\x1b[31m{\n" + numbered(2) + b'{"object')

    assert "x:2: not JSON" in shell.refused(*TO_K, "x")
    assert events(tmp_path / "store") == [0]
    skipping = shell.run(*TO_K, "--skip-bad", "x")

    assert skipping.code == 1
    assert skipping.out == "x -> k: 2 records imported, 1 before, 1 line skipped\n"
    skipped, left = skipping.err.splitlines()
    assert skipped.startswith(f"mpcheckpoint: skipped {tmp_path / 'x'}:2: not JSON")
    assert "8 bytes at its end" in left
    assert events(tmp_path / "store") == [0, 0, 1]
    assert shell.run(*TO_K, "--skip-bad", "x").code == 1


def test_import_of_the_older_tool_is_what_the_warning_says(shell: CommandLine, tmp_path: Path) -> None:
    store = tmp_path / "old store"
    inside(store).mkdir(parents=True)
    inside(store, "photos1612345678").write_bytes(lines({"p1": "UP"}, {"p2": "UP"}) + b'{"p')
    inside(store, "photos1612345679").write_bytes(lines({"p1": "ALBUM"}))
    inside(store, "cats1612345679").write_bytes(lines({"c": 1}))
    warning = shell.run("map", "--store", "old store", "--key", "k", "--", "true").err.splitlines()[0]
    command = warning.partition("mpcheckpoint import ")[2].partition(";")[0]
    assert command == f"--store '{store}' '{store}'"

    only = shell.good("import", "--store", str(store), "--key", "cats", str(store))
    assert only.out == f"{inside(store, 'cats1612345679')} -> cats: 1 record imported\n"
    both = shell.run("import", "--store", str(store), str(store))

    assert both.code == 1  # of one the end is left
    assert [line.partition(": ")[2] for line in both.out.splitlines()] == [
        "0 records imported, 1 before",
        "2 records imported",
        "1 record imported",
    ]
    assert "3 bytes at its end" in both.err
    assert "older checkpoint tool" not in both.err
    with Checkpoint(store, read_only=True) as checkpoint:
        assert checkpoint["p1"] == ("UP", "ALBUM")
    assert inside(store, "photos1612345678").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("import", "--store", "store", "x"), "--key is missing"),
        ((*TO_K, "none"), "does not exist"),
        ((*TO_K, "."), "no files of the older checkpoint tool"),
        ((*TO_K, "--as", "a", "x", "y"), "--as is the name of one"),
        ((*TO_K, "--as", "a", "."), "--as is the name of one"),
        ((*TO_K,), "Missing argument"),
        (("import", "--key", "k", "x"), "--store"),
        (("import", "--store", "x", "--key", "k", "y"), "file"),
    ],
)
def test_import_that_cannot_be_is_refused_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    complaint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_bytes(numbered(1))
    (tmp_path / "y").write_bytes(numbered(2))

    assert run(arguments) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line
    assert not (tmp_path / "store").exists()


def test_import_into_what_is_no_sound_log_is_refused_in_one_line(shell: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(numbered(1))
    store = tmp_path / "store"
    with Checkpoint(store) as checkpoint:
        checkpoint.log("k").append_many([("x", 1), ("x", 2)])
    sound = log_file(store, "k").read_bytes()
    for damage, complaint in (
        (sound.replace(b'"version":1', b'"version":9'), "newer release"),
        (sound.replace(b'"format"', b'"farmat"'), "corrupt at offset 0"),
    ):
        log_file(store, "k").write_bytes(damage)
        assert complaint in shell.refused(*TO_K, "x")
        assert log_file(store, "k").read_bytes() == damage


def test_import_that_is_interrupted_carries_on(shell: CommandLine, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    with shell.beside(*TO_K, "--as", "fed", "fifo") as command, fifo.open("wb", buffering=0) as feed:
        feed.write(numbered(3))
        with Checkpoint(tmp_path / "store") as checkpoint:
            follower = checkpoint.log("k").follow(idle_timeout_s=30)
            assert [next(follower).event for _ in range(3)] == [0, 1, 2]
            follower.close()
        command.process.send_signal(signal.SIGTERM)
        ended = command.wait()
    assert ended.code == 128 + signal.SIGTERM
    assert "Start the same line again" in ended.err

    assert shell.good(*TO_K, "--as", "fed", "-", stdin=numbered(5)).out == (
        "fed -> k: 2 records imported, 3 before\n"
    )
    assert events(tmp_path / "store") == [0, 1, 2, 3, 4]


def test_import_on_a_terminal_shows_a_bar_and_what_it_did(shell: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(numbered(100))

    shown = shell.on_terminal(*TO_K, "x")

    assert shown.code == 0
    assert "x -> k: 100 records imported" in shown.out


def test_dry_run_of_an_import_changes_nothing(shell: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(numbered(2))
    with Checkpoint(tmp_path / "store") as checkpoint:
        checkpoint.log("other").append("x", 1)
    before = tree(tmp_path / "store")

    assert "2 records would be" in shell.good(*TO_K, "--dry-run", "x").out

    assert tree(tmp_path / "store") == before
