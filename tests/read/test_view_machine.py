"""Whatever is done through several handles, each of them shows what a replay of the bytes gives."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint.errors import ConflictError
from support.verbs import tear

OBJECTS = st.sampled_from(["x", "y", "z"])
EVENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


class SeveralHandles(RuleBasedStateMachine):
    """Several handles of one store, some of several logs, against a plain dictionary that is told the same."""

    logs: Bundle[Log] = Bundle("logs")

    @initialize()
    def make_store(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.store = Path(self.directory.name) / "store"
        self.handles = [Checkpoint(self.store) for _ in range(3)]
        # Of each object, which log each event is in; and how many were ever appended to each log.
        self.expected: dict[str, list[tuple[str, Any]]] = {}
        self.counts: Counter[tuple[str, str]] = Counter()

    @rule(target=logs, handle=st.integers(0, 2), log_key=st.sampled_from(["a", "b"]))
    def open_log(self, handle: int, log_key: str) -> Log:
        return self.handles[handle].log(log_key)

    def note(self, log: Log, object_key: str, event: Any) -> None:
        self.expected.setdefault(object_key, []).append((log.log_key, json.loads(json.dumps(event))))
        self.counts[log.log_key, object_key] += 1

    @rule(log=logs, object_key=OBJECTS, event=EVENTS)
    def append(self, log: Log, object_key: str, event: Any) -> None:
        log.append(object_key, event, durability="never")
        self.note(log, object_key, event)

    @rule(log=logs, batch=st.lists(st.tuples(OBJECTS, EVENTS), max_size=4))
    def append_batch(self, log: Log, batch: list[tuple[str, Any]]) -> None:
        log.append_many(batch, durability="never")
        for object_key, event in batch:
            self.note(log, object_key, event)

    @rule(log=logs, object_key=OBJECTS, event=EVENTS, is_right=st.booleans())
    def append_on_a_condition(self, log: Log, object_key: str, event: Any, is_right: bool) -> None:
        count = log.count(object_key)
        if is_right:
            log.append(object_key, event, expected_count=count, durability="never")
            self.note(log, object_key, event)
        else:
            with pytest.raises(ConflictError):
                log.append(object_key, event, expected_count=count + 1)

    @rule(log=logs)
    def tear_or_recover(self, log: Log) -> None:
        if log.log_key == "a":
            tear(self.store)
        else:
            log.recover()

    @rule(log=logs, keep_last=st.integers(1, 3))
    def keep_the_last_ones(self, log: Log, keep_last: int) -> None:
        log.compact(keep_last=keep_last)
        for events in self.expected.values():
            places = [place for place, (log_key, _) in enumerate(events) if log_key == log.log_key]
            for place in reversed(places[:-keep_last]):
                del events[place]

    @rule(log=logs, object_key=OBJECTS)
    def drop_an_object(self, log: Log, object_key: str) -> None:
        log.compact(drop=object_key)
        left = [each for each in self.expected.pop(object_key, []) if each[0] != log.log_key]
        if left:
            self.expected[object_key] = left

    @invariant()
    def every_handle_and_a_replay_show_the_same(self) -> None:
        for handle in [*self.handles, Checkpoint(self.store, read_only=True)]:
            assert repr({key: list(events) for key, events in sorted(handle.items())}) == repr(
                {key: [event for _, event in events] for key, events in sorted(self.expected.items())}
            )
            for (log_key, object_key), count in self.counts.items():
                assert handle.log(log_key).count(object_key) == count

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            self.directory.cleanup()


SeveralHandles.TestCase.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
TestSeveralHandlesAndAReplay = pytest.mark.guarantee(5)(SeveralHandles.TestCase)
