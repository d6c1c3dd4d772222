"""What a process can be short of: descriptors, and memory.

Both end alike: appendable again, readable again, nothing acknowledged lost, no lock left held, and nothing raised on
the way but a CheckpointError or a MemoryError.
"""

from __future__ import annotations

import errno
import gc
import os
import resource
import shutil
import signal
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint.errors import CheckpointError
from mpcheckpoint.testing._simulation.seam import Seam, SeamCall
from support.processes import call
from support.unsynced import done_without_syncs
from support.verbs import (
    assert_goes_on,
    become_a_new_process,
    inside,
    is_locked,
    lock_file,
    store_of,
    tear,
)

if TYPE_CHECKING:
    from collections.abc import Callable


MIB = 1 << 20


# --- no descriptors --------------------------------------------------------------------------------------------


@pytest.mark.guarantee(9)
@pytest.mark.parametrize("is_new_process", [False, True])
def test_process_out_of_descriptors_raises_typed_errors_and_goes_on_with_more(
    tmp_path: Path, without_syncs: None, is_new_process: bool
) -> None:
    outcomes = call(work_short_of_descriptors, tmp_path, is_new_process, method="fork")

    for what, (failed, succeeded) in outcomes.items():
        assert succeeded, f"{what} never found descriptors enough"
        assert failed or not is_new_process, f"{what} was never short of descriptors"


def work_short_of_descriptors(directory: Path, is_new_process: bool) -> dict[str, list[int]]:
    """Do everything with 0 to 12 descriptors to spare; return how often each failed and succeeded."""
    gc.freeze()  # so that looking for garbage is quick
    at_first = open_descriptors()
    store = directory / "store"
    checkpoint = Checkpoint(store, lock_timeout_s=5)
    log = checkpoint.log("a")
    log.append("x", 0)
    outcomes: dict[str, list[int]] = {}
    expected: list[Any] = [0]
    for spare in range(13):
        for what, operation in operations(checkpoint, log, directory).items():
            if is_new_process:
                become_a_new_process()
            if what == "append behind a torn end":
                tear(store)
            event = f"{what} {spare}"
            has_failed = fails_with_descriptors(spare, operation, event)
            outcomes.setdefault(what, [0, 0])[not has_failed] += 1

            assert not is_locked(lock_file(store)), event
            assert not is_locked(inside(store, "store.lock")), event
            found = list(log.events("x"))
            assert found in (expected, [*expected, event]), event
            assert has_failed or not what.startswith("append") or found[-1] == event
            log.append("x", len(found), durability="never")
            expected = [*found, len(found)]
    assert_goes_on(log, expected)
    checkpoint.close()
    become_a_new_process()
    assert open_descriptors() == at_first, "a call that failed forgot to close what it had opened"
    return outcomes


def operations(checkpoint: Checkpoint, log: Log, directory: Path) -> dict[str, Callable[[str], object]]:
    def claim(event: str) -> None:
        with log.claim(event) as claim:
            assert claim is not None
            log.append("x", event)

    return {
        "append": lambda event: log.append("x", event),
        "append behind a torn end": lambda event: log.append("x", event),
        "append under a claim": claim,
        "elsewhere": lambda event: checkpoint.log(f"b{event[-2:]}").append("y", event),
        "read": lambda event: list(log.read()),
        "look": lambda event: Checkpoint(directory / "store", read_only=True)["x"],
        "follow": lambda event: list(checkpoint.follow(idle_timeout_s=0)),
        "flush": lambda event: log.flush(),
        "recover": lambda event: log.recover(),
        "stats": lambda event: log.stats(),
        "create": lambda event: Checkpoint(directory / event).log("a"),
    }


def fails_with_descriptors(spare: int, operation: Callable[[str], object], event: str) -> bool:
    """Do something with so many descriptors to spare; return whether it raised, which must be one of ours."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers = fill_gaps()
    resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1 + spare, hard))
    try:
        operation(event)
    except CheckpointError as error:
        if getattr(error, "errno", None) != errno.EMFILE or "ulimit -n" not in str(error):
            raise AssertionError(f"{error!r} does not say what is lacking") from error
        return True
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in fillers:
            os.close(fd)
    return False


def open_descriptors() -> int:
    gc.collect()  # what an exception's traceback held
    return len(os.listdir("/proc/self/fd"))


def fill_gaps() -> list[int]:
    """Open what makes all descriptors free that come behind these."""
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    fillers = [os.open(os.devnull, os.O_RDONLY)]
    while fillers[-1] < highest:
        fillers.append(os.dup(fillers[0]))
    return fillers


@pytest.mark.guarantee(4)
@pytest.mark.guarantee(9)
def test_thousand_logs_are_written_read_and_followed_with_two_hundred_descriptors(
    tmp_path: Path, without_syncs: None
) -> None:
    call(work_with_many_logs, tmp_path / "store", 1000, method="fork")


def work_with_many_logs(store: Path, count: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    checkpoint = Checkpoint(store)
    logs = [checkpoint.log(f"log {number}") for number in range(count)]
    follower = checkpoint.follow(idle_timeout_s=0)

    for number, log in enumerate(logs):
        log.append("x", number)
    call(append_to_each, checkpoint, method="fork")
    elsewhere = Checkpoint(store)
    for number in range(0, count, 10):
        elsewhere.log(f"log {number}").append("x", number)

    numbers = [number for number in range(count) for _ in range(2 + (number % 10 == 0))]
    assert sorted(checkpoint["x"]) == sorted(elsewhere["x"]) == numbers
    assert sorted(record.event for record in follower) == numbers
    assert [event for log in logs for event in log.events("x")] == numbers
    assert [record.event for log in logs for record in log.read()] == numbers
    assert sorted(call(Checkpoint(store, read_only=True).getCheckpoints, "x", method="fork")) == numbers
    assert_goes_on(logs[0], [0, 0, 0])


def append_to_each(checkpoint: Checkpoint) -> None:
    for log_key in checkpoint.getCheckpointLogKeys():
        checkpoint.writeCheckpoint(log_key, "x", int(log_key.split()[1]))


# --- no memory ---------------------------------------------------------------------------------------------------


LARGE = "x" * (6 * MIB)


@pytest.mark.guarantee(9)
@pytest.mark.parametrize("what", ["append", "commit", "events", "count", "recover"])
def test_process_refused_memory_raises_and_goes_on_with_the_same_handle(store: Path, what: str) -> None:
    # In a new process, which has not collected memory yet that it need not ask for.
    outcomes = call(try_with_ever_more_memory, store, what)

    assert outcomes["done"] == 2
    assert outcomes["raised"] + outcomes["died"] >= 3, outcomes
    # What encodes and decodes JSON dies of a refusal (msgspec 0.22 uses what it was not given). It holds no lock then.
    assert outcomes["died"] == 0 or what in ("append", "events"), outcomes


def try_with_ever_more_memory(store: Path, what: str) -> dict[str, int]:
    log = Checkpoint(store, lock_timeout_s=5).log("a")
    log.append_many([("x", 0), ("large", LARGE)])
    outcomes = {"done": 0, "raised": 0, "died": 0}
    expected: list[Any] = [0]
    for spare in range(0, 200 * MIB, MIB):
        outcome = attempt_with_memory(spare, log, what)
        outcomes[outcome] += 1

        assert not is_locked(lock_file(store)), spare
        assert not is_locked(inside(store, "store.lock")), spare
        found = list(log.events("x"))
        went_on = [] if outcome == "died" else ["went on"]
        done = [spare] if what in WRITES else []
        assert found in ([*expected, *went_on], [*expected, *done, *went_on]), spare
        assert outcome != "done" or found == [*expected, *done, *went_on], spare
        expected = found
        if outcomes["done"] == 2:
            break
    assert_goes_on(log, expected)
    return outcomes


WRITES = ("append", "commit")


def attempt_with_memory(spare_bytes: int, log: Log, what: str) -> str:
    """Do it in a child that can have so much more memory, and then append there, through the same handle."""
    pid = os.fork()
    if pid == 0:
        code = 3
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            code = int(raises_for_want_of_memory(spare_bytes, log, what))
            log.append("x", "went on")
        except BaseException:  # noqa: BLE001  # it is reported, and the parent fails
            traceback.print_exc()
            code = 3
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGSEGV
        return "died"
    assert os.WEXITSTATUS(status) in (0, 1), "see the traceback"
    return "raised" if os.WEXITSTATUS(status) else "done"


def raises_for_want_of_memory(spare_bytes: int, log: Log, what: str) -> bool:
    work = prepared(spare_bytes, log, what)
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (virtual_bytes() + spare_bytes, before[1]))
    try:
        work()
    except (MemoryError, CheckpointError):
        return True
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    return False


def prepared(number: int, log: Log, what: str) -> Callable[[], object]:
    if what == "commit":
        transaction = log.transaction().__enter__()
        transaction.append("x", number)
        transaction.append("large", LARGE)  # encoded here, with memory
        return lambda: transaction.__exit__(None, None, None)
    reader = Checkpoint(store_of(log), read_only=True).log("a")
    return {
        "append": lambda: log.append_many([("x", number), ("large", LARGE)]),
        "events": lambda: reader.events("large"),
        "count": lambda: reader.count("large"),
        "recover": log.recover,
    }[what]


def virtual_bytes() -> int:
    pages, *_ = Path("/proc/self/statm").read_text().split()
    return int(pages) * resource.getpagesize()


@pytest.mark.guarantee(2)
@pytest.mark.guarantee(9)
@pytest.mark.parametrize("before", [True, False], ids=["before", "behind"])
def test_memory_refused_at_any_call_loses_nothing_and_leaves_no_lock(
    tmp_path: Path, without_syncs: None, before: bool
) -> None:
    number, is_reached = 0, True
    while is_reached:
        number += 1
        store = tmp_path / f"{number}"
        checkpoint = Checkpoint(store, lock_timeout_s=5)
        with Seam(lambda made: refuse_memory(made, number, before=before)) as seam:  # noqa: B023  # called in here only
            acknowledged = work_through_everything(checkpoint, store)
        is_reached = seam.count >= number

        assert not is_locked(lock_file(store)), number
        assert not is_locked(inside(store, "store.lock")), number
        log = checkpoint.log("a")
        log.append("x", "end")
        found = list(log.events("x"))
        assert [event for event in found if event in acknowledged] == acknowledged, number
        assert len(set(found)) == len(found), number
        assert [event for event in found if event[-1] == "b"] == [
            f"{event[:-1]}b" for event in found if event[-1] == "c"
        ], number
        assert sum(1 for _ in log.follow(idle_timeout_s=0)) == len(found)
        assert_goes_on(log, found)
        shutil.rmtree(store)
    assert acknowledged == ["0", "1", "2b", "2c", "3b", "3c", "4", "5"]
    assert number > 60


def refuse_memory(made: SeamCall, number: int, *, before: bool) -> Any:
    if made.number == number and before:
        raise MemoryError
    result = done_without_syncs(made)
    if made.number == number:
        raise MemoryError
    return result


def work_through_everything(checkpoint: Checkpoint, store: Path) -> list[str]:
    """Do everything once, each try for itself; return what was acknowledged."""
    acknowledged: list[str] = []
    for step in range(6):
        events = [f"{step}b", f"{step}c"] if step in (2, 3) else [f"{step}"]
        try:
            log = checkpoint.log("a")
            if step == 1:
                tear(store)
            if step == 3:
                with log.transaction() as transaction:
                    seen = transaction.events("x")
                    for event in events:
                        transaction.append("x", event)
                assert seen
            else:
                log.append_many([("x", event) for event in events])
            acknowledged += events
            if step == 4:
                log.recover()
            assert set(acknowledged) <= set(checkpoint.getCheckpoints("x"))
        except MemoryError:
            pass
    return acknowledged
