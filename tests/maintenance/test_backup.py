"""Backups: of one moment, whole or not at all, refused where they would spoil something."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint._backup import backing_up, copying
from mpcheckpoint._backup.journal import Journal, write_journal
from mpcheckpoint._backup.marker import SavedEnd, read_marker
from mpcheckpoint._backup.place import BackupPlace
from mpcheckpoint._format.control import Header, parse_header
from mpcheckpoint._format.scan import Stop, scan
from mpcheckpoint._store import cut
from mpcheckpoint.errors import (
    BackupPlaceError,
    CorruptLogError,
    LockTimeoutError,
    NotAStoreError,
    OutcomeUnknownError,
    PoisonedLogError,
    ReadFailedError,
    ReentrancyError,
    StoreAccessError,
    UnfinishedBackupError,
    WriteFailedError,
)
from mpcheckpoint.maintenance import Backup, repair, restore, verify
from mpcheckpoint.testing import Ledger, explore_crashes, explore_faults, restart
from support.shell import CommandLine
from support.verbs import (
    TORN,
    Faults,
    become_a_new_process,
    flip,
    inside,
    lock_file,
    log_file,
    poison,
    seeded,
    tear,
    tree,
    writer_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpcheckpoint._logfile.paths import LogPaths


def back_up(store: Path, place: Path, **options: Any) -> Backup:
    with Checkpoint(store, create=False, lock_timeout_s=5) as checkpoint:
        return checkpoint.backup(place, **options)


def actions(done: Backup) -> dict[str, str]:
    return {log.log_key: log.action for log in done.logs}


def content(store: Path) -> dict[str, tuple[Any, ...]]:
    with Checkpoint(store, create=False, read_only=True) as checkpoint:
        return dict(checkpoint)


def require_whole(place: Path) -> None:
    """The files of a backup hold whole batches, and nothing else."""
    assert {(each.state, each.loss, each.notes) for each in verify(place)} <= {("whole", None, ())}
    ends = {}
    for path in inside(place).glob("*.jsonl"):
        data = path.read_bytes()
        header = parse_header(data)
        assert isinstance(header, Header)
        found = scan(data[header.end.offset :], header.end)
        assert (found.stop, found.end.offset) == (Stop.END, len(data))
        ends[path.name] = SavedEnd(header.generation, len(data), found.end.stored_crc)
    marker = read_marker(str(inside(place)))
    assert ends == ({} if marker is None else marker.ends or {})


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "backups" / "of store"


# --- what is copied ------------------------------------------------------------------------------------------


@pytest.mark.guarantee(11)
def test_backup_holds_what_the_store_held_and_the_next_one_adds_what_is_new(
    store: Path, log: Log, place: Path
) -> None:
    log.append_many([("x", 1), ("y", 2)])
    Checkpoint(store).log("B b").append("x", "b", record_id="id")
    first = back_up(store, place)
    assert actions(first) == {"B b": "new", "a": "new"}
    assert first.is_of_one_moment
    assert content(place) == content(store)
    assert log_file(place).read_bytes() == log_file(store).read_bytes()[: first.logs[1].size_bytes]

    log.append("x", 3)
    Checkpoint(store).log("c").append("z", 1)
    second = back_up(store, place)
    log.recover()
    third = back_up(store, place)

    assert actions(second) == {"B b": "unchanged", "a": "extended", "c": "new"}
    assert second.copied_bytes == second.logs[1].copied_bytes + second.logs[2].size_bytes
    assert actions(third) == {"B b": "unchanged", "a": "copied anew", "c": "unchanged"}
    assert content(place) == content(store)
    assert sorted(path.name for path in inside(place).iterdir()) == [
        *("%42%20b.jsonl", "a.jsonl", "backup", "c.jsonl", "store.lock")
    ]
    require_whole(place)


@pytest.mark.guarantee(11)
def test_backup_in_which_nothing_changed_writes_nothing_and_reads_the_ends_alone(
    store: Path, log: Log, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append_many([("x", "e" * 200)] * 5000)
    back_up(store, place)
    before = tree(place)
    taken = []
    read_at = system.read_at

    def counted(fd: int, size: int, offset: int) -> bytes:
        data = read_at(fd, size, offset)
        taken.append(len(data))
        return data

    with monkeypatch.context() as patched:
        patched.setattr(system, "read_at", counted)
        done = back_up(store, place)

    assert actions(done) == {"a": "unchanged"}
    assert tree(place) == before
    assert sum(taken) < 50_000 < log_file(store).stat().st_size


@pytest.mark.guarantee(11)
@pytest.mark.usefixtures("early_padding")
def test_backup_leaves_padding_pages_and_locks_in_the_store(store: Path, place: Path) -> None:
    log = Checkpoint(store).log("a")
    for number in range(40):
        log.append("x", number)
    assert log_file(store).read_bytes().endswith(b"\n\n")

    back_up(store, place)
    log.append("x", "more")
    done = back_up(store, place)

    assert actions(done) == {"a": "extended"}
    assert content(place)["x"] == (*range(40), "more")
    assert not list(inside(place).glob("a.[!j]*"))
    require_whole(place)


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("torn", [TORN, b"batch"], ids=["line", "batch"])
def test_backup_takes_no_torn_end_and_no_half_batch(store: Path, log: Log, place: Path, torn: bytes) -> None:
    whole = log.append("x", 1).offset
    if torn == b"batch":
        log.append_many([("x", "half"), ("x", "a batch")], durability="never")
        lines = log_file(store).read_bytes()[whole:].splitlines(keepends=True)
        os.truncate(log_file(store), whole + len(lines[0]))
        inside(store, "a.page").unlink(missing_ok=True)
    else:
        tear(store, torn)
    become_a_new_process()

    back_up(store, place)

    assert content(place) == {"x": (0, 1)}
    require_whole(place)


@pytest.mark.guarantee(6)
def test_backup_of_a_log_with_a_hole_in_what_nobody_synced_is_what_its_repair_leaves(
    store: Path, log: Log, place: Path
) -> None:
    """A power cut may lose any part of what was not durable; the last lines are whole."""
    for number in range(2000):
        log.append("x", number, durability="never")
    flip(store, log_file(store).stat().st_size // 2)
    become_a_new_process()

    assert actions(back_up(store, place)) == {"a": "new"}

    assert log_file(place).read_bytes() == log_file(store).read_bytes()
    assert 500 < len(content(place)["x"]) < 1500


@pytest.mark.guarantee(3)
def test_effect_is_never_in_a_backup_without_its_cause(
    store: Path, log: Log, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody tries to append a cause to a log that was looked at, and its effect to one that is to be looked at."""
    Checkpoint(store).log("b")
    look, refused = cut._look, []

    def looked(paths: Any, *others: Any) -> None:
        look(paths, *others)
        if paths.log_key == "a":
            try:
                other = Checkpoint(store, lock_timeout_s=0.01)
                other.log("a").append("x", "cause")
                other.log("b").append("x", "effect")
            except LockTimeoutError as error:
                refused.append(error)

    with monkeypatch.context() as patched:
        patched.setattr(cut, "_look", looked)
        back_up(store, place)

    assert refused
    assert content(place) == {"x": (0,)}


@pytest.mark.guarantee(3)
def test_log_that_is_made_while_a_cut_waits_for_locks_is_no_cause_of_what_is_in_it(
    store: Path, log: Log, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, refused = cut.AppendLocks.try_take, []

    def taken(self: cut.AppendLocks, *args: Any) -> bool:
        try:
            other = Checkpoint(store, lock_timeout_s=0.01)
            other.log("new").append("x", "cause")
            other.log("a").append("x", "effect")
        except LockTimeoutError as error:
            refused.append(error)
        return take(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(cut.AppendLocks, "try_take", taken)
        back_up(store, place)

    assert refused
    assert content(place) == {"x": (0,)}


@pytest.fixture
def stopped_writer(store: Path) -> Iterator[Callable[[], None]]:
    """A writer of the log "b" that was stopped with its lock; the function has it go on."""
    Checkpoint(store).log("b").append("y", 1)
    lock = lock_file(store, "b").open("r+")
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield lock.close
    lock.close()


@pytest.mark.guarantee(8)
def test_backup_that_waits_for_a_stopped_writer_of_one_log_keeps_nobody_else_waiting(
    store: Path,
    log: Log,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    stopped_writer: Callable[[], None],
) -> None:
    wait_for, waited = cut._wait_for, []

    def others_go_on(paths: LogPaths, *args: Any) -> None:
        other = Checkpoint(store, lock_timeout_s=0.01)
        other.log("a").append("x", "meanwhile")
        other.log("made meanwhile").append("z", 1)
        waited.append(paths.log_key)
        stopped_writer()
        wait_for(paths, *args)

    with monkeypatch.context() as patched:
        patched.setattr(cut, "_wait_for", others_go_on)
        done = back_up(store, place)

    assert waited == ["b"]
    assert done.is_of_one_moment
    assert content(place) == {"x": (0, "meanwhile"), "y": (1,), "z": (1,)}


@pytest.mark.guarantee(8)
@pytest.mark.usefixtures("log", "stopped_writer")
def test_backup_waits_for_a_stopped_writer_no_longer_than_it_was_told(store: Path, place: Path) -> None:
    with (
        Checkpoint(store, create=False, lock_timeout_s=0.1) as checkpoint,
        pytest.raises(LockTimeoutError, match=r"'b' was locked by another writer for 0\.1 s"),
    ):
        checkpoint.backup(place)

    assert not place.exists()


@pytest.mark.guarantee(8)
@pytest.mark.usefixtures("log")
def test_backup_whose_time_is_over_does_not_begin_anew(
    store: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that is free whenever it is waited for, and taken when it is tried, must not keep it going."""
    tries = []

    def held_elsewhere(*args: Any) -> bool:
        tries.append(args)
        return len(tries) > 1

    monkeypatch.setattr(cut.AppendLocks, "try_take", held_elsewhere)
    with (
        Checkpoint(store, create=False, lock_timeout_s=0) as checkpoint,
        pytest.raises(LockTimeoutError),
    ):
        checkpoint.backup(place)


@pytest.mark.guarantee(8)
def test_backup_has_more_patience_each_time_a_lock_was_held_for_too_long(
    store: Path, log: Log, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, patience_s, now_s = cut.AppendLocks.try_take, list[float](), time.monotonic()

    def held_elsewhere(self: cut.AppendLocks, paths: LogPaths, until_s: float) -> bool:
        patience_s.append(until_s - now_s)
        return len(patience_s) > 9 and take(self, paths, until_s)

    with monkeypatch.context() as patched:
        patched.setattr(cut, "time", SimpleNamespace(monotonic=lambda: now_s))
        patched.setattr(cut.AppendLocks, "try_take", held_elsewhere)
        back_up(store, place)

    assert patience_s == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1, 1, 1, 1, 1])


@pytest.mark.guarantee(7)
def test_backup_within_an_append_of_the_same_thread_is_refused(store: Path, log: Log, place: Path) -> None:
    """As in a signal handler."""
    with pytest.raises(ReentrancyError):
        writer_of(store).exclusive(5, lambda _: back_up(store, place))

    assert not place.exists()


@pytest.mark.guarantee(7)
def test_backup_within_a_backup_into_the_same_place_is_refused_and_appends_are_not(
    store: Path, log: Log, place: Path
) -> None:
    def again(size: int) -> None:
        del size
        Checkpoint(store, lock_timeout_s=0.01).log("progress").append("x", "noted")
        with pytest.raises(ReentrancyError):
            Checkpoint(store).backup(place)

    back_up(store, place)
    log.append("x", 1)
    back_up(store, place, on_progress=again)

    assert content(place) == {"x": (0, 1)}


@pytest.mark.guarantee(7)
def test_child_that_is_forked_while_a_backup_is_written_undoes_nothing(
    store: Path, log: Log, place: Path
) -> None:
    back_up(store, place)
    log.append("x", 1)

    class EndOfChildError(Exception):
        pass

    def forked(size: int) -> None:
        del size
        child = os.fork()
        if not child:
            raise EndOfChildError
        os.waitpid(child, 0)

    try:
        back_up(store, place, on_progress=forked)
    except EndOfChildError:
        os._exit(0)

    assert content(place) == {"x": (0, 1)}
    require_whole(place)


@pytest.mark.guarantee(1)
@pytest.mark.parametrize("is_followed", [False, True], ids=["alone", "before another"])
def test_flush_tells_of_an_append_that_a_restore_took_out_before_it_was_durable(
    store: Path, log: Log, place: Path, is_followed: bool
) -> None:
    back_up(store, place)
    late = Checkpoint(store, durability="interval:9999999").log("a")
    late.append("x", "not durable yet")
    restore(place, store)
    if is_followed:
        late.append("x", "after the restore")

    with pytest.raises(OutcomeUnknownError):
        late.flush()

    late.flush()  # told once
    assert content(store) == {"x": (0, "after the restore") if is_followed else (0,)}


@pytest.mark.guarantee(3)
def test_cut_is_by_ends_and_not_by_stamps(
    store: Path, log: Log, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append("x", "first")
    now_us = system.now_us()
    monkeypatch.setattr(system, "now_us", lambda: now_us - 3_600_000_000)
    log.append("x", "the clock stands behind")

    back_up(store, place)

    assert content(place)["x"] == (0, "first", "the clock stands behind")


@pytest.mark.guarantee(1)
def test_backup_makes_what_it_copies_durable_in_the_store_first(
    store: Path, log: Log, place: Path, faults: Faults
) -> None:
    log.append("x", 1, durability="never")
    syncs = faults.watch("sync_data", on=r"store/\.checkpoint/a\.jsonl$")
    seen: list[int] = []
    faults.act("replace", lambda real, *args: (seen.append(syncs.seen), real(*args)), times=99, on="backups")

    back_up(store, place)

    assert seen
    assert all(seen[1:])  # the first one marks the place


# --- places that are refused ---------------------------------------------------------------------------------


def itself(store: Path, tmp_path: Path) -> Path:
    return store


def through_a_link(store: Path, tmp_path: Path) -> Path:
    (tmp_path / "link").symlink_to(store)
    return tmp_path / "link"


def inside_it(store: Path, tmp_path: Path) -> Path:
    return store / "backup"


def around_it(store: Path, tmp_path: Path) -> Path:
    return store.parent


def another_store(store: Path, tmp_path: Path) -> Path:
    Checkpoint(tmp_path / "other").log("a").append("x", "precious")
    return tmp_path / "other"


def backup_of_another_store(store: Path, tmp_path: Path) -> Path:
    Checkpoint(tmp_path / "other").log("a").append("x", "precious")
    back_up(tmp_path / "other", tmp_path / "backup")
    return tmp_path / "backup"


def backup_of_a_store_of_other_logs(store: Path, tmp_path: Path) -> Path:
    Checkpoint(tmp_path / "other").log("other").append("x", "precious")
    back_up(tmp_path / "other", tmp_path / "backup")
    return tmp_path / "backup"


def written_to(store: Path, tmp_path: Path) -> Path:
    back_up(store, tmp_path / "backup")
    Checkpoint(tmp_path / "backup").log("a").append("x", "precious")
    become_a_new_process()
    return tmp_path / "backup"


def of_the_future(store: Path, tmp_path: Path) -> Path:
    old = log_file(store).read_bytes()
    Checkpoint(store).log("a").recover()
    back_up(store, tmp_path / "backup")
    become_a_new_process()
    log_file(store).write_bytes(old)
    inside(store, "a.page").unlink()
    return tmp_path / "backup"


@pytest.mark.guarantee(11)
@pytest.mark.parametrize(
    "made",
    [
        *(itself, through_a_link, inside_it, around_it, another_store, backup_of_another_store),
        *(backup_of_a_store_of_other_logs, written_to, of_the_future),
    ],
)
def test_place_that_cannot_take_the_backup_is_refused_and_left_alone(
    store: Path, log: Log, tmp_path: Path, made: Callable[[Path, Path], Path]
) -> None:
    log.append("x", 1)
    place = made(store, tmp_path)
    before = tree(tmp_path)

    with pytest.raises(BackupPlaceError, match="Nothing was changed"):
        back_up(store, place)

    assert tree(tmp_path).keys() - before.keys() <= {"store/.checkpoint/store.lock"}
    assert {
        path: looks for path, looks in tree(tmp_path).items() if path in before and "x" not in path
    } | before
    for path, looks in before.items():
        assert tree(tmp_path)[path][-1] == looks[-1], path


@pytest.mark.guarantee(11)
def test_file_in_the_place_of_a_backup_is_refused(store: Path, log: Log, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(NotAStoreError):
        back_up(store, tmp_path / "file")


@pytest.mark.guarantee(11)
def test_log_that_the_store_lost_is_kept_in_the_backup(store: Path, log: Log, place: Path) -> None:
    Checkpoint(store).log("b").append("x", "b")
    back_up(store, place)
    log_file(store, "b").unlink()
    become_a_new_process()

    assert back_up(store, place).kept == ("b.jsonl",)
    assert content(place) == {"x": (0, "b")}


@pytest.mark.guarantee(11)
def test_backup_whose_files_have_other_names_too_is_copied_anew(
    store: Path, log: Log, place: Path, tmp_path: Path
) -> None:
    """As by cp -al, for a backup of each day."""
    Checkpoint(store).log("b").append("y", 1)
    back_up(store, place)
    monday = tmp_path / "monday"
    shutil.copytree(place, monday, copy_function=os.link)
    before = {path.name: path.read_bytes() for path in inside(monday).iterdir()}
    log.append("x", 1)

    done = back_up(store, place)

    assert actions(done) == {"a": "copied anew", "b": "unchanged"}
    assert {path.name: path.read_bytes() for path in inside(monday).iterdir()} == before
    assert content(place) == content(store)
    log.append("x", 2)
    assert actions(back_up(store, place)) == {"a": "extended", "b": "unchanged"}


@pytest.mark.guarantee(11)
def test_first_backup_that_meets_another_one_adds_to_it(
    store: Path, log: Log, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, others = BackupPlace.lock, []

    def overtaken(self: BackupPlace, *args: Any) -> None:
        if not others:
            others.append("first")
            others[0] = back_up(store, place)
            log.append("x", 1)
        lock(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(BackupPlace, "lock", overtaken)
        done = back_up(store, place)

    assert [actions(others[0]), actions(done)] == [{"a": "new"}, {"a": "extended"}]
    assert content(place) == content(store)


@pytest.mark.guarantee(11)
def test_first_backup_whose_place_another_one_removes_makes_it_again(
    store: Path, log: Log, place: Path, faults: Faults
) -> None:
    removed = faults.fail("store_lock", errno.ENOENT, on="/backups/")

    assert actions(back_up(store, place)) == {"a": "new"}
    assert removed.hits


@pytest.mark.guarantee(11)
def test_log_that_is_replaced_before_it_is_copied_is_looked_at_again(
    store: Path, log: Log, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_logs, tries = backing_up._write_logs, []

    def replaced(*args: Any) -> None:
        tries.append(None)
        if len(tries) == 1:
            log.recover()
        write_logs(*args)

    with monkeypatch.context() as patched:
        patched.setattr(cut, "_SHARE", 10**9)  # no log stays open
        patched.setattr(backing_up, "_write_logs", replaced)
        back_up(store, place)

    assert len(tries) == 2
    assert log_file(place).read_bytes() == log_file(store).read_bytes()[: log_file(place).stat().st_size]


# --- logs that are not well -----------------------------------------------------------------------------------


@pytest.mark.guarantee(6)
def test_corrupt_log_is_named_and_nothing_is_changed_or_the_others_go_on_if_asked(
    store: Path, log: Log, place: Path
) -> None:
    log.append("x", 1)
    back_up(store, place)
    offset = log.append("x", 2).offset
    log.append("x", 3)
    Checkpoint(store).log("b").append("y", 1)
    flip(store, offset - 20)
    become_a_new_process()
    before = tree(place)

    with pytest.raises(CorruptLogError, match=r"a\.jsonl"):
        back_up(store, place)
    assert {path: looks[-1] for path, looks in tree(place).items()} == {
        path: looks[-1] for path, looks in before.items()
    }

    done = back_up(store, place, skip_damaged=True)
    assert not done.is_of_one_moment
    assert [type(error) for error in done.left_out] == [CorruptLogError]
    assert content(place) == {"x": (0, 1), "y": (1,)}


@pytest.mark.guarantee(9)
def test_poisoned_log_is_not_backed_up(store: Path, log: Log, place: Path, faults: Faults) -> None:
    poison(log, faults)

    with pytest.raises(PoisonedLogError):
        back_up(store, place)

    assert not place.exists()
    log.recover()
    back_up(store, place)
    assert content(place) == content(store)


@pytest.mark.guarantee(11)
def test_read_only_handle_backs_up_whole_logs_and_says_that_they_are_of_no_one_moment(
    store: Path, log: Log, place: Path
) -> None:
    log.append("x", 1)
    tear(store)
    before = tree(store)

    with Checkpoint(store, read_only=True) as checkpoint:
        done = checkpoint.backup(place)

    assert not done.is_of_one_moment
    assert tree(store) == before
    assert content(place) == {"x": (0, 1)}
    require_whole(place)


@pytest.mark.guarantee(11)
def test_user_who_may_not_take_the_store_lock_gets_whole_logs_that_are_of_no_one_moment(
    store: Path, log: Log, place: Path, faults: Faults
) -> None:
    faults.fail("store_lock", errno.EACCES, on=rf"^{store}/", times=99)

    done = back_up(store, place)

    assert not done.is_of_one_moment
    assert content(place) == {"x": (0,)}


@pytest.mark.guarantee(11)
def test_backup_of_no_one_moment_becomes_one_where_nothing_changed_since_and_stays_one(
    store: Path, log: Log, place: Path
) -> None:
    reader = Checkpoint(store, read_only=True)
    assert not reader.backup(place).is_of_one_moment
    known = read_marker(str(inside(place)))
    assert known is not None
    assert not known.is_of_one_moment

    assert back_up(store, place).is_of_one_moment
    known = read_marker(str(inside(place)))
    assert known is not None
    assert known.is_of_one_moment
    assert reader.backup(place).is_of_one_moment
    log.append("x", 1)
    assert not reader.backup(place).is_of_one_moment


@pytest.mark.guarantee(6)
def test_torn_log_that_is_locked_is_no_damaged_one(
    store: Path, log: Log, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tear(store)

    def locked(*args: Any) -> None:
        raise LockTimeoutError("it is locked")

    monkeypatch.setattr(cut, "repair_end", locked)
    with pytest.raises(LockTimeoutError):
        back_up(store, place, skip_damaged=True)
    assert not place.exists()


@pytest.mark.guarantee(11)
@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE])
@pytest.mark.parametrize("name", ["jsonl", "lock"])
def test_backup_that_is_short_of_descriptors_says_so_and_changes_nothing(
    store: Path, log: Log, place: Path, faults: Faults, error: int, name: str
) -> None:
    log.append("x", 1)
    become_a_new_process()
    at = 2 if name == "jsonl" else 1  # the first time for its key
    faults.fail("open_file", error, on=rf"a\.{name}$", at=at, times=9)

    with pytest.raises(ReadFailedError, match=r"too many open|ulimit -n"):
        back_up(store, place, skip_damaged=True)

    assert not place.exists()


# --- all or nothing -------------------------------------------------------------------------------------------


@pytest.mark.guarantee(11)
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
@pytest.mark.parametrize("is_first", [True, False])
def test_backup_that_fails_or_is_interrupted_leaves_the_place_as_it_was(
    store: Path, log: Log, place: Path, faults: Faults, error: BaseException, is_first: bool
) -> None:
    log.append("x", 1)
    if not is_first:
        back_up(store, place)
        log.append("x", 2)
        Checkpoint(store).log("b").append("x", 2)
    before = {path: looks[-1] for path, looks in tree(place.parent.parent).items() if "backups" in path}
    for at in range(1, 40):
        fault = faults.fail("write_at", error, at=at, on="backups")
        try:
            back_up(store, place)
        except (WriteFailedError, KeyboardInterrupt):
            after = {
                path: looks[-1] for path, looks in tree(place.parent.parent).items() if "backups" in path
            }
            assert after == before
        fault.clear()
        if not fault.hits:
            break
    assert content(place) == content(store)


@pytest.mark.guarantee(11)
def test_unfinished_backup_is_not_opened_and_a_repair_or_the_next_backup_sets_it_back(
    store: Path, log: Log, place: Path
) -> None:
    log.append("x", 1)
    back_up(store, place)
    size = log_file(place).stat().st_size
    for set_back in (lambda: list(repair(place)), lambda: back_up(store, place)):
        write_journal(str(inside(place)), Journal(doing="backup", lengths={"a.jsonl": size}))
        with log_file(place).open("ab") as file:
            file.write(b'["0000')
        for look in (lambda: Checkpoint(place), lambda: list(verify(place))):
            with pytest.raises(UnfinishedBackupError, match="mpcheckpoint repair"):
                look()

        set_back()

        assert content(place) == {"x": (0, 1)}
        require_whole(place)


@pytest.mark.guarantee(11)
@pytest.mark.parametrize("name", ["../a.jsonl", "/etc/passwd", "", ".."])
def test_journal_that_names_what_lies_elsewhere_is_refused(
    store: Path, log: Log, place: Path, name: str
) -> None:
    back_up(store, place)
    write_journal(str(inside(place)), Journal(doing="backup", lengths={name: 0}))
    with pytest.raises(UnfinishedBackupError, match="no name of a file"):
        back_up(store, place)


@pytest.mark.guarantee(9)
def test_backup_that_would_fill_the_disk_says_so_and_changes_nothing(
    store: Path, log: Log, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "space_at", lambda _: SimpleNamespace(free_bytes=0))

    with pytest.raises(WriteFailedError, match=r"0 are free there; nothing was changed; free some space"):
        back_up(store, place)

    assert not place.exists()


@pytest.mark.guarantee(11)
@pytest.mark.parametrize("act", [back_up, lambda store, place: Checkpoint(place)], ids=["backup", "store"])
@pytest.mark.usefixtures("log")
def test_place_where_no_directory_can_be_made_is_called_so(
    store: Path, act: Callable[[Path, Path], object]
) -> None:
    with pytest.raises(
        StoreAccessError, match=r"/proc/x cannot be made: /proc takes no new directories; choose"
    ):
        act(store, Path("/proc/x"))


LEFT = [f"{name}.{'0' * 32}.tmp" for name in ("backup.journal", "backup", "a.jsonl", "gone.jsonl")]


@pytest.mark.guarantee(11)
@pytest.mark.parametrize("state", ["new", "unchanged", "changed"])
def test_backup_clears_away_what_a_killed_one_left(store: Path, log: Log, place: Path, state: str) -> None:
    if state == "new":  # killed before the place was marked
        inside(place).mkdir(parents=True)
        inside(place, "store.lock").touch()
    else:
        back_up(store, place)
    if state == "changed":
        log.append("x", 1)
    for name in LEFT:
        inside(place, name).write_bytes(b"{")
    inside(place, "not ours.tmp").touch()

    back_up(store, place)

    left = {path.name for path in inside(place).iterdir()}
    assert left == {"a.jsonl", "backup", "store.lock", "not ours.tmp"}


@pytest.mark.guarantee(9)
@pytest.mark.parametrize("at", [1, 2], ids=["made", "marked"])
def test_first_backup_whose_place_cannot_be_made_or_marked_leaves_nothing(
    store: Path, log: Log, place: Path, faults: Faults, at: int
) -> None:
    fault = faults.fail("replace", errno.EIO, on="backups", at=at)

    with pytest.raises(WriteFailedError):
        back_up(store, place)

    assert fault.hits
    assert not place.parent.exists()


PLACE = "backup"
made: list[dict[str, tuple[Any, ...]]] = []
returned: list[int] = []


def backed_up_and_grown(store: Path, ledger: Ledger) -> None:
    """A first backup, and one with a log that grew and a new one."""
    made[:], returned[:] = [{}], [0]
    ledger.append(Checkpoint(store).log("a"), "x", 0)
    next_backup(store, {"x": (0,)})
    restart()
    ledger.append(Checkpoint(store).log("a"), "x", 1)
    ledger.append(Checkpoint(store).log("b"), "y", 0)
    next_backup(store, {"x": (0, 1), "y": (0,)})


def backed_up_and_recovered(store: Path, ledger: Ledger) -> None:
    """A first backup, and one after a log got another generation and another one grew."""
    made[:], returned[:] = [{}], [0]
    ledger.append(Checkpoint(store).log("a"), "x", 0)
    ledger.append(Checkpoint(store).log("b"), "y", 0)
    next_backup(store, {"x": (0,), "y": (0,)})
    restart()
    Checkpoint(store).log("a").recover()
    ledger.append(Checkpoint(store).log("b"), "y", 1)
    next_backup(store, {"x": (0,), "y": (0, 1)})


def next_backup(store: Path, state: dict[str, tuple[Any, ...]]) -> None:
    made.append(state)
    Checkpoint(store).backup(store.parent.parent / PLACE)
    returned.append(len(made) - 1)


def check_backed_up(store: Path, ledger: Ledger) -> None:
    """The backup is what one of the two last ones made it; the next one makes it what the store is."""
    Checkpoint(store)
    list(repair(store))  # a log of which a sync has failed
    place, now = store.parent.parent / PLACE, content(store)
    if inside(place).exists():
        list(repair(place))
        found = content(place)
        assert found in made[returned[-1] :]
        assert all(now[key][: len(events)] == events for key, events in found.items())
        require_whole(place)
        restart()
    made.append(now)  # for the disks that a loss of power leaves after this check
    Checkpoint(store).backup(place)
    assert content(place) == now
    assert not list(inside(place).glob("*.tmp"))
    require_whole(place)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.guarantee(11)
@pytest.mark.parametrize("scenario", [backed_up_and_grown, backed_up_and_recovered])
def test_backup_that_dies_at_any_call_is_the_one_before_or_itself(
    intensity: int, scenario: Callable[[Path, Ledger], None]
) -> None:
    tried = explore_crashes(scenario, check=check_backed_up, images=min(intensity, 3), nested=0)

    assert tried.points > 40


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.guarantee(11)
def test_backup_with_a_call_that_fails_is_a_typed_error_and_the_one_before_or_itself() -> None:
    tried = explore_faults(backed_up_and_grown, check=check_backed_up, errors=[errno.EIO], images=1)

    assert tried.points > 40


WRITER = """
import sys
from mpcheckpoint import Checkpoint
checkpoint = Checkpoint(sys.argv[1], durability="never")
logs = [checkpoint.log(key) for key in "abc"]
number = 0
while True:
    for log in logs:
        log.append("x", number)
    number += 1
"""
BACKUPS = """
import sys
from mpcheckpoint import Checkpoint
while True:
    Checkpoint(sys.argv[1]).backup(sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.guarantee(11)
def test_backups_that_are_killed_while_others_write_hold_whole_moments(store: Path, place: Path) -> None:
    Checkpoint(store)
    chance = seeded("killed backups")
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(store)])
    try:
        for _ in range(8):
            victim = subprocess.Popen([sys.executable, "-c", BACKUPS, str(store), str(place)])
            time.sleep(chance.uniform(0.3, 0.9))
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            if not inside(place, "backup").exists():
                continue
            list(repair(place))
            require_whole(place)
            with Checkpoint(place, read_only=True) as checkpoint:
                there = checkpoint.logs()
                a, b, c = (checkpoint.log(key).count("x") if key in there else 0 for key in "abc")
            assert 0 <= a - c <= 1
            assert a >= b >= c
    finally:
        writer.kill()
        writer.wait()
    assert back_up(store, place).is_of_one_moment
    require_whole(place)


# --- the pace, and the command --------------------------------------------------------------------------------


def test_limit_rate_pauses_for_what_was_copied_too_fast(
    store: Path, log: Log, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append_many([("x", "e" * 200)] * 100)
    size = log_file(store).stat().st_size
    clock = [0.0]
    # A clock for this module alone: threads of the process go on with the real one.
    clockwork = SimpleNamespace(
        monotonic=lambda: clock[0], sleep=lambda seconds: clock.__setitem__(0, clock[0] + seconds)
    )
    monkeypatch.setattr(copying, "time", clockwork)
    told: list[int] = []

    back_up(store, place, limit_rate=size // 10, on_progress=told.append)

    assert clock[0] == pytest.approx(10, rel=0.2)
    assert sum(told) == back_up(store, place).logs[0].size_bytes
    with pytest.raises(ValueError, match="limit_rate"):
        back_up(store, place, limit_rate=0)


def test_backup_command_says_what_it_did(store: Path, log: Log, tmp_path: Path) -> None:
    shell = CommandLine(tmp_path)
    log.append("x", 1)

    first = shell.good("backup", "--store", "store", "copy")
    assert "a: " in first.out
    assert "1 log as of " in first.out
    assert "0 bytes copied, 1 unchanged" in shell.good("backup", "--store", "store", "copy").out
    log.append("x", 2)
    (row,) = shell.good("backup", "--store", "store", "copy", "--json", "--limit-rate", "10M").rows
    assert [each["action"] for each in row["logs"]] == ["extended"]
    assert "is the store itself" in shell.refused("backup", "--store", "store", "store")
    assert "is no rate" in shell.refused("backup", "--store", "store", "copy", "--limit-rate", "fast")
