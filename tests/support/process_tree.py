"""Which processes hang below this one, and how to be rid of them.

Everything here works on the whole tree: of a killed parent the children are adopted by the test process (see
`adopt_orphans`), so they can be found, killed and reaped instead of going on unseen.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_DEAD = frozenset("ZX")
_MOST_THREADS = 8

_left_alone = set[int]()


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies. Linux only; elsewhere nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def leave_alone(pid: int) -> None:
    """Take a child, and all that is below it, for none of this process's: its owner sees to it.

    Requires: it adopts what is orphaned below it.
    """
    _left_alone.add(pid)


def end_leaving_alone(pid: int) -> None:
    """Treat that child like any other again. No error if it is."""
    _left_alone.discard(pid)


def left_alone() -> set[int]:
    """Return the children that are left alone now."""
    return set(_left_alone)


def living_descendants() -> set[int]:
    """Return the processes below this one that run, without the two that multiprocessing keeps for itself.

    Those left alone, and what is below them, are not among them.
    """
    if _has_helpers_only():
        return set()
    children: dict[int, set[int]] = {}
    for pid, parent, state in _processes():
        if state not in _DEAD:
            children.setdefault(parent, set()).add(pid)
    found: set[int] = set()
    to_visit = [os.getpid()]
    while to_visit:
        below = children.get(to_visit.pop(), set()) - found - _left_alone
        found |= below
        to_visit += below
    return found - _helpers_of_multiprocessing()


def describe(pids: set[int]) -> str:
    """Return the command lines of these processes, for a message."""
    return "; ".join(f"{pid}: {_command_line(pid)}" for pid in sorted(pids))


def where_it_stands(pid: int) -> str:
    """Return what the system tells of a process that does not go on: a line a thread, and one of its children."""
    try:
        threads = sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda thread: int(thread.name))
        children = describe(_children_of(pid))
    except OSError:
        return "it is gone by now, or the system does not tell"
    lines = [_thread_line(thread) for thread in threads[:_MOST_THREADS]]
    if len(threads) > _MOST_THREADS:
        lines.append(f"{len(threads) - _MOST_THREADS} more threads")
    return "\n".join([*lines, f"its children: {children or 'none'}"])


def _thread_line(thread: Path) -> str:
    told = [f"thread {thread.name}"]
    for name in ("comm", "status", "wchan", "syscall"):
        try:
            said = (thread / name).read_text(errors="replace").strip()
        except OSError:
            continue  # some kernels are built without it, or do not tell it to everybody
        if name == "status":
            said = "".join(line for line in said.splitlines() if line.startswith("State:"))
        # Of a call, its number and first arguments: a descriptor, or an address that is waited on.
        label = f"{name} " if name in ("wchan", "syscall") else ""
        told.append(label + " ".join(said.split()[:4]))
    return ", ".join(told)


def end(pids: set[int], timeout_s: float = 10) -> None:
    """Kill and reap these processes. Raises TimeoutError if one survives that."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it was quicker
    survivors = await_exit(pids, timeout_s)
    if survivors:
        raise TimeoutError(f"killed, but still there after {timeout_s} s: {describe(survivors)}")
    reap(pids)


def await_exit(pids: set[int], timeout_s: float) -> set[int]:
    """Wait until all have exited, reaped or not, and return those which had not after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    return {pid for pid in pids if not _exits_before(pid, deadline)}


def reap(pids: set[int]) -> None:
    """Reap those of ``pids`` that are dead children of this process, its adopted ones too."""
    for pid in pids:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass  # reaped already, or the child of another process


def dead_children() -> set[int]:
    """Return the children of this process that have exited and were not reaped."""
    if _has_helpers_only():
        return set()
    return {
        pid for pid, parent, state in _processes() if parent == os.getpid() and state in _DEAD
    } - _left_alone


def _exits_before(pid: int, deadline: float) -> bool:
    # pidfd: waits without reaping, for any process, and without asking again and again. Linux only.
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(max(0, deadline - time.monotonic()) * 1000))
    finally:
        os.close(descriptor)


def _has_helpers_only() -> bool:
    """Whether there is nothing below this process but what multiprocessing keeps for itself.

    Asked around each test, where the answer is nearly always yes; to look at every process of the machine takes
    milliseconds. Orphans are no exception, since this process adopts them.
    """
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    helpers = _helpers_of_multiprocessing()
    try:
        return all(_children_of(pid) <= helpers | _left_alone for pid in [os.getpid(), *helpers])
    except OSError:  # a kernel that does not list them, or a helper that has just died
        return False


def _children_of(pid: int) -> set[int]:
    tasks = f"/proc/{pid}/task"
    found = set[int]()
    for task in os.listdir(tasks):
        with open(f"{tasks}/{task}/children", "rb") as children:
            found.update(map(int, children.read().split()))
    return found


def _processes() -> list[tuple[int, int, str]]:
    """Return (pid, parent, state) of every process; nothing on a system without /proc."""
    processes = []
    # Without pathlib, which takes three times as long: this is called some thousand times a run.
    for name in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else ()):
        try:
            with open(f"/proc/{name}/stat", "rb") as stat:
                # The second field is the command's name in brackets, which may hold blanks and brackets itself.
                state, parent = stat.read().rpartition(b")")[2].split()[:2]
        except OSError:
            continue  # it has just died
        processes.append((int(name), int(parent), state.decode()))
    return processes


def _helpers_of_multiprocessing() -> set[int]:
    # Private names, but the only way to know them; both live as long as the process that needed them.
    helpers = {
        getattr(getattr(forkserver, "_forkserver", None), "_forkserver_pid", None),
        getattr(getattr(resource_tracker, "_resource_tracker", None), "_pid", None),
    }
    return {pid for pid in helpers if pid is not None}


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    except OSError:
        return "gone"
