"""A process between the tests and a server: it starts the server, and ends it when the tests are gone.

Run as a program, by the bare interpreter: it imports nothing but the standard library. The first line it prints is the
server's process id. It exits, with the server's exit code, when no process of the server is left.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_CLONE_NEWNET = 0x40000000
_IPC_RMID = 0
_LINE_OF_SHARED_MEMORY = 6
_KILL_STEP_S = 0.01


def descendants(pid: int) -> list[int]:
    """Return the processes below this one, parents before their children."""
    found = [pid]
    for parent in found:  # grows meanwhile
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                children = Path(f"/proc/{parent}/task/{task}/children").read_text(encoding="ascii")
                found += map(int, children.split())
        except OSError:
            continue  # it has just died; its children are found below the guard, who adopts them
    return found[1:]


def kill_below(pid: int) -> None:
    """Kill all processes below this one, parents first, so that none is told of another's death and repairs it."""
    for descendant in descendants(pid):
        try:
            os.kill(descendant, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it was quicker


def remove_shared_memory(data: Path) -> None:
    """Give back the System V segment of a server that was killed. Requires: none of its processes is left."""
    try:
        lines = (data / "postmaster.pid").read_text(encoding="ascii").splitlines()
        segment = int(lines[_LINE_OF_SHARED_MEMORY].split()[1])
    except (OSError, IndexError):
        return  # it ended in order, or had not come that far
    ctypes.CDLL(None).shmctl(segment, _IPC_RMID, None)


def main(owner: int, directory: Path, data: Path, user: str, network: str, *command: str) -> int:
    """Run ``command`` until it ends or ``owner`` does; in the second case remove ``directory``, too."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for stop in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        # Meant for the tests, which end the server in their own way. Handled, not ignored: a server would inherit that.
        signal.signal(stop, lambda *_: None)
    owner_end = os.pidfd_open(owner)
    if os.getppid() != owner:
        return 1  # the owner is dead, and another process has its number
    if network and libc.unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare: no network name space of its own for the server")
    hears, wakes = socket.socketpair()
    for end in (hears, wakes):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    uid = int(user) if user else None
    server = subprocess.Popen(
        command, user=uid, group=uid, extra_groups=None if uid is None else [], cwd=directory
    )
    print(server.pid, flush=True)  # noqa: T201
    sys.stdout.close()
    status, is_orphan = _serve(server.pid, owner_end, hears)
    if is_orphan:
        remove_shared_memory(data)
        shutil.rmtree(directory, ignore_errors=True)
        shutil.rmtree(data, ignore_errors=True)
    return status


def _serve(server: int, owner_end: int, hears: socket.socket) -> tuple[int, bool]:
    """Reap until no process is left; return the server's exit code, and whether the owner died meanwhile."""
    poll = select.poll()
    poll.register(owner_end, select.POLLIN)
    poll.register(hears.fileno(), select.POLLIN)
    status, is_orphan = 0, False
    while True:
        try:
            pid, waited = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status, is_orphan
        if pid == server:
            status = os.waitstatus_to_exitcode(waited) % 256
        if pid:
            continue
        if is_orphan:
            kill_below(os.getpid())
            time.sleep(_KILL_STEP_S)
            continue
        ready = {descriptor for descriptor, _ in poll.poll()}
        is_orphan = owner_end in ready
        if hears.fileno() in ready:
            hears.recv(4096)


if __name__ == "__main__":
    owner, directory, data, *rest = sys.argv[1:]
    sys.exit(main(int(owner), Path(directory), Path(data), *rest))
