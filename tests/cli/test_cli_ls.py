"""``mpcheckpoint ls``, through real processes."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint
from support.capabilities import require
from support.shell import CommandLine
from support.verbs import (
    become_a_new_process,
    hold_append_lock,
    inside,
    lock_file,
    log_file,
    tear,
    tree,
)

if TYPE_CHECKING:
    from pathlib import Path

    from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal
    from support.processes import Children


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    """The command line in a directory with a store ``store``: logs "a", with three records, and "b \\n", empty."""
    with Checkpoint(tmp_path / "store") as checkpoint:
        checkpoint.log("b \n")
        log = checkpoint.log("a")
        log.append("x", 1)
        log.append_many([("x", 2), ("y", 3)])
    become_a_new_process()
    return CommandLine(tmp_path)


def damage(store: Path, log_key: str = "a") -> None:
    """Flip a bit of the first record, which a line behind it states to be durable."""
    data = log_file(store, log_key).read_bytes()
    at = data.index(b'"x",1') + 1
    log_file(store, log_key).write_bytes(data[:at] + b"z" + data[at + 1 :])


def test_ls_prints_aligned_columns_and_json_and_changes_nothing(cli: CommandLine, store: Path) -> None:
    before = tree(inside(store))

    plain = cli.good("ls", "--store", "store").out.splitlines()
    rows = cli.good("ls", "--store", "store", "--json").rows
    long = cli.good("ls", "-l", "--store", "store", "--key", "a").out.splitlines()

    assert tree(inside(store)) == before
    assert plain[0].split() == ["KEY", "RECORDS", "OBJECTS", "BYTES", "FIRST", "LAST", "STATE"]
    (of_a,) = [line.split() for line in plain[1:] if line.startswith("a")]
    assert of_a[:4] == ["a", "3", "2", str(log_file(store).stat().st_size)]
    assert of_a[6] == "whole"
    (of_b,) = [line for line in plain[1:] if line.startswith("b")]
    assert of_b.split()[:2] == ["b", "\\n"], "a newline does not break the line"
    assert of_b.split()[-3:] == ["-", "-", "whole"]
    assert [row["log_key"] for row in rows] == ["a", "b \n"]
    assert (
        rows[0]
        | {"records": 3, "objects": 2, "batches": 2, "stated_syncs": 1, "state": "whole", "repairs": 0}
        == rows[0]
    )
    assert rows[0]["first_time"][:19] == of_a[4][:19]
    assert rows[1]["first_us"] is None
    assert long[0].split()[7:] == ["APPENDS", "SYNCS", "REPAIRS", "WAITERS", "HOLDER"]
    assert long[1].split()[7:] == ["2", "1", "0", "0", "-"]


def test_ls_of_torn_damaged_and_newer_logs_lists_all_and_its_exit_code_tells(
    cli: CommandLine, store: Path
) -> None:
    tear(store)
    before = tree(inside(store))
    torn = cli.good("ls", "--store", "store")
    assert torn.out.splitlines()[1].split()[-1] in ("torn", "pending")

    damage(store)
    corrupt = cli.run("ls", "--store", "store")
    assert corrupt.code == 1
    assert corrupt.out.splitlines()[1].split()[-1] == "corrupt"
    assert corrupt.out.splitlines()[2].split()[-1] == "whole"
    (line,) = corrupt.err.splitlines()
    assert "is corrupt at offset" in line
    rows = cli.run("ls", "--store", "store", "--json").rows
    assert "is corrupt at offset" in rows[0]["error"]

    newer = log_file(store, "b \n")
    newer.write_bytes(newer.read_bytes().replace(b'"version":1', b'"version":2'))
    unreadable = cli.run("ls", "--store", "store")
    assert unreadable.code == 2
    assert {row.split()[-1] for row in unreadable.out.splitlines()[1:]} == {"corrupt", "unreadable"}
    assert any("newer release" in line for line in unreadable.err.splitlines())
    assert tree(inside(store)).keys() == before.keys()


def test_ls_of_a_poisoned_log_ends_with_1(cli: CommandLine, store: Path) -> None:
    log_file(store).with_suffix(".poison").write_text("not even a note")

    ended = cli.run("ls", "--store", "store", "--key", "a")

    assert ended.code == 1
    assert ended.out.splitlines()[1].split()[-1] == "poisoned"


def test_ls_of_what_is_no_store_or_no_log_is_refused_in_one_line(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert "there is no store" in cli.refused("ls", "--store", "empty")
    assert cli.refused("ls", "--store", "file")
    assert "has no log 'nix'" in cli.refused("ls", "--store", "store", "--key", "nix")
    assert list((tmp_path / "empty").iterdir()) == []
    with Checkpoint(tmp_path / "new"):
        pass
    new = cli.good("ls", "--store", "new")
    assert (new.out, new.err) == ("", "mpcheckpoint: new has no logs yet\n")


def test_ls_on_a_terminal_is_a_table(cli: CommandLine, store: Path) -> None:
    damage(store)

    shown = cli.on_terminal("ls", "--store", "store", columns=200)

    assert shown.code == 1
    assert "KEY" in shown.out
    assert "corrupt" in shown.out


@pytest.mark.guarantee(8)
def test_ls_long_names_who_holds_the_lock_and_works_while_writers_wait(
    cli: CommandLine, store: Path, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    require(os.path.exists("/proc/locks"), "the system does not show who holds a lock")
    holder = children.start(hold_append_lock, store, acknowledgements.writer, method="fork")
    acknowledgements.wait_for(1)
    tear(store)  # a write in progress, for all that can be known
    before = tree(inside(store))

    (row,) = cli.good("ls", "--store", "store", "--key", "a", "--json").rows
    long = cli.good("ls", "-l", "--store", "store", "--key", "a").out.splitlines()[1]

    assert tree(inside(store)) == before
    assert (row["state"], row["lock"], row["holder_pid"]) == ("pending", "held", holder.pid)
    assert row["holder_command"]
    assert f" {holder.pid} " in long
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    (row,) = cli.good("ls", "--store", "store", "--key", "a", "--json").rows
    assert (row["state"], row["lock"]) in (("torn", "free"), ("pending", "unknown"))
    assert lock_file(store).exists()


def test_empty_name_of_a_store_is_refused(tmp_path: Path) -> None:
    # An unset variable of a shell must not make a store of the current directory.
    refusal = CommandLine(tmp_path).refused("map", "--store", "", "--key", "k", "true", stdin=b"a\n")

    assert "it is empty" in refusal
    assert list(tmp_path.iterdir()) == []
