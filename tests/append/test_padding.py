"""Padding: newlines written ahead of need, so that a sync need not write down a change of the size."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint._logfile import padding
from mpcheckpoint.testing import SimulatedProcess
from support.verbs import LOG, Faults, assert_goes_on, become_a_new_process, inside, log_file, seen_anew, tear

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.processes import Children

pytestmark = [pytest.mark.guarantee(1), pytest.mark.guarantee(6)]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have padding made from the first append on."""
    monkeypatch.setattr(padding, "_EXTENSIONS_BEFORE", 0)


@pytest.fixture
def log(store: Path) -> Log:
    """A log that has padding."""
    log = Checkpoint(store).log("a")
    log.append("x", 0)
    assert padding_of(store) > 1000
    return log


def padding_of(store: Path) -> int:
    content = log_file(store).read_bytes()
    return len(content) - len(content.rstrip(b"\n")) - 1


def test_process_that_appends_a_few_records_leaves_no_padding(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    log = Checkpoint(store).log("a")
    for number in range(50):
        log.append("x", number)

    assert padding_of(store) == 0


@pytest.mark.rule(26)
def test_padding_is_made_used_up_and_cut_off_at_release(store: Path) -> None:
    checkpoint = Checkpoint(store)
    log = checkpoint.log("a")
    sizes = set()
    for number in range(200):
        log.append("x", number)
        sizes.add(log_file(store).stat().st_size)

    assert 1 < len(sizes) < 10
    checkpoint.releaseCheckpointLog("a")
    assert padding_of(store) == 0
    assert_goes_on(checkpoint.log("a"), [*range(200)])


def test_padding_grows_up_to_its_limit(store: Path) -> None:
    log = Checkpoint(store, durability="never").log("a")
    found = set()
    for number in range(400):
        log.append("x", f"{number}" * 1000)
        found.add(padding_of(store).bit_length())

    assert max(found) == (256 * 1024).bit_length() - 1 or max(found) == (256 * 1024).bit_length()


@pytest.mark.parametrize("how", ["close", "exit"])
def test_padding_is_cut_off_when_the_handle_is_closed_or_its_process_exits(
    store: Path, children: Children, how: str
) -> None:
    children.start(append_and, how, store, method="spawn")
    children.wait_all()

    assert padding_of(store) == 0
    assert seen_anew(Checkpoint(store).log("a")) == [*range(100)]


def append_and(how: str, store: Path) -> None:
    checkpoint = Checkpoint(store)
    log = checkpoint.log("a")
    for number in range(100):
        log.append("x", number)
    assert padding_of(store)
    if how == "close":
        checkpoint.close()
        assert padding_of(store) == 0


def test_padding_left_by_a_killed_process_is_used_and_cut_off_by_the_next(store: Path, log: Log) -> None:
    size = log_file(store).stat().st_size
    become_a_new_process()

    for number in range(1, 5):
        log.append("x", number)

    assert log_file(store).stat().st_size == size
    Checkpoint(store).log("a").append("x", 5)
    with Checkpoint(store) as checkpoint:
        checkpoint.log("a")
    assert padding_of(store) == 0
    assert_goes_on(log, [*range(6)])


def test_padding_is_left_alone_while_another_writer_has_the_lock(store: Path, log: Log) -> None:
    held = system.open_file(str(inside(store, "a.lock")), write=True)
    assert system.try_lock(held.fd)

    with Checkpoint(store) as checkpoint:
        checkpoint.log("a")

    assert padding_of(store)
    held.close()
    assert_goes_on(log, [0])


@pytest.mark.rule(26)
def test_padding_that_finds_no_room_is_no_error(store: Path, faults: Faults) -> None:
    log = Checkpoint(store).log("a")
    log.append("x", 0, durability="never")
    log.append("x", "y" * 5000)

    def full(write: Callable[..., int], fd: int, data: bytes, offset: int) -> int:
        if len(data) > 1000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data, offset)

    faults.act("write_at", full, on=LOG, times=1 << 30)
    for number in range(100):
        log.append("x", number)

    assert_goes_on(log, [0, "y" * 5000, *range(100)])


@pytest.mark.parametrize("taken_bytes", [1, 60, 90, 130, 2000])
def test_padding_of_which_only_a_part_is_taken_is_as_good(
    store: Path, faults: Faults, taken_bytes: int
) -> None:
    log = Checkpoint(store).log("a")
    fault = faults.fail_in_mid_write(errno.ENOSPC, taken_bytes=taken_bytes, on=LOG)

    log.append("x", 0)
    log.append("x", 1)

    assert fault.hits == 1
    assert_goes_on(log, [0, 1])


def test_padding_is_not_made_where_room_is_short(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "free_bytes", lambda fd: 500_000)
    log = Checkpoint(store).log("a")

    for number in range(10):
        log.append("x", number)

    assert padding_of(store) == 0


def test_torn_write_into_padding_is_repaired(store: Path, log: Log) -> None:
    content = log_file(store).read_bytes()
    end = len(content.rstrip(b"\n")) + 1
    with log_file(store).open("r+b") as file:
        file.seek(end)
        file.write(b'["000000ff",17')

    log.append("x", 1)

    assert len(log.repairs()) == 1
    assert_goes_on(log, [0, 1])


def test_bytes_behind_the_padding_are_a_torn_end_for_a_new_writer(store: Path, log: Log) -> None:
    tear(store)
    become_a_new_process()

    assert seen_anew(log) == [0]
    log.append("x", 1)

    assert len(log.repairs()) == 1
    assert_goes_on(log, [0, 1])


def test_zeros_where_padding_was_lost_with_the_power_are_a_torn_end(store: Path, log: Log) -> None:
    content = log_file(store).read_bytes()
    end = len(content.rstrip(b"\n")) + 1
    log_file(store).write_bytes(content[:end] + b"\n" * 100 + bytes(1000) + b"\n" * 50)
    become_a_new_process()

    assert seen_anew(log) == [0]
    log.append("x", 1)
    assert_goes_on(log, [0, 1])


def test_padding_cut_off_by_another_process_is_written_again(store: Path, log: Log) -> None:
    with SimulatedProcess():
        theirs = Checkpoint(store)
        theirs.log("a").append("x", 1)
        theirs.close()
    assert padding_of(store) == 0

    log.append("x", 2)
    log.append("x", 3)

    assert_goes_on(log, [0, 1, 2, 3])


def test_log_with_padding_is_json_lines_for_other_tools(store: Path, log: Log) -> None:
    lines = [json.loads(line) for line in log_file(store).read_text().splitlines() if line]

    assert lines[-1][5] == 0


def test_recovered_log_has_no_padding(store: Path, log: Log) -> None:
    log.recover()

    assert padding_of(store) == 0
    assert_goes_on(log, [0])
