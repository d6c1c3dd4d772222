"""A log that cannot be read hides no other: ``show``, ``tail`` and ``ls`` print all that can be, then what cannot."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint.errors import CorruptLogError, StoreAccessError
from support.nobody import give_to_nobody
from support.shell import CommandLine, Ended
from support.verbs import become_a_new_process, inside, log_file, tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOGS = ("damaged", "headless", "sound")


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    """The command line in a directory with a store of three logs: one is sound, one damaged behind its first record,
    of one the header is damaged. Each had four records, of x0 to x3."""
    make_store(tmp_path / "store")
    return CommandLine(tmp_path)


def make_store(store: Path) -> None:
    with Checkpoint(store) as checkpoint:
        for number in range(4):
            for log_key in LOGS:
                checkpoint.log(log_key).append(f"x{number}", number)
    become_a_new_process()
    change(store, "damaged", b'"x1",1', b'"x9",1')
    change(store, "headless", b'"header"', b'"haeder"')


def change(store: Path, log_key: str, old: bytes, new: bytes) -> None:
    data = log_file(store, log_key).read_bytes()
    assert old in data
    log_file(store, log_key).write_bytes(data.replace(old, new))


def told(ended: Ended) -> list[str]:
    """Return the logs that standard error tells of, in order: each once, in a line of its own."""
    assert all(line.startswith("mpcheckpoint: ") for line in ended.err.splitlines()), ended.err
    return [re.findall(r"\.checkpoint/(\w+)\.jsonl", line)[0] for line in ended.err.splitlines()]


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("command", [("show",), ("show", "x0"), ("tail",), ("tail", "-n", "5"), ("ls",)])
def test_command_beside_damaged_logs_prints_the_rest_and_then_each_damage(
    cli: CommandLine, store: Path, command: tuple[str, ...]
) -> None:
    before = tree(inside(store))

    ended = cli.run(*command, "--store", "store")

    assert tree(inside(store)) == before
    assert ended.code == (1 if command == ("ls",) else 2)
    assert sorted(told(ended)) == ["damaged", "headless"]
    if command == ("show",):
        assert [line.split()[0::2] for line in ended.out.splitlines()] == [
            ["2", "x0"],
            *(["1", f"x{number}"] for number in (1, 2, 3)),
        ]
    elif command == ("show", "x0"):
        assert [line.split()[1].partition("@")[0] for line in ended.out.splitlines()] == ["damaged", "sound"]
    elif command[0] == "tail":
        assert [line.split()[1:] for line in ended.out.splitlines()] == [
            ["damaged", "x0", "0"],
            *(["sound", f"x{number}", str(number)] for number in range(4)),
        ]


def test_handle_stays_strict_where_commands_go_on(cli: CommandLine, store: Path) -> None:
    assert cli.run("tail", "--store", "store").out

    with pytest.raises(CorruptLogError), Checkpoint(store, read_only=True) as checkpoint:
        list(checkpoint.read())


def test_chosen_logs_are_printed_though_another_chosen_one_cannot_be_read(cli: CommandLine) -> None:
    ended = cli.run("tail", "--store", "store", "--key", "headless", "--key", "sound")

    assert ended.code == 2
    assert len(ended.out.splitlines()) == 4
    assert told(ended) == ["headless"]
    assert cli.good("tail", "--store", "store", "--key", "sound").err == ""


def test_log_file_of_another_name_hides_no_other(cli: CommandLine, store: Path) -> None:
    log_file(store, "copy").write_bytes(log_file(store, "sound").read_bytes())

    ended = cli.run("show", "x0", "--store", "store", "--key", "sound", "--key", "copy")
    every = cli.run("show", "x3", "--store", "store")

    assert (ended.code, told(ended), len(ended.out.splitlines())) == (2, ["copy"], 1)
    assert (every.code, sorted(told(every))) == (2, ["copy", "damaged", "headless"])
    assert len(every.out.splitlines()) == 1


def test_tail_that_follows_tells_of_damaged_logs_and_goes_on_with_the_others(
    cli: CommandLine, store: Path
) -> None:
    with cli.beside("tail", "-f", "-n", "1", "--store", "store", "--json") as following:
        following.wait_for(lambda out: out.count("\n") == 1)
        with Checkpoint(store, log_keys=["sound", "new"]) as checkpoint:
            checkpoint.log("sound").append("x", "in a sound log")
            checkpoint.log("new").append("x", "in a new log")
        following.wait_for(lambda out: out.count("\n") == 3)
        ended = following.interrupt()

    assert ended.code == 130
    assert sorted(told(ended)) == ["damaged", "headless"], "each once"
    assert {row["event"] for row in ended.rows[1:]} == {"in a sound log", "in a new log"}


@pytest.mark.guarantee(11)
@pytest.mark.parametrize("command", ["show", "tail", "ls", "verify"])
def test_log_of_another_user_hides_no_other(
    public_tmp_path: Path, run_as_nobody: Callable[..., Any], command: str
) -> None:
    store = public_tmp_path / "store"
    with Checkpoint(store) as checkpoint:
        for log_key in ("open", "closed"):
            checkpoint.log(log_key).append("x", 1)
    give_to_nobody(store)
    os.chown(log_file(store, "closed"), 0, 0)
    log_file(store, "closed").chmod(0o600)

    ended = run_as_nobody(CommandLine(public_tmp_path).run, command, "--store", "store")

    assert ended.code == 2
    assert "Permission denied; change its permissions" in (ended.err or ended.out)
    assert "read_only" not in ended.err + ended.out
    assert len([line for line in ended.out.splitlines() if "open" in line or " x " in line]) == 1
    with pytest.raises(StoreAccessError):
        run_as_nobody(_read_all, store)


@pytest.mark.parametrize("command", ["ls", "tail"])
def test_store_that_may_not_be_read_is_to_be_read_by_somebody_who_may(
    public_tmp_path: Path, run_as_nobody: Callable[..., Any], command: str
) -> None:
    store = public_tmp_path / "store"
    with Checkpoint(store) as checkpoint:
        checkpoint.log("a").append("x", 1)
    (store / ".checkpoint").chmod(0o700)

    said = run_as_nobody(CommandLine(public_tmp_path).refused, command, "--store", "store")

    assert said.endswith("Permission denied; change its permissions, or read it as a user who may")


def _read_all(store: Path) -> int:
    with Checkpoint(store, read_only=True) as checkpoint:
        return len(checkpoint)
