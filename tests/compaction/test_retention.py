"""Logs that look after their own size: recorded in the log, done in the background or at a close, in nobody's way."""

from __future__ import annotations

import itertools
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import mpcheckpoint.checkpoint
from mpcheckpoint import Checkpoint, Log, Retention
from mpcheckpoint import _system as system
from mpcheckpoint._compaction import retention as module
from mpcheckpoint._compaction.retention import Keeper
from mpcheckpoint.errors import ReadOnlyError, WriteFailedError
from mpcheckpoint.log import handle_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mpcheckpoint._view.log_handle import LogHandle

SMALL = Retention(keep_last=1, max_bytes=2000)


@pytest.fixture(autouse=True)
def keeper(monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeper]:
    """One of this test alone: the thread of the process's own would wait as long as an earlier test told it to."""
    own = Keeper()
    monkeypatch.setattr(module, "keeper", own)
    monkeypatch.setattr(mpcheckpoint.checkpoint, "keeper", own)
    yield own
    thread = own._thread
    with own._condition:
        own._watched.clear()
        own._condition.notify()
    if thread is not None:
        thread.join(60)


def size_of(store: Path) -> int:
    return (store / ".checkpoint" / "k.jsonl").stat().st_size


def fill(log: Log, count: int = 100) -> None:
    for number in range(count):
        log.append("x", {"n": number, "text": "y" * 50}, durability="never")


def append_until_small(store: Path, log: Log) -> int:
    """Append until the log is small; return how often. What came while it was made smaller is kept the first time."""
    until = time.monotonic() + 60
    for appended in itertools.count():
        if size_of(store) <= 2000:
            return appended
        assert time.monotonic() < until
        time.sleep(0.02)
        fill(log, 1)
    raise AssertionError


def test_log_is_made_smaller_in_the_background(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.02)
    log = Checkpoint(store).log("k", retention=SMALL)
    appended = 0
    for _ in range(3):
        fill(log)
        appended += 100 + append_until_small(store, log)
    assert log.count("x") == appended
    assert len(log.events("x")) <= 100


def test_close_makes_it_smaller_also_where_the_log_alone_says_so(store: Path) -> None:
    with Checkpoint(store) as checkpoint:
        fill(checkpoint.log("k", retention=SMALL), 1)
    with Checkpoint(store) as checkpoint:
        log = checkpoint.log("k")
        assert log.count("x") == 1  # which reads the log, and what it says of itself
        fill(log)
        assert size_of(store) > 2000
    assert size_of(store) < 2000
    assert Checkpoint(store).log("k").count("x") == 101


def test_without_a_retention_nothing_goes(store: Path) -> None:
    with Checkpoint(store) as checkpoint:
        log = checkpoint.log("k")
        fill(log)
        assert len(log.events("x")) == 100
    assert len(Checkpoint(store).log("k").events("x")) == 100


def test_retention_is_recorded_once_outlives_compactions_and_can_be_changed(store: Path) -> None:
    file = store / ".checkpoint" / "k.jsonl"
    for _ in range(2):
        with Checkpoint(store) as checkpoint:
            checkpoint.log("k", retention=SMALL)
    assert file.read_bytes().count(b'"retention"') == 1
    with Checkpoint(store) as checkpoint:
        checkpoint.log("k", retention=Retention(newer_than_s=5.5))
        checkpoint.log("k").compact(keep_last=1)
    assert file.read_bytes().count(b'"retention"') == 1
    assert b'"newer_than_s":5.5' in file.read_bytes()
    with Checkpoint(store) as checkpoint:
        log = checkpoint.log("k", retention=Retention())  # off
        fill(log)
    assert len(Checkpoint(store).log("k").events("x")) == 100


def test_what_would_keep_more_than_half_is_left_alone(store: Path) -> None:
    log = Checkpoint(store).log("k")
    fill(log)
    own = Keeper()
    before = size_of(store)
    assert own.look_after(handle_of(log), Retention(keep_last=60, max_bytes=1)) is False
    assert size_of(store) == before
    # Not looked into again before it is long enough that half of it can go.
    (again_bytes,) = own._next_bytes.values()
    planned = log.compact(keep_last=60, dry_run=True)
    assert again_bytes == 2 * planned.bytes_after
    assert again_bytes == pytest.approx(1.24 * planned.bytes_before, rel=0.01)
    own._next_bytes = dict.fromkeys(own._next_bytes, 2**40)
    assert own.look_after(handle_of(log), Retention(keep_last=1, max_bytes=1)) is False
    own._next_bytes = dict.fromkeys(own._next_bytes, again_bytes)
    fill(log, 200)
    assert own.look_after(handle_of(log), Retention(keep_last=1, max_bytes=1)) is True


def test_one_that_is_compacted_elsewhere_is_not_waited_for(store: Path) -> None:
    log = Checkpoint(store).log("k")
    fill(log)
    lock = store / ".checkpoint" / "k.compact"
    lock.touch()
    with system.store_lock(os.fspath(lock), None):
        begun_s = time.monotonic()
        assert Keeper().look_after(handle_of(log), SMALL) is False
        assert time.monotonic() - begun_s < 30
    assert Keeper().look_after(handle_of(log), SMALL) is True


@pytest.mark.parametrize("name", ["k.lock", "store.lock"])
def test_close_does_not_wait_for_a_stopped_process_that_holds_a_lock(
    store: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 3600)
    checkpoint = Checkpoint(store)
    log = checkpoint.log("k", retention=SMALL)
    fill(log)
    holder = system.open_file(os.fspath(store / ".checkpoint" / name), write=True)
    assert system.try_lock(holder.fd)
    begun_s = time.monotonic()

    assert Keeper().look_after(handle_of(log), SMALL) is False
    checkpoint.close()

    assert time.monotonic() - begun_s < 30
    holder.close()
    assert len(Checkpoint(store).log("k").events("x")) == 100


def test_failure_is_logged_and_tried_again_later(
    store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = Checkpoint(store).log("k")
    fill(log)
    own = Keeper()

    def fails(*_: Any, **__: Any) -> None:
        raise WriteFailedError("no room", reason="no room")

    with monkeypatch.context() as patch:
        patch.setattr(module, "compact_by", fails)
        assert own.look_after(handle_of(log), SMALL) is False
    assert "the log 'k' was not made smaller: no room" in caplog.text
    fill(log, 200)
    assert own.look_after(handle_of(log), SMALL) is True


def test_thread_ends_when_no_log_is_looked_after(
    store: Path, monkeypatch: pytest.MonkeyPatch, keeper: Keeper
) -> None:
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.02)
    with Checkpoint(store) as checkpoint:
        checkpoint.log("k", retention=SMALL)
        thread = keeper._thread
        assert thread is not None
    thread.join(60)
    assert not thread.is_alive()
    assert keeper._thread is None
    assert keeper._watched == {}


@pytest.mark.parametrize(
    "arguments",
    [
        {"keep_last": 0},
        {"keep_last": 1.5},
        {"newer_than_s": -1},
        {"max_bytes": 0},
        {"max_bytes": None},
        {"max_bytes": True},
        {"keep_last": 10**700},
        {"newer_than_s": 10**700},
        {"max_bytes": 2**53 + 1},
    ],
)
def test_what_is_no_retention_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Retention(**arguments)


def test_half_of_a_log_is_half_of_its_bytes(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = Checkpoint(store).log("k")
    log.append_many([(f"small {number}", 1) for number in range(100)])
    for _ in range(5):
        log.append("large", "y" * 5000, durability="never")
    assert Keeper().look_after(handle_of(log), Retention(keep_last=1, max_bytes=1)) is True
    for _ in range(300):
        log.append("small 1", 2, durability="never")
    log.append_many([(f"large {number}", "y" * 5000) for number in range(10)])
    assert Keeper().look_after(handle_of(log), Retention(keep_last=1, max_bytes=1)) is False
    assert not caplog.records


def test_log_is_looked_after_until_its_handle_is_closed_whoever_closes_another(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.02)
    checkpoint = Checkpoint(store)
    checkpoint.log("k", retention=SMALL)  # the Log is let go of
    with Checkpoint(store) as other:
        other.log("k", retention=SMALL)
    fill(checkpoint.log("k"))
    append_until_small(store, checkpoint.log("k"))
    checkpoint.close()


def test_whatever_fails_with_one_log_another_is_looked_after(
    store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.02)
    compact_by, failed = module.compact_by, threading.Event()

    def fails(log: LogHandle, *args: Any, **more: Any) -> Any:
        if log.log_key == "broken":
            failed.set()
            raise ZeroDivisionError("what nobody thought of")
        return compact_by(log, *args, **more)

    monkeypatch.setattr(module, "compact_by", fails)
    with Checkpoint(store) as checkpoint:
        fill(checkpoint.log("broken", retention=SMALL))
        assert failed.wait(60)
        log = checkpoint.log("k", retention=SMALL)
        fill(log)
        append_until_small(store, log)
    assert caplog.text.count("what nobody thought of") == 1


@pytest.mark.parametrize("way", ["released", "removed"])
def test_log_that_is_not_there_any_more_is_told_of_once_at_most(
    store: Path, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    checkpoint, own = Checkpoint(store), Keeper()
    log = handle_of(checkpoint.log("k"))
    own._thread = threading.current_thread()  # none is started
    own.watch(log, SMALL)
    if way == "released":
        checkpoint.releaseCheckpointLog("k")
    else:
        (store / ".checkpoint" / "k.jsonl").unlink()
    for place in list(own._watched):
        own._look_after_watched(*place)
    assert own._watched == {}
    assert len(caplog.records) == (0 if way == "released" else 1)


def test_close_waits_for_the_thread_that_is_at_it(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, own = Checkpoint(store), Keeper()
    log = handle_of(checkpoint.log("k"))
    begun, goes_on, order = threading.Event(), threading.Event(), []

    def compacts(*_: Any) -> bool:
        begun.set()
        assert goes_on.wait(60)
        order.append("thread")
        return False

    monkeypatch.setattr(own, "look_after", compacts)
    own._thread = threading.current_thread()  # none is started
    own.watch(log, SMALL)
    (place,) = own._watched
    thread = threading.Thread(target=own._look_after_watched, args=place)
    thread.start()
    assert begun.wait(60)
    monkeypatch.undo()
    closing = threading.Thread(target=lambda: (own.finish(log.store), order.append("close")))
    closing.start()
    closing.join(0.05)
    goes_on.set()
    thread.join(60)
    closing.join(60)
    assert order == ["thread", "close"]


def test_other_types_and_read_only_handles_are_refused(store: Path) -> None:
    Checkpoint(store).log("k")
    with pytest.raises(TypeError, match="retention is a Retention"):
        Checkpoint(store).log("k", retention={"keep_last": 1})  # type: ignore[arg-type]
    with pytest.raises(ReadOnlyError):
        Checkpoint(store, read_only=True).log("k", retention=SMALL)
    Checkpoint(store).log("k", retention=SMALL)
    with pytest.raises(ReadOnlyError):
        Checkpoint(store, read_only=True).log("k", retention=SMALL)


def test_age_beyond_all_logs_keeps_everything(store: Path) -> None:
    log = Checkpoint(store).log("k")
    fill(log)
    assert Keeper().look_after(handle_of(log), Retention(newer_than_s=1e308, max_bytes=1)) is False
    assert len(log.events("x")) == 100
