"""Another process acts right before each call of this one, in turn: neither loses anything, nor does a loss of power.

On one thread, with two simulated processes: so every moment is met, and met again when the test is repeated.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint import _system as system
from mpcheckpoint.errors import LockTimeoutError, StoreNotFoundError
from mpcheckpoint.testing import Ledger, SimulatedDisk, SimulatedProcess
from mpcheckpoint.testing._simulation import seam
from support import tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.exhaustive,
    pytest.mark.timeout(600),
    pytest.mark.guarantee(1),
    pytest.mark.guarantee(2),
    pytest.mark.guarantee(4),
]

IN_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
# Who waited here for the other would wait for ever: it stands still.
AT_ONCE = 0.0


def life(store: Path, ledger: Ledger) -> None:
    log = Checkpoint(store, lock_timeout_s=AT_ONCE).log("a")
    ledger.append(log, "x", 1)
    ledger.append(log, "x", 2, durability="never")
    ledger.append_many(log, [("y", f"{number}" * 700) for number in range(3)])
    assert log.events("x") == (1, 2)
    log.recover()
    ledger.append(log, "z", 1)
    ledger.append(log, "z", 2, expected_count=1)


def compacting_life(store: Path, ledger: Ledger) -> None:
    log = Checkpoint(store, lock_timeout_s=AT_ONCE).log("a")
    ledger.append(log, "x", 1)
    log.append_many([(JUNK, "mine"), (JUNK, "mine")], durability="never")
    ledger.append_many(log, [("y", f"{number}" * 700) for number in range(3)], durability="never")
    log.compact(drop=JUNK)
    assert "mine" not in log.events(JUNK)
    ledger.append(log, "x", 2, expected_count=1)


# What compactions drop. It is in no ledger.
JUNK = "junk"


# --- what the other does -----------------------------------------------------------------------------------


def append(store: Path, ledger: Ledger) -> None:
    log = Checkpoint(store, lock_timeout_s=AT_ONCE).log("a")
    for durability in ("never", "always"):
        ledger.append(log, "by the other", len(ledger.attempts), durability=durability)


def recover(store: Path, ledger: Ledger) -> None:
    log = Checkpoint(store, lock_timeout_s=AT_ONCE).log("a")
    ledger.append(log, "by the other", len(ledger.attempts), durability="never")
    log.recover()
    ledger.append(log, "by the other", len(ledger.attempts))


def compact(store: Path, ledger: Ledger) -> None:
    log = Checkpoint(store, lock_timeout_s=AT_ONCE).log("a")
    ledger.append(log, "by the other", len(ledger.attempts), durability="never")
    log.append(JUNK, len(ledger.attempts), durability="never")
    log.compact(drop=JUNK)
    ledger.append(log, "by the other", len(ledger.attempts))


def read(store: Path, ledger: Ledger) -> None:
    checkpoint = Checkpoint(store, read_only=True)
    del ledger
    found = {key: list(events) for key, events in checkpoint.items()}
    replayed: dict[str, list[object]] = {}
    for log_key in checkpoint.logs():
        for record in checkpoint.log(log_key).read():
            replayed.setdefault(record.object_key, []).append(record.event)
    assert found == replayed


# --- one moment --------------------------------------------------------------------------------------------


class Meeting:
    """A disk, two processes on it, and what each was told."""

    def __init__(self, place: Path) -> None:
        self.disk = SimulatedDisk(place)
        self.store = self.disk.root / "store"
        self.players = SimulatedProcess(), SimulatedProcess()
        self.ledgers = Ledger(), Ledger()
        self.has_met = False

    def hold(
        self,
        other: Callable[[Path, Ledger], None],
        moment: int,
        *,
        is_first_use: bool,
        life: Callable[[Path, Ledger], None] = life,
    ) -> None:
        """Let the other act right before the call of that number, as a new process or as one that knows the log."""
        one, another = self.players
        if not is_first_use:
            with another:
                log = Checkpoint(self.store).log("a")
                self.ledgers[1].append(log, "by the other", "early", durability="never")

        def act() -> None:
            self.has_met = True
            with another:
                try:
                    other(self.store, self.ledgers[1])
                except (LockTimeoutError, StoreNotFoundError):
                    pass  # the other way round it would have been as well

        self.disk.meanwhile(act, at=moment)
        with one:
            life(self.store, self.ledgers[0])
        self.disk.clear()

    def verify(self) -> None:
        for player in (*self.players, SimulatedProcess()):
            with player:
                check(self.store, list(self.ledgers))
        after_loss = [ledger.after_loss_of_power() for ledger in self.ledgers]
        for image in self.disk.images(4):
            place = self.disk.root.with_name(f"{self.disk.root.name} after")
            image.write_to(place)
            player = SimulatedProcess()
            with player:
                check(place / "store", after_loss)
                log = Checkpoint(place / "store").log("a")
                log.append("end", 1)
                assert log.events("end") == (1,)
            player.kill()
            shutil.rmtree(place)
            tally.add("disks after a meeting of two processes")


def check(store: Path, ledgers: list[Ledger]) -> None:
    """Each batch is there once and whole, or not at all; not at all if it was refused, for sure if acknowledged."""
    checkpoint = Checkpoint(store, read_only=True)
    records = checkpoint.log("a").read()
    found = [(record.object_key, record.event) for record in records if record.object_key != JUNK]
    left = len(found)
    for ledger in ledgers:
        behind = 0
        for attempt in ledger.attempts:
            size = len(attempt.records)
            places = [at for at in range(len(found)) if found[at : at + size] == list(attempt.records)]
            assert len(places) == 1 or not (places or attempt.is_acknowledged), (attempt, places)
            assert not (places and attempt.is_refused), attempt
            assert all(at >= behind for at in places), attempt
            behind = max([behind, *places])
            left -= size * len(places)
    assert left == 0, "there is what nobody wrote, or a part of a batch"


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as directory:
        yield Path(directory)


@pytest.mark.usefixtures("early_padding")
@pytest.mark.parametrize("is_first_use", [True, False])
@pytest.mark.parametrize("other", [append, recover, read, compact])
def test_process_that_acts_at_any_moment_of_another_harms_nobody(
    place: Path, other: Callable[[Path, Ledger], None], is_first_use: bool
) -> None:
    assert meetings(place, life, other, is_first_use=is_first_use) > 100


@pytest.mark.guarantee(12)
@pytest.mark.usefixtures("early_padding")
@pytest.mark.parametrize("other", [append, recover, read, compact])
def test_process_that_acts_at_any_moment_of_a_compaction_harms_nobody(
    place: Path, other: Callable[[Path, Ledger], None]
) -> None:
    assert meetings(place, compacting_life, other, is_first_use=False) > 100


def meetings(
    place: Path,
    life: Callable[[Path, Ledger], None],
    other: Callable[[Path, Ledger], None],
    *,
    is_first_use: bool,
) -> int:
    """Let the other act at each moment of a life in turn; return how many moments that was."""
    moment, has_met = 0, True
    while has_met:
        moment += 1
        (place / f"{moment}").mkdir()
        meeting = Meeting(place / f"{moment}")
        with meeting.disk:
            meeting.hold(other, moment, is_first_use=is_first_use, life=life)
            meeting.verify()
        for player in meeting.players:
            player.kill()
        has_met = meeting.has_met
    tally.add("meetings of two processes", moment - 1)
    return moment


def test_meeting_under_locks_that_do_not_lock_is_found_to_do_harm(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The control: between the catch-up of the one and its write the other writes to the same place.
    monkeypatch.setitem(seam._REAL, "lock", lambda fd, timeout_s=None, waiting=None: True)
    monkeypatch.setitem(seam._REAL, "prove_locking", lambda path, with_child: system.LockProof(True))

    with pytest.raises(AssertionError, match="is_acknowledged=True"):
        test_process_that_acts_at_any_moment_of_another_harms_nobody(place, append, is_first_use=False)
