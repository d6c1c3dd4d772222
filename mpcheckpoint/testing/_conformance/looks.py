"""What a Store promises of one look at several logs: nothing lost or given twice, and no effect without its cause."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from unittest import SkipTest

from mpcheckpoint.testing._conformance.base import StorageUnderTest
from mpcheckpoint.testing._conformance.readers import take_polled
from mpcheckpoint.testing._conformance.verbs import Background, append

if TYPE_CHECKING:
    from mpcheckpoint._store.protocol import Reader, Store, StoredLog

_LOG_KEYS = ["a", "b", "c"]
_LOOKS = 100
_PAUSE_S = 0.0005


class LookTests(StorageUnderTest):
    """Several logs, looked at together."""

    def opened(self) -> tuple[Store, list[StoredLog], list[Reader]]:
        """Return a store, its logs, and a reader of each, in which two events are new."""
        store = self.open_store(self.place)
        logs = [store.open_log(key, create=True, timeout_s=self.patience_s) for key in _LOG_KEYS]
        readers = [log.reader() for log in logs]
        for log in logs:
            append(log, 0)
            append(log, 1)
        return store, logs, readers

    def test_polls_after_a_look_give_what_each_log_holds_once(self) -> None:
        store, logs, readers = self.opened()
        store.look(readers)
        assert [take_polled(*each) for each in zip(readers, logs, strict=True)] == [[0, 1]] * 3
        for number in range(2, 5):
            append(logs[1], number)
            store.look(readers)
            assert [take_polled(*each) for each in zip(readers, logs, strict=True)] == [[], [number], []]
            assert [list(reader.poll()) for reader in readers] == [[], [], []]
        append(logs[2], "without a look")
        assert take_polled(readers[2], logs[2]) == ["without a look"]

    def test_look_that_nobody_polled_loses_nothing_and_doubles_nothing(self) -> None:
        store, logs, readers = self.opened()
        store.look(readers)
        append(logs[0], 2)
        readers[1].release()
        store.look(readers)
        append(logs[2], 2)
        store.look(readers[1:])
        store.look([])

        found = [take_polled(*each) + take_polled(*each) for each in zip(readers, logs, strict=True)]
        assert found == [[0, 1, 2], [0, 1], [0, 1, 2]]

    def test_look_while_chunks_were_left_gives_the_rest_once(self) -> None:
        store, logs, readers = self.opened()
        store.look(readers)
        reader, log, found = readers[0], logs[0], list[Any]()
        for number in range(2, 6):
            for chunk in reader.poll():
                found += [int(line.event) for line in chunk.lines]
                break  # as a caller does that was interrupted
            append(log, number)
            store.look(readers)
        found += take_polled(reader, log) + take_polled(reader, log)

        assert found == [0, 1, 2, 3, 4, 5]
        assert reader.given >= 1

    def test_look_at_readers_that_begin_elsewhere_gives_what_follows(self) -> None:
        store, logs, _ = self.opened()
        place = append(logs[0], 2, 3)
        sought, resuming, near_end = logs[0].reader(), logs[0].reader(resumes=True), logs[0].reader()
        append(logs[0], 4)
        sought.seek(place)
        near_end.begin_near_end(1)
        store.look([sought, resuming, near_end])

        assert take_polled(sought, logs[0]) == [4]
        assert take_polled(resuming, logs[0]) == [0, 1, 2, 3, 4]
        assert take_polled(near_end, logs[0])[-1:] == [4]
        assert {reader.position() for reader in (sought, resuming, near_end)} == {_end_of(logs[0])}

    def test_look_at_a_log_that_was_compacted_starts_anew_once(self) -> None:
        store, logs, readers = self.opened()
        resuming = logs[0].reader(resumes=True)
        assert take_polled(readers[0], logs[0]) == take_polled(resuming, logs[0]) == [0, 1]
        self.open_handle().log("a").compact(keep_last=1)
        for _ in range(2):
            store.look([*readers, resuming])

        chunks = list(readers[0].poll())
        assert [chunk.is_reset for chunk in chunks] == [True] + [False] * (len(chunks) - 1)
        assert [int(line.event) for chunk in chunks for line in chunk.lines] == [1]
        assert take_polled(resuming, logs[0]) == []
        store.look(readers)
        assert list(readers[0].poll()) == []

    def test_look_of_one_moment_shows_nothing_later_and_then_that(self) -> None:
        store, logs, readers = self.opened()
        if not store.look(readers):
            raise SkipTest("a look of this storage is not one moment of all logs")
        append(logs[0], 2)
        assert [take_polled(*each) for each in zip(readers, logs, strict=True)] == [[0, 1]] * 3
        assert [take_polled(*each) for each in zip(readers, logs, strict=True)] == [[2], [], []]

    def test_look_of_one_moment_shows_no_effect_without_its_cause(self) -> None:
        store, logs, _ = self.opened()
        readers = [logs[1].reader(), logs[0].reader()]  # of the effects first
        is_over = threading.Event()

        def write() -> None:
            cause, effect = self.open_log("a"), self.open_log("b")
            while not is_over.wait(_PAUSE_S):
                append(cause, "cause")
                append(effect, "effect")

        writer = Background(write)
        effects = causes = 0
        try:
            for _ in range(_LOOKS):
                is_cut = store.look(readers)
                effects += len(take_polled(readers[0], logs[1]))
                causes += len(take_polled(readers[1], logs[0]))
                assert not is_cut or causes - 1 <= effects <= causes, f"{effects} effects of {causes} causes"
        finally:
            is_over.set()
            writer.result(self.patience_s)

    def test_log_that_was_added_changes_the_token_that_is_asked_after_a_look(self) -> None:
        store, _, readers = self.opened()
        store.look(readers)
        before = store.change_token()
        self.open_log("added")
        store.look(readers)

        assert before is None or store.change_token() != before
        assert "added" in self.open_handle().logs()

    def test_handle_sees_at_once_what_came_after_its_last_look(self) -> None:
        logs, handle = [self.open_log(key) for key in _LOG_KEYS], self.open_handle()
        for number in range(3):
            for log in logs:
                append(log, number)
                assert handle["x"][-1] == number
        append(self.open_log("added"), "added")
        assert handle["x"] == (0, 0, 0, 1, 1, 1, 2, 2, 2, "added")
        follower = handle.follow(idle_timeout_s=0)
        assert sorted(str(record.event) for record in follower) == sorted(map(str, handle["x"]))


def _end_of(log: StoredLog) -> object:
    """Return the place after all that a log holds."""
    reader = log.reader()
    for _ in reader.poll():
        pass
    return reader.position()
