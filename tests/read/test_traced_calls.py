"""What the kernel is really asked for, as strace shows it: whatever the library believes of its own calls."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.capabilities import can_trace, has_command, require

if TYPE_CHECKING:
    from pathlib import Path

_STATS = "stat,lstat,fstat,newfstatat,statx,access"
_PROGRAM = """
import os
import sys
from mpcheckpoint import Checkpoint

checkpoint, other = Checkpoint(sys.argv[1]), Checkpoint(sys.argv[1], read_only=True)
log = checkpoint.log("a")
log.append("x", 0)
follower = log.follow(idle_timeout_s=0)
everything = checkpoint.follow(idle_timeout_s=0)


def work(number):
    log.append("x", number)
    log.append_many([("x", number), ("y", number)])
    log.append("x", number, durability="never")
    assert log.events("y")[-1] == log.events("y")[-1] == number
    assert other["y"][-1] == other["y"][-1] == number
    assert len(list(follower)) == len(list(everything)) >= 4
    assert list(follower) == []


work(1)  # opens files, which may look at them
os.access("/traced from here", os.F_OK)
for number in range(2, 6):
    work(number)
if os.fork() == 0:
    work(6)
    os._exit(0)
os.wait()
work(7)
os.stat(os.path.join(sys.argv[1], ".checkpoint", "a.jsonl"))  # so that the test sees that it would see it
"""


@pytest.mark.guarantee(11)
def test_append_read_and_follow_ask_the_kernel_for_no_times_of_a_log(tmp_path: Path) -> None:
    """Since Linux 6.13 to ask for them makes the next append cost a third more."""
    require(has_command("strace"), "strace is not installed")
    if not can_trace():
        pytest.skip("strace may trace no process here")
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-o", str(trace), "-e", f"trace=?{_STATS.replace(',', ',?')}"]
    command += [sys.executable, "-c", _PROGRAM, str(tmp_path / "store")]
    subprocess.run(command, check=True, timeout=120)

    _, calls = trace.read_text(errors="replace").split("/traced from here", 1)
    of_the_log = [line for line in calls.splitlines() if "/a.jsonl" in line]
    with_times = [
        line
        for line in of_the_log
        if "statx(" not in line
        or re.search(r"STATX_(ATIME|MTIME|CTIME|BASIC_STATS|ALL)", line.partition("{")[0])
    ]
    assert len(of_the_log) > 20
    assert len(with_times) == 1, with_times  # the program's own
