"""Restores that die beside programs that go on: what these append is in the store, or in quarantine and told."""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint._backup import restoring
from mpcheckpoint._logfile.paths import LogPaths
from mpcheckpoint._store import cut
from mpcheckpoint._store.append_locks import AppendLocks
from mpcheckpoint._store.directory import StoreDirectory
from mpcheckpoint.errors import (
    CheckpointError,
    LockTimeoutError,
    PoisonedLogError,
    UnfinishedBackupError,
    WriteFailedError,
)
from mpcheckpoint.maintenance import LogRestore, repair, restore
from mpcheckpoint.testing import Ledger, explore_faults, restart
from support.verbs import Faults, become_a_new_process, inside, poison

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SAVED = {"x": (0,), "y": (0,)}


def content(store: Path) -> dict[str, tuple[Any, ...]]:
    with Checkpoint(store, create=False, read_only=True) as checkpoint:
        return dict(checkpoint)


def dies(act: Callable[[], object]) -> bool:
    """Run it in a forked child; return whether that was killed."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 9)
    return code == 9


def die(*_: object) -> None:
    os._exit(9)


def quarantined(store: Path) -> bytes:
    return b"".join(path.read_bytes() for path in inside(store).glob("quarantine/*"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "backup"


@pytest.fixture
def checkpoint(store: Path, log: Log, place: Path) -> Checkpoint:
    """A handle with three logs open, of which the backup has two, each with one record less."""
    checkpoint = Checkpoint(store, lock_timeout_s=5)
    checkpoint.log("b").append("y", 0)
    checkpoint.backup(place)
    checkpoint.log("a").append("x", 1)
    checkpoint.log("b").append("y", 1)
    checkpoint.log("new").append("n", 1)
    return checkpoint


def killed_after_the_journal(store: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(restoring, "finish", die)
        assert dies(lambda: restore(place, store))


@pytest.mark.guarantee(1)
@pytest.mark.guarantee(11)
def test_handle_that_was_open_changes_nothing_until_a_killed_restore_is_finished(
    store: Path, checkpoint: Checkpoint, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after_the_journal(store, place, monkeypatch)
    files = set(inside(store).iterdir())
    a, new = checkpoint.log("a"), checkpoint.log("new")

    for change in (
        lambda: a.append("x", "refused"),
        lambda: new.append("n", "refused"),
        lambda: checkpoint.log("other"),
        a.recover,
        lambda: a.compact(keep_last=1),
        lambda: checkpoint.backup(place.with_name("another")),
    ):
        with pytest.raises(UnfinishedBackupError, match="mpcheckpoint repair"):
            change()

    assert set(inside(store).iterdir()) >= files
    assert dict(checkpoint) == {"x": (0, 1), "y": (0, 1), "n": (1,)}
    list(repair(store))
    assert content(store) == SAVED
    assert b"refused" not in quarantined(store)
    a.append("x", "again")
    assert content(store)["x"] == (0, "again")


@pytest.mark.parametrize("at", ["before", "meanwhile"])
def test_read_only_handle_backs_up_no_half_of_a_restore(
    store: Path, checkpoint: Checkpoint, place: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    reader, look = Checkpoint(store, create=False, read_only=True), cut._look

    def killed_meanwhile(*args: Any) -> bool:
        if not inside(store, "backup.journal").exists():
            killed_after_the_journal(store, place, monkeypatch)
        return look(*args)

    if at == "before":
        killed_after_the_journal(store, place, monkeypatch)
    else:
        monkeypatch.setattr(cut, "_look", killed_meanwhile)
    with pytest.raises(UnfinishedBackupError):
        reader.backup(place.with_name("another"))
    assert not place.with_name("another").exists()


def test_temporary_files_stay_while_there_is_a_journal(
    store: Path, checkpoint: Checkpoint, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after_the_journal(store, place, monkeypatch)
    waiting = set(inside(store).glob("*.tmp"))
    directory = StoreDirectory(store, create=False, read_only=False, is_unfinished_taken=True)
    with directory.locked(1):
        directory.remove_stale_files()
    assert waiting
    assert set(inside(store).glob("*.tmp")) == waiting


@pytest.mark.guarantee(11)
def test_another_restore_goes_on_from_a_killed_one(
    store: Path, checkpoint: Checkpoint, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after_the_journal(store, place, monkeypatch)
    restore(place, store)
    assert content(store) == SAVED


def by_a_repair(place: Path, store: Path) -> list[LogRestore]:
    list(repair(store))
    return []


@pytest.mark.guarantee(1)
@pytest.mark.guarantee(6)
@pytest.mark.parametrize("finish", [by_a_repair, restore])
def test_what_is_appended_after_a_restore_was_killed_goes_to_quarantine_and_is_told(
    store: Path,
    checkpoint: Checkpoint,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    finish: Callable[[Path, Path], list[LogRestore]],
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(restoring, "_finish", die)  # before who has a log open can learn of it
        assert dies(lambda: restore(place, store))
    for log_key in ("a", "new"):
        checkpoint.log(log_key).append("gap", f"late in {log_key}")

    with caplog.at_level(logging.WARNING, "mpcheckpoint"):
        finish(place, store)

    assert content(store) == SAVED
    for log_key in ("a", "new"):
        told = next(each for each in caplog.messages if f"appended to the log {log_key!r} after" in each)
        with open(told.rpartition(" ")[2], "rb") as kept:
            assert f'"late in {log_key}"'.encode() in kept.read()
    assert not any("the log 'b'" in each for each in caplog.messages)


def test_settling_keeps_a_whole_generation_that_the_journal_does_not_know(
    store: Path, checkpoint: Checkpoint, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after_the_journal(store, place, monkeypatch)
    journal = inside(store, "backup.journal")
    hidden = journal.rename(journal.with_name("hidden"))
    checkpoint.log("a").recover()
    hidden.rename(journal)

    list(repair(store))

    assert content(store) == SAVED
    assert quarantined(store).count(b'"log_key":"a"') == 1


def test_settling_waits_for_a_writer_no_longer_than_it_was_told(
    store: Path, checkpoint: Checkpoint, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after_the_journal(store, place, monkeypatch)
    held = AppendLocks()
    held.take(LogPaths.of(str(inside(store)), "a"), 1)
    try:
        with pytest.raises(LockTimeoutError):
            repair(store, lock_timeout_s=0.05)
    finally:
        held.give_back()
    assert inside(store, "backup.journal").exists()
    list(repair(store))
    assert content(store) == SAVED


def test_restored_file_that_is_gone_is_no_end_of_a_restore_and_another_one_is(
    store: Path, checkpoint: Checkpoint, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after_the_journal(store, place, monkeypatch)
    next(inside(store).glob("a.jsonl.*.tmp")).unlink()

    with pytest.raises(UnfinishedBackupError, match="start the restore again"):
        repair(store)
    with pytest.raises(UnfinishedBackupError):
        Checkpoint(store)

    restore(place, store)
    assert content(store) == SAVED
    assert not inside(store, "backup.journal").exists()


def test_settling_twice_leaves_the_poison_of_the_new_generation(
    store: Path, checkpoint: Checkpoint, place: Path, monkeypatch: pytest.MonkeyPatch, faults: Faults
) -> None:
    killed_after_the_journal(store, place, monkeypatch)
    journal = inside(store, "backup.journal").read_bytes()
    list(repair(store))
    become_a_new_process()
    again = Checkpoint(store).log("a")
    again.append("x", 1)
    poison(again, faults)
    inside(store, "backup.journal").write_bytes(journal)

    monkeypatch.setattr("mpcheckpoint._maintenance.repairs.repairing.targets_in", lambda *_: [])
    list(repair(store))

    become_a_new_process()
    with pytest.raises(PoisonedLogError):
        Checkpoint(store).log("a").append("x", 2)


def test_log_that_was_made_is_known_to_open_handles_after_a_repair(
    store: Path, checkpoint: Checkpoint, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in [*inside(store).glob("b.*"), *inside(store).glob("new.*")]:
        path.unlink()
    inside(store, "logs").write_text("\na\n")
    become_a_new_process()
    handle = Checkpoint(store)
    assert set(handle) == {"x"}
    killed_after_the_journal(store, place, monkeypatch)
    list(repair(store))
    assert handle["y"] == (0,)


def test_another_restore_locks_the_logs_that_the_killed_one_made(
    store: Path, checkpoint: Checkpoint, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in inside(store).glob("b.*"):
        path.unlink()
    become_a_new_process()
    killed_after_the_journal(store, place, monkeypatch)
    compared, locked = restoring.compared, list[str]()

    def compared_under_locks(source: Any, saved: Any, logs: list[LogPaths]) -> Any:
        for paths in logs:
            with pytest.raises(LockTimeoutError):
                AppendLocks().take(paths, 0)
            locked.append(paths.log_key)
        return compared(source, saved, logs)

    monkeypatch.setattr(restoring, "compared", compared_under_locks)
    restore(place, store)
    assert locked == ["a", "b"]


def test_interrupt_while_logs_are_replaced_does_not_leave_half_of_them(
    store: Path, checkpoint: Checkpoint, place: Path, faults: Faults
) -> None:
    faults.fail("replace", KeyboardInterrupt(), at=3, on="store")
    with pytest.raises(KeyboardInterrupt) as caught:
        restore(place, store)
    assert "brought to its end" in "".join(caught.value.__notes__)
    assert content(store) == SAVED


def test_journal_that_cannot_be_written_leaves_nothing(
    store: Path, checkpoint: Checkpoint, place: Path, faults: Faults
) -> None:
    faults.fail("replace", errno.EIO, at=1, on="store")
    with pytest.raises(WriteFailedError):
        restore(place, store)
    assert not list(inside(store).glob("*.tmp"))
    assert not quarantined(store)


def test_journal_that_may_be_durable_keeps_what_it_names(
    store: Path, checkpoint: Checkpoint, place: Path, faults: Faults
) -> None:
    faults.fail_afterwards("replace", errno.EIO, at=1, on="store")
    with pytest.raises(WriteFailedError):
        restore(place, store)
    list(repair(store))
    assert content(store) == SAVED


# --- killed at any call --------------------------------------------------------------------------------------


def with_more(store: Path, place: Path) -> Checkpoint:
    """Return a handle on a store that has more than the backup: it has its logs open."""
    restore(place, store)
    handle = Checkpoint(store)
    for log_key, record in {"a": ("x", 1), "b": ("y", 1), "new": ("n", 1)}.items():
        handle.log(log_key).append(*record)
    return handle


def acknowledged_by(handle: Checkpoint) -> list[str]:
    """Append to each log; return what was acknowledged."""
    acknowledged = []
    for log_key in ("a", "b", "new", "newer"):
        try:
            handle.log(log_key).append("late", f"after the crash in {log_key}")
        except CheckpointError:
            continue
        acknowledged.append(f"after the crash in {log_key}")
    return acknowledged


def require_nothing_lost(store: Path, acknowledged: list[str], told: str) -> None:
    """What was acknowledged is in the store, or in a quarantine file that was told."""
    found = content(store)
    events = [event for events in found.values() for event in events]
    kept = b"".join(path.read_bytes() for path in inside(store).glob("quarantine/*") if str(path) in told)
    assert [each for each in acknowledged if each not in events and each.encode() not in kept] == []
    found.pop("late", None)
    assert found in (SAVED, {"x": (0, 1), "y": (0, 1), "n": (1,)})


@pytest.mark.guarantee(1)
@pytest.mark.guarantee(11)
def test_restore_killed_at_any_call_beside_a_handle_that_goes_on_loses_nothing_that_was_acknowledged(
    checkpoint: Checkpoint,
    place: Path,
    tmp_path: Path,
    faults: Faults,
    caplog: pytest.LogCaptureFixture,
    intensity: int,
) -> None:
    caplog.set_level(logging.WARNING, "mpcheckpoint")
    store, listed = tmp_path / "dry", tmp_path / "calls"

    def dry() -> None:
        calls = faults.any_call(0, die)
        restore(place, store)
        listed.write_text(" ".join(calls))

    with_more(store, place)
    assert not dies(dry)
    calls = listed.read_text().split()
    journal = calls.index("replace")  # the first one: before it all is as in every other change
    counts = []
    for number in [*range(1, journal, 50 // intensity), *range(journal, len(calls) + 1)]:
        store = tmp_path / f"store {number}"
        handle = with_more(store, place)

        def killed(store: Path = store, number: int = number) -> None:
            faults.any_call(number, die)
            restore(place, store)

        assert dies(killed)
        acknowledged = acknowledged_by(handle)
        counts.append(len(acknowledged))
        caplog.clear()
        done = by_a_repair(place, store) if number % 2 else restore(place, store)
        told = "\n".join([*caplog.messages, *(str(each.kept_in) for each in done)])
        require_nothing_lost(store, acknowledged, told)
    assert {0, 4} <= set(counts)  # refused by all logs; taken by all


def restored(store: Path, ledger: Ledger) -> None:
    """A backup, more records, and a restore."""
    for event in (0, 1):
        ledger.append(Checkpoint(store).log("a"), "x", event)
        if not event:
            Checkpoint(store).backup(store.parent.parent / "backup")
        restart()
    restore(store.parent.parent / "backup", store)


def check_restored(store: Path, ledger: Ledger) -> None:
    """Repaired, the log is as it was, or as in the backup; another restore makes it so."""
    place = store.parent.parent / "backup"
    if not inside(place, "backup").exists():
        return
    for path in (place, store):
        if inside(path, "backup.journal").exists():
            list(repair(path))
    with Checkpoint(store) as checkpoint:
        assert checkpoint["x"] in ((0,), (0, 1))
    if content(place):
        restore(place, store)
        assert content(store) == {"x": (0,)}


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.guarantee(11)
def test_restore_with_a_call_that_fails_is_a_typed_error_and_all_or_nothing(intensity: int) -> None:
    explore_faults(restored, check=check_restored, errors=[errno.EIO], images=1)
