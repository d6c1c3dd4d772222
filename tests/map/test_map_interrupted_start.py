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
from mpcheckpoint._cli.maps.spawn import Spawner
from support.interrupts import interrupted_everywhere

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.guarantee(11)

_JOIN_S = 20.0


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


def test_signal_at_any_step_of_the_start_of_a_thread_leaves_none_that_hangs() -> None:
    threads: list[threading.Thread] = []
    started = 0
    with Interrupts(signal.SIGINT) as interrupts:

        def start() -> None:
            interrupts._raises_from_s = 0.0
            threads.append(threading.Thread(target=partial(time.sleep, 0), daemon=True))
            interrupts.start(threads[-1])

        for _ in interrupted_everywhere(start, partial(signal.raise_signal, signal.SIGINT)):
            if threads and threads[-1].ident is not None:
                threads[-1].join(_JOIN_S)
                assert not threads[-1].is_alive()
                started += 1
    assert started > 10
