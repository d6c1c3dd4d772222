"""``mpcheckpoint forget`` and ``compact --purge``: what they say, what they do, and what they leave."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint
from support.shell import CommandLine
from support.verbs import tear

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def shell(tmp_path: Path) -> CommandLine:
    """A command line, in an empty directory."""
    return CommandLine(tmp_path)


def test_forget_says_what_there_is_and_does_it_with_yes(shell: CommandLine) -> None:
    store = shell.directory / "store"
    with Checkpoint(store) as checkpoint:
        for log_key in ("a", "b", "c"):
            checkpoint.log(log_key).append_many([("x", 1), ("x", 2), ("y", 3)])
        checkpoint.log("c").forget("x")
    planned = shell.run("forget", "--store", "store", "x", "nothing")
    assert planned.code == 1
    assert planned.out == (
        "a: 1 object, 2 events\nb: 1 object, 2 events\nnothing: nothing is recorded of it\n"
        "nothing was changed; the same line with --yes does it\n"
    )
    done = shell.run("forget", "--store", "store", "--key", "b", "--yes", "x", "y")
    assert (done.code, done.out) == (0, "b: 2 objects, 3 events forgotten\n")
    with Checkpoint(store) as checkpoint:
        assert checkpoint["x"] == (1, 2)
        assert checkpoint.log("b").count("x") == 0
    again = shell.run("forget", "--store", "store", "--key", "b", "x")
    assert (again.code, again.out) == (0, "nothing is recorded of it\n")
    neither = shell.run("forget", "--store", "store", "--yes", "nope", "nothing", "nope")
    assert (neither.code, neither.out) == (0, "nothing is recorded of them\n")


def test_forget_writes_json(shell: CommandLine) -> None:
    Checkpoint(shell.directory / "store").log("a").append("x", 1)
    expected = {"log_key": "a", "objects": 1, "events": 1}
    planned = shell.run("forget", "--store", "store", "--json", "x")
    assert json.loads(planned.out) == expected | {"is_forgotten": False}
    done = shell.run("forget", "--store", "store", "--json", "-y", "x")
    assert (done.code, json.loads(done.out)) == (0, expected | {"is_forgotten": True})
    assert shell.good("forget", "--store", "store", "--json", "x").out == ""


def test_forget_needs_a_store_a_log_and_an_object(shell: CommandLine) -> None:
    Checkpoint(shell.directory / "store").log("a")
    for arguments, message in (
        (("--store", "nowhere", "x"), "there is no store"),
        (("--store", "store", "--key", "none", "x"), "no log 'none'"),
        (("--store", "store"), "Missing argument"),
    ):
        ended = shell.run("forget", *arguments)
        assert ended.code == 2
        assert message in ended.err


def files_with(directory: Path, text: bytes) -> list[str]:
    return sorted(
        path.name
        for path in directory.rglob("*")
        if path.is_file() and text in path.read_bytes() + path.name.encode()
    )


def test_purge_tells_of_quarantine_and_leaves_no_byte(shell: CommandLine) -> None:
    store = shell.directory / "store"
    log = Checkpoint(store).log("a")
    log.append_many([("secret", 1)])
    tear(store, b'["000000ff",secret')
    log.append("y", 2)
    shell.run("forget", "--store", "store", "-y", "secret")
    planned = shell.run("compact", "--store", "store", "--purge")
    assert planned.code == 1
    assert "a: 18 bytes that repairs cut off: to be removed from quarantine\n" in planned.out
    assert files_with(store, b"secret")
    done = shell.run("compact", "--store", "store", "--purge", "--yes")
    assert done.code == 0
    assert "a: 18 bytes that repairs cut off: removed from quarantine\n" in done.out
    assert files_with(store, b"secret") == []
    assert shell.run("compact", "--store", "store", "--purge").code == 0
