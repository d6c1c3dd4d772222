"""Appends under conditions, and transactions: judged under the lock, and exactly."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint._view.records import Records
from mpcheckpoint.errors import ConflictError, InvalidKeyError, InvalidPositionError
from support.processes import in_a_child
from support.verbs import LOCK, LOG, Faults, append_elsewhere

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mpcheckpoint import Transaction


@pytest.mark.guarantee(1)
def test_record_found_by_its_id_is_durable_when_that_is_said(log: Log, faults: Faults) -> None:
    position = log.append("x", 1, record_id="id", durability="never")
    syncs = faults.watch("sync_data", on=LOG)

    assert log.append("x", 1, record_id="id") == position

    assert syncs.seen == 1


@pytest.mark.guarantee(3)
@pytest.mark.parametrize("condition", [{"expected_count": 1}, {"record_id": "id"}])
def test_condition_that_ceases_to_hold_before_the_lock_is_given_is_refused(
    store: Path, log: Log, faults: Faults, condition: dict[str, Any]
) -> None:
    def let_another_in(real: Callable[..., bool], *args: Any) -> bool:
        in_a_child(append_elsewhere, store, "x", "theirs", "id")
        return real(*args)

    faults.act("try_lock", let_another_in, on=LOCK)
    try:
        log.append("x", "ours", **condition)
    except ConflictError:
        assert "expected_count" in condition

    assert log.events("x") == (0, "theirs")


@pytest.mark.guarantee(3)
@pytest.mark.parametrize("expected_count", [0, 1, 3, 4, 5])
def test_expected_count_is_that_of_the_object_in_this_log_exactly(
    store: Path, log: Log, expected_count: int
) -> None:
    log.append_many([("x", 1), ("y", 0), ("y", 1), ("y", 2)])
    Checkpoint(store).log("b").append("x", "elsewhere")

    with pytest.raises(ConflictError) as caught:
        log.append("x", "no", expected_count=expected_count)

    assert (caught.value.expected, caught.value.found) == (expected_count, 2)
    log.append("x", "yes", expected_count=2)
    assert log.events("x") == (0, 1, "yes")


def test_record_id_is_that_of_its_object_alone(store: Path, log: Log) -> None:
    first = log.append("x", 1, record_id="id")
    log.append("x", 2, record_id="another")
    log.append("y", 3, record_id="id")
    log.append("y", 4)

    assert log.append("x", 5, record_id="id") == first
    assert (log.events("x"), log.events("y")) == ((0, 1, 2), (3, 4))


# --- transactions --------------------------------------------------------------------------------------------


def test_transaction_sees_what_it_appends_and_nobody_else_does_before_it_ends(log: Log) -> None:
    with log.transaction() as transaction:
        transaction.append("x", 1)
        transaction.append("y", 2)
        assert (transaction.events("x"), transaction.events("y")) == ((0, 1), (2,))
        assert "y" in transaction
        assert (log.events("x"), log.events("y")) == ((0,), ())

    assert (log.events("x"), log.events("y")) == ((0, 1), (2,))


@pytest.mark.guarantee(3)
def test_transaction_that_read_what_has_changed_since_lands_nothing(log: Log) -> None:
    with pytest.raises(ConflictError), log.transaction() as transaction:  # noqa: PT012 - all or nothing
        assert transaction.events("x") == (0,)
        log.append("x", "between")
        transaction.append("y", 1)

    assert log.events("y") == ()
    with log.transaction() as transaction:  # what it did not read may change
        log.append("x", "again")
        transaction.append("y", 1)
    assert log.events("y") == (1,)


@pytest.mark.guarantee(3)
def test_transaction_that_only_read_what_has_changed_since_says_so(log: Log) -> None:
    with pytest.raises(ConflictError), log.transaction() as transaction:  # noqa: PT012 - all or nothing
        assert transaction.events("x") == (0,)
        log.append("x", "between")


# --- what is read of long objects -----------------------------------------------------------------------------


@pytest.mark.guarantee(3)
def test_condition_and_part_of_a_long_object_cost_what_is_read_of_it(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append_many([("long", number) for number in range(5000)])
    assert log.count("long") == 5000
    taken: list[int] = []
    real = Records.event

    def event(records: Records, number: int) -> bytes:
        taken.append(number)
        return real(records, number)

    def never(*_: object) -> list[bytes]:
        raise AssertionError("all events were taken")

    monkeypatch.setattr(Records, "event", event)
    monkeypatch.setattr(Records, "events_of", never)
    with log.transaction() as transaction:
        assert transaction.count("long") == 5000
        assert transaction.last("long", 2) == (4998, 4999)
        assert transaction.events("long", start=4999) == (4999,)
        assert "long" in transaction
        transaction.append("long", 5000)
    assert (log.last("long"), log.events("long", start=4999)) == ((5000,), (4999, 5000))
    end = log.append_many([("long", 5001)], expected_counts={"long": 5001})
    log.append_many([("long", 5002)], expected_end=end)
    assert len(taken) == 7


@pytest.mark.parametrize("number", [-1, True, 1.0, "1", None])
def test_number_of_events_that_is_none_is_refused_with_nothing_written(log: Log, number: Any) -> None:
    for call in (
        lambda: log.append_many([("x", "no")], expected_counts={"x": number}),
        lambda: log.last("x", number),
        lambda: log.events("x", start=number),
    ):
        with pytest.raises(ValueError, match="is a number of events, at least 0, not"):
            call()
    with log.transaction() as transaction:
        for call in (lambda: transaction.last("x", number), lambda: transaction.events("x", start=number)):
            with pytest.raises(ValueError, match="is a number of events, at least 0, not"):
                call()
    with pytest.raises(ValueError, match="expected_end is a position"):
        log.append_many([("x", "no")], expected_end="end")  # type: ignore[arg-type]
    with pytest.raises(InvalidKeyError):
        log.append_many([("x", "no")], expected_counts={1: 0})  # type: ignore[dict-item]
    assert log.events("x") == (0,)


@pytest.mark.guarantee(3)
def test_expected_end_conflicts_with_the_very_next_record(log: Log) -> None:
    for number in range(50):
        end = log.append("x", number)
        unexpected = log.append("y", number)  # a few microseconds later

        with pytest.raises(ConflictError) as caught:
            log.append_many([("x", "no")], expected_end=end)

        assert (caught.value.position, caught.value.end) == (unexpected, unexpected)


@pytest.mark.guarantee(12)
@pytest.mark.parametrize("rule", [{"drop": lambda record: record.event == "gone"}, {"newer_than_s": 0}])
def test_expected_end_conflicts_though_all_that_came_after_it_was_dropped_and_is_forgotten(
    log: Log, rule: dict[str, Any]
) -> None:
    end = log.append("x", 1)
    log.append("y", "gone")
    with log.claim("z"):
        pass
    log.compact(**rule, keep_ids_s=0)  # of y not even the count is left

    assert log.count("y") == 0
    for _ in range(2):
        with pytest.raises(ConflictError) as caught:
            log.append_many([("x", "no")], expected_end=end)
        assert caught.value.end is not None
        assert caught.value.end > end
        log.compact(drop=lambda record: True, keep_ids_s=0)
    log.append_many([("x", 2)], expected_end=caught.value.end)
    assert log.events("x") == (2,)


@pytest.mark.guarantee(3)
def test_last_record_of_a_map_is_the_end_of_the_log(log: Log) -> None:
    for _ in log.map(str, ["x", "y"]):
        pass
    last = list(log.read())[-1]
    assert last.position.more, "what a map notes after it is of the same batch"

    unexpected = log.append_many([("x", 1)], expected_end=last.position)

    with pytest.raises(ConflictError) as caught:
        log.append_many([("x", "no")], expected_end=last.position)
    assert (caught.value.found, caught.value.position) == (1, unexpected)


@pytest.mark.guarantee(12)
def test_expected_end_conflicts_with_what_was_dropped_after_an_object_was_forgotten(log: Log) -> None:
    log.append("x", 1)
    forgotten = log.forget("x")
    log.append("y", 2)
    log.compact(drop=lambda record: True)

    with pytest.raises(ConflictError) as caught:
        log.append_many([("y", "no")], expected_end=forgotten)

    assert log.append_many([("y", 3)], expected_end=caught.value.end, expected_counts={"y": 1})


@pytest.mark.guarantee(12)
@pytest.mark.parametrize("how", ["forgotten", "dropped", "all dropped"])
def test_end_of_a_conflict_does_where_that_of_the_last_record_never_would(log: Log, how: str) -> None:
    log.append_many([("x", 1), ("y", 2)])
    if how == "forgotten":
        log.forget("y")
    else:
        log.compact(drop=lambda record: how == "all dropped" or record.object_key == "y")

    for _ in range(3):  # nobody else is there: to read again alone changes nothing
        last = next(log.read(last=1), None)
        with pytest.raises(ConflictError, match="read again and retry, with the end ") as caught:
            log.append_many([("x", "no")], expected_end="start" if last is None else last.position)

    assert str(caught.value.end) in str(caught.value)
    assert log.append_many([("x", "yes")], expected_end=caught.value.end)


@pytest.mark.guarantee(3)
@pytest.mark.parametrize("batch", [[], [("x", "no")]])
def test_expected_end_that_the_log_has_lost_is_refused(store: Path, batch: list[tuple[str, object]]) -> None:
    with Checkpoint(store) as checkpoint:
        end = checkpoint.log("a").append("x", 1)
        shutil.copytree(store, store.with_name("before"))
        lost = checkpoint.log("a").append("x", 2)

    with Checkpoint(store.with_name("before")) as checkpoint:
        log = checkpoint.log("a")
        with pytest.raises(InvalidPositionError, match="was lost") as caught:
            log.append_many(batch, expected_end=lost)

        assert caught.value.reason == "records lost"
        assert log.events("x") == (1,)
        log.append_many([("x", 3)], expected_end=end)


@pytest.mark.guarantee(3)
@pytest.mark.parametrize("condition", ["counts", "end"])
def test_expectation_that_ceases_to_hold_before_the_lock_is_given_is_refused(
    store: Path, log: Log, faults: Faults, condition: str
) -> None:
    end = log.append("y", 0)

    def let_another_in(real: Callable[..., bool], *args: Any) -> bool:
        in_a_child(append_elsewhere, store, "x", "theirs", "id")
        return real(*args)

    faults.act("try_lock", let_another_in, on=LOCK)
    expected: dict[str, Any] = {"expected_counts": {"x": 1, "y": 1}} if condition == "counts" else {}
    with pytest.raises(ConflictError):
        log.append_many([("x", "ours")], **(expected or {"expected_end": end}))

    assert log.events("x") == (0, "theirs")


@pytest.mark.parametrize("is_read_again", [False, True])
def test_conflict_over_as_many_other_events_does_not_say_that_their_number_is_wrong(
    log: Log, is_read_again: bool
) -> None:
    log.append("y", "read")

    def read_what_is_replaced() -> None:
        with log.transaction() as transaction:
            transaction.last("y")
            log.forget("y")
            log.append("y", "another")
            if is_read_again:
                transaction.events("y")

    with pytest.raises(
        ConflictError, match="has 1 event in this log, as was expected, but not what was read"
    ):
        read_what_is_replaced()


@pytest.mark.guarantee(3)
def test_object_that_has_changed_when_a_transaction_reads_it_again_ends_it_and_an_update_begins_anew(
    log: Log,
) -> None:
    tries: list[int] = []

    def count_and_read(transaction: Transaction) -> None:
        tries.append(transaction.count("x"))
        if len(tries) == 1:
            log.append("x", "between")
        assert len(transaction.events("x")) == tries[-1], "what was counted is not what is read"
        transaction.append("y", tries[-1])

    log.update(count_and_read)

    assert (tries, log.events("y")) == ([1, 2], (2,))
