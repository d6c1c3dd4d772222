"""``mpcheckpoint tail``, through real processes."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint
from support.shell import MPCHECKPOINT, CommandLine
from support.verbs import become_a_new_process, inside, log_file, tear, tree, wait_until

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    """The command line in a directory with a store: records 0 to 29, in turn in "a" and "b"."""
    with Checkpoint(tmp_path / "store", durability="never") as checkpoint:
        for number in range(30):
            checkpoint.log("ab"[number % 2]).append(f"x{number}", number)
    become_a_new_process()
    return CommandLine(tmp_path)


def test_tail_prints_the_last_records_in_merged_order_and_changes_nothing(
    cli: CommandLine, store: Path
) -> None:
    before = tree(inside(store))
    records = list(Checkpoint(store, read_only=True).read())

    lines = cli.good("tail", "--store", "store").out.splitlines()
    rows = cli.good("tail", "--store", "store", "-n", "3", "--json", "--key", "a").rows
    since = cli.good("tail", "--store", "store", "--since", "1h", "--json").rows
    both = cli.good("tail", "--store", "store", "--since", f"@{records[5].stamp_us / 1e6:.6f}", "-n", "2").out
    nothing = cli.good("tail", "--store", "store", "-n", "0")

    assert tree(inside(store)) == before
    assert [line.split("  ")[1:] for line in lines] == [
        ["ab"[number % 2], f"x{number}", str(number)] for number in range(20, 30)
    ]
    assert [row["event"] for row in rows] == [24, 26, 28]
    assert [row["event"] for row in since] == list(range(30))
    assert [line.split("  ")[-1] for line in both.splitlines()] == ["28", "29"]
    assert (nothing.out, nothing.err) == ("", "")


@pytest.mark.guarantee(4)
def test_tail_that_follows_sees_new_logs_generations_and_repairs_until_ctrl_c(
    cli: CommandLine, store: Path
) -> None:
    checkpoint = Checkpoint(store)
    with cli.beside("tail", "-f", "-n", "2", "--store", "store", "--json") as following:
        following.wait_for(lambda out: out.count("\n") == 2)
        log = checkpoint.log("a")
        tear(store)
        log.append("x", "behind a repair")
        checkpoint.log("new").append("x", "of a new log")
        log.recover()
        log.append("x", "in a new generation")
        following.wait_for(lambda out: out.count("\n") == 5)
        ended = following.interrupt()

    assert (ended.code, ended.err) == (130, "")
    assert [row["event"] for row in ended.rows[:2]] == [28, 29]
    assert sorted(row["event"] for row in ended.rows[2:]) == sorted(
        ["behind a repair", "of a new log", "in a new generation"]
    )


def test_tail_that_follows_a_store_without_a_log_waits_for_one(cli: CommandLine, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "new")
    with cli.beside("tail", "-f", "--store", "new") as following:
        # Whether it was started before or after this: the record comes once.
        checkpoint.log("a").append("x", "first")
        following.wait_for(lambda out: '"first"' in out)
        ended = following.interrupt()

    assert ended.out.count("first") == 1
    assert ended.code == 130
    assert cli.good("tail", "--store", "store", "--key", "a", "-n", "1").out.endswith("  28\n")


def test_tail_whose_reader_has_gone_ends_quietly_though_nothing_comes(
    cli: CommandLine, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [*MPCHECKPOINT, "tail", "-f", "-n", "1", "--store", "store"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline().endswith(b"  29\n")
    process.stdout.close()

    wait_until(lambda: process.poll() is not None, "it has ended")

    assert process.returncode == -signal.SIGPIPE
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.guarantee(6)
def test_tail_beside_damage_prints_what_can_be_read_and_ends_with_2(cli: CommandLine, store: Path) -> None:
    data = log_file(store).read_bytes()
    with Checkpoint(store) as checkpoint:  # makes durable what stands there, and says so in a line
        checkpoint.log("a").append("x", "last")
        checkpoint.log("a").append("x", "very last")
    become_a_new_process()
    damaged = bytearray(log_file(store).read_bytes())
    damaged[data.rstrip().index(b'"x20",20') + 1] ^= 1
    log_file(store).write_bytes(damaged)

    ended = cli.run("tail", "--store", "store", "--json")

    assert ended.code == 2
    assert [row["event"] for row in ended.rows] == [14, 15, 16, 17, 18, 19, 21, 23, 25, 27, 29][-10:]
    (line,) = ended.err.splitlines()
    assert "is corrupt at offset" in line


def test_tail_refuses_bad_usage_and_places_in_one_line(cli: CommandLine, tmp_path: Path) -> None:
    assert "is no time" in cli.refused("tail", "--store", "store", "--since", "soon")
    assert "-1" in cli.refused("tail", "--store", "store", "-n", "-1")
    assert "has no log 'nix'" in cli.refused("tail", "-f", "--store", "store", "--key", "nix")
    assert "there is no store" in cli.refused("tail", "-f", "--store", "nix")
    assert not (tmp_path / "nix").exists()


def test_tail_to_a_full_disk_says_so_in_one_line(cli: CommandLine, tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("the system has no /dev/full")
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [*MPCHECKPOINT, "tail", "--store", "store", "--json"],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )

    assert ended.returncode == 2
    assert b"Traceback" not in ended.stderr
    assert b"No space left" in ended.stderr
