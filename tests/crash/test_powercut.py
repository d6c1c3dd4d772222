"""Loss of power: what was acknowledged before it is there after it, and the log goes on.

The cuts here are real: a file system is shut down under processes that append. Those in a model of the disk, one at
each call there is, stand in crash/test_crash_points.py.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint.errors import CheckpointError
from mpcheckpoint.maintenance import repair, restore
from support.load import (
    back_up_for_ever,
    compact_for_ever,
    require_sound,
    retain_for_ever,
    settled,
    write_for_ever,
)
from support.processes import call
from support.verbs import Faults, seeded, write_padding_early

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal, AcknowledgementWriter
    from mpcheckpoint.testing._power_cuts.loopback import LoopFileSystem
    from support.processes import Children

pytestmark = [pytest.mark.guarantee(1), pytest.mark.guarantee(2)]

LOG_KEYS = ("a", "b")


# --- writers, which end when the power is gone -----------------------------------------------------------------


def append_until_the_power_is_gone(store: Path, name: str, writer: AcknowledgementWriter) -> None:
    """Append single events and batches in turn; acknowledge each with how it was to be durable."""
    chance = seeded(name)
    if chance.random() < 0.5:
        write_padding_early()
    try:
        checkpoint = Checkpoint(store)
        logs = [checkpoint.log(log_key) for log_key in LOG_KEYS]
        number = 0
        while True:
            log = chance.choice(logs)
            durability = chance.choice(["always", "always", "never"])
            parts = chance.choice((1, 1, 3))
            events = [
                [name, number, part, parts, "x" * chance.choice((1, 100, 9000))] for part in range(parts)
            ]
            log.append_many([(name, event) for event in events], durability=durability)
            writer.acknowledge(name, number, log.log_key, durability)
            number += 1
    except CheckpointError:
        pass  # the power is gone


def create_until_the_power_is_gone(store: Path, name: str, writer: AcknowledgementWriter) -> None:
    """Create logs, append one event to each, and acknowledge both."""
    try:
        checkpoint = Checkpoint(store)
        number = 0
        while True:
            log = checkpoint.log(f"{name} {number}")
            writer.acknowledge(log.log_key, 0)
            log.append("x", number)
            writer.acknowledge(log.log_key, 1)
            number += 1
    except CheckpointError:
        pass


def recover_until_the_power_is_gone(store: Path, name: str, writer: AcknowledgementWriter) -> None:
    """Append to a log and give it another generation, in turn."""
    try:
        log = Checkpoint(store).log("a")
        number = 0
        while True:
            log.append("x", number)
            writer.acknowledge(number)
            if number % 3 == 0:
                log.recover()
            number += 1
    except CheckpointError:
        pass


def cut_power_while(
    work: Callable[..., None],
    store: Path,
    writers: int,
    disk: LoopFileSystem,
    journal: AcknowledgementJournal,
    children: Children,
) -> list[tuple[Any, ...]]:
    """Let writers work, cut the power under them, and return what they had acknowledged before the cut began: while it
    is made, the kernel itself acknowledges syncs that are lost. The disk is back then.
    """
    chance = seeded(f"cut {len(journal.acknowledged())}")
    before = len(journal.acknowledged())
    started = [
        children.start(work, store, f"{before} writer {number}", journal.writer, method="fork")
        for number in range(writers)
    ]
    journal.wait_for(before + chance.randint(20, 60))
    acknowledged = journal.acknowledged()[before:]
    disk.cut_power()
    for child in started:
        assert child.wait() == 0
    disk.restore()
    return acknowledged


# --- real cuts -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_power_cut_under_writers_loses_nothing_acknowledged_durable(
    loop_file_system: LoopFileSystem,
    acknowledgements: AcknowledgementJournal,
    children: Children,
    intensity: int,
) -> None:
    store = loop_file_system.mountpoint / "store"
    work = append_until_the_power_is_gone
    acknowledged: list[tuple[Any, ...]] = []
    for _ in range(6 * intensity):
        acknowledged += cut_power_while(work, store, 3, loop_file_system, acknowledgements, children)

        # In processes of their own: whoever has a file open on it is in the way of the next cut.
        call(verify_events, store, acknowledged, method="fork")
        call(append_by_a_new_process, store, LOG_KEYS, method="fork")


def verify_events(store: Path, acknowledged: list[tuple[Any, ...]]) -> None:
    checkpoint = Checkpoint(store, read_only=True)
    found = {log_key: steps_found(checkpoint.log(log_key)) for log_key in checkpoint.logs()}
    for name, number, log_key, durability in acknowledged:
        assert durability != "always" or (name, number) in found[log_key], (name, number)


def steps_found(log: Log) -> set[tuple[str, int]]:
    """Return the steps of all writers, each of which must be whole."""
    parts_of: dict[tuple[str, int, int], list[int]] = {}
    for record in log.read():
        if record.object_key != "end":
            name, number, part, parts, _ = record.event
            parts_of.setdefault((name, number, parts), []).append(part)
    assert all(found == list(range(parts)) for (_, _, parts), found in parts_of.items())
    return {(name, number) for name, number, _ in parts_of}


def append_by_a_new_process(store: Path, log_keys: tuple[str, ...]) -> None:
    checkpoint = Checkpoint(store)
    for log_key in log_keys:
        log = checkpoint.log(log_key)
        before = log.count("end")
        log.append("end", before)
        assert log.events("end") == tuple(range(before + 1))


@pytest.mark.rule(9)
@pytest.mark.slow
def test_power_cut_under_creators_loses_no_log_that_was_acknowledged(
    loop_file_system: LoopFileSystem,
    acknowledgements: AcknowledgementJournal,
    children: Children,
    intensity: int,
) -> None:
    # Below directories that are new themselves: their names have to survive too.
    for number in range(3 * intensity):
        store = loop_file_system.mountpoint / f"new{number}" / "deep" / "store"
        work = create_until_the_power_is_gone
        acknowledged = cut_power_while(work, store, 2, loop_file_system, acknowledgements, children)

        call(verify_logs, store, acknowledged, method="fork")


def verify_logs(store: Path, acknowledged: list[tuple[str, int]]) -> None:
    checkpoint = Checkpoint(store)
    last = dict(acknowledged)
    assert set(last) <= set(checkpoint.logs())
    for log_key, events in last.items():
        assert checkpoint.log(log_key).count("x") >= events
    append_by_a_new_process(store, tuple(checkpoint.logs()))


@pytest.mark.slow
@pytest.mark.guarantee(9)
def test_power_cut_under_recoveries_leaves_one_whole_generation(
    loop_file_system: LoopFileSystem,
    acknowledgements: AcknowledgementJournal,
    children: Children,
    intensity: int,
) -> None:
    for number in range(2 * intensity):
        store = loop_file_system.mountpoint / f"store{number}"
        work = recover_until_the_power_is_gone
        acknowledged = cut_power_while(work, store, 1, loop_file_system, acknowledgements, children)

        call(verify_counting, store, len(acknowledged), method="fork")


def verify_counting(store: Path, acknowledged: int) -> None:
    events = Checkpoint(store).log("a").events("x")
    assert events == tuple(range(len(events)))
    assert len(events) >= acknowledged
    append_by_a_new_process(store, ("a",))


def shrink_until_the_power_is_gone(store: Path, name: str, writer: AcknowledgementWriter) -> None:
    """Write, compact, retain or back up, by the last digit of the name."""
    role = int(name[-1])
    works: list[Callable[[], None]] = [
        lambda: write_for_ever(store, name.replace(" ", "_"), writer.acknowledge),
        lambda: write_for_ever(store, name.replace(" ", "_"), writer.acknowledge),
        lambda: compact_for_ever(store),
        lambda: retain_for_ever(store),
        lambda: back_up_for_ever(store, store.parent / "backup"),
    ]
    try:
        works[role]()
    except CheckpointError:
        pass


@pytest.mark.slow
@pytest.mark.guarantee(11)
@pytest.mark.guarantee(12)
def test_power_cut_while_logs_shrink_and_are_backed_up_loses_nothing_and_brings_nothing_back(
    loop_file_system: LoopFileSystem,
    acknowledgements: AcknowledgementJournal,
    children: Children,
    intensity: int,
) -> None:
    store = loop_file_system.mountpoint / "place" / "store"
    work = shrink_until_the_power_is_gone
    acknowledged: list[tuple[Any, ...]] = []
    for _ in range(3 * intensity):
        acknowledged += cut_power_while(work, store, 5, loop_file_system, acknowledgements, children)

        call(require_sound, store, acknowledged, method="fork")
        call(settled, store.parent / "backup", method="fork")
    assert {what for what, *_ in acknowledged} == {"wrote", "forgot"}


def restore_until_the_power_is_gone(store: Path, name: str, writer: AcknowledgementWriter) -> None:
    """Append a number, back up, append something else, and restore: in turn."""
    place = store.parent / "backup"
    try:
        for number in count():
            log = Checkpoint(store).log("a")
            log.append("x", number)
            writer.acknowledge("appended", number)
            Checkpoint(store).backup(place)
            log.append("x", "later")
            restore(place, store)
            writer.acknowledge("restored", number)
    except CheckpointError:
        pass


@pytest.mark.slow
@pytest.mark.guarantee(11)
def test_power_cut_under_backups_and_restores_leaves_the_store_or_the_backup(
    loop_file_system: LoopFileSystem,
    acknowledgements: AcknowledgementJournal,
    children: Children,
    intensity: int,
) -> None:
    for number in range(2 * intensity):
        store = loop_file_system.mountpoint / f"place{number}" / "store"
        work = restore_until_the_power_is_gone
        acknowledged = cut_power_while(work, store, 1, loop_file_system, acknowledgements, children)

        call(verify_restored, store, acknowledged, method="fork")


def verify_restored(store: Path, acknowledged: list[tuple[str, int]]) -> None:
    list(repair(store))
    events = [event for event in Checkpoint(store).log("a").events("x") if event != "later"]
    assert events == list(range(len(events)))
    assert len(events) > max(number for _, number in acknowledged)
    settled(store.parent / "backup")
    Checkpoint(store).backup(store.parent / "backup")
    restore(store.parent / "backup", store)
    append_by_a_new_process(store, ("a",))


# --- what closing promises ------------------------------------------------------------------------------------


def test_handle_closed_has_synced_every_log_of_the_interval_setting_however_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint(tmp_path / "store", durability="interval:600000")
    logs = [checkpoint.log(f"{number}") for number in range(60)]
    for log in logs:
        log.append("x", "first use")
        log.append("x", "last")
    syncs = Faults(monkeypatch).watch("sync_data", on=r"\.jsonl$")

    checkpoint.close()

    assert syncs.seen >= len(logs)
