"""Work that goes on until it is killed or the power is cut, beside compactions and backups, and what is true then."""

from __future__ import annotations

import os
from itertools import count, cycle
from typing import TYPE_CHECKING, Any

from mpcheckpoint import Checkpoint, Retention
from mpcheckpoint.errors import CheckpointError, UnfinishedBackupError
from mpcheckpoint.maintenance import repair, verify
from support.verbs import inside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

# What was done, told after it: "wrote" or "forgot", by whom, and the number of it.
Told = tuple[str, str, int]

KEPT = 3


def write_for_ever(store: Path, name: str, tell: Callable[[str, str, int], object]) -> None:
    """Append numbers, each on the condition that nothing was lost or doubled, and forget other objects."""
    log = Checkpoint(store).log("a")
    for number in count(log.count(name)):
        log.append(name, number, expected_count=number, record_id=f"{name} {number}")
        tell("wrote", name, number)
        log.append(name, "twice", record_id=f"{name} {number // 2}")
        log.append_many([("noise", number), (gone(name, number), number), ("noise", -1)], durability="never")
        log.forget(gone(name, number))
        tell("forgot", name, number)


def gone(name: str, number: int) -> str:
    """Return which object is forgotten."""
    return f"gone{number}of{name}."


def later(earlier: Any, later: Any) -> Any:
    """Fold into the last one."""
    del earlier
    return later


def compact_for_ever(store: Path) -> None:
    """Compact by every rule in turn; each leaves the last records of an object, one after the other."""
    log = Checkpoint(store).log("a")
    rules: list[dict[str, Any]] = [
        {"keep_last": KEPT},
        {"keep_last": KEPT, "fold": later},
        {"purge": True},
        {"drop": "noise"},
    ]
    for options in cycle(rules):
        try:
            log.compact(**options)
        except CheckpointError as error:
            if "another generation" not in str(error) and "faster" not in str(error):
                raise


def retain_for_ever(store: Path) -> None:
    """Open and close the log, which then looks after its own size."""
    while True:
        with Checkpoint(store) as checkpoint:
            log = checkpoint.log("a", retention=Retention(keep_last=KEPT, max_bytes=4000))
            log.append("noise", 0, durability="never")
            log.count("noise")


def back_up_for_ever(store: Path, place: Path) -> None:
    """Back up."""
    while True:
        Checkpoint(store).backup(place)


def require_sound(store: Path, told: Iterable[Told], *, most_more: int | None = None) -> None:
    """All that was told is so, nothing that was forgotten is back, and what was left unfinished is cleared away.

    Args:
        told: by all writers; none of them lives.
        most_more: how many records each of them may have written more.
    """
    told = list(told)
    log = Checkpoint(store).log("a")
    for name in {name for _, name, _ in told}:
        numbers = {
            what: [each for kind, by, each in told if (kind, by) == (what, name)]
            for what in ("wrote", "forgot")
        }
        written, events = log.count(name), log.events(name)
        acknowledged = max(numbers["wrote"], default=-1) + 1
        assert written >= acknowledged
        assert most_more is None or written <= acknowledged + most_more
        assert events == tuple(range(written - len(events), written))
        assert len(events) >= min(KEPT, written)
        for number in range(max(0, written - 20), written):
            assert log.append(name, "twice", record_id=f"{name} {number}") is not None
        assert log.count(name) == written
        assert not any(log.count(gone(name, number)) for number in numbers["forgot"])
    log.append("noise", 0)
    log.compact(keep_last=KEPT, purge=True)
    left = b"".join(path.read_bytes() for path in inside(store).rglob("*") if path.is_file())
    for what, name, number in told:
        assert what != "forgot" or gone(name, number).encode() not in left
    assert not [path.name for path in inside(store).iterdir() if ".tmp" in path.name]
    assert not list(inside(store).glob("a.jsonl?*"))
    assert {each.state for each in verify(store)} == {"whole"}


def settled(place: Path) -> bool:
    """Return whether there is a backup; one that was left unfinished is set back."""
    if not (place / ".checkpoint" / "backup").exists():
        return False
    try:
        Checkpoint(place, read_only=True).close()
    except UnfinishedBackupError:
        list(repair(place))
    assert {each.state for each in verify(place)} <= {"whole"}
    return True


def tell_through(path: str) -> Callable[[str, str, int], object]:
    """Return what tells through a file that outlives the process."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    return lambda *told: os.write(fd, b"%s %s %d\n" % (told[0].encode(), told[1].encode(), told[2]))


def told_through(path: str) -> list[Told]:
    """Return what was told through such a file."""
    if not os.path.exists(path):
        return []
    with open(path, "rb") as file:
        lines = (line.decode().split(" ") for line in file)
        return [(what, name, int(number)) for what, name, number in lines]
