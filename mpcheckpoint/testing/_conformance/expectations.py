"""What users are promised of batches on conditions, and of transactions that read a part of an object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpcheckpoint.errors import ConflictError, InvalidPositionError
from mpcheckpoint.testing._conformance.base import StorageUnderTest
from mpcheckpoint.testing._conformance.verbs import raises

if TYPE_CHECKING:
    from mpcheckpoint import Log, Transaction

_NEVER = [("x", "never"), ("never", 0)]


class ExpectationTests(StorageUnderTest):
    """What is expected of a log by the caller of `Log.append_many`, and by a transaction."""

    def assert_conflict(self, log: Log, **expected: Any) -> ConflictError:
        """Have a batch refused that expects this, and return how; nothing is written."""
        before = [record.position for record in log.read()]
        with raises(ConflictError) as caught:
            log.append_many(_NEVER, **expected)
        assert [record.position for record in log.read()] == before
        with raises(ConflictError):
            log.append_many([], **expected)
        return caught.exception

    def test_batch_lands_if_all_counts_are_as_expected_and_else_conflicts(self) -> None:
        log, other = self.open_handle().log("a"), self.open_handle().log("a")
        log.append_many([("x", 0), ("y", 1)], expected_counts={"x": 0, "y": 0})
        last = log.append_many([("x", 2)], expected_counts={"x": 1, "y": 1, "z": 0})
        unexpected = other.append("y", 3)

        conflict = self.assert_conflict(log, expected_counts={"x": 2, "y": 1})
        assert (conflict.object_key, conflict.expected, conflict.found) == ("y", 1, 2)
        assert (conflict.position, conflict.end) == (unexpected, None)
        conflict = self.assert_conflict(other, expected_counts={"y": 2, "x": 3}, expected_end=unexpected)
        assert (conflict.object_key, conflict.expected, conflict.found, conflict.position) == (
            "x",
            3,
            2,
            None,
        )
        assert self.assert_conflict(other, expected_counts={"x": 2}, expected_end=last).object_key is None
        log.append_many([("x", 4)], expected_counts={"y": 2}, expected_end=unexpected)
        assert (other.events("x"), other.events("y")) == ((0, 2, 4), (1, 3))

    def test_batch_on_the_end_of_a_log_lands_if_no_record_came_after_it(self) -> None:
        log, other = self.open_handle().log("a"), self.open_handle().log("a")
        first = log.append_many([("x", 0), ("y", 1)], expected_end="start")
        assert first is not None
        unexpected = other.append_many([("z", 2), ("z", 3)])

        conflict = self.assert_conflict(log, expected_end=first)
        assert (conflict.expected, conflict.found, conflict.end) == (0, 2, unexpected)
        assert conflict.position == [record.position for record in other.read()][2]
        inside = self.assert_conflict(log, expected_end=conflict.position)
        assert (inside.found, inside.position) == (1, unexpected)
        assert self.assert_conflict(log, expected_end="start").found == 4
        with other.claim("x") as claim:  # which is no record
            assert claim is not None
            last = log.append_many([("x", 4)], expected_end=conflict.end)
            assert self.assert_conflict(log, expected_end=conflict.end).position == last
        log.append_many([("x", 5)], expected_end=last)
        forgotten = other.forget("y")
        conflict = self.assert_conflict(log, expected_counts={"x": 3}, expected_end=last)
        for end in (forgotten, conflict.end):
            last = log.append_many([("x", 6)], expected_end=end) if end is forgotten else last
        assert log.events("x") == other.events("x") == (0, 4, 5, 6)

    def test_end_of_another_log_is_refused_with_nothing_written(self) -> None:
        log = self.open_handle().log("a")
        log.append("x", 0)
        elsewhere = self.open_checkpoint(self.other_place, durability="never").log("a")
        for position in (self.open_handle().log("b").append("x", 0), elsewhere.append("x", 0)):
            for batch in (_NEVER, []):
                with raises(InvalidPositionError):
                    log.append_many(batch, expected_end=position)
        assert [record.event for record in log.read()] == [0]

    def test_end_of_a_log_is_the_same_after_what_stood_there_was_dropped(self) -> None:
        log, other = self.open_handle().log("a"), self.open_handle().log("a")
        first, last = (log.append_many([("x", number), ("y", number)]) for number in range(2))
        other.compact(keep_last=1)
        assert self.assert_conflict(log, expected_end=first).end is not None
        last = log.append_many([("x", 2)], expected_end=last)
        log.compact(drop=lambda record: record.event == 2)
        for expected in (first, "start"):
            self.assert_conflict(other, expected_end=expected)
        last = other.append_many([("z", 3)], expected_end=last)
        for again in (log, other):  # of which the last one drops nothing
            again.compact(drop=lambda record: True)
            conflict = self.assert_conflict(again, expected_end="start")
            assert (conflict.found, conflict.position) == (0, None)
            assert self.assert_conflict(again, expected_end=first).found == 0
            assert again.append_many([], expected_end=last) is None
            assert again.append_many([], expected_end=conflict.end) is None
        log.append_many([("z", 4)], expected_end=last)
        assert [record.event for record in other.read()] == [4]

    def test_part_of_an_object_is_numbered_as_it_is_counted(self) -> None:
        log, other = self.open_handle().log("a"), self.open_handle().log("a")
        for number in range(6):
            log.append("x", number)
            assert other.events("x", start=number) == other.last("x") == (number,)
        for each in (log, other):
            assert [each.events("x", start=start) for start in (4, 6, 7)] == [(4, 5), (), ()]
            assert [each.last("x", n) for n in (0, 2, 9)] == [(), (4, 5), (0, 1, 2, 3, 4, 5)]
            assert each.last("y") == each.events("y", start=1) == ()
        log.compact(keep_last=2)
        for each in (log, other):
            assert [each.events("x", start=start) for start in (3, 4, 5)] == [(4, 5), (4, 5), (5,)]
            assert each.last("x", 3) == (4, 5)
        log.forget("x")
        assert (other.last("x"), other.events("x", start=0)) == ((), ())

    def test_transaction_relies_on_the_part_of_an_object_that_it_read(self) -> None:
        log, other = self.open_handle().log("a"), self.open_handle().log("a")
        for number in range(3):
            other.append("x", number)

        def lands(read: Any, between: Any) -> bool:
            try:
                with log.transaction() as transaction:
                    read(transaction)
                    between()
                    transaction.append("y", 0)
            except ConflictError:
                return False
            return True

        def append() -> None:
            other.append("x", "late")

        def same_again() -> None:
            count = other.count("x")
            other.forget("x")
            other.append_many([("x", number) for number in range(count)])

        reads: dict[str, Any] = {
            "count": lambda transaction: transaction.count("x"),
            "last": lambda transaction: transaction.last("x"),
            "start": lambda transaction: transaction.events("x", start=2),
            "in": lambda transaction: "x" in transaction,
        }
        for name, read in reads.items():
            assert not lands(read, append), name
            assert lands(read, lambda: other.append("z", 0)), name
            assert lands(read, same_again) == (name == "count"), name

    def test_transaction_counts_and_numbers_its_own_appends(self) -> None:
        log = self.open_handle().log("a")
        log.append_many([("x", number) for number in range(4)])
        log.compact(keep_last=2)

        def check(transaction: Transaction) -> None:
            transaction.append("x", 4)
            transaction.append("x", 5)
            assert transaction.count("x") == 6
            assert [transaction.last("x", n) for n in (0, 1, 3, 9)] == [(), (5,), (3, 4, 5), (2, 3, 4, 5)]
            starts = [transaction.events("x", start=start) for start in (1, 3, 5, 6)]
            assert starts == [(2, 3, 4, 5), (3, 4, 5), (5,), ()]

        with log.transaction() as transaction:
            check(transaction)
        log.compact(drop="x")
        log.append_many([("z", number) for number in range(4)])
        assert log.count("x") == 6
        with raises(ConflictError), log.transaction() as transaction:
            assert transaction.count("x") == 6
            self.open_handle().log("a").append("x", 6)
            transaction.last("x")
            raise AssertionError("what was counted and what is read are not of one moment")
        with log.transaction() as transaction:
            assert (transaction.events("x"), transaction.count("x")) == ((6,), 7)
            assert (transaction.last("x", 2), transaction.events("x", start=7)) == ((6,), ())
            assert transaction.events("x", start=5) == (6,)
