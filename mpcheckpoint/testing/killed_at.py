"""``python -m mpcheckpoint.testing.killed_at POINT SCRIPT [ARGUMENT ...]``: run a program that dies at a named point.

``-m MODULE`` may stand in place of the script. The program gets a process group of its own, and all of that dies as by
``kill -9``. Calls of forked children count; those of spawned children do not, but these die with the program too.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

from mpcheckpoint.testing._kills.points import Point, die_with_group, kill_at

_USAGE = "usage: python -m mpcheckpoint.testing.killed_at POINT (SCRIPT | -m MODULE) [ARGUMENT ...]"


def main() -> None:
    """Run the program that the arguments name, until it reaches the point or ends."""
    if len(sys.argv) < 3 or sys.argv[2] == "-c" or sys.argv[2:] == ["-m"]:
        raise SystemExit(_USAGE)
    point, *arguments = sys.argv[1:]
    armed = Point.parse(point)
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)  # the process that started this must not die with it
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        with kill_at(armed, die=die_with_group):
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        if not sys.flags.safe_path:
            sys.path[0] = str(Path(arguments[0]).resolve().parent)  # as the interpreter does for a script
        with kill_at(armed, die=die_with_group):
            runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main()
