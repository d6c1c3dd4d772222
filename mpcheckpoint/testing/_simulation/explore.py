"""Try every crash point of a scenario, every disk that a crash may leave there, and every call that may fail."""

from __future__ import annotations

import errno
import logging
import os
import random
import re
import shutil
import tempfile
import traceback
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mpcheckpoint.errors import CheckpointError
from mpcheckpoint.testing._simulation.disk import SimulatedCrash, SimulatedDisk, When
from mpcheckpoint.testing._simulation.images import DiskImage
from mpcheckpoint.testing._simulation.ledger import Ledger, check_recovery
from mpcheckpoint.testing._simulation.processes import SimulatedProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Scenario = Callable[[Path, Ledger], None]
    Check = Callable[[Path, Ledger], None]

ONLY = "MPCHECKPOINT_CRASH_POINT"
SHORT_WRITE = "short write"
_IN_MEMORY = "/dev/shm"
_LABEL = re.compile(r"(?P<scenario>\S+) (?P<point>.+), seed (?P<seed>\d+)")
_EMPTY = DiskImage(0, {})
_STORE = os.path.join("new", "store")  # below a directory that is new itself


class CrashPointError(AssertionError):
    """A check failed after a crash or a fault. The message has the line that repeats just this one.

    Attributes:
        label: the crash point, the disk of those that it may leave, and the seed.
        place: the directory with the disk as the check found it.
    """

    def __init__(self, label: str, place: Path, cause: BaseException) -> None:
        what = "".join(traceback.format_exception_only(cause)).strip()
        super().__init__(
            f"{label}: {what}\nthe disk is kept in {place}\nthis alone again: {reproducer(label)}"
        )
        self.label = label
        self.place = place


def reproducer(label: str) -> str:
    """Return the line that repeats one case."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    if test:
        return f"{ONLY}='{label}' python -m pytest '{test}'"
    return f"{ONLY}='{label}', then the same call"


@dataclass(frozen=True)
class Exploration:
    """What an exploration tried.

    Attributes:
        calls: how many calls of the platform seam the scenario makes.
        points: how many crash points, or failing calls, were tried.
        disks: how many disks were opened, checked, appended to and read again.
        outcomes: how often a failing call ended the scenario with which error, or the scenario went on.
    """

    calls: int
    points: int
    disks: int
    outcomes: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        ends = ", ".join(f"{times} x {name}" for name, times in self.outcomes.most_common())
        return (
            f"{self.points} points in {self.calls} calls ({ends or 'a crash at each'}), "
            f"{self.disks} disks checked: nothing wrong found"
        )


def explore_crashes(
    scenario: Scenario,
    *,
    check: Check = check_recovery,
    images: int = 8,
    nested: int = 1,
    seed: int = 0,
    only: str | None = None,
) -> Exploration:
    """Run a scenario once to count its calls, then once for each call that changes the disk, with a crash there.

    After each crash the machine goes on or loses power. Of the disks that a loss of power may leave, all are tried if
    there are at most ``images``, else a sample. On each a new process opens the store and ``check`` is called.
    ``check`` is also called where only the process died, and power is lost after that. ``nested`` times, the check
    itself is interrupted by a crash at one of its calls.

    Args:
        scenario: called with the path of a store that does not exist yet, and a ledger to append through. It must make
            the same calls each time: one thread, no random choice. ``restart()`` inside it begins the next process.
        check: called with the path of a store and the ledger; raises if something is wrong.
        images: how many disks to try for each crash point.
        nested: how many crashes to try inside the check, for each crash point.
        seed: chooses the samples.
        only: the label of a failed case, to repeat just that one. Default: the environment variable
            MPCHECKPOINT_CRASH_POINT, if it names this scenario.

    Raises:
        CrashPointError: the check failed; the message has the line that repeats this one case.
    """
    explorer = _Explorer(scenario, check, images, nested, seed, only)
    with _quiet():
        calls, changing = explorer.dry_run()
        points: list[tuple[When, int]] = []
        for number in changing:
            points += [(when, number) for when in _moments(calls[number - 1])]
        points.append(("after", changing[-1]))
        for when, number in points:
            explorer.crash(when, number)
    return Exploration(len(calls), len(points), explorer.disks)


def explore_faults(
    scenario: Scenario,
    *,
    check: Check = check_recovery,
    errors: Sequence[int | str | type[BaseException]] = (errno.EIO, errno.ENOSPC, SHORT_WRITE),
    images: int = 2,
    seed: int = 0,
    only: str | None = None,
) -> Exploration:
    """Run a scenario once for each call of any kind and each error, with that call failing.

    The scenario may then end with a CheckpointError or with the injected exception, and with nothing else. The same
    process calls ``check``, since the fault must not have spoilt it; and ``check`` is called on the disks that a loss
    of power may leave.

    Args:
        scenario, check, images, seed, only: as for ``explore_crashes``.
        errors: numbers of ``errno``; SHORT_WRITE, for writes that take one byte; or exceptions, such as MemoryError.

    Raises:
        CrashPointError: the check failed, or the scenario ended with an error of another kind.
    """
    explorer = _Explorer(scenario, check, images, 0, seed, only)
    points = 0
    with _quiet():
        calls, _ = explorer.dry_run()
        for error in errors:
            for number, call in enumerate(calls, 1):
                if error != SHORT_WRITE or call.startswith("write_at"):
                    explorer.fault(error, number)
                    points += 1
    return Exploration(len(calls), points, explorer.disks, explorer.outcomes)


class _Explorer:
    """One exploration: the scenario, the check, and what is counted."""

    def __init__(
        self, scenario: Scenario, check: Check, images: int, nested: int, seed: int, only: str | None
    ) -> None:
        self._scenario = scenario
        self._check = check
        self._images = images
        self._nested = nested
        self._name = getattr(scenario, "__name__", "scenario")
        # The label of a case includes the seed, which chose the disks that led there.
        self._only, self._seed = _point_and_seed(only or os.environ.get(ONLY, ""), self._name, seed)
        self.disks = 0
        self.outcomes: Counter[str] = Counter()

    def dry_run(self) -> tuple[list[str], list[int]]:
        """Run the scenario without a crash, and the check; return its calls, and which of them change the disk."""
        with self._machine("no crash") as disk:
            ledger = Ledger()
            with _new_process(disk) as store:
                self._scenario(store, ledger)
            calls, changing = list(disk.calls), list(disk.changing)
            self._checked(disk, ledger)
        return calls, changing

    def crash(self, when: When, number: int) -> None:
        """Let the scenario crash there, and check what that leaves."""
        label = f"{when} {number}"
        if not self._is_wanted(label):
            return
        ledger = Ledger()
        with self._machine(label) as disk:
            disk.crash(at=number, when=when)
            _until_crash(disk, lambda store: self._scenario(store, ledger))
            left = disk.images(self._images)
            # Only the process dies: the next one goes on, and what was not synced still is not.
            survivor = ledger.copy()
            disk.revive()
            self._checked(disk, survivor)
            later = disk.images(2)
        for image in left:
            self._lose_power(f"{label}, disk {image.number}", image, ledger)
        for image in later:
            self._lose_power(f"{label}, next process, disk {image.number}", image, survivor)
        chance = self._chance(label)
        for _ in range(self._nested):
            image = chance.choice(left)
            self._crash_again(f"{label}, disk {image.number}", image, ledger)

    def fault(self, error: int | str | type[BaseException], number: int) -> None:
        """Let that call of the scenario fail, and check what that leaves."""
        label = f"{_name_of(error)} at {number}"
        if not self._is_wanted(label):
            return
        ledger = Ledger()
        with self._machine(label) as disk:
            with _new_process(disk) as store:
                if isinstance(error, str):
                    disk.write_short(1, at=number)
                else:
                    disk.fail(error if isinstance(error, int) else error("put in by a test"), at=number)
                self._expect_typed_error(store, ledger, error)
                disk.clear()
                left, before = disk.images(self._images), ledger.copy()
                self._check(store, ledger)  # by the same process
            later = disk.images(self._images)
        for image in left:
            self._lose_power(f"{label}, disk {image.number}", image, before)
        for image in later:
            self._lose_power(f"{label}, next append, disk {image.number}", image, ledger)

    def _expect_typed_error(
        self, store: Path, ledger: Ledger, error: int | str | type[BaseException]
    ) -> None:
        own = () if isinstance(error, int | str) else (error,)
        try:
            self._scenario(store, ledger)
        except (CheckpointError, *own) as ending:
            self.outcomes[type(ending).__name__] += 1
        else:
            self.outcomes["went on"] += 1

    def _lose_power(self, label: str, image: DiskImage, ledger: Ledger) -> None:
        """Check what a new process finds on a disk that lost power."""
        if self._is_wanted(label):
            with self._machine(label, image) as disk:
                self._checked(disk, ledger.after_loss_of_power())

    def _crash_again(self, label: str, image: DiskImage, ledger: Ledger) -> None:
        """Let the check crash as well, at one of its calls, and check what that leaves."""
        ledger = ledger.after_loss_of_power()
        with self._machine(label, image) as disk:
            self._checked(disk, ledger.copy())
            changing = [(number, disk.calls[number - 1]) for number in disk.changing]
        chance = self._chance(label)
        number, call = chance.choice(changing)
        when = chance.choice(_moments(call))
        label = f"{label}, then {when} {number}"
        if not self._is_wanted(label):
            return
        with self._machine(label, image) as disk:
            disk.crash(at=number, when=when)
            _until_crash(disk, lambda store: self._check(store, ledger))
            left = disk.images(self._images)
        for image_after in left:
            self._lose_power(f"{label}, disk {image_after.number}", image_after, ledger)

    def _checked(self, disk: SimulatedDisk, ledger: Ledger) -> None:
        self.disks += 1
        with _new_process(disk) as store:
            self._check(store, ledger)

    @contextmanager
    def _machine(self, label: str, image: DiskImage = _EMPTY) -> Iterator[SimulatedDisk]:
        """Yield a disk that is empty, or has this image; it is removed after that, unless something fails."""
        place = Path(tempfile.mkdtemp(prefix="crash-", dir=_IN_MEMORY if os.path.isdir(_IN_MEMORY) else None))
        root = place / "disk"
        image.write_to(root)
        try:
            yield SimulatedDisk(root, seed=self._chance(label).randrange(1 << 32))
        except Exception as error:
            raise CrashPointError(f"{self._name} {label}, seed {self._seed}", root, error) from error
        shutil.rmtree(place)

    def _chance(self, label: str) -> random.Random:
        return random.Random(f"{self._seed} {label}")

    def _is_wanted(self, label: str) -> bool:
        """Return whether to try this: always, or if it is the case asked for or leads to it."""
        return not self._only or self._only == label or self._only.startswith(f"{label}, ")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library from logging every repair: here they are the rule."""
    logger = logging.getLogger("mpcheckpoint")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = was_disabled


@contextmanager
def _new_process(disk: SimulatedDisk) -> Iterator[Path]:
    """Play another process, which dies with the block; yield the path of its store."""
    player = SimulatedProcess()
    try:
        with disk, player:
            yield disk.root / _STORE
    finally:
        player.kill()


def _until_crash(disk: SimulatedDisk, action: Callable[[Path], None]) -> None:
    try:
        with _new_process(disk) as store:
            action(store)
    except SimulatedCrash:
        return
    raise AssertionError("the crash never came: the same calls have to be made each time")


def _moments(call: str) -> tuple[When, ...]:
    return ("before", "in") if call.startswith("write_at") else ("before",)


def _point_and_seed(only: str, name: str, seed: int) -> tuple[str, int]:
    match = _LABEL.fullmatch(only)
    if match is None or match["scenario"] != name:
        return "", seed
    return match["point"], int(match["seed"])


def _name_of(error: int | str | type[BaseException]) -> str:
    if isinstance(error, str):
        return error
    return errno.errorcode[error] if isinstance(error, int) else error.__name__
