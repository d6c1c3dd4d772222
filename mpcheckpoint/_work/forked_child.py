"""The end of a process that user code forked and that returned into ours."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import NoReturn


def end_forked_child(error: BaseException | None = None) -> NoReturn:
    """End this process, a fork of a worker, at once: it may not report on the worker's behalf.

    Nothing of the parent's is cleaned up or flushed: the buffers, exit handlers, ``with`` and ``finally`` blocks here
    are copies of what the parent still uses. The exit code is what the interpreter would give: 0 if the function
    returned, that of a SystemExit, 130 for a Ctrl-C, 1 for any other exception, which is printed.
    """
    code = 1
    try:
        code = _exit_code(error)
    finally:
        os._exit(code)


def _exit_code(error: BaseException | None) -> int:
    if error is None:
        return 0
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        return (error.code or 0) & 0xFF
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    # Not through sys.stderr: its buffer may hold what the parent is about to write.
    text = f"{error.code}\n" if isinstance(error, SystemExit) else "".join(traceback.format_exception(error))
    os.write(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2, text.encode(errors="replace"))
    return 1
