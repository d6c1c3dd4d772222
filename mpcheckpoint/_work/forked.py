"""The end of a process that user code forked and let return into ours."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import NoReturn


def end_forked_child(error: BaseException | None = None) -> NoReturn:
    """End this process, a fork of a worker, at once: what it has to report is not the worker's to report.

    Nothing of the parent's is cleaned up or written out here: its buffers, its exit handlers, and every ``with`` and
    ``finally`` on the stack are copies of what the parent goes on using. The exit code is what the interpreter would
    have given: 0 if the function returned, that of a SystemExit, 130 for a Ctrl-C, 1 for any other exception, which is
    printed.
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
    # Not through sys.stderr, whose buffer may hold what the parent is about to write.
    text = f"{error.code}\n" if isinstance(error, SystemExit) else "".join(traceback.format_exception(error))
    os.write(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2, text.encode(errors="replace"))
    return 1
