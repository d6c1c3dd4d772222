"""Loss of power on the model of a disk: everything acknowledged is there, in whatever state the disk comes back."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint.errors import OutcomeUnknownError, PoisonedLogError
from mpcheckpoint.testing import SimulatedDisk
from support.verbs import LOG, Faults, assert_goes_on, become_a_new_process, log_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def stores_after_a_loss_of_power(disk: SimulatedDisk) -> Iterator[Path]:
    """Yield what the power may leave of the store on a disk, each time to a process that knows nothing of it."""
    for image in disk.images(32):
        place = disk.root.with_name(f"after {image.number}")
        image.write_to(place)
        become_a_new_process()
        yield place / "store"


@pytest.mark.guarantee(1)
def test_log_whose_creation_returned_survives_the_power(disk: SimulatedDisk) -> None:
    Checkpoint(disk.root / "store" / "deep").log("a")

    for store in stores_after_a_loss_of_power(disk):
        survivor = Checkpoint(store / "deep", create=False)
        assert survivor.logs() == ["a"]
        assert survivor.log("a").append("x", 1)


@pytest.mark.guarantee(1)
@pytest.mark.guarantee(2)
@pytest.mark.parametrize("last", ["append", "first use", "recovery"])
def test_disk_that_the_power_leaves_holds_what_was_acknowledged_and_takes_appends(
    disk: SimulatedDisk, last: str
) -> None:
    log = Checkpoint(disk.root / "store").log("a")
    for number in range(3):
        log.append("x", f"{number}" * 1000)
    log.append_many([("x", f"{number}" * 1000) for number in range(3, 6)], durability="never")
    acknowledged = 3
    if last == "append":
        log.append("x", "6")
        acknowledged = 7
    elif last == "first use":
        become_a_new_process()
        log.append("x", "6", durability="never")  # calls durable what was found: so it must be
        acknowledged = 3
    else:
        log.recover()
        acknowledged = 6
    events = log.events("x")

    for store in stores_after_a_loss_of_power(disk):
        survivor = Checkpoint(store).log("a")
        found = survivor.events("x")
        assert found == events[: len(found)]
        assert len(found) >= acknowledged
        assert_goes_on(survivor, list(found))


@pytest.mark.guarantee(9)
def test_note_of_a_failed_sync_survives_the_power_with_its_reason(disk: SimulatedDisk) -> None:
    log = Checkpoint(disk.root / "store").log("a")
    log.append("x", 0)
    disk.fail(errno.EIO, name="sync_data", on=LOG)
    with pytest.raises(OutcomeUnknownError):
        log.append("x", 1)

    for store in stores_after_a_loss_of_power(disk):
        with pytest.raises(PoisonedLogError, match=os.strerror(errno.EIO)):
            Checkpoint(store).log("a").append("x", 2)


@pytest.mark.guarantee(9)
def test_recovery_forgets_the_failed_sync_only_when_the_new_generation_survives_the_power(
    disk: SimulatedDisk, faults: Faults
) -> None:
    # A removed note may reach the disk before a rename does: then a log whose sync failed would take appends.
    def look(real: Callable[..., None], path: str) -> None:
        left.update(image.content[f"store/.checkpoint/{log_file(disk.root).name}"] for image in disk.images())
        real(path)

    left: set[bytes | None] = set()
    log = Checkpoint(disk.root / "store").log("a")
    log.append("x", 0)
    faults.act("remove", look, on=r"\.poison$")

    log.recover()

    assert left == {log_file(disk.root / "store").read_bytes()}
