"""Writers that are stopped, with the lock or in a sync: others time out or go on, nothing acknowledged is lost."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint.errors import LockTimeoutError
from mpcheckpoint.testing._simulation.seam import Seam, SeamCall
from support.verbs import (
    LOG,
    Faults,
    assert_goes_on,
    bounded,
    lock_file,
    log_file,
    seen_anew,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal, AcknowledgementWriter
    from support.processes import Child, Children


TIMEOUT_S = 0.3


@pytest.mark.guarantee(4)
@pytest.mark.guarantee(8)
@pytest.mark.parametrize("stops_in", ["try_lock", "half a write", "unlock"])
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

    assert TIMEOUT_S <= min(timed_out(acknowledgements)) <= max(timed_out(acknowledgements)) < TIMEOUT_S + 5
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

    def stop_once(made: SeamCall) -> Any:
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
        if where == "try_lock":
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


def stop_in_a_sync(store: Path, writer: AcknowledgementWriter) -> None:
    def stand_still(*_: object) -> None:
        writer.acknowledge("syncing")
        while True:
            signal.pause()

    with pytest.MonkeyPatch.context() as patches:
        log = Checkpoint(store).log("a")
        log.append("x", 1)
        Faults(patches).act("sync_data", stand_still, on=LOG)
        log.append("x", 2)


@pytest.mark.guarantee(8)
def test_process_stopped_in_its_sync_stops_nobody(
    store: Path, log: Log, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    child = children.start(stop_in_a_sync, store, acknowledgements.writer, method="fork")
    acknowledgements.wait_for(1)
    child.stop()
    impatient = Checkpoint(store, lock_timeout_s=2).log("a")

    bounded(impatient.append, "x", 3)
    bounded(impatient.flush)
    assert bounded(impatient.events, "x") == (0, 1, 2, 3)
    child.kill()
