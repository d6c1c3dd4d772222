"""Starting a worker process where that may fail: nothing is left behind then, and the reason is told alike."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

# What ``multiprocessing`` opens in these frames, and leaves open when the next call in them fails.
_FRAMES = {"_launch", "connect_to_new_process"}
_PIPES = (("parent_r", "child_w"), ("child_r", "parent_w"))


def start_process(process: Any) -> None:
    """Start a ``multiprocessing`` process.

    Raises:
        OSError: it cannot be started. With forkserver, whose server ends when it cannot fork and has no word to say,
            EAGAIN stands for that.
    """
    try:
        process.start()
    except Exception as error:
        _close_forgotten(error.__traceback__)
        if isinstance(error, EOFError | ConnectionError) and process._start_method == "forkserver":
            raise BlockingIOError(errno.EAGAIN, "the fork server could not start a process") from error
        raise


def _close_forgotten(traceback: TracebackType | None) -> None:
    """Close the pipes that a failed start has forgotten: four descriptors each time where the kernel refuses a fork.

    A map that tries again and again would run out of them: a shortage of processes would become one of descriptors.
    """
    while traceback is not None:
        frame, traceback = traceback.tb_frame, traceback.tb_next
        is_theirs = str(frame.f_globals.get("__name__")).startswith("multiprocessing.")
        if is_theirs and frame.f_code.co_name in _FRAMES:
            for reading, writing in _PIPES:
                _close_pipe(frame.f_locals.get(reading), frame.f_locals.get(writing))


def _close_pipe(reading: object, writing: object) -> None:
    """Close both ends of a pipe, unless they were closed: then these numbers are free, or another's."""
    if not (isinstance(reading, int) and isinstance(writing, int)):
        return
    try:
        one, other = os.fstat(reading), os.fstat(writing)
    except OSError:
        return
    if stat.S_ISFIFO(one.st_mode) and (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino):
        os.close(reading)
        os.close(writing)
