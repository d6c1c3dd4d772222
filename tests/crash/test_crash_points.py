"""Every crash point and every failing call of some lives of a log, each followed by: opened, checked, appended, read.

A life is a scenario; what it may leave is enumerated by `mpcheckpoint.testing`. A failure prints the line that repeats
that one case.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from operator import attrgetter
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint import _system as system
from mpcheckpoint._logfile import end
from mpcheckpoint._logfile.log_file import LogFile
from mpcheckpoint._logfile.opened import OpenLog
from mpcheckpoint.testing import (
    SHORT_WRITE,
    CrashPointError,
    Ledger,
    SimulatedProcess,
    check_recovery,
    explore_crashes,
    explore_faults,
    restart,
)
from mpcheckpoint.testing._simulation import explore
from mpcheckpoint.testing._simulation.ledger import Attempt
from support import tally
from support.verbs import seeded, tear

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.exhaustive,
    pytest.mark.timeout(600),
    pytest.mark.guarantee(1),
    pytest.mark.guarantee(2),
    pytest.mark.guarantee(6),
]


# --- lives -------------------------------------------------------------------------------------------------


def first_steps(store: Path, ledger: Ledger) -> None:
    """A store and a log are made, and appended to by two processes, durably or not."""
    log = Checkpoint(store).log("a")
    ledger.append(log, "x", 1)
    ledger.append(log, "x", 2, durability="never")
    ledger.append_many(log, [("y", f"{number}" * 700) for number in range(3)], durability="never")
    restart()
    log = Checkpoint(store).log("a")
    ledger.append(log, "z", 1, durability="never")
    ledger.append(log, "z", 2)


def repairs(store: Path, ledger: Ledger) -> None:
    """Torn ends are met: by a process that has just begun, and by one at work."""
    log = Checkpoint(store).log("a")
    ledger.append(log, "x", 1)
    ledger.append(log, "x", 2, durability="never")
    restart()
    tear(store, b'["000000ff",17' + b"x" * 600)
    log = Checkpoint(store).log("a")
    ledger.append(log, "z", 1, durability="never")
    ledger.append(log, "z", 2)
    tear(store, b'["000000ff",17' + b"x" * 600)
    ledger.append(log, "z", 3)


def generations(store: Path, ledger: Ledger) -> None:
    """The log gets other generations, twice."""
    log = Checkpoint(store).log("a")
    ledger.append(log, "x", 1)
    ledger.append_many(log, [("y", f"{number}" * 300) for number in range(3)], durability="never")
    log.recover()
    ledger.append(log, "x", 2)
    ledger.append(log, "x", 3, durability="never")
    restart()
    log = Checkpoint(store).log("a")
    ledger.append(log, "x", 4, durability="never")
    log.recover()
    ledger.append(log, "x", 5)


def two_logs(store: Path, ledger: Ledger) -> None:
    """Two logs are written to, on conditions, with a record id, and flushed."""
    checkpoint = Checkpoint(store)
    first = checkpoint.log("a")
    ledger.append(first, "x", 1)
    second = checkpoint.log("b/\u00fc")
    ledger.append(second, "x", 1)
    ledger.append(first, "x", 2, expected_count=1)
    ledger.append(second, "x", "once", record_id="id")
    ledger.append(first, "x", 3, durability="never")
    ledger.flushed(first)


def eventful(store: Path, ledger: Ledger) -> None:
    """Processes come and go, with batches of many sectors, torn ends and another generation between them."""

    def append(event: str, durability: str = "always") -> None:
        log = Checkpoint(store).log("a")
        ledger.append_many(log, [("x", event + part + "." * 3000) for part in "bc"], durability=durability)

    append("0")
    append("1", "never")
    restart()
    append("2", "never")
    append("3")
    tear(store)
    restart()
    append("4", "never")
    append("5", "never")
    Checkpoint(store).log("a").recover()
    append("6")
    tear(store)
    append("7", "never")
    restart()
    append("8")


def padded(store: Path, ledger: Ledger) -> None:
    """Padding is written from the first append on, used up, cut off, and left behind by a process that dies."""
    log = Checkpoint(store).log("a")
    for number in range(3):
        ledger.append(log, "x", number)
    ledger.append(log, "y", "." * 1500)
    ledger.append(log, "x", 3, durability="never")
    restart()
    log = Checkpoint(store).log("a")
    ledger.append(log, "z", 0)
    tear(store)  # behind the padding
    ledger.append(log, "z", 1)
    Checkpoint(store).close()
    log.flush()
    checkpoint = Checkpoint(store)
    checkpoint.log("a")
    checkpoint.close()
    ledger.append(log, "z", 2)


def in_turns(store: Path, ledger: Ledger) -> None:
    """Two processes append in turns, and one of them dies: each finds in the page what the other left there."""
    log = Checkpoint(store).log("a")
    ledger.append(log, "x", 0)
    other = SimulatedProcess()
    for number in range(2):
        with other:
            theirs = Checkpoint(store).log("a")
            ledger.append(theirs, "y", number, durability="never")
            ledger.append(theirs, "y", number + 10)
        ledger.append(log, "x", number + 1)
    other.kill()
    ledger.append_many(log, [("z", "." * 600), ("z", 1)])


def claims(store: Path, ledger: Ledger) -> None:
    """Objects are claimed, worked on, and given back, by two processes."""
    log = Checkpoint(store).log("a")
    with log.claim("x") as claim:
        assert claim is not None
        ledger.append(log, "x", 1)
        with log.claim("x") as second:
            assert second is None
    with log.claim("y"):
        ledger.append(log, "y", 2, durability="never")
    restart()
    log = Checkpoint(store).log("a")
    with log.claim("x"):
        ledger.append(log, "x", 3)


def check_claims(store: Path, ledger: Ledger) -> None:
    """Nobody who is dead holds a claim."""
    check_recovery(store, ledger)
    log = Checkpoint(store).log("a")
    for object_key in ("x", "y"):
        with log.claim(object_key) as claim:
            assert claim is not None, object_key


FIRST, SECOND = "drop first: ", "drop second: "


def compactions(store: Path, ledger: Ledger) -> None:
    """A log is compacted twice, by two processes; batches lose some of their lines, and objects all of theirs."""
    log = Checkpoint(store).log("a")
    ledger.append(log, "x", f"{FIRST}1")
    ledger.append_many(log, [("x", 1), ("y", f"{FIRST}2"), ("x", f"{FIRST}3")], durability="never")
    log.compact(drop=lambda record: str(record.event).startswith(FIRST))
    ledger.append(log, "x", 2, expected_count=3)
    restart()
    log = Checkpoint(store).log("a")
    ledger.append(log, "y", f"{SECOND}1", durability="never")
    ledger.append_many(log, [("y", f"{SECOND}2"), ("y", 3)])
    log.compact(drop=lambda record: str(record.event).startswith(SECOND))
    ledger.append(log, "y", 4, durability="never")


def check_compactions(store: Path, ledger: Ledger) -> None:
    """What a compaction drops is there as a whole, or not at all; it is counted, and all else is as after any life."""
    found, counts = set[tuple[str, str]](), Counter[str]()
    if (store / ".checkpoint").is_dir() and "a" in Checkpoint(store, read_only=True).logs():
        log = Checkpoint(store, read_only=True).log("a")
        found = {(record.object_key, repr(record.event)) for record in log.read()}
        counts = Counter({object_key: log.count(object_key) for object_key in ("x", "y")})
    dropped: list[str] = []
    for what in (FIRST, SECOND):
        sure = [
            (key, repr(event)) in found
            for attempt in ledger.attempts
            for key, event in attempt.records
            if attempt.is_acknowledged and str(event).startswith(what)
        ]
        assert all(sure) or not any(sure), f"a part of what was to be dropped: {what}"
        dropped += [what] if sure and not any(sure) else []
    for object_key in ("x", "y"):
        sure_count, most = (
            sum(key == object_key for each in ledger.attempts if is_counted(each) for key, _ in each.records)
            for is_counted in (attrgetter("is_acknowledged"), lambda each: not each.is_refused)
        )
        assert sure_count <= counts[object_key] <= most, (object_key, counts)
    left = Ledger([_without(attempt, tuple(dropped)) for attempt in ledger.attempts])
    known = len(left.attempts)
    try:
        check_recovery(store, left)
    finally:
        ledger.attempts += left.attempts[known:]


def _without(attempt: Attempt, dropped: tuple[str, ...]) -> Attempt:
    if not dropped:
        return attempt
    return replace(
        attempt, records=tuple(each for each in attempt.records if not str(each[1]).startswith(dropped))
    )


Life = Callable[["Path", Ledger], None] if TYPE_CHECKING else object
LIVES = [first_steps, repairs, generations, two_logs]
FAST_PATHS = [padded, in_turns]
CHECKS = {claims: check_claims, compactions: check_compactions}
FAULTS: list[tuple[Life, int | str | type[BaseException]]] = [
    *product(LIVES, [errno.EIO, errno.ENOSPC, SHORT_WRITE]),
    *product([generations, two_logs], [MemoryError]),
    *product([first_steps, repairs], [KeyboardInterrupt]),
    *product([*FAST_PATHS, claims, compactions], [errno.EIO]),
    *product([compactions], [errno.ENOSPC, KeyboardInterrupt]),
]


@pytest.fixture(autouse=True)
def little_padding(request: pytest.FixtureRequest) -> None:
    """Have the padding of one life begin early, and in steps that crashes can leave in many ways."""
    if "padded" in request.node.name:
        request.getfixturevalue("early_padding")


@pytest.mark.rule(5)
@pytest.mark.rule(16)
@pytest.mark.parametrize("life", [*LIVES, *FAST_PATHS, eventful, claims, compactions])
def test_crash_at_any_call_loses_nothing_acknowledged_and_blocks_nobody(life: Life, intensity: int) -> None:
    seed = seeded(life.__name__).randrange(1 << 32)

    check = CHECKS.get(life, check_recovery)

    tried = explore_crashes(life, check=check, images=intensity, nested=intensity, seed=seed)

    assert tried.disks > 3 * tried.points
    tally.add("crash points", tried.points)
    tally.add("disks after a crash point", tried.disks)


@pytest.mark.guarantee(9)
@pytest.mark.parametrize(
    ("life", "error"),
    FAULTS,
    ids=lambda each: getattr(each, "__name__", str(each)),
)
def test_call_that_fails_is_a_typed_error_or_none_and_spoils_nothing(
    life: Life, error: int | str | type[BaseException], intensity: int
) -> None:
    seed = seeded(life.__name__).randrange(1 << 32)

    check = CHECKS.get(life, check_recovery)

    tried = explore_faults(life, check=check, errors=[error], images=intensity, seed=seed)

    assert tried.points > 0
    assert sum(tried.outcomes.values()) == tried.points
    tally.add("failing calls", tried.points)
    tally.add("disks after a failing call", tried.disks)


# --- controls: what must be found out ------------------------------------------------------------------------


@pytest.fixture
def kept_disks_are_removed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Remove the disks of failures that are meant to be. They stay in memory: a real disk takes ten times as long."""
    with TemporaryDirectory(dir=explore._IN_MEMORY) as directory:
        monkeypatch.setattr(explore, "_IN_MEMORY", directory)
        yield


def expect_loss(life: Life = first_steps) -> CrashPointError:
    with pytest.raises(CrashPointError) as caught:
        explore_crashes(life)
    return caught.value


@pytest.mark.usefixtures("kept_disks_are_removed")
def test_exploration_of_a_log_that_is_never_synced_finds_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LogFile, "sync", lambda self: system.file_status(self.fd))

    failure = str(expect_loss())
    assert "acknowledged and is not there" in failure or "is corrupt" in failure  # by what the page says


@pytest.mark.usefixtures("kept_disks_are_removed")
def test_exploration_of_directories_that_are_never_synced_finds_the_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "mpcheckpoint._logfile.places.Places.make_names_durable", lambda self, directory: None
    )

    expect_loss()


@pytest.mark.usefixtures("kept_disks_are_removed")
def test_exploration_of_a_first_use_that_rewrites_nothing_finds_the_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(end, "write_again", lambda fd, start, end: None)
    monkeypatch.setattr(OpenLog, "_sync_in_turn", lambda self: None)

    # What the first use calls durable is not: a line that survives without what precedes it looks like corruption.
    assert "corrupt" in str(expect_loss())


@pytest.mark.usefixtures("kept_disks_are_removed")
def test_failure_of_an_exploration_is_repeated_by_the_line_it_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LogFile, "sync", lambda self: system.file_status(self.fd))
    with pytest.raises(CrashPointError) as caught:
        explore_crashes(first_steps, seed=7)
    failure = caught.value
    assert failure.label.endswith(", seed 7")
    assert f"MPCHECKPOINT_CRASH_POINT='{failure.label}' python -m pytest 'tests/" in str(failure)
    assert failure.place.is_dir()

    with pytest.raises(CrashPointError) as again:
        explore_crashes(first_steps, only=failure.label)

    assert again.value.label == failure.label
    monkeypatch.undo()
    monkeypatch.setenv("MPCHECKPOINT_CRASH_POINT", failure.label)
    assert explore_crashes(first_steps).disks < 10


@pytest.mark.usefixtures("kept_disks_are_removed")
def test_exploration_of_a_life_that_changes_its_calls_says_so(tmp_path: Path) -> None:
    runs: list[int] = []

    def fickle(store: Path, ledger: Ledger) -> None:
        log = Checkpoint(store).log("a")
        for number in range(max(1, 3 - len(runs))):
            ledger.append(log, "x", number)
        runs.append(1)

    with pytest.raises(CrashPointError, match="the same calls have to be made each time"):
        explore_crashes(fickle, images=1)


@pytest.mark.usefixtures("kept_disks_are_removed")
def test_exploration_whose_life_raises_an_untyped_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(store: Path, ledger: Ledger) -> None:
        log = Checkpoint(store).log("a")
        ledger.append(log, "x", 1)
        system.exists(str(store))  # outside of everything that translates errors

    with pytest.raises(CrashPointError, match=r"EIO at \d+, seed \d+: OSError"):
        explore_faults(careless, errors=[errno.EIO], images=1)
    assert os.environ.get("PYTEST_CURRENT_TEST")
