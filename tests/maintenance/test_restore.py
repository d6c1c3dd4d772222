"""Restores: the store is what the backup was, or as it was; nothing is passed over, and no byte is gone."""

from __future__ import annotations

import errno
import gc
import os
import resource
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from mpcheckpoint import Checkpoint, Cursor, Log, Position
from mpcheckpoint import _system as system
from mpcheckpoint._backup.journal import Journal, write_journal
from mpcheckpoint._backup.marker import read_marker
from mpcheckpoint._backup.restore_steps import previous_of_both
from mpcheckpoint._format.control import Header, Restored
from mpcheckpoint._format.frame import EndState
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._logfile.paths import LogPaths
from mpcheckpoint._logfile.successor import find_in_successor
from mpcheckpoint._store.append_locks import AppendLocks
from mpcheckpoint._store.directory import StoreDirectory
from mpcheckpoint.errors import (
    BackupPlaceError,
    CheckpointError,
    CorruptLogError,
    InvalidPositionError,
    LockTimeoutError,
    LogNotFoundError,
    OutcomeUnknownError,
    PoisonedLogError,
    UnfinishedBackupError,
    WriteFailedError,
)
from mpcheckpoint.maintenance import LogRestore, plan_restore, repair, restore, verify
from mpcheckpoint.testing import Ledger, explore_crashes, restart
from support.shell import CommandLine
from support.verbs import Faults, become_a_new_process, flip, inside, log_file, poison, tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
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
    assert actions(restore(place, store)) == {"a": "nothing", "same": "nothing"}
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


# --- again ----------------------------------------------------------------------------------------------------


def quarantined(store: Path) -> list[Path]:
    return sorted(inside(store, "quarantine").glob("*"))


@pytest.fixture
def restored_log(store: Path, log: Log, place: Path) -> Log:
    """A log with all that a log can hold, in a store that was restored."""
    log.append_many([("x", 1), ("y", 1), ("x", 2)])
    log.compact(keep_last=1)
    log.append("x", 3, record_id="id")
    log.forget(["y"])
    with log.claim("x"):
        pass
    Checkpoint(store).log("b").append("z", 1)
    Checkpoint(store).backup(place)
    log.append("x", "later")
    restore(place, store)
    become_a_new_process()
    return Checkpoint(store).log("a")


@pytest.mark.guarantee(11)
def test_second_restore_of_the_same_backup_changes_nothing(
    store: Path, restored_log: Log, place: Path
) -> None:
    before, kept = log_file(store).read_bytes(), quarantined(store)

    plan, done = plan_restore(place, store), restore(place, store)

    assert actions(plan) == actions(done) == {"a": "nothing", "b": "nothing"}
    assert log_file(store).read_bytes() == before
    assert quarantined(store) == kept
    restored_log.recover()  # the same in another generation
    assert actions(restore(place, store)) == {"a": "nothing", "b": "nothing"}
    assert restored_log.events("x") == (2, 3)


@pytest.mark.guarantee(11)
def test_second_restore_into_a_new_place_changes_nothing(
    store: Path, restored_log: Log, place: Path, tmp_path: Path
) -> None:
    restored_log.append("x", "later")
    restore(place, tmp_path / "new")
    assert actions(restore(place, tmp_path / "new")) == {"a": "nothing", "b": "nothing"}
    assert content(tmp_path / "new") == {"x": (2, 3), "z": (1,)}


def write(store: Path, log: Log) -> None:
    log.append("x", "later")


def shrink(store: Path, log: Log) -> None:
    log.compact(drop=lambda record: True)


def damage(store: Path, log: Log) -> None:
    flip(store, log_file(store).stat().st_size // 2)


def tear_it(store: Path, log: Log) -> None:
    with log_file(store).open("ab") as file:
        file.write(b'["0000')


@pytest.mark.guarantee(11)
@pytest.mark.parametrize("change", [write, shrink, damage, tear_it])
def test_second_restore_puts_back_what_changed_since_the_first(
    store: Path, restored_log: Log, place: Path, change: Callable[[Path, Log], None]
) -> None:
    before = content(store)
    change(store, restored_log)
    become_a_new_process()

    done = restore(place, store)

    assert actions(done) == {"a": "put back", "b": "nothing"}
    assert done[0].kept_in is not None
    assert content(store) == before


@pytest.mark.guarantee(11)
def test_restore_of_a_later_backup_into_a_store_that_was_restored_puts_it_back(
    store: Path, restored_log: Log, place: Path, tmp_path: Path
) -> None:
    restored_log.append("x", 4)
    Checkpoint(store).backup(tmp_path / "later")
    assert actions(restore(place, store)) == {"a": "put back", "b": "nothing"}

    assert actions(restore(tmp_path / "later", store)) == {"a": "put back", "b": "nothing"}

    assert content(store) == {"x": (2, 3, 4), "z": (1,)}
    assert actions(restore(tmp_path / "later", store)) == {"a": "nothing", "b": "nothing"}


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
    with pytest.raises(WriteFailedError, match="nothing was changed"):
        restore(place, store)
    fault.clear()
    assert content(store) == later

    fault = faults.fail("replace", errno.EIO, at=3, on="store")  # one log has its name, the other has not
    with pytest.raises(
        WriteFailedError, match="another restore, or mpcheckpoint repair, brings it to an end"
    ):
        restore(place, store)
    fault.clear()
    with pytest.raises(UnfinishedBackupError):
        Checkpoint(store)

    list(repair(store))
    become_a_new_process()
    assert content(store) == saved


# --- stamps and generations ----------------------------------------------------------------------------------


@pytest.fixture
def clock_ahead(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """The clock is an hour ahead, until the function that is yielded sets it right, in a new process."""
    highest_us = clock.highest_us

    def set_right() -> None:
        ahead.undo()
        become_a_new_process()
        clock.highest_us = 0

    with pytest.MonkeyPatch.context() as ahead:
        ahead.setattr(system, "native", None)
        now_us = system.now_us
        ahead.setattr(system, "now_us", lambda: now_us() + 3_600_000_000)
        yield set_right
    clock.highest_us = max(clock.highest_us, highest_us)


@pytest.mark.guarantee(1)
@pytest.mark.parametrize("damage", ["none", "header", "torn end"])
def test_what_is_recorded_after_a_restore_has_higher_stamps_than_what_it_took_out(
    store: Path, log: Log, place: Path, clock_ahead: Callable[[], None], damage: str
) -> None:
    Checkpoint(store).backup(place)
    gone = log.append("x", "gone")
    Checkpoint(store).close()
    if damage == "header":
        flip(store, 30)
    elif damage == "torn end":
        with log_file(store).open("ab") as file:
            file.write(b'["0000')
    clock_ahead()

    restore(place, store)

    assert Checkpoint(store).log("a").append("x", "new").stamp_us > gone.stamp_us


@pytest.mark.guarantee(1)
def test_record_that_a_restore_took_out_is_not_found_in_another_one_with_its_stamp(
    store: Path, log: Log, place: Path
) -> None:
    Checkpoint(store).backup(place)
    gone = log.append("x", "gone")
    restore(place, store)
    new = log.append("x", "new")
    paths = LogPaths.of(str(inside(store)), "a")

    with pytest.raises(OutcomeUnknownError, match="does not hold it"):
        find_in_successor(
            paths, Position("a", gone.generation, gone.offset, new.stamp_us, lineage=gone.lineage)
        )
    assert find_in_successor(paths, new).offset == new.offset


@pytest.mark.guarantee(1)
def test_flush_tells_of_appends_that_a_restore_took_out(store: Path, log: Log, place: Path) -> None:
    Checkpoint(store).backup(place)
    slow = Checkpoint(store, durability="interval:1000").log("a")
    slow.append("x", "gone")
    restore(place, store)
    with pytest.raises(OutcomeUnknownError):
        slow.flush()
    slow.append("x", "new")
    slow.flush()


def test_generations_after_a_restore_that_is_no_longer_named_hold_all() -> None:
    named = tuple(f"{number:032x}" for number in range(500))
    end = EndState(100, 0, 0)
    header = Header("a", "f" * 32, 0, named, end, "", (Restored("e" * 32, 1000),))
    assert header.holds(named[3], 2000)
    assert header.holds("d" * 32, 1000)
    assert not header.holds("d" * 32, 1001)


@pytest.mark.guarantee(3)
@pytest.mark.parametrize("continues", [True, False])
def test_generations_beside_a_cut_hold_what_came_after_it_only_if_they_continue_what_it_made(
    continues: bool,
) -> None:
    first, backed_up, other, end = "1" * 32, "2" * 32, "3" * 32, EndState(100, 0, 0)
    header = Header("a", backed_up, 0, (first,), end, "", (Restored(first, 100),))
    present = Header("a", other, 0, (first, backed_up) if continues else (first,), end)

    previous = (*previous_of_both(header, present), backed_up)
    restored = Header("a", "4" * 32, 0, previous, end, "", (*header.restored, Restored(backed_up, 200)))

    assert sorted(previous) == [first, backed_up, other]
    assert restored.holds(other, 100)
    assert restored.holds(other, 150) == continues
    assert not restored.holds(other, 201)


@pytest.mark.guarantee(3)
def test_positions_of_generations_between_two_restores_stay_valid(
    store: Path, log: Log, place: Path, tmp_path: Path
) -> None:
    checkpoint, later = Checkpoint(store), tmp_path / "later"
    checkpoint.backup(place)
    log.append("x", "gone")
    restore(place, store)
    log.append("x", "between")
    checkpoint.backup(later)
    log.recover()  # a generation that no backup has
    between = list(log.read())[-1].position
    again = log.append("x", "gone again")
    restore(later, store)
    log.append("x", "new")

    assert [record.event for record in log.read(after=between)] == ["new"]
    with pytest.raises(InvalidPositionError):
        list(log.read(after=again))


@pytest.mark.guarantee(11)
def test_generation_that_is_made_when_the_clock_was_set_back_is_newer_than_the_backup(
    store: Path, log: Log, place: Path, clock_ahead: Callable[[], None]
) -> None:
    log.recover()
    Checkpoint(store).backup(place)
    Checkpoint(store).close()
    clock_ahead()
    Checkpoint(store).log("a").recover()
    assert Checkpoint(store).backup(place).logs[0].action == "copied anew"


# --- the backup meanwhile, and the store ---------------------------------------------------------------------


def test_restore_keeps_backups_out_of_the_backup_that_it_reads(store: Path, log: Log, place: Path) -> None:
    Checkpoint(store).backup(place)
    log.append("x", "gone")

    def is_locked(_: int) -> None:
        with pytest.raises(LockTimeoutError), StoreDirectory(place, create=False, read_only=False).locked(0):
            pass
        tried.append(True)

    tried: list[bool] = []
    restore(place, store, on_progress=is_locked)
    assert tried


def begin_a_backup(place: Path) -> None:
    write_journal(str(inside(place)), Journal(doing="backup", lengths={}))


def make_another_backup(place: Path) -> None:
    marker = read_marker(str(inside(place)))
    assert marker is not None
    inside(place, "backup").write_bytes(
        msgspec.json.encode(msgspec.structs.replace(marker, cut_us=marker.cut_us + 1))
    )


@pytest.mark.guarantee(11)
@pytest.mark.parametrize("change", [begin_a_backup, make_another_backup])
def test_backup_that_changes_while_it_is_read_and_cannot_be_locked_is_not_restored(
    store: Path, log: Log, place: Path, faults: Faults, change: Callable[[Path], None]
) -> None:
    Checkpoint(store).backup(place)
    log.append("x", "later")
    before = content(store)
    fault = faults.fail("store_lock", errno.EACCES, on="backup")

    with pytest.raises((UnfinishedBackupError, BackupPlaceError)):
        restore(place, store, on_progress=lambda _: change(place))

    fault.clear()
    assert content(store) == before
    assert not list(inside(store).glob("*.tmp"))
    assert not list(inside(store, "quarantine").glob("*"))


def test_restore_that_would_fill_the_disk_is_refused_before_anything_is_written(
    store: Path, log: Log, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Checkpoint(store).backup(place)
    log.append("x", "later")
    before = tree(store)
    monkeypatch.setattr(system, "space_at", lambda _: SimpleNamespace(free_bytes=0))
    with pytest.raises(WriteFailedError, match=r"are free there; nothing was changed; free some space"):
        restore(place, store)
    assert tree(store) == before


def test_refused_restore_makes_no_store(store: Path, log: Log, place: Path, tmp_path: Path) -> None:
    offset = log.append("x", 1).offset
    log.append("x", 2)
    Checkpoint(store).backup(place)
    flip(place, offset - 20)
    with pytest.raises(CorruptLogError):
        restore(place, tmp_path / "deep" / "elsewhere")
    assert not (tmp_path / "deep").exists()


@pytest.mark.usefixtures("log")
def test_restore_that_cannot_make_its_store_leaves_nothing(
    store: Path, place: Path, tmp_path: Path, faults: Faults
) -> None:
    Checkpoint(store).backup(place)
    fault = faults.fail("replace", errno.EIO, on="elsewhere")  # it gets its name

    with pytest.raises(WriteFailedError):
        restore(place, tmp_path / "deep" / "elsewhere")

    assert fault.hits
    assert not (tmp_path / "deep").exists()


@pytest.mark.guarantee(4)
def test_restore_of_a_log_that_takes_no_appends_makes_it_take_them(
    store: Path, log: Log, place: Path, faults: Faults
) -> None:
    Checkpoint(store).backup(place)
    poison(log, faults)
    log_file(store).write_bytes(log_file(place).read_bytes())  # what is in it is what the backup has
    become_a_new_process()
    with pytest.raises(PoisonedLogError):
        Checkpoint(store).log("a").append("x", 1)

    assert actions(restore(place, store)) == {"a": "put back"}
    Checkpoint(store).log("a").append("x", 1)
    assert content(store) == {"x": (0, 1)}


@pytest.mark.guarantee(11)
def test_restore_needs_one_open_file_a_log(store: Path, place: Path) -> None:
    count = 60
    for number in range(count):
        Checkpoint(store).log(f"log {number}").append("x", number)
    Checkpoint(store).backup(place)
    for number in range(count):
        Checkpoint(store).log(f"log {number}").append("x", "later")
    become_a_new_process()
    gc.collect()

    def with_files(more: int) -> int:
        """Restore in a process that may open so many more files; return 0 if it did, 3 if it was told of the limit."""
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                few = len(os.listdir("/dev/fd")) + more
                resource.setrlimit(
                    resource.RLIMIT_NOFILE, (few, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
                )
                code = 0 if len(restore(place, store)) == count else 2
            except CheckpointError as error:
                code = 3 if "ulimit -n" in str(error) else 4
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert with_files(count // 2) == 3
    assert not list(inside(store, "quarantine").glob("*"))
    assert with_files(count + 20) == 0


# --- all or nothing ------------------------------------------------------------------------------------------


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
    again = shell.good("restore", "--store", "store", "copy", "--yes")
    assert again.out == "nothing to restore: the store is as the backup is\n"
    assert "is no backup" in shell.refused("restore", "--store", "elsewhere", "store")
