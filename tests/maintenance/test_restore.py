"""Restores: the store is what the backup was, or as it was; nothing is passed over, and no byte is gone."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Cursor, Log, Position
from mpcheckpoint.errors import (
    BackupPlaceError,
    CorruptLogError,
    InvalidPositionError,
    LockTimeoutError,
    LogNotFoundError,
    UnfinishedBackupError,
    WriteFailedError,
)
from mpcheckpoint.maintenance import LogRestore, plan_restore, repair, restore, verify
from mpcheckpoint.testing import Ledger, explore_crashes, restart
from support.shell import CommandLine
from support.verbs import Faults, become_a_new_process, flip, inside, log_file, tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def content(store: Path) -> dict[str, tuple[Any, ...]]:
    with Checkpoint(store, create=False, read_only=True) as checkpoint:
        return dict(checkpoint)


def actions(logs: list[LogRestore]) -> dict[str, str]:
    return {log.log_key: log.action for log in logs}


def kept_bytes(logs: list[LogRestore]) -> bytes:
    kept = b""
    for log in logs:
        if log.kept_in is not None:
            with open(log.kept_in, "rb") as file:
                kept += file.read()
    return kept


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "backup"


@pytest.mark.guarantee(11)
def test_restore_makes_the_store_what_the_backup_is_and_keeps_what_it_takes_out(
    store: Path, log: Log, place: Path
) -> None:
    checkpoint = Checkpoint(store)
    checkpoint.log("same").append("s", 1)
    log.append_many([("x", 1), ("y", 1)])
    checkpoint.backup(place)
    before = content(store)
    log.append("x", "later", record_id="id")
    checkpoint.log("new").append("n", "new")
    saved = tree(place)

    plan = plan_restore(place, store)
    done = restore(place, store)

    assert actions(plan) == actions(done) == {"a": "put back", "new": "taken out", "same": "nothing"}
    assert [log.is_done for log in done] == [True, True, False]
    assert content(store) == before
    kept = kept_bytes(done)
    assert b'"later"' in kept
    assert b'"new"' in kept
    assert tree(place) == saved
    assert actions(restore(place, store)) == {"a": "put back", "same": "nothing"}  # another generation
    log.append("x", "again", record_id="id")
    become_a_new_process()
    assert content(store)["x"] == (*before["x"], "again")
    assert {each.state for each in verify(store)} == {"whole"}


@pytest.mark.guarantee(11)
def test_restore_where_no_store_is_makes_it(store: Path, log: Log, place: Path, tmp_path: Path) -> None:
    Checkpoint(store).log("B b").append("x", 1)
    Checkpoint(store).backup(place)

    done = restore(place, tmp_path / "elsewhere")

    assert actions(done) == {"B b": "made", "a": "made"}
    assert content(tmp_path / "elsewhere") == content(store)


@pytest.mark.guarantee(6)
def test_restore_puts_a_damaged_log_back(store: Path, log: Log, place: Path) -> None:
    offset = log.append("x", 1).offset
    log.append("x", 2)
    Checkpoint(store).backup(place)
    before = content(store)
    for at in (offset - 20, 30):
        flip(store, at)
        become_a_new_process()
        with pytest.raises(CorruptLogError):
            content(store)

        assert actions(restore(place, store)) == {"a": "put back"}

        become_a_new_process()
        assert content(store) == before


# --- positions -----------------------------------------------------------------------------------------------


@pytest.mark.guarantee(3)
def test_positions_after_the_backup_are_refused_and_those_before_go_on(
    store: Path, log: Log, place: Path
) -> None:
    first = log.append("x", 1)
    last = log.append("x", 2)
    Checkpoint(store).backup(place)
    log.recover()
    gone = log.append("x", "gone")
    restore(place, store)
    new = log.append("x", "new")
    log.recover()
    newer = log.append("x", "newer")

    def events_after(position: Position) -> list[Any]:
        with Checkpoint(store) as checkpoint:
            read = [record.event for record in checkpoint.log("a").read(after=position)]
            cursor = Cursor.of({"a": position})
            assert read == [record.event for record in checkpoint.follow(cursor, idle_timeout_s=0)]
            return read

    assert events_after(first) == [2, "new", "newer"]
    assert events_after(Position.parse(str(last))) == ["new", "newer"]
    assert events_after(new) == ["newer"]
    assert events_after(newer) == []
    with pytest.raises(InvalidPositionError, match="after what a backup had"):
        events_after(gone)


@pytest.mark.guarantee(3)
def test_follower_that_had_got_further_than_the_backup_is_told(store: Path, log: Log, place: Path) -> None:
    behind, ahead = log.follow(idle_timeout_s=0), log.follow(idle_timeout_s=0)
    Checkpoint(store).backup(place)
    assert next(behind).event == next(ahead).event == 0
    log.append("x", "gone")
    assert next(ahead).event == "gone"

    restore(place, store)
    log.append("x", "new")

    assert next(behind).event == "new"
    with pytest.raises(InvalidPositionError, match="begin anew"):
        next(ahead)


@pytest.mark.guarantee(5)
def test_handles_that_are_open_show_what_was_restored(store: Path, log: Log, place: Path) -> None:
    other = Checkpoint(store).log("new")
    inside(store, "new.jsonl").unlink()
    Checkpoint(store).backup(place)
    Checkpoint(store).log("new").append("x", 1)
    log.append("x", "gone")
    assert log.events("x") == (0, "gone")

    restore(place, store)

    assert log.events("x") == (0,)
    with pytest.raises(LogNotFoundError):
        other.append("x", 1)


# --- refused, or whole ---------------------------------------------------------------------------------------


def no_backup(store: Path, place: Path) -> None:
    Checkpoint(place).log("a").append("x", 1)


def of_another_store(store: Path, place: Path) -> None:
    with Checkpoint(store.parent / "other") as other:
        other.log("a").append("x", 1)
        other.backup(place)


def written_to(store: Path, place: Path) -> None:
    Checkpoint(store).backup(place)
    with log_file(place).open("ab") as file:
        file.write(b'["0000')


@pytest.mark.guarantee(11)
@pytest.mark.parametrize("make", [no_backup, of_another_store, written_to])
def test_restore_from_what_is_no_backup_of_this_store_is_refused(
    store: Path, log: Log, place: Path, make: Callable[[Path, Path], None]
) -> None:
    make(store, place)
    log.append("x", "later")
    become_a_new_process()
    before = content(store)
    for attempt in (plan_restore, restore):
        with pytest.raises(BackupPlaceError, match="Nothing was changed"):
            attempt(place, store)
    assert content(store) == before
    assert not inside(store, "quarantine").exists()


@pytest.mark.guarantee(6)
def test_restore_from_a_damaged_backup_changes_nothing(store: Path, log: Log, place: Path) -> None:
    offset = log.append("x", 1).offset
    log.append("x", 2)
    Checkpoint(store).backup(place)
    log.append("x", 3)
    flip(place, offset - 20)
    before = content(store)

    with pytest.raises(CorruptLogError, match="backup"):
        restore(place, store)

    assert content(store) == before
    assert not list(inside(store).glob("*.tmp"))
    assert not list(inside(store, "quarantine").glob("*"))


@pytest.mark.guarantee(8)
def test_restore_waits_for_a_writer_no_longer_than_it_was_told(store: Path, log: Log, place: Path) -> None:
    Checkpoint(store).backup(place)
    log.append("x", 1)
    from mpcheckpoint._backup.cut import AppendLocks
    from mpcheckpoint._logfile.paths import LogPaths

    held = AppendLocks()
    held.take(LogPaths.of(str(inside(store)), "a"), 1)
    try:
        with pytest.raises(LockTimeoutError):
            restore(place, store, lock_timeout_s=0.05)
    finally:
        held.give_back()
    assert log.events("x") == (0, 1)


@pytest.mark.guarantee(11)
def test_restore_that_fails_before_its_journal_leaves_the_store_and_after_it_is_finished_by_a_repair(
    store: Path, log: Log, place: Path, faults: Faults
) -> None:
    Checkpoint(store).log("b").append("y", 1)
    Checkpoint(store).backup(place)
    saved = content(store)
    log.append("x", "later")
    Checkpoint(store).log("b").append("y", "later")
    later = content(store)
    fault = faults.fail("replace", errno.EIO, at=1, on="store")  # the journal gets its name
    with pytest.raises(WriteFailedError):
        restore(place, store)
    fault.clear()
    assert content(store) == later

    fault = faults.fail("replace", errno.EIO, at=3, on="store")  # one log has its name, the other has not
    with pytest.raises(WriteFailedError):
        restore(place, store)
    fault.clear()
    with pytest.raises(UnfinishedBackupError):
        Checkpoint(store)

    list(repair(store))
    become_a_new_process()
    assert content(store) == saved


def restored(store: Path, ledger: Ledger) -> None:
    """A backup, more records, and a restore."""
    ledger.append(Checkpoint(store).log("a"), "x", 0)
    ledger.append(Checkpoint(store).log("b"), "y", 0)
    Checkpoint(store).backup(store.parent.parent / "backup")
    restart()
    ledger.append(Checkpoint(store).log("a"), "x", 1)
    ledger.append(Checkpoint(store).log("b"), "y", 1)
    restart()
    restore(store.parent.parent / "backup", store)


def check_restored(store: Path, ledger: Ledger) -> None:
    """All logs are as they were, or all are as in the backup; another restore makes them so."""
    place = store.parent.parent / "backup"
    if not inside(place, "backup").exists():
        return
    if inside(place, "backup.journal").exists():
        list(repair(place))
    list(repair(store))
    found, saved = content(store), {"x": (0,), "y": (0,)}
    was_acknowledged = len(ledger.attempts) == 4 and ledger.attempts[3].is_acknowledged
    assert found in ([saved, {"x": (0, 1), "y": (0, 1)}] if was_acknowledged else [found])
    if content(place) != saved:
        return
    restart()
    restore(place, store)
    assert content(store) == saved


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.guarantee(11)
def test_restore_that_dies_at_any_call_leaves_the_store_or_the_backup(intensity: int) -> None:
    tried = explore_crashes(restored, check=check_restored, images=min(intensity, 3), nested=0)

    assert tried.points > 40


def test_restore_command_plans_then_restores_then_has_nothing_to_do(
    store: Path, log: Log, tmp_path: Path
) -> None:
    shell = CommandLine(tmp_path)
    shell.good("backup", "--store", "store", "copy")
    assert "nothing to restore" in shell.good("restore", "--store", "store", "copy").out
    log.append("x", "later")
    before = tree(store)

    plan = shell.run("restore", "--store", "store", "copy")
    assert plan.code == 1
    assert "a: is to be put back, as of " in plan.out
    assert plan.out.endswith("to restore 1 log: mpcheckpoint restore --store store copy --yes\n")
    assert tree(store) == before

    done = shell.good("restore", "--store", "store", "copy", "--yes")
    assert "a: was put back, as of " in done.out
    assert "kept in " in done.out
    assert content(store) == {"x": (0,)}
    assert "is no backup" in shell.refused("restore", "--store", "elsewhere", "store")
