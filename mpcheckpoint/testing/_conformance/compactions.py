"""What a StoredLog promises when it is compacted: what is dropped, and everything that goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpcheckpoint.errors import ConflictError
from mpcheckpoint.testing._conformance.base import StorageUnderTest
from mpcheckpoint.testing._conformance.readers import take_polled
from mpcheckpoint.testing._conformance.verbs import append, batches, events, raises, records

if TYPE_CHECKING:
    from mpcheckpoint.log import Log


class _StopError(Exception):
    """What ends a compaction."""


def _stop(done: int, total: int) -> None:
    raise _StopError


class CompactionTests(StorageUnderTest):
    """A log that gets smaller under those who use it."""

    def open_filled(self) -> Log:
        """Return a log with six events of one object, and a batch of two objects."""
        log = self.open_handle().log("a")
        for number in range(6):
            log.append("x", number, record_id=f"id {number}")
        log.append_many([("x", 6), ("y", 7), ("x", 8)])
        return log

    def test_compaction_drops_what_was_asked_for_all_handles_at_once(self) -> None:
        log = self.open_filled()
        other = self.open_handle()
        assert list(other.getCheckpoints("x")) == [0, 1, 2, 3, 4, 5, 6, 8]

        done = log.compact(keep_last=3)

        assert (done.records_before, done.records_after, done.is_changed) == (9, 4, True)
        assert list(log.events("x")) == list(other.getCheckpoints("x")) == [5, 6, 8]
        assert log.events("y") == (7,)
        assert self.open_handle().log("a").events("x") == (5, 6, 8)

    def test_compaction_keeps_order_stamps_and_batches_and_records_ids(self) -> None:
        log = self.open_filled()
        before = {seen.event: seen for seen in records(self.open_log())}

        log.compact(drop=lambda record: record.event in (0, 3, 6))

        left = records(self.open_log())
        assert [seen.event for seen in left] == [1, 2, 4, 5, 7, 8]
        for seen in left:
            was = before[seen.event]
            assert (seen.stamp_us, seen.more, seen.record_id) == (was.stamp_us, was.more, was.record_id)
        assert batches([seen for seen in left if seen.event < 6]) == [[1], [2], [4], [5]]

    def test_counts_and_conditions_go_on_over_compactions(self) -> None:
        log = self.open_filled()
        other = self.open_handle().log("a")
        for turn in range(2):
            log.compact(keep_last=1)
            assert log.count("x") == other.count("x") == 8 + turn
            with raises(ConflictError):
                other.append("x", "wrong", expected_count=1)
            other.append("x", 9 + turn, expected_count=8 + turn)
        assert log.events("x") == (9, 10)

    def test_record_id_of_a_dropped_record_is_found(self) -> None:
        log = self.open_filled()
        place = log.append("x", "again", record_id="id 2")
        for _ in range(2):
            log.compact(keep_last=1)
            found = self.open_handle().log("a").append("x", "again", record_id="id 2")
            assert found.stamp_us == place.stamp_us
            log.append("x", "more")
        assert "again" not in log.events("x")

    def test_position_of_a_dropped_record_leads_to_what_followed_it(self) -> None:
        log = self.open_filled()
        places = {record.event: record.position for record in log.read()}

        log.compact(keep_last=2)
        log.append("x", 9)

        for event, followed in ((1, [6, 7, 8, 9]), (5, [6, 7, 8, 9]), (6, [7, 8, 9]), (8, [9])):
            assert [record.event for record in log.read(after=places[event])] == followed, event

    def test_reader_that_resumes_gets_nothing_twice_and_another_all_anew(self) -> None:
        log, stored = self.open_filled(), self.open_log()
        resuming, plain = stored.reader(resumes=True), stored.reader()
        assert take_polled(resuming, stored) == take_polled(plain, stored) == list(range(9))

        log.compact(keep_last=2)
        append(stored, 9)

        assert take_polled(resuming, stored) == [9]
        assert any(chunk.is_reset for chunk in plain.poll())
        for turn in range(3):
            append(stored, 10 + turn)
            log.compact(keep_last=3)
        assert take_polled(resuming, stored) == [10, 11, 12]

    def test_records_appended_during_a_compaction_stay(self) -> None:
        log, stored = self.open_filled(), self.open_log()
        late: list[int] = []

        def meanwhile(done: int, total: int) -> None:
            if not late:
                late.append(done)
                append(stored, 9, 10)

        log.compact(keep_last=1, on_progress=meanwhile)

        assert events(stored) == [7, 8, 9, 10]
        assert log.count("x") == 10

    def test_compaction_that_is_stopped_changes_nothing_and_another_goes_on(self) -> None:
        log = self.open_filled()

        with raises(_StopError):
            log.compact(keep_last=1, on_progress=_stop)
        assert log.compact(keep_last=1, dry_run=True).is_changed is False
        assert events(self.open_log()) == list(range(9))

        log.append("x", 9)
        assert log.compact(keep_last=1).is_changed
        assert log.events("x") == (9,)

    def test_fold_stands_in_the_place_of_the_last_record_that_went_into_it(self) -> None:
        log = self.open_filled()
        fourth = list(log.read())[3]

        log.compact(fold=lambda earlier, later: earlier + later, keep_last=4)

        first = next(iter(log.read()))
        assert (first.event, first.stamp_us) == (6, fourth.stamp_us)
        assert first.folded is not None
        assert first.folded.count == 4
        assert log.count("x") == 8

    def test_forgotten_object_is_as_if_it_had_never_been_in_all_handles(self) -> None:
        log = self.open_filled()
        other = self.open_handle()
        assert other.log("a").count("x") == 8

        log.forget("x")

        for each in (log, other.log("a"), self.open_handle().log("a")):
            assert (each.count("x"), each.events("x"), each.events("y")) == (0, (), (7,))
        assert "x" not in other
        other.log("a").append("x", "anew", record_id="id 2", expected_count=0)
        assert log.events("x") == ("anew",)

    def test_forgotten_object_does_not_come_back_and_is_counted_anew_over_compactions(self) -> None:
        log = self.open_filled()
        other = self.open_handle().log("a")
        log.compact(keep_last=3)
        log.forget("x")
        log.compact()
        assert (log.count("x"), other.events("x"), self.open_handle().log("a").count("x")) == (0, (), 0)
        for number in range(4):
            log.append("x", number, record_id=f"id {number}")
        for turn in range(2):
            log.compact(keep_last=1)
            assert log.count("x") == other.count("x") == self.open_handle().log("a").count("x") == 4 + turn
            other.append("x", "again", record_id="id 1")
            other.append("x", 4 + turn, expected_count=4 + turn)

    def test_forgetting_and_the_same_again_is_a_change_also_over_a_compaction(self) -> None:
        log = self.open_filled()
        with raises(ConflictError), log.transaction() as transaction:
            transaction.events("y")
            log.forget("y")
            log.append("y", 7)
            log.compact(
                drop=lambda record: record.object_key == "y"
            )  # nothing of it is left, so no stamp tells
            transaction.append("x", "from what is gone")
        assert log.count("x") == 8

    def test_claim_of_a_live_worker_is_kept(self) -> None:
        log = self.open_filled()
        with log.claim("x") as claim:
            assert claim is not None
            log.compact(keep_last=1)
            with self.open_handle().log("a").claim("x") as second:
                assert second is None
        with log.claim("x") as third:
            assert third is not None
