"""One truth: what a handle shows is a function of the log's bytes, its own writes included; nothing else changes it."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log, Snapshot
from mpcheckpoint.errors import (
    ClosedError,
    LogNotFoundError,
    LogNotOpenError,
    ReadOnlyError,
    StoreNotFoundError,
)
from mpcheckpoint.testing._power_cuts.mounts import run, unmount
from support.processes import call
from support.verbs import assert_goes_on, become_a_new_process, inside, log_file, tear, tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.tmpfs import TmpFileSystem

pytestmark = pytest.mark.guarantee(5)


@pytest.fixture
def checkpoint(store: Path) -> Checkpoint:
    """A store in which "x" and then "y" were written through the logs "a" and "b"."""
    checkpoint = Checkpoint(store)
    checkpoint.log("a").append("x", {"n": [1]})
    checkpoint.log("b").append("y", "y")
    checkpoint.log("b").append("x", {"n": [2]})
    return checkpoint


# --- values ------------------------------------------------------------------------------------------------


def test_event_changed_after_it_was_written_is_read_as_written(store: Path) -> None:
    log = Checkpoint(store).log("a")
    event: dict[str, Any] = {"list": [1], "deep": {"n": 1}}
    batch = [("x", event), ("y", event["list"])]

    log.append("x", event)
    log.append_many(batch)
    with log.transaction() as transaction:
        transaction.append("x", event)
        event["list"].append(2)
        event["deep"]["n"] = 2
        assert transaction.events("x")[-1] == {"list": [1], "deep": {"n": 1}}

    assert log.events("x") == ({"list": [1], "deep": {"n": 1}},) * 3
    assert log.events("y") == ([1],)


def test_value_changed_after_it_was_read_is_read_again_as_written(checkpoint: Checkpoint) -> None:
    log, snapshot = checkpoint.log("a"), checkpoint.snapshot()
    reads: list[Callable[[], Any]] = [
        lambda: checkpoint["x"][0],
        lambda: checkpoint.getCheckpoints("x")[0],
        lambda: log.events("x")[0],
        lambda: next(log.read()).event,
        lambda: next(log.follow()).event,
        lambda: dict(checkpoint.items())["x"][0],
        lambda: next(iter(checkpoint.values()))[0],
        lambda: snapshot["x"][0],
    ]
    for spoil in reads:
        spoil()["n"].append("spoiled")
        checkpoint.getCheckpoints("x").clear()
        checkpoint.getCheckpointKeys().clear()

    assert [read() for read in reads] == [{"n": [1]}] * len(reads)


def test_view_of_the_writer_is_that_of_a_replay_for_values_json_knows_in_two_ways(store: Path) -> None:
    log = Checkpoint(store).log("a")
    events = [1.0, 1, -0.0, 1e300, 2**53 + 1, "\u2028\0\x7f", {"b": 1, "a": 2}, [[], {}, None, True]]
    for event in events:
        log.append("x", event)

    assert repr(log.events("x")) == repr(tuple(events)) == repr(Checkpoint(store)["x"])


# --- a mapping ---------------------------------------------------------------------------------------------


def test_checkpoint_is_a_mapping_of_tuples(checkpoint: Checkpoint) -> None:
    assert isinstance(checkpoint, Mapping)
    assert checkpoint["x"] == ({"n": [1]}, {"n": [2]})
    assert checkpoint.get("nothing") is None
    assert checkpoint.get("nothing", 5) == 5
    assert list(checkpoint) == list(checkpoint.keys()) == ["x", "y"]
    assert len(checkpoint) == 2
    assert dict(checkpoint) == dict(checkpoint.items()) == {"x": ({"n": [1]}, {"n": [2]}), "y": ("y",)}
    assert list(checkpoint.values()) == [({"n": [1]}, {"n": [2]}), ("y",)]
    with pytest.raises(KeyError):
        checkpoint["nothing"]
    with pytest.raises(TypeError):
        checkpoint["x"] = ()  # type: ignore[index]


def test_membership_takes_any_key(checkpoint: Checkpoint) -> None:
    assert "x" in checkpoint
    assert "nothing" not in checkpoint
    assert not any(key in checkpoint for key in (None, 5, ("x",), b"x", "\ud800"))


def test_checkpoint_is_true_and_equal_to_itself_alone(store: Path) -> None:
    one, other = Checkpoint(store), Checkpoint(store)

    assert one
    assert len(one) == 0
    assert one == one  # noqa: PLR0124
    assert one != other
    assert one != {}
    assert len({one, other, one}) == 2


def test_items_and_values_are_of_one_cut(checkpoint: Checkpoint) -> None:
    items, values = checkpoint.items(), checkpoint.values()
    seen = []
    for key, events in items:
        checkpoint.log("a").append("z", len(seen))
        checkpoint.log("a").append("y", len(seen))
        seen.append((key, events))

    assert seen == [("x", ({"n": [1]}, {"n": [2]})), ("y", ("y",))]
    assert len(values) == 2
    assert checkpoint["z"] == (0, 1)


def test_snapshot_stays_as_it_is(checkpoint: Checkpoint) -> None:
    snapshot = checkpoint.snapshot()
    before = dict(snapshot)
    checkpoint.log("a").append("x", "later")
    checkpoint.log("new").append("z", "later")
    checkpoint.close()

    assert isinstance(snapshot, Snapshot)
    assert dict(snapshot) == before == {"x": ({"n": [1]}, {"n": [2]}), "y": ("y",)}
    assert ("z" in snapshot, "x" in snapshot, len(snapshot), list(snapshot)) == (False, True, 2, ["x", "y"])
    with pytest.raises(TypeError):
        snapshot["x"] = ()  # type: ignore[index]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_snapshot_holds_nothing_of_what_comes_later(store: Path, count: int) -> None:
    """It shares memory with the view, which goes on."""
    checkpoint = Checkpoint(store)
    log = checkpoint.log("a")
    log.append_many([("x", number) for number in range(count)])
    snapshot = checkpoint.snapshot()
    log.append_many([("x", "later"), ("y", "later"), ("x", "later")])
    assert len(checkpoint["x"]) == count + 2
    copy = pickle.loads(pickle.dumps(snapshot))
    log.recover()
    log.append("x", "later still")
    assert len(checkpoint["x"]) == count + 3

    for cut in (snapshot, copy):
        assert dict(cut) == {"x": tuple(range(count))}
        assert ("y" in cut, len(cut), cut.get("y")) == (False, 1, None)


# --- the six names -----------------------------------------------------------------------------------------


def test_six_names_work_as_in_the_older_tool(store: Path) -> None:
    checkpoint = Checkpoint(store)
    checkpoint.createCheckpointLog("photos")
    checkpoint.createCheckpointLog("albums")
    checkpoint.createCheckpointLog("photos")
    checkpoint.writeCheckpoint("photos", "photo123", "UPLOADED")
    checkpoint.writeCheckpoint("albums", "photo123", "ADDED_TO_ALBUM")

    assert checkpoint.getCheckpoints("photo123") == ["UPLOADED", "ADDED_TO_ALBUM"]
    assert checkpoint.getCheckpoints("unknown") == []
    assert checkpoint.getCheckpointKeys() == ["photo123"]
    assert checkpoint.getCheckpointLogKeys() == ["photos", "albums"]

    checkpoint.releaseCheckpointLog("photos")

    assert checkpoint.getCheckpointLogKeys() == ["albums"]
    assert checkpoint.getCheckpoints("photo123") == ["UPLOADED", "ADDED_TO_ALBUM"]
    assert log_file(store, "photos").exists()
    checkpoint.createCheckpointLog("photos")
    checkpoint.writeCheckpoint("photos", "photo123", "AGAIN")
    assert checkpoint.getCheckpoints("photo123")[-1] == "AGAIN"


def test_log_that_is_not_open_refuses_writing_and_releasing(checkpoint: Checkpoint, store: Path) -> None:
    other = Checkpoint(store)
    for attempt in (lambda: other.writeCheckpoint("a", "x", 1), lambda: other.releaseCheckpointLog("a")):
        with pytest.raises(KeyError) as caught:
            attempt()
        assert isinstance(caught.value, LogNotOpenError)
        assert "createCheckpointLog('a')" in str(caught.value)
    log = checkpoint.log("a")
    checkpoint.releaseCheckpointLog("a")
    with pytest.raises(LogNotOpenError):
        log.append("x", 1)
    assert len(other["x"]) == 2


@pytest.mark.guarantee(4)
def test_handle_sees_logs_of_others_at_the_next_read(checkpoint: Checkpoint, store: Path) -> None:
    other = Checkpoint(store)
    assert other.logs() == ["a", "b"]
    checkpoint.log("c").append("x", 3)

    assert other["x"][-1] == 3
    assert other.logs() == ["a", "b", "c"]
    assert other.getCheckpointLogKeys() == []


def test_log_keys_confine_a_handle_to_these_and_those_it_opens(checkpoint: Checkpoint, store: Path) -> None:
    scoped = Checkpoint(store, log_keys=["a"])

    assert scoped.getCheckpointLogKeys() == ["a"]
    assert scoped["x"] == ({"n": [1]},)
    assert "y" not in scoped
    assert scoped.logs() == ["a", "b"]
    assert [record.log_key for record in scoped.follow(idle_timeout_s=0)] == ["a"]
    scoped.createCheckpointLog("b")
    assert scoped["x"] == ({"n": [1]}, {"n": [2]})
    assert list(Checkpoint(store, log_keys=[])) == []


def test_call_that_is_overtaken_by_close_in_another_thread_says_that_the_handle_is_closed(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = checkpoint.log("k")
    store = log._handle.store
    checkpoint.close()
    monkeypatch.setattr(store, "_is_closed", False)  # as it was when these calls looked
    for overtaken in (lambda: log.append("x", 1), lambda: log.events("x"), lambda: log.count("x")):
        with pytest.raises(ClosedError):
            overtaken()


def test_closed_handle_refuses_everything(checkpoint: Checkpoint) -> None:
    log = checkpoint.log("a")
    with checkpoint:
        pass
    checkpoint.close()

    attempts = [
        lambda: checkpoint["x"],
        lambda: "x" in checkpoint,
        lambda: len(checkpoint),
        lambda: list(checkpoint.items()),
        checkpoint.snapshot,
        checkpoint.logs,
        lambda: checkpoint.log("a"),
        lambda: checkpoint.getCheckpoints("x"),
        checkpoint.getCheckpointKeys,
        checkpoint.getCheckpointLogKeys,
        lambda: checkpoint.writeCheckpoint("a", "x", 1),
        checkpoint.__enter__,
        lambda: log.append("x", 1),
        lambda: log.events("x"),
        lambda: list(log.read()),
        log.transaction,
    ]
    for attempt in attempts:
        with pytest.raises(ClosedError):
            attempt()
    assert checkpoint


# --- handles that must not write -----------------------------------------------------------------------------


def read_everything(checkpoint: Checkpoint) -> None:
    assert [event["n"] for event in checkpoint["x"]] == [[1], [2]]
    log = checkpoint.log("a")
    for _ in range(2):
        assert list(log.read()) == list(log.follow(idle_timeout_s=0))
        assert list(log.read(durable=True)) == list(log.follow(idle_timeout_s=0, durable=True))
        (
            checkpoint.snapshot(),
            checkpoint.logs(),
            checkpoint.getCheckpointKeys(),
            list(checkpoint.follow(idle_timeout_s=0)),
        )
        log.stats(), log.repairs(), log.count("x")


@pytest.mark.guarantee(6)
@pytest.mark.rule(28)
@pytest.mark.parametrize("is_torn", [False, True])
def test_read_only_handle_changes_nothing(checkpoint: Checkpoint, store: Path, is_torn: bool) -> None:
    checkpoint.close()
    for name in ("logs", "a.lock", "b.lock", "store.lock"):
        inside(store, name).unlink()
    if is_torn:
        tear(store)
    before = tree(store)

    with Checkpoint(store, read_only=True) as reader:
        read_everything(reader)
        log = reader.log("a")
        writes: list[Callable[[], object]] = [
            lambda: log.append("x", 1),
            lambda: log.append_many([]),
            lambda: reader.writeCheckpoint("a", "x", 1),
            log.transaction,
            lambda: log.update(lambda transaction: None),
            log.flush,
            log.recover,
        ]
        for write in writes:
            with pytest.raises(ReadOnlyError, match="read_only=True"):
                write()
        with pytest.raises(LogNotFoundError):
            reader.log("new")
        reader.releaseCheckpointLog("a")

    assert tree(store) == before


@pytest.mark.parametrize(
    "options", [{"create": False}, {"read_only": True}, {"create": False, "read_only": True}]
)
def test_handle_that_may_not_create_creates_no_store_and_no_log(
    tmp_path: Path, store: Path, options: dict[str, bool]
) -> None:
    before = tree(tmp_path)
    for path in (store, tmp_path / "deep" / "store", tmp_path):
        with pytest.raises(StoreNotFoundError) as caught:
            Checkpoint(path, **options)
        assert isinstance(caught.value, FileNotFoundError)
    assert tree(tmp_path) == before

    Checkpoint(store).log("a")
    before = tree(tmp_path)
    with Checkpoint(store, **options) as handle:
        for attempt in (lambda: handle.log("new"), lambda: handle.createCheckpointLog("new")):
            with pytest.raises(LogNotFoundError):
                attempt()
        assert dict(handle.items()) == {}
    with pytest.raises(LogNotFoundError):
        Checkpoint(store, log_keys=["new"], **options)
    assert tree(tmp_path) == before


def test_log_opened_with_create_false_is_not_created(checkpoint: Checkpoint, store: Path) -> None:
    with pytest.raises(LogNotFoundError):
        checkpoint.log("new", create=False)

    assert not log_file(store, "new").exists()
    assert checkpoint.getCheckpointLogKeys() == ["a", "b"]


@pytest.mark.parametrize("kind", ["remounted", "bound"])
def test_read_only_handle_works_on_a_read_only_mount(
    make_tmpfs: Callable[[int], TmpFileSystem], tmp_path: Path, kind: str
) -> None:
    disk = make_tmpfs(1 << 20)
    call(fill, disk.mountpoint / "store", method="fork")
    if kind == "remounted":
        disk.remount_read_only()
        call(read_on_read_only_mount, disk.mountpoint / "store", method="fork")
        return
    bound = tmp_path / "bound"
    bound.mkdir()
    run("mount", "-o", "bind,ro", disk.mountpoint, bound)
    try:
        call(read_on_read_only_mount, bound / "store", method="fork")
    finally:
        unmount(bound)


def fill(store: Path) -> None:
    checkpoint = Checkpoint(store)
    checkpoint.log("a").append("x", {"n": [1]})
    checkpoint.log("b").append("x", {"n": [2]})
    tear(store)


def read_on_read_only_mount(store: Path) -> None:
    with pytest.raises(OSError, match="Read-only"):
        (store / "new").touch()
    read_everything(Checkpoint(store, read_only=True))
    with pytest.raises(PermissionError, match="read_only=True"):
        Checkpoint(store).log("a").append("x", 1)


# --- logs that come, files that go ---------------------------------------------------------------------------


@pytest.mark.guarantee(4)
def test_handle_that_has_read_sees_a_log_that_is_made_later(store: Path, log: Log) -> None:
    reader = Checkpoint(store, read_only=True)
    for number in range(1, 4):
        assert reader["x"] == tuple(range(number))
        Checkpoint(store).log(f"b{number}").append("x", number)

    assert reader["x"] == (0, 1, 2, 3)


@pytest.mark.guarantee(6)
@pytest.mark.rule(29)
@pytest.mark.parametrize("content", [None, b"", b"rubbish\0\n" * 1000])
def test_store_of_which_all_but_the_logs_is_gone_or_rubbish_is_whole(
    log: Log, store: Path, content: bytes | None
) -> None:
    Checkpoint(store).log("b").append("y", 1)
    others = [path for path in inside(store).iterdir() if path.suffix != ".jsonl" and path.is_file()]
    assert len(others) >= 4
    for path in others:
        path.unlink() if content is None else path.write_bytes(content)
    become_a_new_process()

    assert dict(Checkpoint(store, read_only=True).items()) == {"x": (0,), "y": (1,)}
    assert_goes_on(log, [0])
    assert Checkpoint(store).logs() == ["a", "b"]
