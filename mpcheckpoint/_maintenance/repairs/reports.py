"""What `verify` yields for a log, and `repair` for what it does to one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mpcheckpoint._types import Repair
    from mpcheckpoint.errors import CheckpointError

State = Literal["whole", "pending", "poisoned", "torn", "corrupt", "unreadable"]
Verdict = Literal["torn", "corrupt"]
Action = Literal["nothing", "cut", "recover", "salvage", "impossible"]


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a log that do not read as they were written.

    Attributes:
        path: the file.
        offset: where they start: at the first line of a batch, which is there whole or not at all.
        length_bytes: up to the next line that can be proven, or the end of the file.
        expected, found: what should be there, and what is.
        verdict: "corrupt" if those bytes were once durable; "torn" if nobody was told so, and a crash explains it.
        records_behind: how many records after it can be proven, up to the next damage.
        is_mended: whether only the end of a line was hit, and the bytes around it tell what it was: nothing is lost.
        after_us, before_us: the stamps of the records before and after it, in microseconds since 1970; None if none is.
    """

    path: str
    offset: int
    length_bytes: int
    expected: str
    found: str
    verdict: Verdict
    records_behind: int
    is_mended: bool
    after_us: int | None
    before_us: int | None


@dataclass(frozen=True, slots=True)
class LogCheck:
    """What a check of one log found.

    Attributes:
        path: the file.
        log_key: its log key; None if it cannot be told.
        generation: its generation; None if it cannot be told.
        state: the worst that is true of it. "whole": all of it reads well. "pending": all of it reads well, and a write
            is in progress at its end. "poisoned": a sync failed, so it takes no appends. "torn": a writer died in the
            middle of a write, and the next writer cuts that off. "corrupt": bytes that were once durable do not read
            as they were written. "unreadable": it could not be checked, and ``problem`` says why.
        records: how many records a reader gets: those before the first damage.
        size_bytes: the size of the file.
        durable_bytes: all below this offset was once durable, as far as anything says so.
        damages: the damages in file order, up to 1,000; damage_count: how many there are in all.
        problem: why it cannot be checked or repaired; None if it can.
        poison: why it takes no appends; None if it does.
        notes: what is worth knowing and is no damage.
        loss: of a log in a backup, what it lacks of what was backed up, in words, also where the rest reads well; None
            if nothing is known to be missing.
    """

    path: str
    log_key: str | None
    generation: str | None
    state: State
    records: int = 0
    size_bytes: int = 0
    durable_bytes: int = 0
    damages: tuple[Damage, ...] = ()
    damage_count: int = 0
    problem: str | None = None
    poison: str | None = None
    notes: tuple[str, ...] = ()
    loss: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether there is nothing to repair: the state is "whole" or "pending"."""
        return self.state in ("whole", "pending")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Records that read well and that a repair takes out of a log all the same. Their bytes go to quarantine.

    Attributes:
        offset, length_bytes: where they are.
        records: how many there are; object_keys: the keys of the first twenty.
        why: why they are taken out, in words.
    """

    offset: int
    length_bytes: int
    records: int
    object_keys: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class LogRepair:
    """What is to be done about a log, or was done.

    Attributes:
        check: what was found.
        action: "nothing"; "cut": cut off the torn end, as the next writer would; "recover": make a new generation with
            the same records, after a failed sync; "salvage": make a new generation with what can be proven;
            "impossible": see ``check.problem``.
        is_done: whether it was done.
        records_kept: how many records the log holds after it. After a salvage that lost bytes, objects may be among
            them that were forgotten: what was lost may have said so. And counts of what compactions dropped may be
            lost, too.
        removed: offset and length of the bytes that go to quarantine, up to 1,000; removed_bytes: how many in all.
        left_out: records that read well and are taken out.
        repairs: the quarantine files that were written.
        generation: the generation of the log now.
        error: why it failed, and the log was not changed; None if it did not fail.
    """

    check: LogCheck
    action: Action
    is_done: bool = False
    records_kept: int = 0
    removed: tuple[tuple[int, int], ...] = ()
    removed_bytes: int = 0
    left_out: tuple[LeftOut, ...] = ()
    repairs: tuple[Repair, ...] = ()
    generation: str | None = None
    error: CheckpointError | None = None
