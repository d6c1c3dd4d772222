"""Forty-three ways such a log loses data or lets people down, and the tests that hold the rule against each.

They were collected from the sources and issue trackers of other logs and databases, and from experiments. A test
that is renamed or removed breaks this table, so a rule cannot lose its test unseen. What no other file holds is tested
below it.
"""

from __future__ import annotations

import ast
import inspect
import os
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import mpcheckpoint
from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint.testing import SimulatedProcess
from support.checkout import TESTS
from support.processes import call
from support.verbs import (
    Faults,
    assert_goes_on,
    become_a_new_process,
    inside,
    is_locked,
    lock_file,
    log_file,
    tear,
)

if TYPE_CHECKING:
    from collections.abc import Callable

# number: (the pitfall, the tests that hold its rule)
PITFALLS: dict[int, tuple[str, list[str]]] = {
    1: (
        "torn record buried by the next append",
        [
            "crash/test_kill.py::test_batch_whose_writer_dies_in_it_is_gone_and_its_bytes_are_kept",
            "format/test_replay_oracle.py::test_log_cut_off_at_every_byte_reads_as_a_prefix_and_takes_appends",
        ],
    ),
    2: (
        "reading an append in progress",
        ["append/test_holes.py::test_reader_that_finds_a_write_in_progress_says_nothing_and_looks_again"],
    ),
    3: (
        "truncation under a reader",
        [
            "append/test_pitfalls.py::test_reader_under_which_a_torn_end_is_cut_and_written_anew_sees_whole_records",
            "append/test_holes.py::test_log_shorter_than_this_process_knows_to_be_durable_is_corrupt",
        ],
    ),
    4: (
        "the CRC of zeros is zero",
        [
            "format/test_scan.py::test_scan_of_64_kib_of_one_byte_gives_no_record",
            "format/test_replay_oracle.py::test_log_that_ends_in_padding_zeros_or_rubbish_reads_whole_and_takes_appends",
        ],
    ),
    5: (
        "blocks reach the disk out of order",
        [
            "append/test_holes.py::test_first_use_validates_every_unsynced_byte_not_just_the_last_line",
            "crash/test_crash_points.py::test_crash_at_any_call_loses_nothing_acknowledged_and_blocks_nobody",
        ],
    ),
    6: (
        "corrupted length",
        [
            "format/test_scan.py::test_scan_of_a_raised_length_neither_waits_nor_takes_more",
            "format/test_frame.py::test_length_is_believed_within_the_limits_only",
        ],
    ),
    7: (
        "old bytes resurrected",
        [
            "format/test_scan.py::test_scan_of_lines_of_another_generation_takes_none",
            "append/test_holes.py::test_event_that_contains_log_lines_vouches_for_nothing_when_torn",
            "maintenance/test_bad_places.py::test_log_restored_from_a_copy_by_hand_is_loaded_anew",
        ],
    ),
    8: (
        "header not durable before records",
        ["crash/test_kill.py::test_creation_of_a_store_and_log_killed_at_any_call_is_done_by_the_next"],
    ),
    9: (
        "directory entry lost",
        [
            "crash/test_powercut.py::test_power_cut_under_creators_loses_no_log_that_was_acknowledged",
            "append/test_holes.py::test_first_use_syncs_the_directory_and_its_parent_whoever_made_the_log",
        ],
    ),
    10: (
        "flock is shared across fork",
        ["process/test_fork.py::test_child_forked_inside_an_append_neither_frees_nor_keeps_the_lock"],
    ),
    11: (
        "zombie lock",
        ["process/test_fork.py::test_lock_of_a_parent_that_is_killed_while_its_child_lives_is_free"],
    ),
    12: (
        "POSIX record locks vanish at any close",
        [
            "append/test_pitfalls.py::test_lock_outlives_the_closing_of_another_descriptor_and_keeps_threads_apart"
        ],
    ),
    13: (
        "two kinds of lock ignore each other",
        ["append/test_pitfalls.py::test_every_append_lock_is_of_one_kind"],
    ),
    14: (
        "a sync that failed, tried again",
        [
            "append/test_failed_syncs.py::test_append_after_a_failed_sync_is_refused_though_syncs_succeed_again",
            "append/test_failed_syncs.py::test_failed_sync_of_a_repair_poisons",
            "append/test_holes.py::test_records_whose_sync_failed_unheard_are_written_again_before_they_are_built_upon",
        ],
    ),
    15: (
        "disk full, short write",
        [
            "append/test_failed_writes.py::test_append_in_short_writes_is_whole",
            "append/test_failed_writes.py::test_append_on_a_full_disk_fails_and_with_room_again_the_same_handle_appends",
            "append/test_failed_writes.py::test_append_beyond_the_limit_on_file_sizes_fails_and_with_a_higher_one_works",
        ],
    ),
    16: (
        "killed between write and sync, no reboot",
        [
            "crash/test_kill.py::test_batch_whose_writer_dies_behind_its_write_is_whole",
            "crash/test_crash_points.py::test_crash_at_any_call_loses_nothing_acknowledged_and_blocks_nobody",
        ],
    ),
    17: ("visible before durable", ["read/test_merged_order.py::test_durable_read_syncs_what_it_gives_out"]),
    18: (
        "file replaced under readers and writers",
        [
            "append/test_failed_syncs.py::test_append_during_a_recovery_is_found_in_the_next_generation",
            "append/test_failed_syncs.py::test_handles_and_followers_elsewhere_go_on_through_a_recovery",
            "maintenance/test_bad_places.py::test_lock_file_replaced_by_hand_still_keeps_writers_apart",
        ],
    ),
    19: (
        "lock stolen by age",
        [
            "append/test_append_lock.py::test_append_while_the_lock_holder_is_stopped_times_out_and_then_goes_on"
        ],
    ),
    20: (
        "clock and mtime go back",
        [
            "read/test_merged_order.py::test_clock_that_goes_back_an_hour_does_not_change_the_order",
            "append/test_pitfalls.py::test_change_that_leaves_every_time_as_it_was_is_seen",
        ],
    ),
    21: (
        "network file systems",
        ["maintenance/test_bad_file_systems.py::test_network_file_system_is_refused_unless_asked_for"],
    ),
    22: (
        "file systems without working locks",
        [
            "maintenance/test_bad_file_systems.py::test_file_system_without_locks_is_refused",
            "maintenance/test_bad_file_systems.py::test_file_system_whose_locks_do_nothing_is_refused",
        ],
    ),
    23: (
        "threads share a descriptor; a second handle deadlocks on itself",
        [
            "append/test_append_lock.py::test_append_from_a_signal_handler_inside_an_append_raises_and_keeps_the_lock",
            "append/test_pitfalls.py::test_threads_with_several_handles_append_each_record_once",
        ],
    ),
    24: (
        "signals and Ctrl-C",
        [
            "append/test_append_lock.py::test_interrupts_at_random_instants_never_leave_a_lock_behind",
            "append/test_append_lock.py::test_interrupt_behind_the_write_keeps_the_record_and_says_so",
        ],
    ),
    25: ("O_APPEND", ["append/test_pitfalls.py::test_log_is_never_opened_for_appending_by_the_kernel"]),
    26: (
        "preallocation",
        [
            "format/test_scan.py::test_scan_passes_over_padding_at_the_end_only",
            "append/test_holes.py::test_batch_cut_behind_a_whole_line_is_not_there_at_all",
            "append/test_padding.py::test_padding_is_made_used_up_and_cut_off_at_release",
            "append/test_padding.py::test_padding_that_finds_no_room_is_no_error",
        ],
    ),
    27: (
        "shared mapped hints",
        [
            "append/test_pitfalls.py::test_only_the_page_is_mapped_and_for_reading",
            "append/test_page.py::test_page_that_is_harmed_while_the_log_is_in_use_costs_nothing_but_time",
            "append/test_page.py::test_page_file_truncated_under_processes_that_map_it_kills_none",
        ],
    ),
    28: (
        "an I/O error on read is not the end; read-only never writes",
        [
            "append/test_failed_writes.py::test_read_error_is_raised_and_not_taken_for_the_end",
            "read/test_view.py::test_read_only_handle_changes_nothing",
        ],
    ),
    29: (
        "indexes and snapshots",
        ["append/test_pitfalls.py::test_store_of_which_all_but_the_logs_is_gone_or_rubbish_is_whole"],
    ),
    30: (
        "silent repair",
        ["append/test_pitfalls.py::test_repair_is_warned_of_listed_and_counted"],
    ),
    31: ("a map keeps the lock", ["append/test_pitfalls.py::test_only_the_page_is_mapped_and_for_reading"]),
    32: (
        "looking at a file's times slows its writers",
        ["append/test_pitfalls.py::test_append_asks_for_no_times_of_its_log"],
    ),
    33: (
        "a hint file copied later than its log",
        [
            "maintenance/test_copies.py::test_copy_whose_page_is_younger_than_its_log_reads_its_whole_lines_and_takes_appends",
            "maintenance/test_copies.py::test_live_copies_taken_while_processes_append_are_all_usable",
        ],
    ),
    34: (
        "two facts in one write",
        [
            "append/test_page.py::test_poison_set_between_look_and_publication_of_a_sole_writer_is_not_erased",
            "append/test_page.py::test_poison_is_not_erased_by_the_publication_of_a_group",
        ],
    ),
    35: (
        "repair by another user",
        [
            "maintenance/test_ownership.py::test_repair_by_root_leaves_log_and_quarantine_to_the_owner",
            "maintenance/test_ownership.py::test_repair_that_would_lock_the_owner_out_is_refused_before_anything_is_changed",
        ],
    ),
    36: (
        "standard streams and other descriptors closed and reused",
        [
            "process/test_descriptors.py::test_log_is_never_on_the_number_of_a_closed_standard_stream",
            "process/test_descriptors.py::test_processes_whose_lock_descriptors_were_given_to_other_files_lose_no_append",
            "process/test_descriptors.py::test_append_whose_file_is_closed_before_its_sync_is_not_acknowledged_by_that",
        ],
    ),
    37: (
        "a slow copy of a preallocated file",
        [
            "maintenance/test_copies.py::test_slow_copy_of_a_padded_log_has_a_hole_and_is_refused_to_readers_and_writers_alike",
        ],
    ),
    38: (
        "a probe that could not run taken for proof",
        [
            "maintenance/test_bad_file_systems.py::test_store_made_while_no_process_can_be_started_is_used_and_that_is_said"
        ],
    ),
    39: (
        "pass-through file systems",
        [
            "maintenance/test_bad_file_systems.py::test_store_on_a_known_remote_file_system_is_refused_by_name",
            "maintenance/test_bad_file_systems.py::test_store_on_an_unknown_file_system_is_used_with_one_warning_that_names_it",
        ],
    ),
    40: (
        "a shortage, or a signal to the whole job, recorded as an item's failure",
        [
            "map/test_map_shortage.py::test_few_processes_are_enough_for_one_map_or_two_and_burn_no_item",
            "map/test_map_deaths.py::test_commands_that_a_signal_to_the_job_ends_first_are_given_back",
        ],
    ),
    41: (
        "a worker that lost its claim records all the same",
        [
            "map/test_map_fence.py::test_process_that_was_stopped_while_another_took_its_item_records_nothing_when_it_wakes_up",
        ],
    ),
    42: (
        "a forked child of user code returns through our frames",
        ["map/test_map_fence.py::test_forked_child_of_the_function_that_returns_too_counts_for_nothing"],
    ),
    43: (
        "an interrupt inside close",
        [
            "map/test_map_endings.py::test_close_of_worker_processes_that_is_interrupted_at_any_step_is_made_up_for_by_the_next"
        ],
    ),
}


@cache
def names_of_tests_in(file: str) -> frozenset[str]:
    nodes = ast.walk(ast.parse((TESTS / file).read_text()))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef))


def test_every_pitfall_is_in_the_table() -> None:
    assert list(PITFALLS) == list(range(1, 44))


@pytest.mark.parametrize("number", PITFALLS)
def test_every_pitfall_has_tests_that_exist(number: int) -> None:
    _, tests = PITFALLS[number]

    assert tests
    for test in tests:
        file, _, name = test.partition("::")
        assert name in names_of_tests_in(file), test


# --- those that stand nowhere else -----------------------------------------------------------------------------


@pytest.mark.guarantee(6)
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


@pytest.mark.guarantee(8)
def test_lock_outlives_the_closing_of_another_descriptor_and_keeps_threads_apart(
    log: Log, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_around(real: Callable[..., int], *args: object) -> int:
        with lock_file(store).open("r+b"):
            pass  # closing this would drop a POSIX record lock
        assert is_locked(lock_file(store))
        assert call(is_locked, lock_file(store), method="fork")
        return real(*args)

    fault = Faults(monkeypatch).act("write_at", look_around, on=r"a\.jsonl$")
    log.append("x", 1)

    assert fault.hits == 1
    assert not is_locked(lock_file(store))


@pytest.mark.guarantee(8)
def test_every_append_lock_is_of_one_kind(log: Log, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(real: Callable[..., int], *args: object) -> int:
        inode = lock_file(store).stat().st_ino
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        kinds.update(fields[1] for fields in locks if fields[5].endswith(f":{inode}"))
        return real(*args)

    kinds: set[str] = set()
    Faults(monkeypatch).act("write_at", look_up, on=r"a\.jsonl$")
    log.append("x", 1)

    assert kinds == {"FLOCK"}


@pytest.mark.guarantee(4)
def test_change_that_leaves_every_time_as_it_was_is_seen(log: Log, store: Path) -> None:
    checkpoint = Checkpoint(store)
    assert checkpoint["x"] == (0,)
    for number in range(1, 5):
        before = log_file(store).stat()
        call(log.append, "x", number, method="fork")
        os.utime(log_file(store), ns=(0, before.st_mtime_ns - 10**12))
        assert checkpoint["x"] == tuple(range(number + 1))


@pytest.mark.guarantee(7)
def test_threads_with_several_handles_append_each_record_once(store: Path) -> None:
    def work(name: str) -> None:
        log = Checkpoint(store).log("a")
        for number in range(30):
            log.append(name, number)
            assert log.count(name) == number + 1

    threads = [threading.Thread(target=work, args=(f"{index}",)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    become_a_new_process()
    assert dict(Checkpoint(store).items()) == {f"{index}": tuple(range(30)) for index in range(6)}


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


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("content", [None, b"", b"rubbish\0\n" * 1000])
def test_store_of_which_all_but_the_logs_is_gone_or_rubbish_is_whole(
    log: Log, store: Path, content: bytes | None
) -> None:
    Checkpoint(store).log("b").append("y", 1)
    others = [path for path in inside(store).iterdir() if path.suffix != ".jsonl" and path.is_file()]
    assert len(others) >= 4
    for path in others:
        path.unlink() if content is None else path.write_bytes(content)
    become_a_new_process()

    assert dict(Checkpoint(store, read_only=True).items()) == {"x": (0,), "y": (1,)}
    assert_goes_on(log, [0])
    assert Checkpoint(store).logs() == ["a", "b"]


@pytest.mark.guarantee(6)
def test_repair_is_warned_of_listed_and_counted(
    log: Log, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    end = log_file(store).stat().st_size
    tear(store, b"torn")

    log.append("x", 1)

    (repair,) = log.repairs()
    assert (repair.log_key, repair.offset, repair.length_bytes) == ("a", end, 4)
    assert Path(repair.path).read_bytes() == b"torn"
    assert log.stats()["repairs"] == 1
    (warning,) = [record.getMessage() for record in caplog.records]
    assert all(part in warning for part in ("'a'", f"offset {end}", "4 bytes", repair.path))
    assert system.stat_path(repair.path).st_size == 4


@pytest.mark.guarantee(11)
@pytest.mark.parametrize("is_shared", [False, True], ids=["alone", "with others"])
def test_append_asks_for_no_times_of_its_log(
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
        assert asked == []
