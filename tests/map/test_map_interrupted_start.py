"""Signals that come while a map starts threads and commands: all that it has started is ended."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._cli import main
from mpcheckpoint._cli.interrupts import Interrupts
from mpcheckpoint._cli.maps.command_pool import CommandPool
from mpcheckpoint._cli.maps.spawn import Spawner
from mpcheckpoint._work.inputs import Input
from mpcheckpoint._work.plan import LogRef, Plan
from mpcheckpoint._work.run_item import FunctionCall
from mpcheckpoint._work.runs import join_run
from mpcheckpoint.log import handle_of
from support.interrupts import interrupted_everywhere
from support.verbs import bounded

if TYPE_CHECKING:
    from pathlib import Path

    from mpcheckpoint import Log

pytestmark = pytest.mark.guarantee(11)


def test_command_that_is_being_started_when_the_map_is_interrupted_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "items").write_text("a\n")
    real = Spawner.start

    def start(spawner: Spawner, *arguments: Any, **options: Any) -> int:
        pid = real(spawner, *arguments, **options)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)  # meanwhile the main thread ends what it knows of
        return pid

    monkeypatch.setattr(Spawner, "start", start)

    code = main(
        ["map", "--store", "store", "--key", "k", "-a", "items", "--", "sh", "-c", "exec sleep 5", "x"]
    )

    assert code == 130
    assert list(Checkpoint("store", read_only=True).log("k").results()) == []  # not slept to its end
    assert "Traceback" not in capfd.readouterr().err


def test_signal_at_any_step_of_the_start_of_a_thread_leaves_none_that_hangs(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What hangs costs this test and no other.
    monkeypatch.setattr(threading, "Thread", partial(threading.Thread, daemon=True))
    handle = handle_of(log)
    plan = Plan(LogRef(handle), join_run(handle, ""), FunctionCall(len))
    pools: list[CommandPool] = []
    with Interrupts() as interrupts:

        def start() -> None:
            interrupts._raises_from_s = 0.0
            pools.append(CommandPool(plan, 1))
            pools[-1].submit(Input(0, "x", "x", {}))

        for _ in interrupted_everywhere(start, partial(signal.raise_signal, signal.SIGINT)):
            if pools:
                bounded(partial(pools[-1].stop, is_interrupted=True))
    assert len(pools) > 20
