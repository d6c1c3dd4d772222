"""What runs under the recorder: one situation, in a process that was forked for it."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Any

from mpcheckpoint.errors import CheckpointError
from support.appends.acts import ACTS
from support.appends.scene import SECOND_US, Scene
from support.recorder import control
from support.verbs import OF_A_BUSY_MACHINE

if TYPE_CHECKING:
    from pathlib import Path

    from mpcheckpoint import Log
    from support.appends.situations import Situation

# Of the run of one situation: its record, what came of each call (one JSON object a line), the store, what its log held
# before, as far as that can be read, and how many calls were recorded up to the end of each.
RECORD, OUTCOMES, STORE, BEFORE, ENDS = "record", "outcomes", "store", "before", "ends"


def run(situation: Situation, directory: Path, rules: str) -> None:
    """Make a situation, then append in it under the recorder; leave the record and the outcomes in a directory."""
    scene = Scene(directory, situation.durability, situation.lock_timeout_s)
    for part in situation.made_by:
        part(scene)
    told: list[str] = []
    _hear(told)
    log = scene.log
    steps = {
        situation.act: ACTS[situation.act],
        "next": lambda log: log.append("x", "next"),
        "flush": lambda log: log.flush() if situation.durability.startswith("interval") else None,
    }
    (directory / BEFORE).write_text(json.dumps(_records_in(scene.file(".jsonl"))), encoding="utf-8")
    (directory / f"{BEFORE}.steps").write_text(json.dumps(list(steps)), encoding="utf-8")
    outcomes, ends = (
        os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        for name in (OUTCOMES, ENDS)
    )
    control.begin(directory / RECORD, scene.store, rules)
    for name, act in steps.items():
        scene.pass_time(SECOND_US)  # else the clock would never be ahead of the stamps, as it usually is
        outcome = _outcome(act, log) | {"step": name, "told": told[:]}
        told.clear()
        os.write(outcomes, json.dumps(outcome).encode() + b"\n")
        os.write(ends, b"%d\n" % _lines_in(directory / RECORD))
    control.end()


def _lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _records_in(path: Path) -> list[list[Any]]:
    """Return the records of a log file, read without the library: it is not to know the file any better."""
    records = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            _, _, _, _, object_key, event, *_ = json.loads(line)
        except ValueError:
            break
        if object_key is not None:
            records.append([object_key, event])
    return records


def _outcome(act: Any, log: Log) -> dict[str, object]:
    try:
        return {"returned": str(act(log))}
    except (CheckpointError, OSError) as error:
        return {
            "raised": type(error).__name__,
            "message": str(error),
            "notes": [note for each in (error, error.__cause__) for note in getattr(each, "__notes__", ())],
            "cause": repr(error.__cause__),
            "attributes": {name: str(value) for name, value in sorted(vars(error).items())},
        }


def _hear(told: list[str]) -> None:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if not OF_A_BUSY_MACHINE.match(record.getMessage()):
                told.append(f"{record.levelname} {record.getMessage()}")

    logger = logging.getLogger("mpcheckpoint")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(Handler())
