"""A store in which any bytes are put at a log's place, and what reading and appending make of them.

Whether bytes survive a loss of power is not the matter here, so syncs do nothing: they would take all the time.
"""

from __future__ import annotations

import logging
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint import _system as system
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint.errors import CheckpointError
from support.log_bytes import LOG_KEY
from support.verbs import become_a_new_process, inside, log_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mpcheckpoint import Record

MARKER = ("new", "appended by the test")


class Reading(NamedTuple):
    """What reading a log gave: the records, and the error that ended it, as its type and offset."""

    records: list[tuple[str, Any]]
    error: tuple[type[CheckpointError], int | None] | None

    @property
    def is_whole(self) -> bool:
        """Whether nothing was wrong."""
        return self.error is None


class Bench:
    """A store in which bytes are put at a log's place, as a process finds it that has just been started."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.file = log_file(store, LOG_KEY)
        Checkpoint(store).log(LOG_KEY).append("locks", "proven")

    def put(self, data: bytes) -> None:
        """Put a log in the place of what was there, quarantine and poison included."""
        for path in inside(self.store).iterdir():
            if path != self.file:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.change(data)
        become_a_new_process()
        # The highest stamp that a process has seen is its own matter, and a forged one stays with it.
        clock.highest_us = 0

    def change(self, data: bytes) -> None:
        """Change the bytes behind whoever is reading."""
        with self.file.open("r+b") as file:
            file.write(data)
            file.truncate()

    def read(self) -> Reading:
        """Read as somebody who has just opened the store, by ``Log.read``."""
        with Checkpoint(self.store, read_only=True, log_keys=[]) as checkpoint:
            return read_to_the_end(lambda: checkpoint.log(LOG_KEY).read())

    def append(self) -> type[CheckpointError] | None:
        """Append a record as a new process; return the refusal, if it was refused."""
        become_a_new_process()
        try:
            with Checkpoint(self.store, durability="never") as checkpoint:
                checkpoint.log(LOG_KEY).append(*MARKER)
        except CheckpointError as error:
            return type(error)
        return None

    def recover(self) -> type[CheckpointError] | None:
        """Recover the log as a new process; return the refusal, if it was refused."""
        become_a_new_process()
        try:
            with Checkpoint(self.store, durability="never") as checkpoint:
                checkpoint.log(LOG_KEY).recover()
        except CheckpointError as error:
            return type(error)
        return None


def grouped(records: list[tuple[str, Any]]) -> dict[str, list[Any]]:
    """Return object key -> events."""
    groups: dict[str, list[Any]] = {}
    for object_key, happened in records:
        groups.setdefault(object_key, []).append(happened)
    return groups


def read_to_the_end(begin: Callable[[], Iterator[Record]]) -> Reading:
    """Return what an iteration gave before it ended or raised. Lets everything pass that is not our own error."""
    records = []
    try:
        for record in begin():
            records.append((record.object_key, record.event))  # kept if the next one raises
            str(record.position)
    except CheckpointError as error:
        return Reading(records, (type(error), error.offset))
    return Reading(records, None)


@contextmanager
def fuzz_bench(directory: Path) -> Iterator[Bench]:
    """Give a bench; until it is given back, syncs do nothing and nothing is logged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(system, "sync_data", lambda fd: None)
        patch.setattr(system, "sync_directory", lambda path: None)
        patch.setattr(
            logging.getLogger("mpcheckpoint"), "disabled", True
        )  # thousands of repairs, a warning each
        yield Bench(directory / "store")
    clock.highest_us = 0
