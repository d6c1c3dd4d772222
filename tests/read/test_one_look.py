"""A read over many logs is one look, where the storage offers that; counted on an engine to which each question is a
message."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint._view.view import LogView
from mpcheckpoint.checkpoint import checkpoint_on
from support.memory_storage import MemoryLog, MemoryReader, MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mpcheckpoint import Checkpoint
    from mpcheckpoint._logfile.chunk import Chunk
    from mpcheckpoint._store.protocol import Reader

pytestmark = [pytest.mark.guarantee(4), pytest.mark.guarantee(5)]

LOGS = 20

MESSAGES: list[str] = []


class CountingReader(MemoryReader):
    def poll(self) -> Iterator[Chunk]:
        if self._found is None:
            MESSAGES.append("poll")
        return super().poll()


class CountingLog(MemoryLog):
    reader_type = CountingReader


class CountingStore(MemoryStore):
    """Answers what is asked right after a look from what that found, if it ``remembers``."""

    log_type = CountingLog
    is_cut = remembers = True
    # Called after each look.
    meanwhile: Callable[[], object] = staticmethod(lambda: None)

    def look(self, readers: Sequence[Reader]) -> bool:
        MESSAGES.append("look")
        is_cut = super().look(readers)
        self._token = super().change_token()
        meanwhile, CountingStore.meanwhile = CountingStore.meanwhile, staticmethod(lambda: None)
        meanwhile()
        return is_cut and self.is_cut

    def change_token(self) -> object:
        if MESSAGES[-1:] == ["look"] and self.remembers:
            return self._token
        MESSAGES.append("token")
        return super().change_token()

    def log_keys(self) -> list[str]:
        MESSAGES.append("list")
        return super().log_keys()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CountingStore]:
    """A store with twenty logs, in each of which an object has an event."""
    MESSAGES.clear()  # of an earlier test: the last of them may be a look
    store = CountingStore(tmp_path)
    writer = checkpoint_on(MemoryStore(tmp_path), durability="never")
    for number in range(LOGS):
        writer.log(f"log {number}").append("x", number)
    yield store
    CountingStore.meanwhile = staticmethod(lambda: None)
    CountingStore.is_cut = CountingStore.remembers = True
    MemoryStore.forget(tmp_path)


def writer_on(store: CountingStore) -> Checkpoint:
    """Return a handle of another process, whose messages are not counted."""
    return checkpoint_on(MemoryStore(Path(store.path)), durability="never")


def messages(call: Callable[[], object]) -> list[str]:
    """Return what a call asked the storage."""
    MESSAGES.clear()
    call()
    return MESSAGES.copy()


def test_read_over_many_logs_is_one_look(store: CountingStore) -> None:
    handle, writer = checkpoint_on(store), writer_on(store)
    assert messages(lambda: handle["x"]) == ["look", "list", "look"]

    for read in (lambda: handle["x"], lambda: "x" in handle, lambda: len(handle), handle.getCheckpointKeys):
        assert messages(read) == ["look"]
    writer.log("log 3").append("x", "new")
    writer.log("log 7").append("x", "newer")
    assert messages(lambda: handle["x"]) == ["look"]
    assert handle["x"][-2:] == ("new", "newer")


def test_read_of_a_log_that_was_added_looks_once_more(store: CountingStore) -> None:
    handle, writer = checkpoint_on(store), writer_on(store)
    assert len(handle["x"]) == LOGS
    writer.log("added").append("x", "added")

    assert messages(lambda: handle["x"]) == ["look", "list", "look"]
    assert handle["x"][-1] == "added"
    assert messages(lambda: handle["x"]) == ["look"]


def test_read_of_one_log_is_one_message(store: CountingStore) -> None:
    log = checkpoint_on(store, log_keys=["log 3"]).log("log 3")
    assert log.events("x") == (3,)

    for read in (lambda: log.events("x"), lambda: log.count("x")):
        assert messages(read) == ["poll"]


def test_follower_of_many_logs_looks_once_a_turn(store: CountingStore) -> None:
    follower = checkpoint_on(store).follow(idle_timeout_s=0)

    assert messages(lambda: list(follower)) == ["look", "look"]  # the second turn finds nothing


def test_tail_asks_once_a_call(store: CountingStore) -> None:
    handle, writer = checkpoint_on(store), writer_on(store)
    tail, one = handle.tail("end"), handle.log("log 3").tail("end")

    for event in ("new", "newer"):
        assert messages(tail.new) == ["look"]
        assert messages(one.new) == ["poll"]
        writer.log("log 3").append("x", event)
        assert messages(lambda: [record.event for record in tail.new()]) == ["look"]
        assert messages(one.new) == ["poll"]


def test_read_where_a_look_is_no_cut_goes_over_the_logs_until_nothing_is_new(store: CountingStore) -> None:
    CountingStore.is_cut = False
    handle, writer = checkpoint_on(store), writer_on(store)
    assert len(handle["x"]) == LOGS
    assert messages(lambda: handle["x"]) == ["look"]
    writer.log("log 3").append("x", "new")

    assert messages(lambda: handle["x"]) == ["look", "look"]
    assert handle["x"][-1] == "new"


@pytest.mark.parametrize("remembers", [True, False])
@pytest.mark.parametrize("places", [("log 0", "added"), ("added", "log 0")])
def test_read_of_a_cut_shows_no_effect_without_its_cause_where_a_log_was_added_meanwhile(
    store: CountingStore, places: tuple[str, str], remembers: bool
) -> None:
    handle, writer = checkpoint_on(store), writer_on(store)
    assert len(handle["x"]) == LOGS
    CountingStore.remembers = remembers

    def meanwhile() -> None:
        writer.log(places[0]).append("x", "cause")
        writer.log(places[1]).append("x", "effect")

    CountingStore.meanwhile = staticmethod(meanwhile)
    first, second = handle["x"], handle["x"]

    assert first[LOGS:] in ((), ("cause", "effect"))
    assert second[LOGS:] == ("cause", "effect")


@pytest.mark.guarantee(7)
@pytest.mark.parametrize("after", [0, 1, 7, LOGS - 1])
def test_read_that_is_interrupted_after_its_look_loses_and_doubles_nothing(
    store: CountingStore, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    handle, writer = checkpoint_on(store), writer_on(store)
    assert len(handle["x"]) == LOGS
    for number in range(LOGS):
        writer.log(f"log {number}").append("x", LOGS + number)
    applied, apply = 0, LogView.apply

    def interrupted(view: LogView, chunk: Chunk) -> None:
        nonlocal applied
        applied += 1
        if applied == after + 1:
            raise KeyboardInterrupt
        apply(view, chunk)

    with monkeypatch.context() as patch:
        patch.setattr(LogView, "apply", interrupted)
        with pytest.raises(KeyboardInterrupt):
            handle["x"]
    writer.log("log 5").append("x", "last")

    assert handle["x"] == (*range(2 * LOGS), "last")
    assert messages(lambda: handle["x"]) == ["look"]


def test_threads_that_share_a_handle_see_each_other_s_records_in_one_look(store: CountingStore) -> None:
    handle, writer = checkpoint_on(store), writer_on(store)
    failures: list[object] = []

    def work(number: int) -> None:
        log = writer.log(f"log {number}")
        for event in range(20):
            log.append(f"own {number}", event)
            if handle[f"own {number}"] != tuple(range(event + 1)):
                failures.append((number, event))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failures


@pytest.mark.guarantee(7)
def test_read_that_is_interrupted_shows_no_effect_without_its_cause(
    store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that was interrupted is read anew, later than the look at the others was."""
    handle, writer = checkpoint_on(store), writer_on(store)
    assert len(handle["x"]) == LOGS
    writer.log("log 5").append("x", "before")
    with monkeypatch.context() as patch:
        patch.setattr(LogView, "apply", interrupt)
        with pytest.raises(KeyboardInterrupt):
            handle["x"]

    def meanwhile() -> None:
        writer.log("log 6").append("x", "cause")
        writer.log("log 5").append("x", "effect")

    CountingStore.meanwhile = staticmethod(meanwhile)
    assert handle["x"][LOGS:] in (("before",), ("before", "cause", "effect"))


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt
