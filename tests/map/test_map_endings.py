"""However often, and at whatever instant, the end of a map is interrupted: nothing is left of it."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log, MapRun
from mpcheckpoint._cli import main
from mpcheckpoint._cli.interrupts import Interrupts, Stopped
from mpcheckpoint._work import process_pool
from support import process_tree
from support.capabilities import has_command, require
from support.shell import MPCHECKPOINT
from support.verbs import inside, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from support.processes import Children

pytestmark = pytest.mark.guarantee(11)

PACKAGE = str(Path(process_pool.__file__).parents[1])
MOST_STEPS = 2000


# --- an interrupt at every step of a close -----------------------------------------------------------------


class Interruption:
    """Does something at the n-th line that runs in some modules of the package, in this thread; once."""

    def __init__(self, number: int, act: Callable[[], None], *modules: str) -> None:
        self._left = number
        self._act = act
        self._files = {f"{PACKAGE}/{module}" for module in modules}
        self.has_come = False

    def __enter__(self) -> Interruption:
        self._before = sys.gettrace()
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _called(self, frame: FrameType, event: str, argument: object) -> Any:
        del event, argument
        return self._stepped if frame.f_code.co_filename in self._files else None

    def _stepped(self, frame: FrameType, event: str, argument: object) -> Any:
        del frame, argument
        if event == "line" and not self.has_come:
            self._left -= 1
            if self._left == 0:
                self.has_come = True
                self._act()
        return self._stepped


def interrupt() -> None:
    raise KeyboardInterrupt


def stay(directory: Path, item: str) -> None:
    (directory / item).touch()
    while True:
        signal.pause()


def staying(log: Log, directory: Path) -> MapRun:
    """Return a map of two items in worker processes whose function does not return."""
    for name in "ab":
        (directory / name).unlink(missing_ok=True)
    context = multiprocessing.get_context("fork")
    run = log.map(partial(stay, directory), ["a", "b"], jobs=2, mp_context=context)
    wait_until(lambda: (directory / "a").exists() and (directory / "b").exists(), "both items run")
    return run


@pytest.mark.rule(43)
@pytest.mark.slow
@pytest.mark.parametrize("is_interrupted", [False, True], ids=["close", "ctrl-c"])
def test_close_of_worker_processes_that_is_interrupted_at_any_step_is_made_up_for_by_the_next(
    is_interrupted: bool, log: Log, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_pool, "_UNWIND_S", 0.01)
    earlier = process_tree.living_descendants()
    modules = (
        "_work/map.py",
        "_work/process_pool.py",
        "_work/pool.py",
        "_work/presence.py",
        "_store/workers.py",
    )
    for step in range(1, MOST_STEPS):
        run = staying(log, tmp_path)
        interruption = Interruption(step, interrupt, *modules)
        try:
            with interruption:
                run._close(is_interrupted=is_interrupted)
        except KeyboardInterrupt:
            pass
        started_s = time.monotonic()

        run.close()

        assert time.monotonic() - started_s < 4, f"the next close took long after an interrupt at step {step}"
        assert process_tree.living_descendants() == earlier, step
        assert list(inside(store, "workers").iterdir()) == [], step
        assert list(run) == []
        if not interruption.has_come:
            break
    else:
        pytest.fail("a close has no end")

    assert step > 20
    assert list(log.results()) == []


def leave_a_thread(item: str) -> int:
    threading.Thread(target=threading.Event().wait, args=(600,)).start()
    return os.getpid()


def test_worker_process_that_a_thread_keeps_alive_is_waited_for_and_then_killed(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_pool, "TERMINATE_S", 0.2)
    earlier = process_tree.living_descendants()

    (outcome,) = log.map(leave_a_thread, ["a"], jobs=1, mp_context=multiprocessing.get_context("fork"))

    assert outcome.ok
    assert process_tree.living_descendants() == earlier


@pytest.mark.parametrize("is_interrupted", [False, True], ids=["close", "ctrl-c"])
def test_close_of_an_executor_that_is_interrupted_at_any_step_is_made_up_for_by_the_next(
    is_interrupted: bool, log: Log, store: Path
) -> None:
    for step in range(1, MOST_STEPS):
        goes_on = threading.Event()
        with ThreadPoolExecutor(1) as one:
            run = log.map(
                lambda item, goes_on=goes_on: goes_on.wait(30), [f"item{step}", "never"], executor=one
            )
            wait_until(lambda: len(list(inside(store, "workers").iterdir())) == 2, "the item runs")
            interruption = Interruption(step, interrupt, "_work/map.py", "_work/pool.py", "_work/presence.py")
            threading.Timer(0.02, goes_on.set).start()
            try:
                with interruption:
                    run._close(is_interrupted=is_interrupted)
            except KeyboardInterrupt:
                pass

            run.close()

            assert goes_on.is_set()  # it waited for what ran
            assert list(inside(store, "workers").iterdir()) == [], step
            assert list(run) == []
        if not interruption.has_come:
            break

    assert step > 10
    assert "never" not in {outcome.item for outcome in log.results()}


def be_interrupted_twice(store: Path, directory: Path, number: int) -> None:
    """Map without a ``with`` statement; be interrupted, and once more at a step of the end of the workers."""
    run = staying(Checkpoint(store).log("a"), directory)
    real = run._pool.stop

    def stop(*, is_interrupted: bool) -> None:
        with Interruption(number, interrupt, "_work/process_pool.py"):
            real(is_interrupted=is_interrupted)

    run._pool.stop = stop  # type: ignore[method-assign]
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    list(run)


@pytest.mark.parametrize("number", [8, 12, 16, 20, 24, 28])
def test_process_whose_map_was_interrupted_twice_and_that_nobody_closes_leaves_nothing(
    number: int, store: Path, tmp_path: Path, children: Children, capfd: pytest.CaptureFixture[str]
) -> None:
    earlier = process_tree.living_descendants()
    child = children.start(be_interrupted_twice, store, tmp_path, number)

    code = child.wait(20)

    assert code == 1
    assert "KeyboardInterrupt" in capfd.readouterr().err
    assert not process_tree.await_exit(process_tree.living_descendants() - earlier, 5)


# --- commands ----------------------------------------------------------------------------------------------

STUBBORN = "trap '' INT TERM; echo $1 >> runs; while :; do sleep 0.05; done"


def lines_of(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def interrupt_when(is_so: Callable[[], object]) -> threading.Thread:
    """Send this process what Ctrl-C sends as soon as something is so."""

    def run() -> None:
        wait_until(is_so, "the items run")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.parametrize("limit", [(), ("--timeout", "500")], ids=["our group", "groups of their own"])
def test_second_ctrl_c_at_any_step_of_the_end_of_commands_ends_them_and_the_map(
    limit: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "mpcheckpoint._cli.maps.run_command._STOP_S", ((30, None),)
    )  # without it they would go on
    (tmp_path / "items").write_text("a\nb\n")
    earlier = process_tree.living_descendants()
    modules = ("_work/map.py", "_cli/maps/command_pool.py", "_cli/maps/run_command.py")
    real = MapRun._close
    for step in range(1, 30):  # the last ones are in the middle of the wait
        (tmp_path / "runs").unlink(missing_ok=True)
        interruption = Interruption(step, partial(signal.raise_signal, signal.SIGINT), *modules)

        def close(run: MapRun, *, is_interrupted: bool, interruption: Interruption = interruption) -> None:
            with interruption:
                real(run, is_interrupted=is_interrupted)

        monkeypatch.setattr(MapRun, "_close", close)
        interrupter = interrupt_when(lambda: len(lines_of(tmp_path / "runs")) == 2)
        started_s = time.monotonic()
        command = ["--", "sh", "-c", STUBBORN, "x"]

        code = main(
            ["map", "--store", "store", "--key", f"k{step}", "-j", "2", "-a", "items", *limit, *command]
        )

        interrupter.join()
        assert (code, interruption.has_come) == (130, True), step
        assert time.monotonic() - started_s < 15, step
        printed = capfd.readouterr().err
        assert "Traceback" not in printed
        assert printed.count("interrupted; what is done") == 1
        # Of those in our group the children are not ours to end: theirs sleep for 50 ms.
        left = process_tree.await_exit(process_tree.living_descendants() - earlier, 0 if limit else 5)
        assert left == set(), step


def test_first_signal_raises_later_ones_are_counted_and_one_that_was_lost_is_made_up_for() -> None:
    with Interrupts() as interrupts:
        assert not interrupts.have_come(0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interrupts.have_come(0)
        assert not interrupts.are_urgent

        signal.raise_signal(signal.SIGTERM)
        assert interrupts.are_urgent

        interrupts._raises_from_s = time.monotonic()  # a second later, and nothing has been ended
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGTERM)
        assert not interrupts.are_urgent

        interrupts.obey()
        interrupts._raises_from_s = time.monotonic()
        signal.raise_signal(signal.SIGINT)
        assert interrupts.are_urgent
        assert interrupts.have_come(0)


# --- on a terminal -----------------------------------------------------------------------------------------

HIDDEN_CURSOR = b"\x1b[?25l"


class Terminal:
    """A command on a terminal of its own, that reads what is typed there."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self.shown = b""
        self.process = subprocess.Popen(
            [*MPCHECKPOINT, *arguments],
            cwd=directory,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=partial(fcntl.ioctl, theirs, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no threads
            env=os.environ | {"TERM": "xterm", "COLUMNS": "80"},
        )
        os.close(theirs)

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def wait(self, timeout_s: float = 30) -> int:
        """Return the exit code, once all was shown."""
        self.read_until(lambda: False, timeout_s)
        return self.process.wait(timeout_s)

    def read_until(self, is_so: Callable[[], object], timeout_s: float = 30) -> None:
        """Take in what is shown until something is so, or the other end is closed."""
        deadline_s = time.monotonic() + timeout_s
        while not is_so():
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"shown so far: {self.shown!r}")
            if not select.select([self._ours], [], [], 0.02)[0]:
                continue
            try:
                self.shown += os.read(self._ours, 65536)
            except OSError:  # the other end is closed
                return

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@contextmanager
def terminal(directory: Path, *arguments: str) -> Iterator[Terminal]:
    shown = Terminal(directory, *arguments)
    try:
        yield shown
    finally:
        shown.close()


def is_pending(pid: int, number: int) -> bool:
    """Return whether a signal waits for a process to take it."""
    status = Path("/proc", str(pid), "status").read_text()
    masks = [
        int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))
    ]
    return any(mask >> (number - 1) & 1 for mask in masks)


@pytest.mark.parametrize("pause_s", [0.05, 0.15, 0.6])
def test_ctrl_c_typed_twice_ends_a_map_of_stubborn_commands_soon_and_says_so_last(
    pause_s: float, tmp_path: Path
) -> None:
    (tmp_path / "items").write_text("a\nb\nc\n")
    earlier = process_tree.living_descendants()
    line = (
        "map",
        "--store",
        "store",
        "-j",
        "2",
        "-a",
        "items",
        "--key",
        "k",
        "--",
        "sh",
        "-c",
        STUBBORN,
        "x",
    )
    with terminal(tmp_path, *line) as screen:
        screen.read_until(lambda: len(lines_of(tmp_path / "runs")) == 2)
        started_s = time.monotonic()

        screen.type(b"\x03")
        threading.Event().wait(pause_s)
        # The kernel makes one signal of two, if the first has not arrived when the second comes.
        screen.read_until(lambda: b"^C" in screen.shown and not is_pending(screen.process.pid, signal.SIGINT))
        screen.type(b"\x03")

        screen.read_until(lambda: b"interrupted; what is done" in screen.shown)
        said_s = time.monotonic()
        assert screen.wait() == 130
    assert time.monotonic() - said_s < 5
    assert said_s - started_s < 6  # seven seconds would be given to them otherwise
    assert not process_tree.await_exit(process_tree.living_descendants() - earlier, 5)
    assert b"Traceback" not in screen.shown
    assert list(Checkpoint(tmp_path / "store", read_only=True).log("k").results()) == []


def test_map_and_watch_that_are_killed_leave_the_cursor_visible(tmp_path: Path, children: Children) -> None:
    (tmp_path / "items").write_text("a\nb\nc\n")
    of_k = ("--store", "store", "--key", "k")
    with terminal(tmp_path, "map", *of_k, "-j", "1", "-a", "items", "--", "sleep", "1000") as bar:
        bar.read_until(lambda: b"0/3" in bar.shown)
        with terminal(tmp_path, "results", *of_k, "--watch") as watch:
            watch.read_until(lambda: b"0 of 3 done" in watch.shown)
            watch.process.kill()
            watch.wait()
        bar.process.kill()
        children.end()
        bar.wait()

    for shown in (bar.shown, watch.shown):
        assert b"\x1b[" in shown  # it was drawn
        assert HIDDEN_CURSOR not in shown


def test_bar_of_a_pass_over_files_leaves_the_cursor_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPCHECKPOINT_PURE", "1")  # a bar shows only where a pass takes a while
    Checkpoint(tmp_path / "store").log("k").append_many([("x", "y" * 1000)] * 60_000)
    with terminal(tmp_path, "verify", "--store", "store") as screen:
        assert screen.wait() == 0

    assert b"\x1b[" in screen.shown
    assert HIDDEN_CURSOR not in screen.shown


LEAVING = {
    # The shell dies of the signal, and what it waits for does not, or does not take it.
    "SIGTERM to us": ("echo $1 >> runs; sleep 1000; true", ()),
    "stubborn child": ("echo $1 >> runs; (trap '' INT TERM; sleep 1000; sleep 1000); true", ()),
    "stubborn child with a limit": (
        "echo $1 >> runs; (trap '' INT TERM; sleep 1000; sleep 1000); true",
        ("--timeout", "500"),
    ),
}


@pytest.mark.parametrize("which", list(LEAVING))
def test_what_an_interrupted_command_has_started_is_ended_before_its_item_is_given_back(
    which: str, tmp_path: Path, children: Children
) -> None:
    command, limit = LEAVING[which]
    (tmp_path / "items").write_text("a\nb\n")
    earlier = process_tree.living_descendants()
    line = (
        "map",
        "--store",
        "store",
        "--key",
        "k",
        "-j",
        "2",
        "-a",
        "items",
        *limit,
        "--",
        "sh",
        "-c",
        command,
        "x",
    )
    with (tmp_path / "said").open("wb") as said:
        child = children.start_command(
            [*MPCHECKPOINT, *line],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
    wait_until(lambda: len(lines_of(tmp_path / "runs")) == 2, "both run")

    os.kill(child.pid, signal.SIGTERM)

    assert child.wait() == 143
    assert process_tree.living_descendants() == earlier
    assert "Traceback" not in (tmp_path / "said").read_text()


def test_daemon_of_an_interrupted_command_in_a_session_of_its_own_lives_on(
    tmp_path: Path, children: Children
) -> None:
    require(has_command("setsid"), "a session of its own needs setsid")
    (tmp_path / "items").write_text("a\n")
    earlier = process_tree.living_descendants()
    daemon = "sh -c 'touch daemon; exec sleep 1000'"
    command = f"setsid {daemon} >/dev/null 2>&1 & echo $1 >> runs; sleep 1000; true"
    child = children.start_command(
        [
            *MPCHECKPOINT,
            "map",
            "--store",
            "store",
            "--key",
            "k",
            "-a",
            "items",
            "--",
            "sh",
            "-c",
            command,
            "x",
        ],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until(lambda: lines_of(tmp_path / "runs"), "it runs")
    wait_until((tmp_path / "daemon").exists, "its daemon has a session of its own")

    os.kill(child.pid, signal.SIGTERM)

    assert child.wait() == 143
    (left,) = process_tree.living_descendants() - earlier
    assert "sleep 1000" in process_tree.describe({left})
