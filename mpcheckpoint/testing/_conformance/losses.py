"""What a storage promises whose visible records a crash can take: nobody goes on as if they were there.

For a storage that can lose them, and whose author says how (``lose_end``). Else these tests are skipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpcheckpoint._format.concern import concerns_of_objects
from mpcheckpoint._logfile.judged import Judged
from mpcheckpoint._store.durability import Durability
from mpcheckpoint.errors import ConflictError, InvalidPositionError, RecordsLostError
from mpcheckpoint.testing._conformance.base import StorageUnderTest
from mpcheckpoint.testing._conformance.readers import take_polled
from mpcheckpoint.testing._conformance.verbs import (
    UNSYNCED,
    append,
    clock_of_another_process,
    events,
    raises,
    records,
)

if TYPE_CHECKING:
    from mpcheckpoint._logfile.judged import Seen
    from mpcheckpoint._store.protocol import Reader, StoredLog

_ALWAYS = Durability.parse("always")


def _seen_of(reader: Reader) -> Seen | None:
    for _ in reader.poll():
        pass
    return reader.seen()


class LossTests(StorageUnderTest):
    """Logs that lose their end while they are in use."""

    def open_losing(self) -> StoredLog:
        """Return a log with two durable events, and two that are not."""
        log = self.open_log()
        for number in range(4):
            append(log, number, durability=_ALWAYS if number < 2 else UNSYNCED)
        return log

    def test_what_is_durable_is_not_lost(self) -> None:
        log = self.open_log()
        append(log, 0, durability=_ALWAYS)
        append(log, 1)
        log.flush(self.patience_s)
        self.lose_end(self.place)
        assert events(log) == [0, 1]
        append(log, 2, durability=Durability.parse("interval:60000"))
        log.finish()
        self.lose_end(self.place)
        assert events(log) == [0, 1, 2]
        found = append(log, 3)
        assert append(log, "never", guard=lambda: found, durability=_ALWAYS) == found
        self.lose_end(self.place)
        assert events(log) == [0, 1, 2, 3]

    def test_views_show_what_is_left_and_what_comes_after(self) -> None:
        log, handle = self.open_losing(), self.open_handle()
        own = handle.log("a")
        assert handle["x"] == own.events("x") == (0, 1, 2, 3)
        assert own.stats()["records"] == 4
        self.lose_end(self.place)

        for each in (handle, self.open_handle()):
            assert each["x"] == (0, 1)
        assert own.events("x") == (0, 1)
        assert (own.count("x"), own.stats()["records"]) == (2, 2)
        append(log, 4)
        assert handle["x"] == own.events("x") == (0, 1, 4)

    def test_reader_of_what_is_lost_starts_anew_or_raises(self) -> None:
        log = self.open_losing()
        plain, resuming, early = log.reader(), log.reader(resumes=True), log.reader(resumes=True)
        assert take_polled(plain, log) == take_polled(resuming, log) == [0, 1, 2, 3]
        self.lose_end(self.place)
        append(log, 4)

        chunks = list(plain.poll())
        assert chunks[0].is_reset
        assert [int(line.event) for chunk in chunks for line in chunk.lines] == [0, 1, 4]
        for _ in range(2):
            with raises(RecordsLostError):
                list(resuming.poll())
        assert take_polled(early, log) == [0, 1, 4]

    def test_reader_of_what_is_left_goes_on(self) -> None:
        log = self.open_log()
        append(log, 0, durability=_ALWAYS)
        resuming = log.reader(resumes=True)
        assert take_polled(resuming, log) == [0]
        append(log, 1)
        self.lose_end(self.place)
        append(log, 2)

        assert take_polled(resuming, log) == [2]

    def test_follower_of_what_is_lost_raises_and_one_from_the_start_does_not(self) -> None:
        log = self.open_losing()
        handle = self.open_handle()
        followers = [handle.follow(idle_timeout_s=0), handle.log("a").follow(idle_timeout_s=0)]
        tails = [handle.tail(), handle.log("a").tail()]
        for given in [*map(list, followers), *(tail.new() for tail in tails)]:
            assert [record.event for record in given] == [0, 1, 2, 3]
        self.lose_end(self.place)
        append(log, 4)

        for follower in followers:
            with raises(RecordsLostError):
                next(follower)
            with raises((RecordsLostError, InvalidPositionError)):
                next(follower)
        for tail in tails * 2:
            with raises(RecordsLostError):
                tail.new()
        assert [record.event for record in handle.tail().new()] == [0, 1, 4]
        assert [record.event for record in handle.follow(idle_timeout_s=0)] == [0, 1, 4]

    def test_count_or_id_that_is_lost_does_not_hold_any_more(self) -> None:
        self.open_losing()
        log = self.open_handle().log("a")
        log.append("y", 0, record_id="id")
        assert (log.count("x"), log.count("y")) == (4, 1)
        self.lose_end(self.place)

        with raises(ConflictError):
            log.append("x", "never", expected_count=4)
        log.append("x", 4, expected_count=2)
        log.append("y", 1, record_id="id")
        assert (log.events("x"), log.events("y")) == ((0, 1, 4), (1,))

    def test_transaction_on_what_is_lost_conflicts_though_as_much_came_after(self) -> None:
        self.open_losing()
        log = self.open_handle().log("a")
        with raises(ConflictError), log.transaction() as transaction:
            assert transaction.events("x") == (0, 1, 2, 3)
            self.lose_end(self.place)
            other = self.open_handle().log("a")
            for number in (4, 5):
                other.append("x", number)
            transaction.append("x", "from what is lost")
        assert log.events("x") == (0, 1, 4, 5)

    def test_condition_judged_of_what_is_lost_is_judged_again(self) -> None:
        log = self.open_losing()
        for relies_on in (concerns_of_objects("x"), concerns_of_objects("y"), None):
            append(log, "lost")
            reader, judged = log.reader(), list[int]()
            condition = Judged(
                lambda judged=judged: judged.append(len(events(log))),  # type: ignore[misc]
                lambda reader=reader: _seen_of(reader),  # type: ignore[misc]
                relies_on,
            )
            condition.is_met_anew()
            self.lose_end(self.place)
            before = condition.seen
            append(log, "on a condition", guard=condition)
            assert before is None or judged or condition.seen != before

    def test_position_of_what_is_lost_is_refused_and_others_are_not(self) -> None:
        log = self.open_losing()
        places = [record.position for record in records(log)]
        self.lose_end(self.place)
        append(log, 4)

        own = self.open_handle().log("a")
        for number, left in enumerate([[1, 4], [4]]):
            assert [record.event for record in own.read(after=places[number])] == left
        for place in places[2:]:
            with raises(InvalidPositionError):
                log.reader().seek(place)
            with raises(InvalidPositionError):
                next(own.read(after=place))

    def test_batch_on_an_end_that_is_lost_is_refused(self) -> None:
        log = self.open_losing()
        places = [record.position for record in records(log)]
        own = self.open_handle().log("a")
        assert own.count("x") == 4
        self.lose_end(self.place)

        for place in places[2:]:
            with raises(InvalidPositionError):
                own.append_many([("x", "never")], expected_end=place)
        own.append_many([("x", 4)], expected_end=places[1])
        for place in places:
            with raises((ConflictError, InvalidPositionError)):
                own.append_many([("x", "never")], expected_end=place)
        assert own.events("x") == (0, 1, 4)

    def test_numbers_of_what_is_lost_are_not_given_again(self) -> None:
        log = self.open_losing()
        lost = [record.position for record in records(log)][2:]
        for _ in range(2):
            self.lose_end(self.place)
            with clock_of_another_process():
                places = [append(log, number) for number in range(3)]
            assert not set(places) & set(lost)
            assert min(place.stamp_us for place in places) > max(place.stamp_us for place in lost)
            lost += places

    def test_claim_of_a_worker_that_lives_on_is_not_lost(self) -> None:
        log, other = self.open_handle().log("a"), self.open_handle().log("a")
        log.append("y", 0)
        with log.claim("x") as claim:
            assert claim is not None
            self.lose_end(self.place)
            with other.claim("x") as second:
                assert second is None, "two workers have one object"
        with other.claim("x") as third:
            assert third is not None
