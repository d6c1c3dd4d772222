"""The result of a crash test: a report, or what is wrong and how to repeat it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FailureKind = Literal["check", "exit", "hang", "missed"]


@dataclass(frozen=True, slots=True)
class Report:
    """What `crash_test` did, with nothing wrong found; ``str()`` gives it as one line.

    Attributes:
        kills: how many times the program was killed, at random instants and at named points.
        power_cuts: at how many of these the power of its file system was cut.
        kills_before_first_ack: kills of a program that had not acknowledged anything since its start.
        lives: how many empty stores it began with, the one without a kill included.
        restarts: how many times it was started again on what a kill had left.
        acknowledged: how many acknowledgements counted, over all lives.
        checks: how many times a copy of the store was judged.
        seed: what the random instants were chosen with.
        duration_s: how long all this took.
    """

    kills: int
    power_cuts: int
    kills_before_first_ack: int
    lives: int
    restarts: int
    acknowledged: int
    checks: int
    seed: int
    duration_s: float

    def __str__(self) -> str:
        cuts = f" and {self.power_cuts} power cuts" if self.power_cuts else ""
        return (
            f"{self.kills} kills{cuts} ({self.kills_before_first_ack} before the first acknowledgement of a run) in "
            f"{self.lives} lives, {self.restarts} restarts, {self.acknowledged} acknowledgements, "
            f"{self.checks} checks, {self.duration_s:.1f} s, seed {self.seed}: nothing wrong found"
        )


@dataclass(eq=False, repr=False)
class CrashTestFailure(AssertionError):  # noqa: N818  # it is read as the outcome of a test
    """A crash test found something wrong.

    Attributes:
        message: what is wrong, as ``str()`` gives it.
        kind: "check": the check failed. "exit": a program or worker ended with an error, or something else killed it.
            "hang": it made no progress. "missed": a kill did not happen where it should have.
        seed: what the random instants were chosen with.
        first_kill, kill: the numbers of the first and the last random kill that led there; ``kill`` is 0 for none.
        kept: a copy of the store at the time of the failure; None after `kill_workers`, which makes no copy.
        reproduce: the call that repeats it.
    """

    message: str
    kind: FailureKind
    seed: int
    first_kill: int = 1
    kill: int = 0
    kept: Path | None = None
    reproduce: str = ""

    def __post_init__(self) -> None:
        super().__init__(*vars(self).values())  # pickled with these

    def __str__(self) -> str:
        return self.message
