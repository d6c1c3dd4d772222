"""Copies of a store into another directory: what `copy_store` and the command do where no server is needed."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint._cli.copy_command import copy_command
from mpcheckpoint._cli.terminal import Exit
from mpcheckpoint.errors import BackupPlaceError, StoreNotFoundError, WriteFailedError
from mpcheckpoint.maintenance import copy_store, verify
from mpcheckpoint.testing import Ledger, explore_crashes, restart
from support.shell import CommandLine
from support.verbs import Faults, inside, log_file, tree

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


@pytest.fixture
def filled(store: Path, log: Log) -> Log:
    """A log that was compacted, beside another one."""
    log.append_many([("x", 1), ("y", 1), ("x", 2)])
    log.append("x", 3, record_id="third")
    Checkpoint(store).log("b").append("z", 1)
    log.compact(keep_last=1)
    return log


def content(store: Path) -> dict[str, Any]:
    with Checkpoint(store, create=False, read_only=True) as checkpoint:
        read = [(record.object_key, record.event, record.stamp_us) for record in checkpoint.read()]
        return {"view": dict(checkpoint), "read": read}


def test_copy_is_a_whole_store_that_goes_on(store: Path, filled: Log, target: Path) -> None:
    done = copy_store(store, target)

    assert [(log.log_key, log.action) for log in done.logs] == [("a", "copied"), ("b", "copied")]
    assert [check.state for check in verify(target)] == ["whole", "whole"]
    assert content(target) == content(store)
    copied = Checkpoint(target).log("a")
    copied.append("x", 3, record_id="third")
    assert copied.count("x") == filled.count("x") == 4
    copied.append("x", "on")
    assert copied.events("x") == (3, "on")


def test_copy_of_what_is_no_store_makes_none(target: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        copy_store(tmp_path / "nowhere", target)
    assert not target.exists()


@pytest.mark.parametrize("rate", [0, -1, True, 1.5])
def test_rate_that_is_none_is_refused(store: Path, filled: Log, target: Path, rate: Any) -> None:
    with pytest.raises(ValueError, match="limit_rate"):
        copy_store(store, target, limit_rate=rate)
    assert not target.exists()


def test_error_of_the_system_that_on_progress_raises_is_raised_as_it_is(
    store: Path, filled: Log, target: Path
) -> None:
    def full(_bytes: int) -> None:
        raise OSError(28, "mine")

    with pytest.raises(OSError, match="mine") as caught:
        copy_store(store, target, on_progress=full)
    assert type(caught.value) is OSError
    with Checkpoint(target) as copy:
        assert copy.logs() == []


@pytest.mark.guarantee(9)
@pytest.mark.parametrize("call", ["write_at", "sync_data", "publish"])
def test_copy_that_the_disk_refuses_leaves_no_log_and_can_be_done_again(
    store: Path, filled: Log, target: Path, faults: Faults, call: str
) -> None:
    Checkpoint(target).close()
    fault = faults.fail(call, errno.ENOSPC, on="target/.*jsonl")

    with pytest.raises(WriteFailedError):
        copy_store(store, target)
    assert fault.hits == 1
    with Checkpoint(target) as copy:
        assert copy.logs() == []
    assert not [path for path in inside(target).iterdir() if ".jsonl" in path.name]

    copy_store(store, target)
    assert content(target) == content(store)


def test_copy_goes_on_while_others_make_logs_in_its_target(store: Path, filled: Log, target: Path) -> None:
    """Who makes a log removes what killed processes have left."""
    names = iter(("c", "d", "e", "f"))

    def make_log(_bytes: int) -> None:
        Checkpoint(target).log(next(names))

    copy_store(store, target, on_progress=make_log)
    assert content(target)["view"] == content(store)["view"]


returned: list[bool] = []


def copied(store: Path, ledger: Ledger) -> None:
    """Copy a store of two logs into another directory."""
    returned.clear()
    for log_key in ("a", "b"):
        for number in range(2):
            ledger.append(Checkpoint(store).log(log_key), "x", number)
    restart()
    copy_store(store, store.parent.parent / "target")
    returned.append(True)
    Checkpoint(store.parent.parent / "beside").log("c").append(
        "x", 1
    )  # calls after which the power may fail, too


def check_copied(store: Path, ledger: Ledger) -> None:
    """Each log is there whole, or not at all; the next copy makes what is missing, and what was copied is durable."""
    Checkpoint(store)
    target = store.parent.parent / "target"
    there = set()
    if inside(target).exists():
        assert {each.state for each in verify(target)} <= {"whole"}
        there = set(Checkpoint(target, create=False).logs())
        assert len(there) == 2 or not returned
    done = {log.log_key for log in copy_store(store, target).logs if log.action == "there already"}
    assert done == there
    assert content(target) == content(store)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.guarantee(1)
@pytest.mark.guarantee(2)
def test_log_is_whole_or_not_there_wherever_a_copy_dies(intensity: int) -> None:
    tried = explore_crashes(copied, check=check_copied, images=min(intensity, 3), nested=0)

    assert tried.points > 40


def test_command_copies_and_says_so(store: Path, filled: Log, target: Path) -> None:
    shell = CommandLine(store.parent)

    said = shell.good("copy", "--store", str(store), str(target)).out
    assert said.splitlines()[:2] == ["a: copied", "b: copied"]
    assert "2 logs copied into" in said
    again = shell.good("copy", "--store", str(store), str(target), "--json").out
    assert [json.loads(line) for line in again.splitlines()] == [
        {"log_key": "a", "action": "there already"},
        {"log_key": "b", "action": "there already"},
    ]
    assert content(target) == content(store)


def test_command_refuses_to_copy_over_another_log(store: Path, filled: Log, target: Path) -> None:
    with Checkpoint(target) as used:
        used.log("b").append("x", "mine")
    before = log_file(target, "b").read_bytes()

    said = CommandLine(store.parent).refused("copy", "--store", str(store), str(target))
    assert "'b'" in said
    assert log_file(target, "b").read_bytes() == before
    with pytest.raises(BackupPlaceError):
        copy_store(store, target)


def test_copy_of_a_store_into_itself_is_refused(store: Path, filled: Log, tmp_path: Path) -> None:
    other_name = tmp_path / "other"
    other_name.symlink_to(store)
    before = content(store)

    for target in (store, other_name, Checkpoint(store)):
        with pytest.raises(BackupPlaceError, match="is the store itself; choose another one"):
            copy_store(store, target)
    assert content(store) == before


def test_copied_store_is_only_read(store: Path, filled: Log, target: Path) -> None:
    filled.flush()
    before = {path: looks[-1] for path, looks in tree(store).items() if path.endswith(".jsonl")}
    copy_store(store, target)
    assert {path: looks[-1] for path, looks in tree(store).items() if path.endswith(".jsonl")} == before


@pytest.mark.guarantee(11)
def test_copy_by_somebody_who_may_not_lock_the_logs_says_that_they_may_not_be_of_one_moment(
    store: Path, filled: Log, target: Path, tmp_path: Path, faults: Faults, capfd: pytest.CaptureFixture[str]
) -> None:
    assert copy_store(store, target).is_of_one_moment
    with Checkpoint(store, read_only=True) as reader:
        assert not copy_store(reader, tmp_path / "by a reader").is_of_one_moment

    faults.fail("store_lock", errno.EACCES, on=rf"^{store}/", times=99)
    other = tmp_path / "other"
    code = copy_command.main(["--store", str(store), str(other)], standalone_mode=False)

    assert code == Exit.FAILED
    assert "may not be of one moment" in capfd.readouterr().err
    assert content(other) == content(store)
