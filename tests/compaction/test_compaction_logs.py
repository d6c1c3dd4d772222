"""Logs of every kind compact: those that earlier releases wrote, and those that are repaired after a compaction."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._format.control import Note, note_payload
from mpcheckpoint.errors import CorruptLogError, FormatVersionError
from mpcheckpoint.log import handle_of
from mpcheckpoint.maintenance import repair, stray_files, verify
from support.checkout import GOLDEN
from support.verbs import become_a_new_process, flip, log_file

if TYPE_CHECKING:
    from pathlib import Path

READABLE = {"whole", "padded", "torn"}

pytestmark = pytest.mark.guarantee(12)


def states(store: Path) -> set[str]:
    return {check.state for check in verify(store)}


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.jsonl")))
def test_log_that_an_earlier_release_wrote_compacts_or_is_refused_and_left_alone(
    tmp_path: Path, name: str
) -> None:
    expected = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    data = (GOLDEN / f"{name}.jsonl").read_bytes()
    path = tmp_path / ".checkpoint" / f"{expected['file_name']}.jsonl"
    path.parent.mkdir()
    path.write_bytes(data)
    if expected["outcome"] not in READABLE:
        with pytest.raises((CorruptLogError, FormatVersionError)):
            Checkpoint(tmp_path).log(expected.get("log_key", name)).compact(keep_last=1)
        assert path.read_bytes() == data
        return
    log = Checkpoint(tmp_path).log(*Checkpoint(tmp_path).logs())
    before = [(record.object_key, record.event, record.stamp_us) for record in log.read()]
    last: dict[str, Any] = {each[0]: each for each in before}
    counts = {object_key: log.count(object_key) for object_key in last}

    log.compact(keep_last=1)

    left = [(record.object_key, record.event, record.stamp_us) for record in log.read()]
    assert left == [each for number, each in enumerate(before) if each[0] not in _keys(before[number + 1 :])]
    assert {object_key: log.count(object_key) for object_key in last} == counts
    assert states(tmp_path) == {"whole"}


def _keys(records: list[tuple[str, Any, int]]) -> set[str]:
    return {object_key for object_key, _, _ in records}


def test_notes_of_a_kind_that_is_not_known_stay(store: Path) -> None:
    log = Checkpoint(store).log("a")
    for number in range(3):
        log.append("x", number)
        note = note_payload(Note("of another program", {"number": number}))
        handle_of(log).append_guarded([note], lambda: None)

    assert log.compact(keep_last=1).is_changed

    assert log_file(store).read_bytes().count(b"of another program") == 3


def test_compacted_log_is_sound_and_salvaged_with_what_was_dropped(store: Path) -> None:
    log = Checkpoint(store).log("a")
    for number in range(20):
        log.append("x", [number, "." * 100], record_id=f"id {number}")
    log.compact(keep_last=10)
    for number in range(20, 24):
        log.append("x", [number, "." * 100])
    log.flush()
    assert list(stray_files(store)) == []
    assert states(store) == {"whole"}
    lines = log_file(store).read_bytes().splitlines(keepends=True)
    flip(store, sum(map(len, lines[:6])) + 60)
    become_a_new_process()
    assert states(store) == {"corrupt"}

    assert [done.action for done in repair(store)] == ["salvage"]

    log = Checkpoint(store).log("a")
    left = len(log.events("x"))
    assert 10 <= left < 14
    assert log.count("x") == 10 + left
    log.append("x", "twice", record_id="id 3")
    assert len(log.events("x")) == left
    assert log.compact(keep_last=2).is_changed
    assert log.count("x") == 10 + left
