"""Whatever is appended, dropped and asked in whatever order, a tail gives what a read from its place would give."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule

from mpcheckpoint import Checkpoint, Cursor, Position, Record, Tail
from support.verbs import tear

LOG_KEYS = ["a", "b", "c"]
OBJECT_KEYS = ["x", "y", "z"]


class Asked:
    """A tail, and up to where it has given records, by its log; of a log that is not named it has given none."""

    def __init__(self, tail: Tail, log_key: str | None, places: dict[str, Position]) -> None:
        self.tail = tail
        self.log_key = log_key
        self.places = places

    def wanted(self, everything: list[Record]) -> list[Record]:
        """Return what it has to give, of all that the logs hold."""
        return [
            record
            for record in everything
            if self.log_key in (None, record.log_key)
            and (record.log_key not in self.places or record.position > self.places[record.log_key])
        ]


class TailsAndReads(RuleBasedStateMachine):
    """Tails of two handles, beside others that write and compact."""

    tails: Bundle[Asked] = Bundle("tails")

    @initialize()
    def make_store(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.store = Path(self.directory.name) / "store"
        self.handles = [Checkpoint(self.store, durability="never") for _ in range(2)]
        self.handles[0].log("a")
        self.number = 0

    def everything(self) -> list[Record]:
        """Return what the logs hold, as nobody knows better than who reads it for the first time."""
        with Checkpoint(self.store, read_only=True) as reader:
            return list(reader.read())

    @rule(
        handle=st.integers(0, 1),
        log_key=st.sampled_from(LOG_KEYS),
        object_keys=st.lists(st.sampled_from(OBJECT_KEYS), min_size=1, max_size=4),
    )
    def append(self, handle: int, log_key: str, object_keys: list[str]) -> None:
        batch = [(object_key, self.number + more) for more, object_key in enumerate(object_keys)]
        self.number += len(batch)
        self.handles[handle].log(log_key).append_many(batch)

    @rule(
        handle=st.integers(0, 1), log_key=st.sampled_from(LOG_KEYS), object_key=st.sampled_from(OBJECT_KEYS)
    )
    def drop(self, handle: int, log_key: str, object_key: str) -> None:
        self.handles[handle].log(log_key).compact(drop=object_key)

    @rule(handle=st.integers(0, 1), log_key=st.sampled_from(LOG_KEYS), count=st.integers(1, 2))
    def keep_last(self, handle: int, log_key: str, count: int) -> None:
        self.handles[handle].log(log_key).compact(keep_last=count)

    @rule(handle=st.integers(0, 1), log_key=st.sampled_from(LOG_KEYS))
    def recover(self, handle: int, log_key: str) -> None:
        self.handles[handle].log(log_key).recover()

    @rule(handle=st.integers(0, 1), object_key=st.sampled_from(OBJECT_KEYS))
    def forget(self, handle: int, object_key: str) -> None:
        self.handles[handle].forget(object_key)

    @rule()
    def die_while_writing(self) -> None:
        tear(self.store)

    @rule(
        target=tails,
        handle=st.integers(0, 1),
        log_key=st.sampled_from([None, *LOG_KEYS]),
        is_at_end=st.booleans(),
    )
    def begin(self, handle: int, log_key: str | None, is_at_end: bool) -> Asked:
        checkpoint = self.handles[handle]
        source = checkpoint if log_key is None else checkpoint.log(log_key)
        places = {record.log_key: record.position for record in self.everything()} if is_at_end else {}
        return Asked(source.tail("end" if is_at_end else "start"), log_key, places)

    @rule(asked=tails)
    def new(self, asked: Asked) -> None:
        wanted = asked.wanted(self.everything())

        assert asked.tail.new() == wanted
        assert asked.tail.new() == []
        asked.places.update({record.log_key: record.position for record in wanted})

    @rule(target=tails, asked=tails)
    def pickle(self, asked: Asked) -> Asked:
        return Asked(pickle.loads(pickle.dumps(asked.tail)), asked.log_key, dict(asked.places))

    @rule(target=tails, asked=tails, handle=st.integers(0, 1))
    def go_on_elsewhere(self, asked: Asked, handle: int) -> Asked:
        checkpoint = self.handles[handle]
        source = checkpoint if asked.log_key is None else checkpoint.log(asked.log_key)
        cursor = Cursor.parse(str(asked.tail.cursor))
        return Asked(source.tail(cursor), asked.log_key, dict(asked.places))

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            for handle in self.handles:
                handle.close()
            self.directory.cleanup()


TailsAndReads.TestCase.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
TestTailsGiveWhatReadsGive = pytest.mark.guarantee(4)(TailsAndReads.TestCase)
