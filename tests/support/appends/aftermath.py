"""What a store must be after a fault hit an append in it, or its process was killed: judged by Python's own check."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mpcheckpoint import Checkpoint
from mpcheckpoint.errors import PoisonedLogError
from mpcheckpoint.maintenance import verify
from support.appends.program import BEFORE, OUTCOMES, STORE

if TYPE_CHECKING:
    from pathlib import Path

    from mpcheckpoint import Log

# What the acts append that are judged.
RECORDS: dict[str, list[list[Any]]] = {
    "atom": [["x", "an atom"]],
    "many: 2": [["x", "first"], ["z", {"second": 2}]],
    "next": [["x", "next"]],
    "flush": [],
}
# These say that nothing was written.
_REFUSALS = {"WriteFailedError", "LockTimeoutError", "CorruptLogError", "PoisonedLogError"}
# A crash leaves no other states, nor does a fault.
_SOUND = {"whole", "pending", "torn", "poisoned"}


def judge(directory: Path) -> None:
    """Return if the store holds what was acknowledged, once, and takes appends; else raise AssertionError.

    Requires: this process is new to the store.
    """
    store = directory / STORE
    before = json.loads((directory / BEFORE).read_text(encoding="utf-8"))
    lines = (directory / OUTCOMES).read_text(encoding="utf-8").splitlines()
    outcomes = {outcome["step"]: outcome for outcome in map(json.loads, lines)}
    steps = list(json.loads((directory / f"{BEFORE}.steps").read_text(encoding="utf-8")))
    with Checkpoint(store, read_only=True) as checkpoint:
        found = _records(checkpoint.log("a"))
    require_explained(found, before, [(step, outcomes.get(step)) for step in steps])
    states = {check.state for check in verify(store)}
    assert states <= _SOUND, f"verify: {states}"

    with Checkpoint(store) as checkpoint:
        log = checkpoint.log("a")
        try:
            log.append("x", "after")
        except PoisonedLogError:
            log.recover()
            log.append("x", "after")
        after = _records(log)
    assert after == [*found, ["x", "after"]], f"after the next append: {after[len(before) :]}"
    states = {check.state for check in verify(store)}
    assert states <= {"whole", "pending"}, f"verify after the next append: {states}"


def _records(log: Log) -> list[list[Any]]:
    return [[record.object_key, record.event] for record in log.read()]


def require_explained(
    found: list[list[Any]], before: list[list[Any]], steps: list[tuple[str, dict[str, Any] | None]]
) -> None:
    """Return if a log holds what it held before, then each step whole or not at all: if that returned, it is there; if
    it was refused, it is not; else either is fine."""
    assert found[: len(before)] == before, f"what was there before is lost: {found}"
    at = len(before)
    for step, outcome in steps:
        records = RECORDS[step]
        is_there = found[at : at + len(records)] == records
        if outcome is not None and "returned" in outcome:
            assert is_there, f"{step} was acknowledged and is lost: {found[len(before) :]}"
        if outcome is not None and outcome.get("raised") in _REFUSALS and records:
            # A write that was done and reported as failed: a note says so.
            is_told = any("the record was written" in note for note in outcome["notes"])
            assert is_there == is_told, f"{step} was refused ({outcome['message']}, {outcome['notes']})"
        at += len(records) * is_there
    assert at == len(found), f"nobody appended {found[at:]}"
