"""Objects that are forgotten: no view shows them from then on, and after a purge no byte of them is left."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint._view import log_handle
from mpcheckpoint.errors import ConflictError, InvalidKeyError, LimitExceededError, ReadOnlyError
from mpcheckpoint.testing import SimulatedProcess
from support.processes import call
from support.verbs import tear

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.guarantee(12)


@pytest.fixture
def log(store: Path) -> Log:
    """A log with two records of "gone" and one of "stays", under the ids "g0", "g1" and "s"."""
    log = Checkpoint(store).log("k")
    log.append("gone", "secret 0", record_id="g0")
    log.append("stays", 1, record_id="s")
    log.append("gone", "secret 1", record_id="g1")
    return log


def bytes_in(store: Path) -> bytes:
    """Return the bytes of all files of a store, and their names."""
    paths = [path for path in store.rglob("*") if path.is_file()]
    return b"\n".join(bytes(path.name, "utf-8") + b"\n" + path.read_bytes() for path in paths)


def counts_elsewhere(store: Path) -> tuple[int, list[object], list[str]]:
    with Checkpoint(store) as checkpoint:
        log = checkpoint.log("k")
        return log.count("gone"), list(log.events("gone")), list(checkpoint)


def test_no_view_shows_what_was_forgotten(store: Path, log: Log) -> None:
    checkpoint = Checkpoint(store, read_only=True, log_keys=["k"])
    other = checkpoint.log("k")
    snapshot = checkpoint.snapshot()
    assert other.events("gone") == ("secret 0", "secret 1")
    log.forget("gone")
    assert log.events("gone") == other.events("gone") == ()
    assert log.count("gone") == other.count("gone") == 0
    assert "gone" not in checkpoint
    assert list(checkpoint) == ["stays"]
    assert [each.object_key for each in checkpoint.objects()] == ["stays"]
    assert log.stats()["objects"] == 1
    assert call(counts_elsewhere, store) == (0, [], ["stays"])
    assert snapshot["gone"] == ("secret 0", "secret 1")  # frozen before


def test_forgotten_object_begins_anew(log: Log) -> None:
    log.forget("gone")
    assert log.append("gone", "new", expected_count=0, record_id="g0") > log.append("stays", 1, record_id="s")
    assert log.events("gone") == ("new",)
    assert log.append("gone", "new", record_id="g0") is not None
    assert log.count("gone") == 1
    assert log.events("stays") == (1,)


def test_several_are_forgotten_at_once_and_unknown_ones_are_no_error(log: Log) -> None:
    assert log.forget([]) is None
    log.forget(["gone", "stays", "never there"])
    assert log.events("gone") == log.events("stays") == ()
    with pytest.raises(InvalidKeyError):
        log.forget(["gone", 3])  # type: ignore[list-item]


def test_what_is_too_long_for_a_line_is_not_forgotten_nor_claimed(
    store: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_handle, "MAX_LINE_BYTES", 1000)
    for refused in (lambda: log.forget(["gone", "x" * 1000]), lambda: log.claim("x" * 1000).__enter__()):
        with pytest.raises(LimitExceededError):
            refused()
    assert Checkpoint(store).log("k").count("gone") == 2


def test_read_only_handles_forget_nothing(store: Path, log: Log) -> None:
    with pytest.raises(ReadOnlyError):
        Checkpoint(store, read_only=True, log_keys=["k"]).log("k").forget("gone")
    assert log.count("gone") == 2


@pytest.mark.parametrize("rules", [None, {}, {"purge": True}, {"keep_ids_s": 0}])
def test_forgetting_and_the_same_again_is_a_change(log: Log, rules: dict[str, Any] | None) -> None:
    transaction = log.transaction()
    transaction.__enter__()
    transaction.events("gone")
    transaction.append("stays", "from what was read")
    log.forget("gone")
    log.append_many([("gone", "secret 0"), ("gone", "secret 1")])
    if rules is not None:
        log.append("newest", 1)
        log.compact(**rules)
        # Nothing of it is left, so neither its stamps tell.
        log.compact(**rules, drop=lambda record: record.object_key in ("newest", "gone"))
    with pytest.raises(ConflictError):
        transaction.__exit__(None, None, None)
    assert log.events("stays") == (1,)


def test_records_without_ids_since_an_object_was_forgotten_are_counted_over_compactions(store: Path) -> None:
    log = Checkpoint(store).log("plain")
    log.forget("plain")
    for number in range(4):
        log.append("plain", number)

    log.compact(keep_last=1)

    assert log.count("plain") == 4


def test_object_that_is_forgotten_while_it_is_compacted_begins_anew(store: Path, log: Log) -> None:
    other = SimulatedProcess()
    log.forget("gone")
    log.append_many([("gone", number) for number in range(4)])

    def forget(done: int, total: int) -> None:
        if done == total and Checkpoint(store, read_only=True).log("k").count("gone"):
            with other:
                Checkpoint(store).log("k").forget("gone")

    log.compact(keep_last=1, on_progress=forget)

    assert log.count("gone") == 0
    assert call(counts_elsewhere, store) == (0, [], ["stays"])
    other.kill()


def test_streams_show_the_past_until_the_next_compaction(log: Log) -> None:
    log.forget("gone")
    assert [record.object_key for record in log.read()] == ["gone", "stays", "gone"]
    assert log.compact().is_changed
    assert [record.object_key for record in log.read()] == ["stays"]


def test_forgetting_outlives_compactions(store: Path, log: Log) -> None:
    log.compact(keep_last=1)  # so that there are counts and ids of dropped records
    log.forget("gone")
    log.append("gone", "new")
    for _ in range(2):
        log.compact(keep_last=1)
        assert log.count("gone") == 1
        assert call(counts_elsewhere, store) == (1, ["new"], ["stays", "gone"])
    log.append("gone", "again", record_id="g0")
    assert log.events("gone") == ("new", "again")


def test_reader_that_goes_on_in_the_next_generation_is_told_of_each_forget_once(log: Log) -> None:
    log.forget("gone")
    reader = log._handle.reader()
    log.append("gone", "new")
    told = [list(reader.poll())]
    log.compact(keep_last=1)
    log.forget("stays")
    told.append(list(reader.poll()))

    forgets = [[each.object_key for chunk in chunks for each in chunk.forgets] for chunks in told]
    assert forgets == [["gone"], ["stays"]]


@pytest.mark.parametrize("keep_ids_s", [3600, 0])
def test_what_came_after_an_object_was_forgotten_is_counted_over_compactions(
    store: Path, log: Log, keep_ids_s: int
) -> None:
    log.forget("gone")
    log.append_many([("gone", 0), ("stays", 2)])
    for number in range(1, 5):
        log.append("gone", number, record_id=f"g{number}")
    for turn in range(3):
        log.compact(keep_last=1, keep_ids_s=keep_ids_s)
        assert log.count("gone") == 5 + turn
        assert counts_elsewhere(store) == (5 + turn, [4 + turn], ["stays", "gone"])
        if keep_ids_s:
            log.append("gone", "again", record_id="g1")
        log.append("gone", 5 + turn, expected_count=5 + turn)
    log.forget("gone")
    assert log.count("gone") == 0
    assert counts_elsewhere(store) == (0, [], ["stays"])
    log.append("gone", "anew", record_id="g1")
    assert log.events("gone") == ("anew",)


def test_what_came_after_a_forget_is_counted_where_there_are_no_record_ids(store: Path) -> None:
    log = Checkpoint(store).log("plain")
    log.append("x", "old")
    log.forget("x")
    log.append_many([("x", number) for number in range(5)])
    log.compact(keep_last=1)
    assert log.count("x") == Checkpoint(store).log("plain").count("x") == 5


def test_purge_leaves_no_byte_in_the_store(store: Path, log: Log) -> None:
    log.append("gone", "secret", record_id="g3")
    log.compact(keep_last=1)
    with log.claim("gone"):
        pass
    tear(store, b'["000000ff",secret of gone', "k")
    log.append("stays", 2)
    assert len(log.repairs()) == 1
    log.forget("gone")
    log.compact()
    assert b"gone" in bytes_in(store)
    assert log.compact(purge=True, dry_run=True).is_changed is False
    assert b"gone" in bytes_in(store)
    log.compact(purge=True)
    found = bytes_in(store)
    assert b"secret" not in found
    assert b"gone" not in found.replace(b'"control":"gone"', b"")
    assert log.repairs() == []
    assert log.events("stays") == (1, 2)
    assert log.count("stays") == 2


def test_purge_of_an_object_that_is_claimed_leaves_nothing_of_the_claim(store: Path, log: Log) -> None:
    with log.claim("gone") as claim:
        assert claim is not None
        log.forget("gone")
        log.compact(purge=True)
        assert b"gone" not in bytes_in(store).replace(b'"control":"gone"', b"")


def test_reader_that_does_not_know_what_forgetting_is_may_not_pass_over_it(store: Path, log: Log) -> None:
    log.forget("gone")

    (line,) = (each for each in bytes_in(store).splitlines() if b'"control":"forget"' in each)
    assert b"ignorable" not in line


def test_purge_keeps_the_quarantine_of_other_logs(store: Path, log: Log) -> None:
    other = Checkpoint(store).log("other")
    other.append("x", 1)
    tear(store, b"torn", "other")
    other.append("x", 2)
    log.forget("gone")
    log.compact(purge=True)
    assert len(other.repairs()) == 1


def test_store_forgets_in_every_log(store: Path, log: Log) -> None:
    with Checkpoint(store, log_keys=["k"]) as checkpoint:
        Checkpoint(store).log("b").append("gone", 1)
        Checkpoint(store).log("c").append("stays", 1)
        checkpoint.getCheckpointLogKeys()
    checkpoint = Checkpoint(store)
    positions = checkpoint.forget("gone")
    assert sorted(positions) == ["b", "k"]
    assert "gone" not in checkpoint
    assert checkpoint.getCheckpointLogKeys() == []
    assert checkpoint.forget(["gone"]) == {}
    assert log.events("stays") == (1,)


def test_map_runs_forgotten_items_again(log: Log) -> None:
    assert [outcome.value for outcome in log.map(len, ["ab", "abc"], jobs=1)] == [2, 3]
    log.forget("ab")
    assert list(log.pending(["ab", "abc"])) == ["ab"]
    assert sorted((outcome.item, outcome.repeated) for outcome in log.map(len, ["ab", "abc"], jobs=1)) == [
        ("ab", False),
        ("abc", True),
    ]
    log.compact()
    assert list(log.pending(["ab", "abc"])) == []


def test_old_forget_leaves_the_log(log: Log, store: Path) -> None:
    log.forget("gone")
    log.append("stays", 2)
    log.compact(keep_ids_s=0)
    assert b'"control":"forget"' not in (store / ".checkpoint" / "k.jsonl").read_bytes()
    assert log.count("gone") == 0
    assert os.listdir(store / ".checkpoint")
