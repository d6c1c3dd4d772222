"""How many round trips to the server each thing takes: far from the server, that is what it costs."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint._postgres.address import Address
from mpcheckpoint._postgres.store import PostgresStore
from mpcheckpoint._view import earlier
from mpcheckpoint.checkpoint import Checkpoint, checkpoint_on
from mpcheckpoint.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.postgres.proxy import Proxy

# What is sent without waiting is one round trip: no answer comes sooner than this.
_LATENCY_S = 0.003


class Counter:
    """Handles on one store, by way of a proxy that counts."""

    def __init__(self, proxy: Proxy, database: str) -> None:
        self.proxy = proxy
        self._address = proxy.address(database.rpartition("/")[2])

    def store(self) -> PostgresStore:
        return PostgresStore(Address.parse(self._address), create=True, read_only=False, retry_s=10)

    def open(self) -> Checkpoint:
        return checkpoint_on(self.store())

    @contextmanager
    def takes(self, most: int) -> Iterator[None]:
        with self.proxy.counting() as counted:
            yield
        assert counted.counts.round_trips == most, counted.heard

    @contextmanager
    def takes_at_most(self, most: float) -> Iterator[None]:
        with self.proxy.counting() as counted:
            yield
        assert 0 < counted.counts.round_trips <= most, counted.heard


@pytest.fixture
def counter(postgres_database: str, make_proxy: Callable[..., Proxy]) -> Counter:
    return Counter(make_proxy(latency_s=_LATENCY_S), postgres_database)


@pytest.fixture
def checkpoint(counter: Counter) -> Iterator[Checkpoint]:
    with counter.open() as opened:
        # Once through everything: what a session prepares at its first use is not sent again.
        log = opened.log("before")
        log.append("x", 0)
        log.append("x", 0, expected_count=1)
        log.append_many([("x", 0)] * 3)
        with log.claim("x"):
            pass
        assert opened["x"]
        yield opened


def double(item: int) -> int:
    return 2 * item


# --- appends -----------------------------------------------------------------------------------------------------


def test_append_takes_one_round_trip(checkpoint: Checkpoint, counter: Counter) -> None:
    log = checkpoint.log("a")

    for number in range(5):
        with counter.takes(1):
            log.append("x", number)


def test_append_of_a_batch_takes_one_round_trip(checkpoint: Checkpoint, counter: Counter) -> None:
    log = checkpoint.log("a")

    with counter.takes(1):
        log.append_many([("x", number) for number in range(500)])


def test_append_that_is_not_to_be_durable_takes_one_round_trip(
    checkpoint: Checkpoint, counter: Counter
) -> None:
    log = checkpoint.log("a")

    with counter.takes(1):
        log.append("x", 1, durability="never")


def test_append_after_another_process_held_the_lock_takes_one_round_trip(
    checkpoint: Checkpoint, counter: Counter
) -> None:
    log = checkpoint.log("a")
    with counter.open() as other, ThreadPoolExecutor(2) as threads:
        for _ in range(20):  # so that one meets the other, and commits apart from the sync
            list(threads.map(lambda each: each.log("a").append("y", 1), (checkpoint, other)))

    with counter.takes(1):
        log.append("x", 1)


def test_append_with_a_condition_takes_two_round_trips(checkpoint: Checkpoint, counter: Counter) -> None:
    log = checkpoint.log("a")
    log.append("x", 1)

    with counter.takes(2):
        log.append("x", 2, expected_count=1)
    with counter.takes(2):
        log.append("x", 3, record_id="third")


def test_batch_with_conditions_takes_two_round_trips(checkpoint: Checkpoint, counter: Counter) -> None:
    log = checkpoint.log("a")
    end = log.append("x", 1)

    with counter.takes(2):
        end = log.append_many([("x", 2), ("y", 2)], expected_counts={"x": 1, "y": 0})
    with counter.takes(2):
        end = log.append_many([("x", 3)], expected_counts={"y": 1}, expected_end=end)
    with counter.takes(1):  # one look
        log.append_many([], expected_end=end)


def test_transaction_on_a_part_of_an_object_takes_a_round_trip_for_each_look(
    checkpoint: Checkpoint, counter: Counter
) -> None:
    log = checkpoint.log("a")
    log.append_many([("x", number) for number in range(4)])

    for read in ("count", "last", "events"):
        with counter.takes(3), log.transaction() as transaction:  # read, look, append
            getattr(transaction, read)("x")
            transaction.append("x", 1)


def test_condition_on_one_object_while_others_are_appended_takes_two_round_trips(
    checkpoint: Checkpoint, counter: Counter
) -> None:
    log = checkpoint.log("a")
    log.append("x", 1)
    with counter.open() as other:
        for number in range(3):
            other.log("a").append("y", number)

            with counter.takes(2):
                log.append("x", number, expected_count=1 + number)
            with pytest.raises(ConflictError):
                log.append("x", number, expected_count=1 + number)


# --- work --------------------------------------------------------------------------------------------------------


def test_claim_given_back_takes_four_round_trips(
    checkpoint: Checkpoint, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(earlier, "_LASTING_S", math.inf)  # the last look was a moment ago
    log = checkpoint.log("before")

    for object_key in ("a", "b", "c"):
        with counter.takes(4), log.claim(object_key) as claim:
            assert claim is not None


def test_claim_long_after_the_last_look_takes_five_round_trips(
    checkpoint: Checkpoint, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(earlier, "_LASTING_S", -1)
    log = checkpoint.log("before")

    with counter.takes(5), log.claim("a") as claim:
        assert claim is not None


def test_map_item_takes_at_most_six_round_trips(checkpoint: Checkpoint, counter: Counter) -> None:
    log, items = checkpoint.log("map"), 30
    with ThreadPoolExecutor(1) as threads:
        assert sum(outcome.ok for outcome in log.map(double, range(3), key=str, executor=threads)) == 3

        some = range(3, 3 + items)
        with counter.takes_at_most(6 * items + 12):  # and 12 for the start and the end of the map
            assert sum(outcome.ok for outcome in log.map(double, some, key=str, executor=threads)) == items


def test_map_item_in_a_process_of_its_own_takes_at_most_six_round_trips(
    checkpoint: Checkpoint, counter: Counter
) -> None:
    log, items = checkpoint.log("map"), 30
    with counter.proxy.counting() as begun:
        assert sum(outcome.ok for outcome in log.map(double, range(3), key=str, jobs=1)) == 3

    some = range(3, 3 + items)
    with counter.takes_at_most(6 * items + begun.counts.round_trips):
        assert sum(outcome.ok for outcome in log.map(double, some, key=str, jobs=1)) == items


# --- reads -------------------------------------------------------------------------------------------------------


def test_read_over_twenty_logs_takes_one_round_trip(checkpoint: Checkpoint, counter: Counter) -> None:
    logs = [checkpoint.log(f"log {number}") for number in range(20)]
    for log in logs:
        log.append("y", log.log_key)
    assert len(checkpoint["y"]) == 20

    with counter.takes(1):
        assert len(checkpoint["y"]) == 20
    logs[3].append("y", "new")
    with counter.takes(1):
        assert len(checkpoint["y"]) == 21


def test_tail_takes_one_round_trip_a_call(checkpoint: Checkpoint, counter: Counter) -> None:
    logs = [checkpoint.log(f"log {number}") for number in range(20)]
    of_all, of_log = checkpoint.tail("end"), logs[3].tail("end")
    for event in ("new", "newer"):
        for tail in (of_all, of_log):
            with counter.takes(1):
                assert tail.new() == []
        logs[3].append("y", event)
        for tail in (of_all, of_log):
            with counter.takes(1):
                assert [record.event for record in tail.new()] == [event]


def test_read_over_a_log_that_another_process_has_added_takes_no_more_than_four_round_trips(
    checkpoint: Checkpoint, counter: Counter
) -> None:
    checkpoint.log("a").append("y", 1)
    assert checkpoint["y"] == (1,)
    with counter.open() as other:
        other.log("b").append("y", 2)

    with counter.takes_at_most(4):
        assert checkpoint["y"] == (1, 2)
