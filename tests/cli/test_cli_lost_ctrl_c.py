"""A signal whose exception a finalizer lost ends what goes on for ever all the same."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._cli import main
from mpcheckpoint._cli.interrupts import Interrupts, Stopped
from mpcheckpoint._cli.lost_ctrl_c import _AGAIN_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mpcheckpoint import Log

_LONG_S = 5.0


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What is said of exceptions that were lost: nothing of one that comes after all."""
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    yield told
    assert told == []


class Interrupted:
    """Something in whose finalizer a Ctrl-C comes."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


class Terminated:
    """Something in whose finalizer a SIGTERM comes."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_command_ends(
    store: Path, log: Log, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    log.append("x", 0)

    def back_up(*_: Any, **__: Any) -> Any:
        Interrupted()
        time.sleep(_LONG_S)

    monkeypatch.setattr(Checkpoint, "backup", back_up)
    before = [sys.unraisablehook, *map(signal.getsignal, (signal.SIGINT, signal.SIGALRM))]

    code = main(["backup", "--store", str(store), str(store.parent / "backup")])

    assert code == 130
    assert capfd.readouterr().err.strip() == "mpcheckpoint: interrupted"
    assert [sys.unraisablehook, *map(signal.getsignal, (signal.SIGINT, signal.SIGALRM))] == before


def test_ctrl_c_while_an_error_is_told_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mpcheckpoint._cli.commands.say_error", interrupted)

    assert main(["ls", "--store", "nowhere"]) == 130


def test_signal_that_is_lost_raises_all_the_same_once() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)]
    with Interrupts() as interrupts:
        Terminated()
        with pytest.raises(Stopped) as stopped:
            time.sleep(_LONG_S)
        interrupts.obey()
        Terminated()  # only counted: no other one raises
        time.sleep(3 * _AGAIN_S)
        assert interrupts.are_urgent

    assert stopped.value.signal_number == signal.SIGTERM
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)] == before


def test_exception_that_is_lost_as_it_is_raised_again_comes_once_more() -> None:
    with Interrupts():
        Terminated()

        class Slow:
            def __del__(self) -> None:
                time.sleep(_LONG_S)  # until it is raised again, in here

        Slow()
        with pytest.raises(Stopped):
            time.sleep(_LONG_S)


def test_exception_that_was_lost_does_not_come_after_all_has_ended() -> None:
    with Interrupts():
        Terminated()

    time.sleep(3 * _AGAIN_S)


def test_other_exceptions_that_are_lost_are_told_meanwhile(told: list[Any]) -> None:
    class Broken:
        def __del__(self) -> None:
            raise ValueError("lost")

    with Interrupts():
        Broken()

    assert [lost.exc_type for lost in told] == [ValueError]
    told.clear()
