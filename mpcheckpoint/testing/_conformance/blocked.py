"""What a storage promises while another process is stopped in the middle of an append.

Nobody waits for longer than they said, nothing of theirs is lost, and the stopped one's append is made once, if at all.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING
from unittest import SkipTest

from mpcheckpoint.errors import LockTimeoutError
from mpcheckpoint.testing._conformance.processes import ProcessTests, received_or_none
from mpcheckpoint.testing._conformance.verbs import append, batches, events, raises, records, wait_until

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess
    from typing import Any

    from mpcheckpoint._types import Position
    from mpcheckpoint.testing._conformance.base import StorageUnderTest

_SHORT_S = 0.05
_STOPS = 12


class BlockedAppendTests(ProcessTests):
    """Appends of a process that is stopped, and goes on or is killed."""

    def test_append_that_is_stopped_under_the_lock_goes_on_as_if_no_time_had_passed(self) -> None:
        log = self.open_log()
        append(log, 0)
        with self.another_process(_append_when_told) as (process, pipe):
            assert self.received(pipe) == [0]
            stop(process)
            for _ in range(3):
                with raises(LockTimeoutError):
                    append(log, "too late", timeout_s=_SHORT_S)
                assert events(log) == [0]
            resume(process)
            with raises(LockTimeoutError):
                append(log, "too late", timeout_s=_SHORT_S)
            pipe.send("go on")

            theirs = self.received(pipe)
            mine = append(log, 3, timeout_s=self.patience_s)
        found = records(log)
        assert batches(found) == [[0], ["theirs", "theirs"], [3]]
        assert [record.position for record in found if record.more == 0][1:] == [theirs, mine]

    def test_append_that_is_killed_while_it_is_stopped_under_the_lock_was_not_made(self) -> None:
        log = self.open_log()
        append(log, 0)
        with self.another_process(_append_when_told) as (process, pipe):
            assert self.received(pipe) == [0]
            stop(process)
            with raises(LockTimeoutError):
                append(log, "too late", timeout_s=_SHORT_S)
            process.kill()
            process.join()

            append(log, 1, timeout_s=self.patience_s)
        assert events(log) == [0, 1]

    def test_process_that_is_stopped_anywhere_in_its_appends_takes_nothing_from_others(self) -> None:
        log = self.open_log()
        mine: list[Position] = []
        with self.another_process(_append_for_ever) as (process, pipe):
            acknowledged = [self.received(pipe)]
            for _ in range(_STOPS):
                stop(process)
                try:
                    mine.append(append(log, *["mine"] * 3, timeout_s=_SHORT_S))
                except LockTimeoutError:
                    pass
                seen = batches(records(log))
                resume(process)
                acknowledged.append(self.received(pipe))
                assert batches(records(log))[: len(seen)] == seen
            stop(process)
            process.kill()
            process.join()
            while (number := received_or_none(pipe)) is not None:
                acknowledged.append(number)
        mine.append(append(log, *["mine"] * 3, timeout_s=self.patience_s))

        found = records(log)
        assert [record.position for record in found if record.event == "mine" and record.more == 0] == mine
        whole = [batch for batch in batches(found) if batch[0] != "mine"]
        assert [batch for batch in whole if batch != [batch[0]] * 3] == []
        numbers = [batch[0] for batch in whole]
        assert numbers[: len(acknowledged)] == acknowledged == list(range(len(acknowledged)))
        assert len(numbers) <= len(acknowledged) + 1, "more is there than was ever appended"


def stop(process: BaseProcess) -> None:
    """Stop a process, and return once it stands still."""
    if not (hasattr(signal, "SIGSTOP") and hasattr(os, "waitid")):
        raise SkipTest("this system, or this Python, cannot tell that a process has stopped")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    wait_until(lambda: _has_stopped(process.pid), 30.0)


def resume(process: BaseProcess) -> None:
    """Let a process that was stopped go on."""
    assert process.pid is not None
    os.kill(process.pid, signal.SIGCONT)


def _has_stopped(pid: Any) -> bool:
    # If it has ended instead, others find that out.
    changed = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG)
    return changed is not None


# --- in the other process ----------------------------------------------------------------------------------


def _append_when_told(storage: StorageUnderTest, pipe: Connection) -> None:
    log = storage.open_log()

    def guard() -> None:
        pipe.send(events(log))
        if received_or_none(pipe) is None:
            os._exit(1)  # the other process is gone

    pipe.send(append(log, "theirs", "theirs", guard=guard))


def _append_for_ever(storage: StorageUnderTest, pipe: Connection) -> None:
    log = storage.open_log()
    number = 0
    while True:
        append(log, *[number] * 3)
        pipe.send(number)
        number += 1
