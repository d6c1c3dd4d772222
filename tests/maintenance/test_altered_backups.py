"""Backups that are not as they were made any more: refused with words, and noticed by verify."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec
import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint._backup.marker import Marker, SavedEnd, read_marker
from mpcheckpoint.errors import BackupPlaceError, CorruptLogError
from mpcheckpoint.maintenance import plan_restore, restore, verify
from support.shell import CommandLine
from support.verbs import become_a_new_process, flip, inside, log_file, tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.guarantee(11)


@pytest.fixture
def place(store: Path, log: Log, tmp_path: Path) -> Path:
    """A backup of a store with two logs, to one of which something came since."""
    log.append_many([("x", 1), ("y", 1)])
    log.append("x", 2)
    Checkpoint(store).log("b").append("z", 1)
    Checkpoint(store).backup(tmp_path / "backup")
    Checkpoint(store).log("b").append("z", 2)
    become_a_new_process()
    return tmp_path / "backup"


def content(store: Path) -> dict[str, tuple[object, ...]]:
    with Checkpoint(store, create=False, read_only=True) as checkpoint:
        return dict(checkpoint)


def marker_of(place: Path) -> Marker:
    marker = read_marker(str(inside(place)))
    assert marker is not None
    return marker


def write_marker(place: Path, marker: Marker) -> None:
    inside(place, "backup").write_bytes(msgspec.json.encode(marker))


def back_up(store: Path, place: Path) -> dict[str, str]:
    with Checkpoint(store, create=False, lock_timeout_s=5) as checkpoint:
        return {log.log_key: log.action for log in checkpoint.backup(place).logs}


# --- what is done to it ---------------------------------------------------------------------------------------


def append(place: Path) -> None:
    Checkpoint(place).log("a").append("x", "foreign")


def replace(place: Path) -> None:
    Checkpoint(place).log("a").recover()


def make_a_log(place: Path) -> None:
    Checkpoint(place).log("c").append("x", "foreign")


def cut_at_a_line(place: Path) -> None:
    data = log_file(place).read_bytes()
    os.truncate(log_file(place), data.rindex(b"\n", 0, -1) + 1)


def cut_all_lines(place: Path) -> None:
    os.truncate(log_file(place), log_file(place).read_bytes().index(b"\n") + 1)


def cut_and_append(place: Path) -> None:
    cut_at_a_line(place)
    append(place)


def remove(place: Path) -> None:
    log_file(place).unlink()


CHANGES: list[tuple[Callable[[Path], None], str]] = [
    (append, "was written to: more follows the records of its log 'a'"),
    (replace, "its log 'a' was written to, or is damaged"),
    (make_a_log, "no backup made its log 'c'"),
    (cut_at_a_line, r"was cut short: its log 'a' has not all of the \d+ bytes.* back up once more"),
    (cut_all_lines, "was cut short: its log 'a'"),
    (cut_and_append, "its log 'a' was written to, or is damaged"),
    (remove, r"has lost its a\.jsonl: back up once more"),
]


@pytest.mark.parametrize(("change", "told"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_backup_that_is_not_as_it_was_made_is_not_restored(
    store: Path, place: Path, tmp_path: Path, change: Callable[[Path], None], told: str
) -> None:
    change(place)
    become_a_new_process()
    before = content(store)

    for attempt in (plan_restore, restore):
        for target in (store, tmp_path / "elsewhere"):
            with pytest.raises(BackupPlaceError, match=f"{told}.*Nothing was changed"):
                attempt(place, target)

    assert content(store) == before
    assert not inside(store, "quarantine").exists()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("change", [cut_at_a_line, cut_all_lines, remove])
def test_backup_that_was_cut_short_is_made_whole_by_the_next_one(
    store: Path, place: Path, change: Callable[[Path], None]
) -> None:
    change(place)

    assert back_up(store, place) == {"a": "new" if change is remove else "extended", "b": "extended"}
    restore(place, store)

    assert {(each.state, each.loss, each.notes) for each in verify(place)} == {("whole", None, ())}


@pytest.mark.parametrize("change", [append, replace, make_a_log])
@pytest.mark.parametrize("is_compacted", [True, False])
@pytest.mark.parametrize("is_replaced", [True, False])
def test_backup_that_was_written_to_is_not_replaced_by_the_next_one(
    store: Path, place: Path, change: Callable[[Path], None], is_compacted: bool, is_replaced: bool
) -> None:
    """What was written there is nowhere else; so also where the log of the store is another generation by now."""
    if is_compacted:
        Checkpoint(store).backup(place, compact={"keep_last": 1})
        assert set(marker_of(place).compacted) == {"a.jsonl", "b.jsonl"}
    if is_replaced:
        Checkpoint(store).log("a").recover()
    change(place)
    become_a_new_process()
    before = {path: looks[-1] for path, looks in tree(place).items()}

    with pytest.raises(BackupPlaceError, match=r"written to.*Nothing was changed"):
        back_up(store, place)

    assert {path: looks[-1] for path, looks in tree(place).items()} == before


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("log_key", ["a", "b"])
def test_damage_of_a_backup_is_found_by_a_restore_also_where_the_store_is_as_it_was(
    store: Path, place: Path, log_key: str
) -> None:
    """Nothing came to "a" since the backup."""
    header_bytes = log_file(place, log_key).read_bytes().index(b"\n") + 1
    flip(place, header_bytes + 20, log_key)
    before = content(store)

    for attempt in (plan_restore, restore):
        with pytest.raises(CorruptLogError) as caught:
            attempt(place, store)
        assert (caught.value.path, caught.value.offset) == (str(log_file(place, log_key)), header_bytes)

    assert content(store) == before
    assert not list(inside(store, "quarantine").glob("*"))


def test_log_of_which_there_is_only_the_header_is_as_the_backup_has_it(store: Path, place: Path) -> None:
    cut_all_lines(store)
    become_a_new_process()
    Checkpoint(store).backup(place.with_name("another"))

    plan = {log.log_key: log.action for log in plan_restore(place.with_name("another"), store)}

    assert plan == {"a": "nothing", "b": "nothing"}


# --- what a marker knows --------------------------------------------------------------------------------------


def test_backup_of_an_earlier_release_is_taken_as_it_is_and_the_next_one_notes_its_ends(
    store: Path, place: Path
) -> None:
    Checkpoint(store).log("lost").append("x", "lost")
    back_up(store, place)
    known = marker_of(place)
    log_file(store, "lost").unlink()
    write_marker(place, msgspec.structs.replace(known, ends=None))
    become_a_new_process()

    assert back_up(store, place) == {"a": "unchanged", "b": "unchanged"}
    assert marker_of(place).ends is None
    assert {log.log_key: log.action for log in plan_restore(place, store)}["lost"] == "made"
    assert {each.state for each in verify(place)} == {"whole"}
    Checkpoint(store).log("b").append("z", 3)
    assert back_up(store, place) == {"a": "unchanged", "b": "extended"}

    ends = marker_of(place).ends
    assert ends is not None
    assert ends.keys() == {"a.jsonl", "b.jsonl", "lost.jsonl"}
    assert known.ends is not None
    assert [ends[name] == known.ends[name] for name in sorted(ends)] == [True, False, True]
    restore(place, store)


def test_log_that_was_taken_out_of_a_backup_is_forgotten_by_the_next_one(store: Path, place: Path) -> None:
    Checkpoint(store).log("lost").append("x", "lost")
    back_up(store, place)
    log_file(store, "lost").unlink()
    become_a_new_process()
    log_file(place, "lost").unlink()
    with pytest.raises(BackupPlaceError, match=r"has lost its lost\.jsonl"):
        plan_restore(place, store)

    assert back_up(store, place) == {"a": "unchanged", "b": "unchanged"}

    assert {log.action for log in plan_restore(place, store)} == {"nothing"}


def test_marker_of_many_logs_is_read_whole(place: Path) -> None:
    ends = {f"{number:0100}.jsonl": SavedEnd("0" * 32, number, number) for number in range(2000)}
    marker = msgspec.structs.replace(marker_of(place), ends=ends)
    write_marker(place, marker)

    assert inside(place, "backup").stat().st_size > 256 * 1024
    assert marker_of(place) == marker


# --- verify ---------------------------------------------------------------------------------------------------


def test_verify_tells_of_a_backup_that_was_cut_short_or_written_to(place: Path, tmp_path: Path) -> None:
    shell = CommandLine(tmp_path)
    line = ("verify", "--store", "backup")
    append(place)
    written = shell.good(*line)
    assert "  note: records were added since it was backed up: restore does not take" in written.out
    assert written.out.endswith("all whole\n")

    cut_at_a_line(place)
    cut_at_a_line(place)
    become_a_new_process()
    cut = shell.run(*line)
    assert cut.code == 1
    assert "  not as it was backed up: it has " in cut.out
    assert cut.out.endswith(": 0 damaged, 1 cut short\n")

    remove(place)
    gone = shell.run(*line)
    assert gone.code == 2
    assert "a: could not be checked: it is gone, and was backed up\n" in gone.out


def test_verify_of_a_backup_that_is_being_made_says_nothing_of_its_ends(store: Path, place: Path) -> None:
    told = []

    def look(size: int) -> None:
        del size
        told.extend((each.state, each.loss, each.notes) for each in checks)

    checks = verify(place)
    with Checkpoint(store) as checkpoint:
        checkpoint.log("a").append("x", 3)
        checkpoint.backup(place, on_progress=look)

    assert len(told) == 2
    assert set(told) == {("whole", None, ())}


def test_damage_of_a_backup_is_told_as_that(place: Path) -> None:
    flip(place, log_file(place).stat().st_size // 2)
    flip(place, log_file(place, "b").stat().st_size - 20, "b")

    (middle, end) = verify(place)

    assert (middle.state, middle.loss) == ("corrupt", None)
    assert (end.is_whole, end.loss) == (False, "its last lines are others")
