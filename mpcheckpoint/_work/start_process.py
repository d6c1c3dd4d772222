"""The start of a worker process. If it fails, it leaves nothing open, and the error is the same for all methods."""

from __future__ import annotations

import errno
import os
import stat
from types import TracebackType
from typing import Any

# ``multiprocessing`` opens these pipes in these frames, and leaves them open if the next call fails.
_FRAMES = {"_launch", "connect_to_new_process"}
_PIPES = (("parent_r", "child_w"), ("child_r", "parent_w"))


def start_process(process: Any) -> None:
    """Start a ``multiprocessing`` process.

    Raises:
        OSError: it cannot be started. A fork server that cannot fork ends without a word; that is told as EAGAIN.
    """
    try:
        process.start()
    except Exception as error:
        _close_forgotten(error.__traceback__)
        if isinstance(error, EOFError | ConnectionError) and process._start_method == "forkserver":
            raise BlockingIOError(errno.EAGAIN, "the fork server could not start a process") from error
        raise


def _close_forgotten(traceback: TracebackType | None) -> None:
    """Close the pipes that a failed start has left open: four descriptors for each fork that the kernel refuses.

    Otherwise a map that tries again and again would run out of descriptors as well.
    """
    while traceback is not None:
        frame, traceback = traceback.tb_frame, traceback.tb_next
        is_theirs = str(frame.f_globals.get("__name__")).startswith("multiprocessing.")
        if is_theirs and frame.f_code.co_name in _FRAMES:
            for reading, writing in _PIPES:
                _close_pipe(frame.f_locals.get(reading), frame.f_locals.get(writing))


def _close_pipe(reading: object, writing: object) -> None:
    """Close both ends of a pipe, unless they were closed: then the numbers are free, or of another file."""
    if not (isinstance(reading, int) and isinstance(writing, int)):
        return
    try:
        one, other = os.fstat(reading), os.fstat(writing)
    except OSError:
        return
    if stat.S_ISFIFO(one.st_mode) and (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino):
        os.close(reading)
        os.close(writing)
