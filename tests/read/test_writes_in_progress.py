"""A reader beside writers that write, cut or die at that moment: whole records, and no false verdict."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint._logfile import read as reader_module
from support.verbs import LOG, Faults, become_a_new_process, inside, log_file, tear, tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.mark.guarantee(6)
@pytest.mark.rule(2)
def test_reader_that_finds_a_write_in_progress_says_nothing_and_looks_again(store: Path, log: Log) -> None:
    log.append("x", 1, durability="never")
    whole = log_file(store).read_bytes()
    checkpoint, follower = Checkpoint(store), log.follow(idle_timeout_s=0)
    assert checkpoint["x"] == (0, 1)
    assert [record.event for record in follower] == [0, 1]
    log.append("x", 2, durability="never")
    written = log_file(store).read_bytes()
    become_a_new_process()

    for size in range(len(whole), len(written)):
        os.truncate(log_file(store), len(whole))
        tear(store, written[len(whole) : size])
        assert checkpoint["x"] == (0, 1)
        before = tree(store)
        assert checkpoint["x"] == (0, 1)
        assert tree(store) == before
    os.truncate(log_file(store), len(whole))
    tear(store, written[len(whole) :])
    assert checkpoint["x"] == (0, 1, 2)


@pytest.mark.guarantee(4)
@pytest.mark.guarantee(6)
def test_reader_that_finds_another_write_in_progress_at_every_look_calls_none_corrupt(
    store: Path, log: Log, faults: Faults
) -> None:
    starts = [log_file(store).stat().st_size] + [log.append("x", number).offset for number in range(1, 41)]
    whole = log_file(store).read_bytes()
    # Each ends in the middle of a record, two whole and durable ones behind where the one before ended.
    stages = iter([whole[: (starts[n] + starts[n + 1]) // 2] for n in range(0, 40, 2)])
    log_file(store).write_bytes(whole[: starts[0]])
    inside(store, "a.page").unlink()  # it knows of all that is written again here
    become_a_new_process()
    checkpoint = Checkpoint(store, read_only=True)
    assert checkpoint["x"] == (0,)

    def write_on(real: Callable[..., bytes], *args: Any) -> bytes:
        log_file(store).write_bytes(next(stages, whole))
        return real(*args)

    faults.act("read_once", write_on, on=LOG)
    writes = faults.act("read_at", write_on, times=1000, on=LOG)
    seen = checkpoint["x"]
    writes.clear()

    assert writes.hits > 2
    assert seen == tuple(range(len(seen)))
    assert checkpoint["x"] == tuple(range(41))


@pytest.mark.guarantee(4)
@pytest.mark.parametrize("at_look", [1, 2])
def test_write_that_ends_while_a_reader_judges_it_is_seen_at_the_next_look(
    at_look: int, store: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append("x", 1)
    whole = log_file(store).read_bytes()
    become_a_new_process()  # which knows nothing of what is durable
    log_file(store).write_bytes(whole[:-10])
    reader = Checkpoint(store, read_only=True)
    looks = 0

    def replay(*args: Any, **how: Any) -> Iterator[Any]:
        nonlocal looks
        for result in real_replay(*args, **how):
            looks += result.damage is not None
            if looks == at_look:
                log_file(store).write_bytes(whole)  # the writer goes on while the reader stands still
            yield result

    real_replay = reader_module.replay
    monkeypatch.setattr(reader_module, "replay", replay)
    for _ in range(at_look):
        assert reader["x"] in ((0,), (0, 1))

    assert reader["x"] == (0, 1)


@pytest.mark.guarantee(4)
def test_record_of_the_length_of_a_torn_end_in_its_place_is_seen(store: Path, log: Log) -> None:
    start = log_file(store).stat().st_size
    log.append("x", 1, durability="never")
    line = log_file(store).read_bytes()[start:]
    become_a_new_process()
    log_file(store).write_bytes(log_file(store).read_bytes()[:start] + b"#" * len(line))
    reader = Checkpoint(store, read_only=True)
    for _ in range(3):
        assert reader["x"] == (0,)

    with log_file(store).open("r+b") as file:
        file.seek(start)
        file.write(line)

    assert reader["x"] == (0, 1)


@pytest.mark.guarantee(4)
@pytest.mark.parametrize("at_read", range(1, 10))
def test_write_that_ends_between_any_two_reads_of_a_look_is_seen_at_the_next(
    store: Path, log: Log, faults: Faults, at_read: int
) -> None:
    log.append("x", 1, durability="never")
    whole = log_file(store).read_bytes()
    become_a_new_process()
    log_file(store).write_bytes(whole[:-10])
    reader = Checkpoint(store, read_only=True)
    assert reader["x"] == (0,)

    def go_on_writing(real: Callable[..., bytes], *args: Any) -> bytes:
        data = real(*args)
        log_file(store).write_bytes(whole)
        return data

    fault = faults.act("read_at", go_on_writing, at=at_read, on=LOG)
    while not fault.hits:
        assert reader["x"] in ((0,), (0, 1))

    assert reader["x"] == (0, 1)


@pytest.mark.guarantee(6)
@pytest.mark.rule(3)
def test_reader_under_which_a_torn_end_is_cut_and_written_anew_sees_whole_records(
    store: Path, log: Log
) -> None:
    checkpoint, follower = Checkpoint(store), log.follow(idle_timeout_s=0)
    for number in range(1, 20):
        before = log_file(store).stat().st_size
        log.append("x", "lost", durability="never")
        line = log_file(store).read_bytes()[before:]
        os.truncate(log_file(store), before)
        become_a_new_process()
        tear(store, line[: number * 3])
        assert checkpoint["x"] == tuple(range(number))

        log.append("x", number)

        assert checkpoint["x"] == tuple(range(number + 1))
    assert [record.event for record in follower] == list(range(20))
