"""What users see of a storage: Checkpoint and Log on top of it."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from mpcheckpoint import Checkpoint, Cursor, Log, Position
from mpcheckpoint.errors import ConflictError, LockTimeoutError, LogNotFoundError, ReadOnlyError
from mpcheckpoint.testing._conformance.base import StorageUnderTest
from mpcheckpoint.testing._conformance.readers import MIB, VALUES
from mpcheckpoint.testing._conformance.verbs import Background, held, raises

if TYPE_CHECKING:
    from mpcheckpoint import Transaction


class HandleTests(StorageUnderTest):
    """Checkpoint and Log."""

    def test_records_are_read_with_all_that_was_said_of_them(self) -> None:
        log = self.open_handle().log("a")
        first = log.append("x", {"n": 1}, record_id="id")
        last = log.append_many([("y", 2), ("x", [3])])

        found = list(log.read())
        assert [(record.log_key, record.object_key, record.event, record.record_id) for record in found] == [
            ("a", "x", {"n": 1}, "id"),
            ("a", "y", 2, None),
            ("a", "x", [3], None),
        ]
        assert [found[0].position, found[2].position] == [first, last]
        for index, record in enumerate(found):
            assert list(log.read(after=record.position)) == found[index + 1 :]

    def test_values_come_back_exactly_in_every_handle(self) -> None:
        writer = self.open_handle().log("a")
        values = [*VALUES, "x" * MIB]
        for value in values:
            writer.append("x", value)

        for handle in (writer, self.open_handle().log("a")):
            # As texts, which tell 1 from 1.0 and True, and 0.0 from -0.0.
            assert [*map(repr, handle.events("x"))] == [*map(repr, values)]

    def test_value_changed_after_it_was_written_or_read_is_read_as_written(self) -> None:
        log = self.open_handle().log("a")
        event: dict[str, Any] = {"list": [1]}
        log.append("x", event)
        event["list"].append(2)
        log.events("x")[0]["list"].append(3)
        next(log.read()).event["list"].append(4)

        assert log.events("x") == ({"list": [1]},)
        assert self.open_handle()["x"] == ({"list": [1]},)

    def test_empty_batch_writes_nothing(self) -> None:
        log = self.open_handle().log("a")

        assert log.append_many([]) is None
        assert list(log.read()) == []

    def test_append_on_a_count_that_does_not_hold_conflicts_and_writes_nothing(self) -> None:
        log, other = self.open_handle().log("a"), self.open_handle().log("a")
        log.append("x", 0, expected_count=0)
        unexpected = other.append("x", 1, expected_count=1)
        other.append("y", 0, expected_count=0)

        with raises(ConflictError) as caught:
            log.append("x", "never", expected_count=1)

        assert (caught.exception.expected, caught.exception.found) == (1, 2)
        assert caught.exception.position == unexpected
        assert log.events("x") == other.events("x") == (0, 1)

    def test_append_of_a_record_id_that_is_there_returns_its_position(self) -> None:
        log = self.open_handle().log("a")
        first = log.append("x", 0, record_id="id")
        log.append("x", 1)

        for again in (log, self.open_handle().log("a")):
            assert again.append("x", "never", record_id="id") == first
        assert log.append("y", 2, record_id="id") > first  # an id is one object's
        assert log.events("x") == (0, 1)

    def test_transaction_lands_whole_or_conflicts_with_nothing_written(self) -> None:
        log, other = self.open_handle().log("a"), self.open_handle().log("a")
        with log.transaction() as transaction:
            transaction.append("x", len(transaction.events("x")))
            transaction.append("y", 0)
        assert [record.position for record in other.read()][-1] == transaction.position

        with raises(ConflictError), log.transaction() as transaction:
            transaction.append("y", len(transaction.events("x")))
            other.append("x", "between")

        assert other.events("x") == (0, "between")
        assert other.events("y") == (0,)

    def test_updates_of_threads_with_handles_of_their_own_all_count(self) -> None:
        def add(transaction: Transaction) -> None:
            transaction.append("x", len(transaction.events("x")))

        def work() -> None:
            log = self.open_handle().log("a")
            for _ in range(10):
                log.update(add)

        threads = [Background(work) for _ in range(4)]
        for thread in threads:
            thread.result(self.patience_s)

        assert self.open_handle()["x"] == tuple(range(40))

    def test_events_over_logs_have_one_order_for_all_that_is_the_order_of_the_appends(self) -> None:
        long_lived = self.open_handle()
        handles = [self.open_handle(), self.open_handle()]
        for number in range(60):
            log_key = "cab"[number % 3]
            handles[number % 2].log(log_key).append("x", number)
            handles[number % 2].log(log_key).append(f"object {number}", number)

        for handle in (long_lived, *handles, self.open_handle(log_keys=["a", "b", "c"])):
            assert handle["x"] == tuple(range(60))
            assert list(handle) == ["x", *(f"object {number}" for number in range(60))]

    def test_handles_see_each_other_s_records_and_logs_at_once(self) -> None:
        handles = [self.open_handle() for _ in range(3)]
        for number in range(9):
            handles[number % 3].log(f"log {number % 4}").append(f"object {number % 2}", number)

            expected = tuple(range(number % 2, number + 1, 2))
            assert [handle[f"object {number % 2}"] for handle in handles] == [expected] * 3
            assert [handle.logs() for handle in handles] == [handles[0].logs()] * 3
        assert handles[0].logs() == ["log 0", "log 1", "log 2", "log 3"]

    def test_log_is_a_mapping_of_its_own_objects_and_the_handle_one_over_all_logs(self) -> None:
        checkpoint = self.open_handle()
        log = checkpoint.log("a")
        self.open_handle().log("b").append("z", 0)
        self.open_handle().log("a").append_many([("y", 3), ("x", 2), ("y", 1)])

        for each, expected in (
            (log, {"y": (3, 1), "x": (2,)}),
            (checkpoint, {"z": (0,), "y": (3, 1), "x": (2,)}),
        ):
            assert [(key, each[key], each.get(key)) for key in each] == [
                (key, events, events) for key, events in expected.items()
            ]
            assert dict(each.items()) == dict(each.snapshot()) == expected
            assert len(each) == len(expected)
            assert [(found.object_key, found.count) for found in each.objects()] == [
                (key, len(events)) for key, events in expected.items()
            ]
        assert "z" not in log
        assert "z" in checkpoint
        with raises(KeyError):
            log["z"]

    def test_log_that_does_not_exist_is_not_made_without_permission(self) -> None:
        self.open_store(self.place)
        for options in ({"create": False}, {"read_only": True}):
            with raises(LogNotFoundError):
                self.open_handle(**options).log("a")
        with raises(LogNotFoundError):
            self.open_handle().log("a", create=False)

        assert self.open_handle().logs() == []

    def test_read_only_handle_reads_and_writes_nothing(self) -> None:
        log = self.open_handle().log("a")
        log.append("x", 0)
        reader = self.open_handle(read_only=True)

        assert reader["x"] == (0,)
        assert [record.event for record in reader.log("a").read()] == [0]
        with raises(ReadOnlyError):
            reader.log("a").append("x", 1)
        log.append("x", 2)
        assert list(reader["x"]) == [0, 2]

    def test_append_through_a_handle_times_out_with_nothing_written(self) -> None:
        self.open_handle().log("a").append("x", 0)
        log = self.open_handle(lock_timeout_s=0.05).log("a")

        with held(self.open_log(), self.patience_s):
            with raises(LockTimeoutError):
                log.append("x", "late")
            with raises(LockTimeoutError):
                log.append("x", "late", expected_count=1)
            with raises(LockTimeoutError):
                log.append_many([("x", "late")] * 2)
            assert Background(lambda: log.events("x")).result(self.patience_s / 2) == (0,)

        log.append("x", 1)
        assert self.open_handle()["x"] == (0, 1)

    def test_follower_gives_each_record_once_from_where_it_was_put(self) -> None:
        checkpoint = self.open_handle()
        log = checkpoint.log("a")
        place = log.append("x", 0)
        log.append("x", 1)

        def found_by(follower: Any) -> list[Any]:
            return [record.event for record in follower]

        assert found_by(log.follow(idle_timeout_s=0)) == [0, 1]
        assert found_by(log.follow(place, idle_timeout_s=0)) == [1]
        from_end = log.follow("end", idle_timeout_s=0)
        of_all = checkpoint.follow(idle_timeout_s=0)
        assert found_by(of_all) == [0, 1]
        cursor = str(of_all.cursor)
        self.open_handle().log("b").append_many([("y", 2), ("y", 3)])
        log.append("x", 4)
        assert found_by(from_end) == [4]
        assert sorted(found_by(of_all)) == [2, 3, 4]
        again = self.open_handle().follow(Cursor.parse(cursor), idle_timeout_s=0)
        assert sorted(found_by(again)) == [2, 3, 4]

    def test_tail_gives_each_record_once_and_every_one_that_was_appended(self) -> None:
        checkpoint = self.open_handle()
        log, other = checkpoint.log("a"), self.open_handle()
        tails = [log.tail(), checkpoint.tail(), other.log("a").tail("end"), other.tail("end")]
        for number in range(3):
            log.append_many([("x", 2 * number), ("y", 2 * number + 1)])
            for tail in tails:
                assert [record.event for record in tail.new()] == [2 * number, 2 * number + 1]
                assert tail.new() == []
        cursors = [str(tail.cursor) for tail in tails]
        other.log("b").append("x", "b")
        log.append("x", 6)
        again = [log.tail(Cursor.parse(cursors[0])), self.open_handle().tail(Cursor.parse(cursors[3]))]
        for tail, cursor in zip([*tails, *again], [*cursors, cursors[0], cursors[3]], strict=True):
            is_of_all = tail in (tails[1], tails[3], again[1])
            assert [record.event for record in tail.new()] == (["b", 6] if is_of_all else [6]), cursor

    def test_read_of_a_part_gives_those_of_all_records_that_are_in_it(self) -> None:
        log = self.open_handle().log("a")
        for number in range(0, 300, 3):
            log.append_many([("x", number), ("y", "y" * 2000), ("x", number + 2)])
        found = list(log.read())
        middle = found[150]
        for reader in (log, self.open_handle().log("a")):
            assert list(reader.read(last=2)) == found[-2:]
            assert list(reader.read(last=2, durable=True)) == found[-2:]
            assert list(reader.read(middle.position, last=1000)) == found[151:]
            assert list(reader.read(since=middle.stamp_us)) == found[150:]
            assert list(reader.read(until=middle.stamp_us, last=4)) == found[149:153]
            assert list(reader.read(found[0].position, until=found[3].stamp_us, object_key="x")) == [
                found[number] for number in (2, 3, 5)
            ]

    def test_durable_read_gives_everything_once_it_is_synced(self) -> None:
        log = self.open_handle().log("a")
        log.append_many([("x", 0), ("x", 1)])
        log.append("x", 2)

        assert [record.event for record in log.read(durable=True)] == [0, 1, 2]

    def test_claim_keeps_others_out_for_as_long_as_it_is_held(self) -> None:
        log, other = self.open_handle().log("a"), self.open_handle().log("a")
        with log.claim("x") as mine:
            assert mine is not None
            with other.claim("x") as theirs, other.claim("y") as free:
                assert theirs is None
                assert free is not None
        with other.claim("x") as theirs:
            assert theirs is not None
        assert log.events("x") == ()

    def test_store_opened_again_holds_everything_at_the_same_places(self) -> None:
        self.require("survives_reopen")
        with self.open_handle() as checkpoint:
            places = [str(checkpoint.log("a").append("x", number)) for number in range(3)]
            checkpoint.log("b").append_many([("x", 3), ("y", 4)])
            expected = dict(checkpoint.snapshot().items())
        del checkpoint

        log = self.open_handle().log("a")
        assert [str(record.position) for record in log.read()] == places
        assert [record.event for record in log.read(after=Position.parse(places[0]))] == [1, 2]
        assert dict(self.open_handle().items()) == expected == {"x": (0, 1, 2, 3), "y": (4,)}
        assert log.append("x", 5, expected_count=3) > list(log.read())[2].position

    def test_pickled_handles_stand_on_the_same_place(self) -> None:
        checkpoint = self.open_handle()
        log = checkpoint.log("a")
        log.append("x", 0)

        copies: tuple[Checkpoint, Log] = pickle.loads(pickle.dumps((checkpoint, log)))

        copies[0].writeCheckpoint("a", "x", 1)
        copies[1].append("x", 2)
        assert log.events("x") == checkpoint["x"] == copies[0]["x"] == copies[1].events("x") == (0, 1, 2)
        stores = [pickle.loads(pickle.dumps(self.open_store(self.place))) for _ in range(2)]
        assert stores[0] == stores[1]
        assert hash(stores[0]) == hash(stores[1])
