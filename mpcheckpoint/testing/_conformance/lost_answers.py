"""What a storage promises that tries again what was not answered: each batch is there once, and no condition meets it.

For a storage that a server keeps, and whose author says how answers are lost (``lossy_store``). Else skipped.
"""

from __future__ import annotations

from mpcheckpoint.checkpoint import checkpoint_on
from mpcheckpoint.testing._conformance.base import StorageUnderTest
from mpcheckpoint.testing._conformance.verbs import append, batches, events, records

_APPENDS = 20


class LostAnswerTests(StorageUnderTest):
    """Appends whose answers are lost."""

    def test_append_that_is_tried_again_is_there_once(self) -> None:
        log = self.lossy_store(self.place).open_log("a", create=True, timeout_s=self.patience_s)
        places = [append(log, number, number) for number in range(_APPENDS)]

        found = records(self.open_log())
        assert batches(found) == [[number, number] for number in range(_APPENDS)]
        assert [record.position for record in found if not record.more] == places

    def test_condition_does_not_meet_the_records_of_its_own_append(self) -> None:
        log = checkpoint_on(self.lossy_store(self.place), lock_timeout_s=self.patience_s).log("a")
        for number in range(_APPENDS):
            log.append("x", number, expected_count=number)
            with log.transaction() as transaction:
                assert transaction.events("y") == tuple(range(number))
                transaction.append("y", number)
            with log.claim("z") as claim:
                assert claim is not None

        assert log.events("x") == log.events("y") == tuple(range(_APPENDS))
        assert sorted(set(events(self.open_log()))) == list(range(_APPENDS))
        assert len(events(self.open_log())) == 2 * _APPENDS
