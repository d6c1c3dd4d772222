"""A recovery brings every record into a generation that takes appends, whatever fails or dies on the way."""

from __future__ import annotations

import errno
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint._logfile.recovery import replace_damaged
from mpcheckpoint.errors import (
    LockTimeoutError,
    OutcomeUnknownError,
    PoisonedLogError,
    WriteFailedError,
)
from support import tally
from support.processes import call
from support.verbs import (
    LOG,
    TORN,
    Faults,
    append_and_tell,
    assert_goes_on,
    hold_store_lock,
    inside,
    is_locked,
    lock_file,
    log_file,
    poison,
    seen_anew,
    tear,
    writer_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal
    from support.processes import Children


NEW_GENERATION = r"a\.jsonl\..*tmp$"


@pytest.mark.guarantee(9)
def test_recover_brings_every_record_into_a_generation_that_takes_appends(
    store: Path, log: Log, faults: Faults
) -> None:
    log.append_many([("x", "batch"), ("y", "batch")])
    position = poison(log, faults)

    log.recover()

    assert not inside(store, "a.poison").exists()
    assert log.append("x", 2).generation != position.generation
    assert_goes_on(log, [0, "batch", 1, 2])
    assert log.events("y") == ("batch",)


@pytest.mark.guarantee(9)
def test_positions_and_cursors_from_before_a_recovery_stay_valid(
    store: Path, log: Log, faults: Faults
) -> None:
    first = log.append("x", "first")
    log.append_many([("x", number) for number in range(5)])
    inside_batch = next(record.position for record in log.read() if record.event == 2)
    cursor = follow_one(Checkpoint(store)).cursor
    unknown = poison(log, faults, "unknown")

    log.recover()
    log.append("x", "last")

    assert [record.event for record in log.read(first)] == [0, 1, 2, 3, 4, "unknown", "last"]
    assert [record.event for record in log.read(inside_batch)] == [3, 4, "unknown", "last"]
    assert [record.event for record in log.read(unknown)] == ["last"]
    with Checkpoint(store).follow(cursor, idle_timeout_s=0) as follower:
        assert [record.event for record in follower][-2:] == ["unknown", "last"]
    positions = [record.position for record in log.read()]
    assert first < inside_batch < unknown < positions[-1]
    assert unknown == positions[-2]


def follow_one(checkpoint: Checkpoint):  # type: ignore[no-untyped-def]
    follower = checkpoint.follow()
    next(follower)
    return follower


@pytest.mark.guarantee(9)
def test_recover_keeps_record_ids_counts_and_stamps(store: Path, log: Log, faults: Faults) -> None:
    log.append("x", 1, record_id="once")
    before = [(record.stamp_us, record.event, record.record_id) for record in log.read()]

    log.recover()

    assert [(record.stamp_us, record.event, record.record_id) for record in log.read()] == before
    log.append("x", 1, record_id="once")
    log.append("x", 2, expected_count=2)
    assert log.events("x") == (0, 1, 2)


@pytest.mark.guarantee(9)
@pytest.mark.guarantee(6)
def test_recover_of_a_torn_log_keeps_the_torn_bytes(store: Path, log: Log) -> None:
    tear(store)

    log.recover()

    assert_goes_on(log, [0])
    assert [repair.length_bytes for repair in log.repairs()] == [len(TORN)]


@pytest.mark.guarantee(9)
@pytest.mark.rule(18)
def test_handles_and_followers_elsewhere_go_on_through_a_recovery(store: Path, log: Log) -> None:
    other = Checkpoint(store).log("a")
    follower = other.follow(idle_timeout_s=5)
    assert next(follower).event == 0
    view = Checkpoint(store)
    assert view["x"] == (0,)

    call(recover_elsewhere, store, method="fork")
    log.append("x", 2)

    assert view["x"] == (0, 1, 2) == other.events("x")
    assert [next(follower).event, next(follower).event] == [1, 2]


def recover_elsewhere(store: Path) -> None:
    log = Checkpoint(store).log("a")
    log.append("x", 1)
    log.recover()


@pytest.mark.guarantee(9)
@pytest.mark.rule(18)
def test_append_during_a_recovery_is_found_in_the_next_generation(
    store: Path, log: Log, faults: Faults
) -> None:
    def recover_first(real: Callable[[int], None], fd: int) -> None:
        call(recover_elsewhere, store, method="fork")
        real(fd)

    faults.act("sync_data", recover_first, on=LOG)

    position = log.append("x", "mine")

    assert log.events("x") == (0, "mine", 1)
    assert [record.position for record in log.read() if record.event == "mine"] == [position]
    assert position.generation == log.append("x", 2).generation


@pytest.mark.guarantee(9)
@pytest.mark.parametrize("name", ["open_file", "write_at", "sync_data", "replace"])
def test_recover_refused_changes_nothing(store: Path, log: Log, faults: Faults, name: str) -> None:
    unknown = poison(log, faults)
    fault = faults.fail(name, errno.ENOSPC, on=NEW_GENERATION)

    with pytest.raises(WriteFailedError):
        log.recover()

    assert fault.hits == 1
    assert seen_anew(log) == [0, 1]
    assert list(inside(store).glob("*.tmp")) == []
    with pytest.raises(PoisonedLogError):
        log.append("x", 2)
    log.recover()
    assert list(log.read(unknown)) == []
    assert_goes_on(log, [0, 1])


@pytest.mark.guarantee(9)
def test_recover_on_a_disk_too_full_to_seal_does_without(store: Path, log: Log, faults: Faults) -> None:
    faults.fail("write_at", errno.ENOSPC, on=LOG)

    log.recover()

    assert_goes_on(log, [0])


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def test_recovery_while_the_store_lock_is_held_times_out_and_changes_nothing(
    store: Path, log: Log, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    impatient = Checkpoint(store, lock_timeout_s=0.1).log("a")
    before = log_file(store).read_bytes()
    children.start(hold_store_lock, store, acknowledgements.writer, method="fork")
    acknowledgements.wait_for(1)

    with pytest.raises(LockTimeoutError):
        impatient.recover()

    assert log_file(store).read_bytes() == before


@pytest.mark.guarantee(9)
def test_recovery_leaves_nothing_of_the_failed_sync_behind(store: Path, log: Log, faults: Faults) -> None:
    faults.fail("sync_data", 5, on=LOG)
    with pytest.raises(OutcomeUnknownError):
        log.append("x", 1)
    assert inside(store, "a.poison").exists()

    log.recover()

    assert not inside(store, "a.poison").exists()


def test_recovery_carries_claims_and_the_run_of_a_map_over(log: Log, threads: ThreadPoolExecutor) -> None:
    assert [outcome.value for outcome in log.map(len, ["item"], executor=threads)] == [4]

    with log.claim("y"):
        log.recover()
        with log.claim("y") as second:
            assert second is None
    assert [outcome.value for outcome in log.results()] == [4]
    assert [outcome.repeated for outcome in log.map(len, ["item"], executor=threads)] == [True]


@pytest.mark.guarantee(8)
def test_log_named_like_the_store_s_own_lock_can_be_recovered(store: Path) -> None:
    log = Checkpoint(store, lock_timeout_s=1).log("store")
    log.append("x", 0)

    log.recover()

    assert_goes_on(log, [0])


# --- dying inside a recovery ---------------------------------------------------------------------------------


@pytest.mark.guarantee(9)
@pytest.mark.guarantee(8)
@pytest.mark.guarantee(1)
def test_process_killed_at_any_call_of_a_recovery_leaves_a_log_that_goes_on(tmp_path: Path) -> None:
    number, was_killed = 0, True
    while was_killed:
        number += 1
        store = tmp_path / f"{number}"
        try:
            call(recover_until_killed, store, number, method="fork")
            was_killed = False
        except ChildProcessError:
            tally.add("kills")
        log = Checkpoint(store).log("a")
        assert seen_anew(log) == [0, 1, 2]
        assert append_and_tell(store) in {"appended", "PoisonedLogError"}
        log.recover()
        log.append("x", 3)
        assert [event for event in log.events("x") if event != "by another"] == [0, 1, 2, 3]
        assert list(inside(store).glob("*.tmp")) == [] or was_killed
    assert number > 7


def recover_until_killed(store: Path, number: int) -> None:
    log = Checkpoint(store).log("a")
    log.append_many([("x", 0), ("x", 1)])
    with pytest.MonkeyPatch.context() as patches:
        poison(log, Faults(patches), 2)
        Faults(patches).any_call(number, lambda _: os.kill(os.getpid(), signal.SIGKILL))
        log.recover()


@pytest.mark.guarantee(9)
def test_seal_whose_writer_died_is_void_and_said_to_be(store: Path, log: Log) -> None:
    with pytest.raises(ChildProcessError):
        call(seal_and_die, store, method="fork")
    tally.add("kills")
    assert b'"sealed"' in log_file(store).read_bytes()

    assert_goes_on(log, [0])

    content = log_file(store).read_bytes()
    assert content.count(b'"sealed"') == content.count(b'"unsealed"') == 1


@pytest.mark.guarantee(9)
@pytest.mark.parametrize("is_refused", [True, False])
def test_seal_is_said_to_be_void_also_after_a_first_try_that_fails(
    store: Path, log: Log, faults: Faults, is_refused: bool
) -> None:
    with pytest.raises(ChildProcessError):
        call(seal_and_die, store, method="fork")
    if is_refused:
        fault = faults.fail("write_at", errno.ENOSPC, on=LOG)
        with pytest.raises(WriteFailedError):
            log.append("x", "refused")
        assert fault.hits == 1
    else:
        log.flush()
        writer_of(store).exclusive(None, writer_of(store)._cut_padding)

    assert_goes_on(log, [0])

    content = log_file(store).read_bytes()
    assert content.count(b'"sealed"') == content.count(b'"unsealed"') == 1


def seal_and_die(store: Path) -> None:
    with pytest.MonkeyPatch.context() as patches:
        Faults(patches).act("replace", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        Checkpoint(store).log("a").recover()


@pytest.mark.guarantee(9)
def test_new_generation_of_a_killed_recovery_is_removed_by_the_next_creator(store: Path, log: Log) -> None:
    with pytest.raises(ChildProcessError):
        call(seal_and_die, store, method="fork")
    tally.add("kills")
    assert len(list(inside(store).glob("a.jsonl.*"))) == 1

    Checkpoint(store).log("b")

    assert list(inside(store).glob("*.tmp")) == []


@pytest.mark.guarantee(8)
def test_damaged_log_whose_lock_file_was_moved_aside_is_replaced_under_the_new_one_only(
    store: Path, log: Log
) -> None:
    log.append("x", 1)
    os.rename(lock_file(store), store / "aside")
    lock_file(store).touch()
    seen: list[bool] = []

    def replace(require_held: Callable[[], None]) -> None:
        require_held()
        seen.append(is_locked(lock_file(store)))

    with pytest.raises(WriteFailedError, match="another lock file"):
        replace_damaged(writer_of(store), 1.0, replace)
    assert seen == []

    replace_damaged(writer_of(store), 1.0, replace)
    assert seen == [True]
