"""Appends under conditions, and transactions: judged under the lock, and exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint.errors import ConflictError
from support.processes import in_a_child
from support.verbs import LOCK, LOG, Faults, append_elsewhere

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


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
