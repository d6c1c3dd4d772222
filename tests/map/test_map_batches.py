"""Items that are done already: a map judges many of them in one look, and each as if it came alone."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint._logfile.read import LogReader
from mpcheckpoint._view import log_handle
from mpcheckpoint._work import item_states
from mpcheckpoint._work.input_thread import InputThread
from mpcheckpoint._work.inputs import NOT_YET, Input
from mpcheckpoint._work.look_ahead import LookAhead
from mpcheckpoint._work.map import MapRun
from mpcheckpoint.errors import ChangedItemError, ChangedVersionError, ClosedError
from mpcheckpoint.log import handle_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

MANY = 1500  # more than are taken at a time, and than wait to be given out


class Sized(list[Any]):
    """Items with a length, so that they are taken in the caller's thread; notes how many were."""

    def __init__(self, items: Iterable[Any], before: Callable[[Any], None] = lambda item: None) -> None:
        super().__init__(items)
        self.taken = 0
        self._before = before

    def __iter__(self) -> Iterator[Any]:
        for item in super().__iter__():
            self._before(item)
            self.taken += 1
            yield item


class Ran(list[str]):
    """A function of a map, which notes what it is called with."""

    def __call__(self, item: Any) -> str:
        self.append(item)
        return f"<{item}>"


@pytest.fixture
def one() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def names(first: int, end: int) -> list[str]:
    return [f"item{number}" for number in range(first, end)]


def finish(log: Log, keys: Iterable[str], **fields: Any) -> None:
    """Record outcomes, as a map of ``version=""`` does."""
    with ThreadPoolExecutor(1) as executor:
        assert [outcome.ok for outcome in log.map(str, ["first"], executor=executor)] == [True]
    event = log.events("first")[-1] | fields
    log.append_many([(key, event) for key in keys], durability="never")


# --- each as if it came alone ------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [False, True])
def test_items_that_are_done_and_others_are_told_apart_wherever_they_stand(
    log: Log, one: ThreadPoolExecutor, ordered: bool
) -> None:
    items = names(0, MANY)
    missing = {items[place] for place in (0, 1, 2, 700, 702, 1200, MANY - 1)}
    finish(log, [item for item in items if item not in missing])
    fn = Ran()

    outcomes = list(log.map(fn, items, executor=one, ordered=ordered))

    assert sorted(fn) == sorted(missing)
    assert {each.object_key for each in outcomes if not each.repeated} == missing
    assert all(each.item == each.object_key and each.ok for each in outcomes)
    given = [each.object_key for each in outcomes]
    assert (given if ordered else sorted(given)) == (items if ordered else sorted(items))


def test_items_that_come_again_beside_items_that_are_done_run_once(log: Log, one: ThreadPoolExecutor) -> None:
    finish(log, names(0, 100))
    fn = Ran()

    # The new one comes twice within what is judged in one look, and so does one that is done.
    items = [*names(0, 70), "new", *names(0, 20), "new", "new", "item5"]
    outcomes = list(log.map(fn, items, executor=one))

    assert fn == ["new"]
    assert sorted(each.object_key for each in outcomes) == sorted(items)
    assert [each.repeated for each in outcomes if each.object_key == "new"].count(False) == 1


def test_item_whose_outcome_does_not_count_runs_once_though_it_comes_again(
    log: Log, one: ThreadPoolExecutor
) -> None:
    finish(log, names(0, 100))
    finish(log, ["bad"], ok=False, error="why")
    fn, asked = Ran(), Ran()

    items = [*names(0, 70), "bad", "bad", *names(0, 20)]
    outcomes = list(log.map(fn, items, executor=one, retry_failed=lambda outcome: asked(outcome.object_key)))

    assert fn == ["bad"]
    assert asked == ["bad"]
    assert [each.ok for each in outcomes] == [True] * len(items)


def test_failures_among_items_that_are_done_run_again_if_asked(log: Log, one: ThreadPoolExecutor) -> None:
    finish(log, names(0, 100))
    finish(log, ["bad"], ok=False, error="why")
    items = [*names(0, 70), "bad", *names(70, 100)]
    fn = Ran()

    kept = {each.object_key: each.ok for each in log.map(fn, items, executor=one)}
    outcomes = list(log.map(fn, items, executor=one, retry_failed=True))

    assert fn == ["bad"]
    assert kept == dict.fromkeys(items, True) | {"bad": False}
    assert all(each.ok for each in outcomes)


def test_item_of_another_worker_is_waited_for_and_those_after_it_are_given_out(
    store: Path, log: Log, one: ThreadPoolExecutor
) -> None:
    finish(log, names(0, 100))
    other = Checkpoint(store).log("a")
    claim = other.claim("held")
    claim.__enter__()

    given = []
    with log.map(Ran(), [*names(0, 70), "held", *names(70, 100)], executor=one) as run:
        for outcome in run:
            given.append(outcome.object_key)
            if len(given) == 100:
                claim.__exit__(None, None, None)

    assert given[-1] == "held"
    assert sorted(given[:-1]) == sorted(names(0, 100))


def test_input_that_differs_from_the_recorded_one_raises_after_those_before_it_were_given_out(
    log: Log, one: ThreadPoolExecutor
) -> None:
    finish(log, names(0, 2000))
    items: list[Any] = names(0, 2000)
    items[1900] = {"id": "item1900"}
    given: list[str] = []

    run = log.map(str, items, key=lambda item: item if isinstance(item, str) else item["id"], executor=one)
    with pytest.raises(ChangedItemError, match="item1900"):
        given.extend(outcome.object_key for outcome in run)

    assert given == names(0, 1900)


def test_error_of_the_items_is_raised_after_those_before_it_were_given_out(
    log: Log, one: ThreadPoolExecutor
) -> None:
    finish(log, names(0, 2000))
    given: list[str] = []

    def before(item: str) -> None:
        if item == "item1900":
            raise LookupError(item)

    run = log.map(str, Sized(names(0, 2000), before), executor=one)
    with pytest.raises(LookupError, match="item1900"):
        given.extend(outcome.object_key for outcome in run)

    assert given == names(0, 1900)


def test_run_that_goes_on_elsewhere_ends_the_map_after_what_was_judged_before(
    store: Path, log: Log, one: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_states, "RECENT_S", 0.0)
    finish(log, names(0, 4000))
    given: list[str] = []

    def before(item: str) -> None:
        if item == "item3000":  # with many others that are judged with it
            Checkpoint(store).log("a").map(str, [], version="2", if_changed="keep", executor=one).close()

    run = log.map(str, Sized(names(0, 4000), before), executor=one)
    with pytest.raises(ChangedVersionError, match="went on as '2'"):
        given.extend(outcome.object_key for outcome in run)

    assert 2000 < len(given) <= 3000
    assert given == names(0, len(given))


def test_outcome_that_another_process_recorded_meanwhile_is_found(
    store: Path, log: Log, one: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_states, "RECENT_S", 0.0)
    finish(log, names(0, 100))
    late = [f"late{number}" for number in range(50)]
    fn = Ran()

    def before(item: str) -> None:
        if item == late[0]:
            finish(Checkpoint(store).log("a"), late)

    outcomes = list(log.map(fn, Sized([*names(0, 100), *late], before), executor=one))

    assert fn == []
    assert len(outcomes) == 150


# --- how many are taken ------------------------------------------------------------------------------------


def test_items_are_taken_one_at_a_time_once_one_is_to_run(log: Log) -> None:
    finish(log, names(0, 100))
    wait, begun = threading.Event(), threading.Event()

    def fn(item: str) -> None:
        begun.set()
        wait.wait(30)

    items = Sized([*names(0, 100), *names(1000, 1500)])
    with ThreadPoolExecutor(1) as executor, log.map(fn, items, executor=executor) as run:
        assert begun.wait(30)
        given = [next(run) for _ in range(100)]
        taken = items.taken
        wait.set()
        next(run)

    assert all(each.repeated for each in given)
    # As far as those that were judged with the last one that was done.
    assert taken <= 100 + 100
    assert items.taken <= taken + 1


def test_few_items_are_taken_at_a_time_while_one_runs(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(log, names(0, 300))
    wait, rooms = threading.Event(), list[int]()
    read = LookAhead.read

    def noted(ahead: LookAhead, room: int) -> None:
        rooms.append(room)
        read(ahead, room)

    monkeypatch.setattr(LookAhead, "read", noted)
    with (
        ThreadPoolExecutor(1) as executor,
        log.map(lambda item: wait.wait(30), ["new", *names(0, 300)], executor=executor) as run,
    ):
        given = [next(run).object_key for _ in range(300)]
        wait.set()
        assert [each.object_key for each in run] == ["new"]

    assert given == names(0, 300)
    assert rooms[0] > 32 >= max(rooms[1:11])


def test_done_items_that_nobody_takes_are_bounded(log: Log, one: ThreadPoolExecutor) -> None:
    finish(log, names(0, 3000))
    items = Sized(names(0, 3000))

    with log.map(str, items, executor=one) as run:
        assert items.taken <= 1000
        for _ in range(1000):
            next(run)
        assert items.taken <= 1000
        next(run)
        assert items.taken <= 2000


def test_iterable_without_a_length_may_wait_for_the_outcome_of_an_item_that_is_done(
    log: Log, one: ThreadPoolExecutor
) -> None:
    finish(log, names(0, 20))
    given: dict[str, threading.Event] = {name: threading.Event() for name in names(0, 20)}

    def items() -> Iterator[str]:
        for name, is_given in given.items():
            yield name
            assert is_given.wait(30)

    for outcome in log.map(str, items(), executor=one):
        given[outcome.object_key].set()

    assert all(event.is_set() for event in given.values())


def test_file_of_an_item_is_looked_at_when_its_turn_comes(
    tmp_path: Path, log: Log, one: ThreadPoolExecutor
) -> None:
    files = [tmp_path / f"file{number}" for number in range(40)]
    for file in files:
        file.write_text("x")
    items = [str(file) for file in files]
    list(log.map(str, items, executor=one, changed_files=True))
    fn = Ran()

    outcomes = log.map(fn, Sized(items), executor=one, changed_files=True, ordered=True)
    assert [outcome.item for outcome in outcomes] == items
    assert fn == []

    ahead = LookAhead(iter([Input(place, name, name, {}, file={}) for place, name in enumerate(items)]))
    for _ in range(10):
        ahead.read(1000)
        assert len(ahead.entries) == 1
        ahead.entries.clear()
        ahead.note(were_all_done=True)


def test_inputs_that_the_source_has_are_taken_though_more_come_later() -> None:
    entries = [Input(place, str(place), str(place), {}) for place in range(5)]
    ahead = LookAhead(iter([entries[0], *entries[1:3], NOT_YET, *entries[3:]]))
    ahead.read(10)
    assert list(ahead.entries) == entries[:1]
    ahead.entries.clear()
    for _ in range(3):
        ahead.note(were_all_done=True)

    ahead.read(10)
    assert list(ahead.entries) == entries[1:3]
    assert not ahead.is_idle  # what is here is to be added first
    assert ahead.place == 1
    ahead.entries.clear()
    assert ahead.is_idle
    ahead.read(10)
    assert list(ahead.entries) == entries[3:]
    assert ahead.is_exhausted
    assert not ahead.is_at_end
    ahead.entries.clear()
    assert ahead.is_at_end


def test_inputs_that_were_taken_are_added_before_others_are_taken() -> None:
    ahead = LookAhead(iter([Input(place, str(place), str(place), {}) for place in range(40)]))
    for _ in range(3):
        ahead.read(10)
        ahead.entries.clear()
        ahead.note(were_all_done=True)
    ahead.read(10)
    assert [entry.place for entry in ahead.entries] == list(range(7, 15))
    ahead.entries.popleft()
    ahead.note(were_all_done=False)

    ahead.read(10)
    assert [entry.place for entry in ahead.entries] == list(range(8, 15))
    ahead.entries.clear()
    ahead.read(10)
    assert [entry.place for entry in ahead.entries] == [15]


def test_iterable_in_a_thread_is_asked_for_one_at_a_time() -> None:
    thread = InputThread(iter([Input(place, str(place), str(place), {}) for place in range(10)]))
    ahead = LookAhead(thread)
    for place in range(5):
        ahead.note(were_all_done=True)
        ahead.read(10)
        assert [entry.place for entry in ahead.entries] == [place]
        ahead.entries.clear()
    thread.stop()


def test_child_that_the_items_fork_has_no_part_in_the_map(log: Log, one: ThreadPoolExecutor) -> None:
    finish(log, names(0, 100))
    read, write = os.pipe()
    parent = os.getpid()

    def before(item: str) -> None:
        if item == "item60" and os.getpid() == parent:
            os.fork()
        if os.getpid() != parent:
            os.write(write, f"{item} ".encode())

    run: MapRun | None = None
    try:
        run = log.map(str, Sized(names(0, 100), before), executor=one)
        given = [outcome.object_key for outcome in run]
    except ClosedError:
        assert os.getpid() != parent
        os._exit(0)
    finally:
        if os.getpid() != parent:
            os._exit(1)
    os.close(write)
    _, status = os.wait()

    assert given == names(0, 100)
    assert os.waitstatus_to_exitcode(status) == 0
    with open(read, "rb") as file:
        assert file.read() == b"item60 "


# --- what it costs -----------------------------------------------------------------------------------------


def test_items_that_are_done_share_looks_at_the_log(
    log: Log, one: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_states, "RECENT_S", 0.0)
    monkeypatch.setattr(log_handle, "RECENT_S", 0.0)
    finish(log, names(0, MANY))
    looks: list[int] = []
    poll = LogReader.poll
    monkeypatch.setattr(LogReader, "poll", lambda reader: looks.append(1) or poll(reader))

    assert len(list(log.map(str, names(0, MANY), executor=one))) == MANY

    assert len(looks) < MANY / 10


def test_item_that_is_done_takes_few_calls(log: Log, one: ThreadPoolExecutor) -> None:
    finish(log, names(0, MANY))
    items = names(0, MANY)
    log.count("item0")  # what is in the log was read
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    gc.collect()  # what it would finalize would be counted
    sys.setprofile(count)
    try:
        deque(log.map(str, items, executor=one), maxlen=0)
    finally:
        sys.setprofile(None)

    assert calls / MANY < 25


def test_views_are_not_searched_one_by_one(log: Log) -> None:
    """Each record that was looked at in one call is the one that is found alone, too."""
    finish(log, names(0, 30))
    log.append("item3", {"other": 1})
    log.append_many([("item4", 1), ("item5", 2), ("item4", 3)])

    def judged(view: Any) -> None:
        keys = ["item3", "missing", "item4", "item5", "item29", "item0"]
        found = view.records.last_of_each(keys)
        for key, last in zip(keys, found, strict=True):
            numbers = view.records.numbers_of(key)
            assert last == (
                (view.records.stamp_us(numbers[-1]), view.records.event(numbers[-1])) if numbers else None
            )

    handle_of(log).query(judged)


def test_results_find_an_outcome_that_other_events_follow(log: Log, one: ThreadPoolExecutor) -> None:
    finish(log, names(0, 3))
    log.append("item1", {"other": 1})
    log.append("alone", 5)

    assert [outcome.object_key for outcome in log.results()] == ["first", *names(0, 3)]
    status = log.map_status()
    assert status is not None
    assert (status.ok, status.failed) == (4, 0)
    assert all(each.repeated for each in log.map(str, names(0, 3), executor=one))
