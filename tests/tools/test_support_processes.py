"""Children run in every way, die when told to, and never stay behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from multiprocessing import get_all_start_methods
from typing import TYPE_CHECKING

import pytest

from support import process_tree
from support.capabilities import can_mount_tmpfs, require
from support.nobody import NOBODY, give_to_nobody
from support.processes import METHODS, Children, call

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal, AcknowledgementWriter
    from support.tmpfs import TmpFileSystem


def write_pid(path: Path) -> None:
    path.write_text(str(os.getpid()))


def wait_for_ever(writer: AcknowledgementWriter) -> None:
    writer.acknowledge(os.getpid())
    signal.pause()


def start_grandchild_and_wait(writer: AcknowledgementWriter) -> None:
    if os.fork() == 0:
        wait_for_ever(writer)
    wait_for_ever(writer)


def fail(message: str) -> None:
    raise LookupError(message)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def identity() -> tuple[int, int, list[int]]:
    return os.getuid(), os.getgid(), os.getgroups()


def output_of_python() -> str:
    return subprocess.run(
        [sys.executable, "-c", "import support.tally; print('imported')"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


# --- starting and calling ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_child_by_any_method_runs_in_a_process_of_its_own(
    method: str, children: Children, tmp_path: Path
) -> None:
    child = children.start(write_pid, tmp_path / "pid", method=method)

    assert child.wait() == 0
    assert int((tmp_path / "pid").read_text()) == child.pid


@pytest.mark.parametrize("method", get_all_start_methods())
def test_call_returns_what_the_child_returns(method: str) -> None:
    assert call(os.getpid, method=method) != os.getpid()


def test_call_of_a_function_that_raises_raises_here_with_the_traceback() -> None:
    with pytest.raises(LookupError, match="not there") as caught:
        call(fail, "not there")

    assert "in fail" in caught.value.__notes__[0]


def test_call_of_a_function_that_dies_says_so() -> None:
    with pytest.raises(ChildProcessError, match="-9"):
        call(die)


def test_waiting_for_children_of_which_one_failed_raises(children: Children) -> None:
    children.start(fail, "on purpose")

    with pytest.raises(AssertionError, match="fail by spawn"):
        children.wait_all()


# --- killing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_killed_child_is_dead_and_reaped(
    method: str, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    child = children.start(wait_for_ever, acknowledgements.writer, method=method)
    acknowledgements.wait_for(1)

    # A child of the fork server is reaped by that one, which has no way of telling the signal.
    assert child.kill() in {-signal.SIGKILL, 255}
    assert not os.path.exists(f"/proc/{child.pid}")


def test_stopped_child_is_killed_like_any_other(
    children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    child = children.start(wait_for_ever, acknowledgements.writer)
    acknowledgements.wait_for(1)
    child.stop()

    assert child.is_running
    assert child.kill() == -signal.SIGKILL


def test_child_that_is_waited_for_in_vain_is_told_of_with_its_threads_and_children(
    children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    child = children.start(start_grandchild_and_wait, acknowledgements.writer, method="fork")
    (grandchild,) = {pid for (pid,) in acknowledgements.wait_for(2)} - {child.pid}
    child.stop()

    with pytest.raises(TimeoutError) as caught:
        child.wait(timeout_s=0)

    told = str(caught.value).splitlines()
    assert told[0] == f"{child.name} (process {child.pid}) still runs after 0 s"
    assert told[1].startswith(f"thread {child.pid}, ")
    assert "State: T (stopped)" in told[1]
    assert told[2].startswith(f"its children: {grandchild}: ")
    assert len(told) == 3


def test_process_of_many_threads_is_told_of_in_few_lines() -> None:
    is_over = threading.Event()
    threads = [threading.Thread(target=is_over.wait) for _ in range(20)]
    for thread in threads:
        thread.start()
    told = process_tree.where_it_stands(os.getpid()).splitlines()
    is_over.set()
    for thread in threads:
        thread.join()

    assert len(told) == 10
    assert re.fullmatch(r"\d+ more threads", told[-2])


def test_process_that_is_gone_is_told_of_too() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()

    assert process_tree.where_it_stands(gone.pid).startswith("it is gone by now")


def test_children_at_the_end_of_the_block_are_dead_with_their_children(
    acknowledgements: AcknowledgementJournal,
) -> None:
    before = process_tree.living_descendants()
    with Children() as children:
        parent = children.start(start_grandchild_and_wait, acknowledgements.writer)
        pids = {pid for (pid,) in acknowledgements.wait_for(2)}
        parent.kill()
        orphans = pids - {parent.pid}
        assert orphans <= process_tree.living_descendants()

    assert process_tree.living_descendants() - before == set()
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


# --- another user ------------------------------------------------------------------------------------------


def test_function_run_as_nobody_is_nobody(run_as_nobody: Callable[..., object]) -> None:
    assert run_as_nobody(identity) == (NOBODY, NOBODY, [])


def test_function_run_as_nobody_can_start_python(run_as_nobody: Callable[..., object]) -> None:
    assert run_as_nobody(output_of_python) == "imported\n"


def test_function_run_as_nobody_is_refused_what_root_is_not(
    run_as_nobody: Callable[..., object], public_tmp_path: Path
) -> None:
    with pytest.raises(PermissionError):
        run_as_nobody(write_pid, public_tmp_path / "pid")

    give_to_nobody(public_tmp_path)
    run_as_nobody(write_pid, public_tmp_path / "pid")
    assert (public_tmp_path / "pid").stat().st_uid == NOBODY


# --- a small disk ------------------------------------------------------------------------------------------


def test_small_disk_when_full_refuses_and_with_room_again_takes(
    make_tmpfs: Callable[[int], TmpFileSystem],
) -> None:
    require(can_mount_tmpfs(), "a small disk needs root")
    disk = make_tmpfs(1 << 20)

    with pytest.raises(OSError, match="No space left"):
        (disk.mountpoint / "large").write_bytes(bytes(2 << 20))
    disk.resize(4 << 20)
    (disk.mountpoint / "large").write_bytes(bytes(2 << 20))
