"""Backups that are compacted while they are copied: what is left out is gone there, and all else goes on."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint._backup.compacted import SPARE_BYTES
from mpcheckpoint.errors import (
    BackupPlaceError,
    ConflictError,
    CorruptLogError,
    InvalidPositionError,
    WriteFailedError,
)
from mpcheckpoint.maintenance import repair, restore, verify
from mpcheckpoint.testing import Ledger, explore_crashes, restart
from support.shell import CommandLine
from support.verbs import become_a_new_process, flip, inside, log_file, tree

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mpcheckpoint.maintenance import Backup

LAST: Mapping[str, Any] = {"keep_last": 1}


def back_up(store: Path, place: Path, compact: bool | Mapping[str, Any] = LAST, **options: Any) -> Backup:
    with Checkpoint(store, create=False, lock_timeout_s=5) as checkpoint:
        return checkpoint.backup(place, compact=compact, **options)


def actions(done: Backup) -> dict[str, str]:
    return {log.log_key: log.action for log in done.logs}


def content(store: Path) -> dict[str, tuple[Any, ...]]:
    with Checkpoint(store, create=False, read_only=True) as checkpoint:
        return dict(checkpoint)


def in_store(log: Log, store: Path) -> Log:
    del log
    become_a_new_process()
    return Checkpoint(store, create=False).log("a")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "backups" / "of store"


@pytest.fixture
def filled(store: Path, log: Log) -> Log:
    """A log of which something can be dropped, beside one of which nothing can."""
    log.append_many([("x", 1), ("y", 1), ("x", 2)])
    log.append("x", 3, record_id="third")
    log.append("x", 4)
    Checkpoint(store).log("b").append("z", 1)
    return log


@pytest.mark.guarantee(12)
def test_compacted_backup_holds_what_a_compaction_leaves_and_the_store_stays_as_it_is(
    store: Path, filled: Log, place: Path
) -> None:
    before = {path: looks[-1] for path, looks in tree(store).items() if path.endswith(".jsonl")}

    done = back_up(store, place)

    assert actions(done) == {"a": "compacted", "b": "new"}
    assert done.is_of_one_moment
    assert done.logs[0].size_bytes == log_file(place).stat().st_size
    assert {path: looks[-1] for path, looks in tree(store).items() if path.endswith(".jsonl")} == before
    assert {each.state for each in verify(place)} == {"whole"}
    assert log_file(place, "b").read_bytes() == log_file(store, "b").read_bytes()
    filled.compact(**LAST)
    assert content(place) == content(store) == {"x": (4,), "y": (1,), "z": (1,)}
    with Checkpoint(place, read_only=True) as saved:
        assert [saved.log("a").count(key) for key in "xy"] == [filled.count(key) for key in "xy"] == [5, 1]


@pytest.mark.guarantee(12)
@pytest.mark.parametrize("compact", [True, {}, {"newer_than_s": 3600}])
def test_compacted_backup_of_a_log_with_nothing_to_drop_is_one_byte_by_byte(
    store: Path, filled: Log, place: Path, compact: bool | Mapping[str, Any]
) -> None:
    back_up(store, place, compact)
    filled.append("x", 5)
    done = back_up(store, place, compact)

    assert actions(done) == {"a": "extended", "b": "unchanged"}
    assert log_file(store).read_bytes().startswith(log_file(place).read_bytes())


@pytest.mark.guarantee(12)
def test_log_that_was_compacted_in_a_backup_is_copied_anew_by_the_next_one(
    store: Path, filled: Log, place: Path
) -> None:
    done = [back_up(store, place), back_up(store, place)]
    filled.append("x", 5)
    done += [
        back_up(store, place),
        back_up(store, place, compact=False),
        back_up(store, place, compact=False),
    ]
    assert content(place) == content(store)
    done.append(back_up(store, place))
    filled.compact(keep_last=2)
    done.append(back_up(store, place, compact=False))

    expected = ["compacted", "compacted", "compacted", "copied anew", "unchanged", "compacted", "copied anew"]
    assert [actions(each)["a"] for each in done] == expected
    assert content(place) == content(store)


@pytest.mark.guarantee(12)
def test_restored_store_goes_on_as_if_it_had_been_compacted_at_the_cut(
    store: Path, filled: Log, place: Path
) -> None:
    dropped = filled.append("x", 5, record_id="dropped")
    at_the_cut = filled.append("x", 6)
    later = []

    def meanwhile(size: int) -> None:
        del size
        if not later:
            later.append(filled.append("x", "after the cut"))

    back_up(store, place, on_progress=meanwhile)
    later.append(filled.append("x", "after the backup"))

    restore(place, store)

    log = in_store(filled, store)
    assert content(store) == {"x": (6,), "y": (1,), "z": (1,)}
    assert log.count("x") == 7
    for position in later:
        with pytest.raises(InvalidPositionError):
            list(log.follow(after=position, idle_timeout_s=0))
    assert [each.event for each in log.follow(after=dropped, idle_timeout_s=0)] == [6]
    assert not list(log.follow(after=at_the_cut, idle_timeout_s=0))
    assert log.append("x", 5, record_id="dropped").stamp_us == dropped.stamp_us
    with pytest.raises(ConflictError):
        log.append("x", 7, expected_count=1)
    log.append("x", 7, expected_count=7)
    assert content(store)["x"] == (6, 7)
    assert actions(back_up(store, place, compact=False)) == {"a": "copied anew", "b": "unchanged"}


@pytest.mark.guarantee(11)
def test_compacted_backup_of_a_later_state_than_the_store_s_is_not_replaced(
    store: Path, filled: Log, place: Path, tmp_path: Path
) -> None:
    shutil.copytree(store, tmp_path / "earlier")
    filled.append("x", "precious")
    back_up(store, place)
    before = tree(place)
    become_a_new_process()
    shutil.rmtree(store)
    (tmp_path / "earlier").rename(store)

    for compact in (LAST, False):
        with pytest.raises(BackupPlaceError, match="no beginning of the store's"):
            back_up(store, place, compact)
    assert {path: looks[-1] for path, looks in tree(place).items()} == {
        path: looks[-1] for path, looks in before.items()
    }


@pytest.mark.guarantee(11)
@pytest.mark.parametrize("compact", [LAST, False])
def test_backup_that_was_compacted_during_a_compaction_of_the_store_is_older_than_what_that_makes(
    store: Path, filled: Log, place: Path, compact: bool | Mapping[str, Any]
) -> None:
    for number in range(2000):
        filled.append("x", number, durability="never")
    done: list[Backup] = []

    def meanwhile(copied: int, size: int) -> None:
        if not done and copied > size * 0.9:  # when the next generation has its header
            done.append(back_up(store, place))

    filled.compact(keep_last=2, on_progress=meanwhile)
    assert actions(done[0])["a"] == "compacted"

    done.append(back_up(store, place, compact))

    assert actions(done[1])["a"] == ("compacted" if compact else "copied anew")
    with Checkpoint(place, read_only=True) as saved:
        assert saved.log("a").events("x") == ((1999,) if compact else (1998, 1999))


@pytest.mark.guarantee(11)
def test_compacted_backup_of_a_later_generation_than_the_store_s_is_not_replaced(
    store: Path, filled: Log, place: Path, tmp_path: Path
) -> None:
    shutil.copytree(store, tmp_path / "earlier")
    filled.recover()
    filled.append("x", "precious")
    back_up(store, place)
    become_a_new_process()
    shutil.rmtree(store)
    (tmp_path / "earlier").rename(store)

    for compact in (LAST, False):
        with pytest.raises(BackupPlaceError, match="newer than the store's"):
            back_up(store, place, compact)
        assert content(place)["x"] == ("precious",)


@pytest.mark.guarantee(12)
@pytest.mark.parametrize("error", [OSError("of the caller's"), ZeroDivisionError()], ids=repr)
def test_error_of_the_caller_s_function_leaves_the_place_as_it_was(
    store: Path, filled: Log, place: Path, error: Exception
) -> None:
    def drop(record: object) -> bool:
        raise error

    with pytest.raises(type(error)) as raised:
        back_up(store, place, {"drop": drop})
    assert raised.value is error
    assert not place.exists()

    back_up(store, place)
    before = {path: looks[-1] for path, looks in tree(place).items()}
    filled.append("x", 5)
    with pytest.raises(type(error)):
        back_up(store, place, {"drop": drop})
    assert {path: looks[-1] for path, looks in tree(place).items()} == before


@pytest.mark.guarantee(9)
def test_compacted_backup_needs_room_for_what_is_left_alone(
    store: Path, filled: Log, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(200):
        filled.append("x", "e" * 200, durability="never")

    monkeypatch.setattr(system, "free_bytes", lambda fd: SPARE_BYTES + 10)
    with pytest.raises(WriteFailedError, match=r"are free there; nothing was changed; free some space"):
        back_up(store, place)
    assert not place.exists()
    monkeypatch.setattr(system, "free_bytes", lambda fd: SPARE_BYTES + 5000)
    assert back_up(store, place).logs[0].size_bytes < 5000
    with Checkpoint(place, read_only=True) as saved:
        assert saved.log("a").count("x") == filled.count("x")


@pytest.mark.guarantee(6)
def test_damaged_log_is_not_compacted_into_a_backup(store: Path, filled: Log, place: Path) -> None:
    for _ in range(40):
        filled.append("x", "e" * 100_000)
    # After much that would be dropped and was read before, and where a writer that knows the end does not look.
    flip(store, log_file(store).stat().st_size * 3 // 4)

    with pytest.raises(CorruptLogError, match=r"a\.jsonl"):
        back_up(store, place)
    assert not place.exists()
    done = back_up(store, place, skip_damaged=True)
    assert [actions(done), len(done.left_out)] == [{"b": "new"}, 1]


@pytest.mark.guarantee(12)
def test_compacted_log_that_is_left_out_later_stays_known_as_compacted(
    store: Path, filled: Log, place: Path
) -> None:
    back_up(store, place)
    whole = log_file(store).read_bytes()
    log_file(store).write_bytes(b"garbage" + whole)
    become_a_new_process()
    Checkpoint(store).log("b").append("w", 1)
    assert actions(back_up(store, place, compact=False, skip_damaged=True)) == {"b": "extended"}

    log_file(store).write_bytes(whole)
    become_a_new_process()

    assert actions(back_up(store, place)) == {"a": "compacted", "b": "unchanged"}


@pytest.mark.guarantee(12)
def test_claim_of_a_live_worker_stays_in_a_compacted_backup(store: Path, filled: Log, place: Path) -> None:
    with filled.claim("x"):
        pass
    with filled.claim("y") as claim:
        assert claim is not None
        back_up(store, place)

    assert log_file(store).read_bytes().count(b'"claim"') > 2
    assert log_file(place).read_bytes().count(b'"claim"') == 1


PLACE = "backup"
made: list[dict[str, tuple[Any, ...]]] = []
returned: list[int] = []


def compacted_and_grown(store: Path, ledger: Ledger) -> None:
    """A first compacted backup, and one after a log grew."""
    made[:], returned[:] = [{}], [0]
    log = Checkpoint(store).log("a")
    for number in range(2):
        ledger.append(log, "x", number)
    next_backup(store, {"x": (1,)})
    restart()
    ledger.append(Checkpoint(store).log("a"), "x", 2)
    next_backup(store, {"x": (2,)})


def next_backup(store: Path, state: dict[str, tuple[Any, ...]]) -> None:
    made.append(state)
    Checkpoint(store).backup(store.parent.parent / PLACE, compact=LAST)
    returned.append(len(made) - 1)


def check_compacted(store: Path, ledger: Ledger) -> None:
    """The backup is what one of the two last ones made it; the next one makes it what the store is."""
    Checkpoint(store)
    list(repair(store))  # a log of which a sync has failed
    place = store.parent.parent / PLACE
    if inside(place).exists():
        list(repair(place))
        assert content(place) in made[returned[-1] :]
        assert {each.state for each in verify(place)} <= {"whole"}
        restart()
    made.append(content(store))  # for the disks that a loss of power leaves after this check
    Checkpoint(store).backup(place)
    assert content(place) == content(store)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.guarantee(12)
def test_compacted_backup_that_dies_at_any_call_is_the_one_before_or_itself(intensity: int) -> None:
    tried = explore_crashes(compacted_and_grown, check=check_compacted, images=min(intensity, 3), nested=0)

    assert tried.points > 40


@pytest.mark.parametrize("bad", [1, "x", None, ["keep_last"], {"keep": 1}, {"keep_last": 0}])
@pytest.mark.usefixtures("filled")
def test_compact_that_says_nothing_sensible_is_refused(store: Path, place: Path, bad: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        back_up(store, place, bad)
    assert not place.exists()


@pytest.mark.usefixtures("filled")
def test_rule_that_is_none_is_refused_with_those_that_there_are(store: Path, place: Path) -> None:
    with pytest.raises(
        TypeError,
        match=r"^compact has no rule 'foo'; there are keep_last, newer_than_s, drop, fold, keep_ids_s, purge$",
    ):
        back_up(store, place, {"keep_last": 1, "foo": 1})


@pytest.mark.usefixtures("filled")
def test_command_compacts_by_the_rules_of_compact(store: Path, tmp_path: Path) -> None:
    shell = CommandLine(tmp_path)
    line = ("backup", "--store", "store", "copy")

    assert "a: " in shell.good(*line, "--compact", "--keep-last", "2", "--drop", "y*").out
    assert content(tmp_path / "copy") == {"x": (3, 4), "z": (1,)}
    (row,) = shell.good(*line, "--compact", "--keep-last", "1", "--json").rows
    assert [each["action"] for each in row["logs"]] == ["compacted", "unchanged"]
    assert content(tmp_path / "copy") == {"x": (4,), "y": (1,), "z": (1,)}
    assert "--compact" in shell.refused(*line, "--keep-last", "1")
    assert not list(inside(tmp_path / "copy").glob("*.tmp"))
