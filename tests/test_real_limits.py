"""What a process can meet: a stopped neighbour, a kill in mid-repair, no descriptors, no memory, a clock that jumps.

Each ends alike: appendable again, readable again, nothing acknowledged lost, no lock left held, and nothing raised on the way
but a CheckpointError or a MemoryError.
"""

from __future__ import annotations

import errno
import gc
import os
import resource
import shutil
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint import _system as system
from mpcheckpoint.errors import CheckpointError, LockTimeoutError
from mpcheckpoint.testing._seam import Call, Seam
from support import tally
from support.processes import call
from support.verbs import (
    assert_goes_on,
    become_a_new_process,
    inside,
    is_locked,
    lock_file,
    log_file,
    seen_anew,
    tear,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from support.acknowledgements import AcknowledgementJournal, AcknowledgementWriter
    from support.processes import Child, Children

TIMEOUT_S = 0.3
HOUR_US = 3_600_000_000
YEAR_US = 365 * 24 * HOUR_US
MIB = 1 << 20


SYNCS = ("sync_data", "sync_directory")


@pytest.fixture
def without_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let syncs take no time. What a killed process wrote is in the kernel's memory, and stays."""
    monkeypatch.setattr(system, "sync_data", os.fstat)
    monkeypatch.setattr(system, "sync_directory", open_and_close)


def open_and_close(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY))


# --- a neighbour that is stopped ------------------------------------------------------------------------------


@pytest.mark.guarantee(4)
@pytest.mark.guarantee(8)
@pytest.mark.parametrize("stops_in", ["lock", "half a write", "unlock"])
def test_writer_stopped_with_the_lock_times_the_others_out_and_goes_on_when_woken(
    log: Log, store: Path, children: Children, acknowledgements: AcknowledgementJournal, stops_in: str
) -> None:
    stopped = start_stopped(append_and_stop, store, stops_in, children, acknowledgements)
    started = time.monotonic()
    waiting = [
        children.start(append_when_free, store, name, acknowledgements.writer, method="fork")
        for name in range(3)
    ]
    wait_until(lambda: len(timed_out(acknowledgements)) == 3, "all of them timed out")

    assert 3 * TIMEOUT_S > max(timed_out(acknowledgements)) >= TIMEOUT_S
    # The record of who is stopped behind its write may be there: it was not acknowledged, and it is whole.
    assert log.events("x") in ((0,), (0, ["stopped", 0]))
    assert seen_anew(log) == list(log.events("x"))
    assert time.monotonic() - started > TIMEOUT_S

    stopped.resume()
    for child in (stopped, *waiting):
        assert child.wait() == 0
    appended = [
        ["stopped", 0],
        ["stopped", 1],
        *([name, number] for name in range(3) for number in range(5)),
    ]
    assert sorted(log.events("x")[1:], key=str) == sorted(appended, key=str)
    assert log.repairs() == []
    assert_goes_on(log, list(log.events("x")))


@pytest.mark.guarantee(8)
def test_writer_stopped_in_its_sync_holds_nobody_up(
    log: Log, store: Path, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    stopped = start_stopped(append_and_stop, store, "sync_data", children, acknowledgements)

    Checkpoint(store, lock_timeout_s=TIMEOUT_S).log("a").append("x", "meanwhile")

    stopped.resume()
    assert stopped.wait() == 0
    assert_goes_on(log, [0, ["stopped", 0], "meanwhile", ["stopped", 1]])


def start_stopped(
    work: Callable[..., None], store: Path, where: str, children: Children, journal: AcknowledgementJournal
) -> Child:
    child = children.start(work, store, where, journal.writer, method="fork")
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    return child


def append_and_stop(store: Path, where: str, writer: AcknowledgementWriter) -> None:
    """Append twice, and stop in the midst of the first."""
    log = Checkpoint(store).log("a")
    log.append("y", "first use")
    has_stopped = False

    def stop_once(made: Call) -> Any:
        nonlocal has_stopped
        name = "write_at" if where == "half a write" else where
        if has_stopped or made.name != name or made.path not in (str(log_file(store)), str(lock_file(store))):
            return made.proceed()
        has_stopped = True
        if where == "half a write":
            fd, data, offset = made.arguments
            half = os.pwrite(fd, data[: len(data) // 2], offset)
            os.kill(os.getpid(), signal.SIGSTOP)
            return half
        if where == "lock":
            result = made.proceed()
            os.kill(os.getpid(), signal.SIGSTOP)
            return result
        os.kill(os.getpid(), signal.SIGSTOP)
        return made.proceed()

    with Seam(stop_once):
        log.append("x", ["stopped", 0])
    log.append("x", ["stopped", 1])
    assert has_stopped


def append_when_free(store: Path, name: int, writer: AcknowledgementWriter) -> None:
    log = Checkpoint(store, lock_timeout_s=TIMEOUT_S).log("a")
    number, has_timed_out = 0, False
    while number < 5:
        started = time.monotonic()
        try:
            log.append("x", [name, number])
            number += 1
        except LockTimeoutError:
            if not has_timed_out:
                writer.acknowledge("timed out", time.monotonic() - started)
            has_timed_out = True


def timed_out(journal: AcknowledgementJournal) -> list[float]:
    return [values[1] for values in journal.acknowledged() if values[0] == "timed out"]


# --- killed in a repair ----------------------------------------------------------------------------------------


TORN = b'["000000ff",17' + b"torn" * 2000


@pytest.mark.guarantee(1)
@pytest.mark.guarantee(6)
@pytest.mark.guarantee(8)
@pytest.mark.parametrize("kind", ["append", "flush", "recover"])
def test_process_killed_at_any_call_of_a_repair_loses_no_record_and_no_torn_byte(
    tmp_path: Path, without_syncs: None, kind: str
) -> None:
    Checkpoint(tmp_path / "torn").log("a").append_many([("x", number) for number in range(3)])
    tear(tmp_path / "torn", TORN)

    number, is_reached = 0, True
    while is_reached:
        number += 1
        store = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "torn", store)
        # The second dies in the repair of what the first one's repair left.
        is_reached = killed_at(store, kind, number, before=True)
        killed_at(store, kind, number, before=False)

        assert Checkpoint(store, read_only=True).log("a").events("x")[:3] == (0, 1, 2)
        log = Checkpoint(store, lock_timeout_s=0).log("a")
        log.append("y", "repaired")
        events = list(log.events("x"))
        assert events in ([0, 1, 2], [0, 1, 2, "a"], [0, 1, 2, "a", "a"]), number
        assert TORN in [Path(repair.path).read_bytes() for repair in log.repairs()], number
        assert_goes_on(log, events)
        shutil.rmtree(store)
    assert number > 20


def killed_at(store: Path, kind: str, number: int, *, before: bool) -> bool:
    """Have another process repair and be killed right before, or right behind, its ``number``-th call of the system;
    return whether there was one."""
    pid = os.fork()
    if pid == 0:
        try:
            with Seam(lambda made: kill_at(made, number, before=before)):
                use(Checkpoint(store).log("a"), kind)
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    is_killed = os.WIFSIGNALED(status)
    tally.add("kills", int(is_killed))
    return is_killed


def kill_at(made: Call, number: int, *, before: bool) -> Any:
    if made.number == number and before:
        os.kill(os.getpid(), signal.SIGKILL)
    result = None if made.name in SYNCS else made.proceed()
    if made.number == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return result


def use(log: Log, kind: str) -> None:
    if kind == "append":
        log.append("x", "a")
    elif kind == "flush":
        log.flush()
    else:
        log.recover()


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
    before = open_descriptors()
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
        # A writer keeps two files open, a reader one, of each of two or three logs.
        assert open_descriptors() <= before + 8, event
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
