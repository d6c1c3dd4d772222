"""What appends ask of the system: how files are opened, mapped and looked at."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import mpcheckpoint
from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint.testing import SimulatedProcess
from support.verbs import become_a_new_process, log_file, tear

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.rule(25)
def test_log_is_never_opened_for_appending_by_the_kernel(
    log: Log, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags: list[int] = []
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda path, flag, *rest, **named: flags.append(flag) or real(path, flag, *rest, **named)
    )
    become_a_new_process()
    tear(store)
    log.append("x", 1)
    log.recover()
    Checkpoint(store).log("b").append("x", 1)

    assert flags
    assert not any(flag & os.O_APPEND for flag in flags)


@pytest.mark.rule(27)
@pytest.mark.rule(31)
def test_only_the_page_is_mapped_and_for_reading(log: Log, store: Path) -> None:
    log.append("x", 1)
    log.recover()
    log.append("x", 2)
    Checkpoint(store)["x"]

    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(store) in line]
    # No locked file among them: a map keeps a duplicate of the open file, and with it the lock, in every child.
    assert {(fields[1], Path(fields[-1]).name) for fields in maps} <= {("r--s", "a.page")}
    package = Path(inspect.getfile(mpcheckpoint)).parent
    users = {path.name for path in package.rglob("*.py") if "mmap" in path.read_text()}
    assert users == {"futex.py"}


@pytest.mark.guarantee(11)
@pytest.mark.rule(32)
@pytest.mark.parametrize("is_shared", [False, True], ids=["alone", "with others"])
def test_append_read_and_follow_ask_for_no_times_of_a_log(
    log: Log, store: Path, monkeypatch: pytest.MonkeyPatch, is_shared: bool
) -> None:
    # A look at them costs the next append and sync a third more, on Linux from 6.13 on.
    other = SimulatedProcess()
    asked: list[str] = []

    def watch(name: str) -> Callable[..., object]:
        real = getattr(os, name)

        def call(file: int | str, *arguments: object, **options: object) -> object:
            path = os.readlink(f"/proc/self/fd/{file}") if isinstance(file, int) else os.fspath(file)
            if path == str(log_file(store)):
                asked.append(name)
            return real(file, *arguments, **options)

        return call

    log.append("x", 1)
    with other:
        Checkpoint(store).log("a").append("x", "other")
    checkpoint, follower = Checkpoint(store), log.follow(idle_timeout_s=0)
    assert checkpoint["x"]
    assert list(follower)
    for name in ("stat", "lstat", "fstat"):
        monkeypatch.setattr(os, name, watch(name))
    monkeypatch.setattr(system, "stat_fd", watch("fstat"))
    monkeypatch.setattr(system, "stat_path", watch("lstat"))
    for number in range(5):
        if is_shared:
            with other:
                Checkpoint(store).log("a").append("x", f"other {number}")
        asked.clear()
        log.append("x", number)
        log.append_many([("x", number), ("y", number)])
        assert log.events("y")[-1] == number
        assert checkpoint["y"][-1] == number
        assert [record.event for record in follower][-1] == number
        assert log.events("y")[-1] == number
        assert asked == []
