"""Groups of appends: what is told of each when the disk, or another generation, comes between."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._format.codec import encode_payload
from mpcheckpoint._logfile import append_group
from mpcheckpoint._store.durability import Durability
from mpcheckpoint._types import Position
from mpcheckpoint.errors import WriteFailedError
from mpcheckpoint.log import handle_of
from support.verbs import LOG, Faults

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mpcheckpoint import Log
    from mpcheckpoint.errors import CheckpointError


def _append(log: Log, count: int) -> list[Position | CheckpointError]:
    """Append so many records as a group; return what came of each."""
    batches = [[encode_payload("x", number, None)] for number in range(count)]
    stored = handle_of(log).for_writing()
    return stored.append_group(batches, durability=Durability.parse("always"), timeout_s=None)


@pytest.mark.guarantee(9)
def test_record_of_a_group_whose_write_failed_when_it_was_whole_is_not_told_to_be_missing(
    log: Log, faults: Faults
) -> None:
    writes: list[bytes] = []

    def act(real: Callable[..., Any], fd: int, data: bytes, offset: int) -> Any:
        writes.append(data)
        if len(writes) <= 2:  # all three, and the first one by itself
            raise OSError(errno.ENOSPC, "no room")
        real(fd, data, offset)
        if len(writes) == 3:
            raise OSError(errno.EIO, "bad luck")
        return len(data)

    faults.act("write_at", act, times=4, on=LOG)
    found = _append(log, 3)

    assert [type(each) for each in found] == [WriteFailedError, Position, Position]
    records = [record for record in log.read() if record.object_key == "x"][-2:]
    assert [record.event for record in records] == [1, 2]
    assert [record.position for record in records] == found[1:]


@pytest.mark.guarantee(1)
@pytest.mark.parametrize("change", ["compact", "recover"])
def test_group_written_before_a_switch_is_found_in_the_generation_that_followed(
    log: Log, store: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append("gone", 1)
    log.forget("gone")
    made_durable = append_group.group_made_durable

    def switched(writer: Any, group: Any) -> Any:
        getattr(Checkpoint(store).log("a"), change)()
        return made_durable(writer, group)

    monkeypatch.setattr("mpcheckpoint._store.store.group_made_durable", switched)
    found = _append(log, 5)

    assert found == [record.position for record in log.read() if record.object_key == "x"][-5:]
    assert {each.generation for each in found if isinstance(each, Position)} == {
        log.append("x", "later").generation
    }
