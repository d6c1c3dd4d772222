"""``python -m mpcheckpoint.testing.killed_at POINT SCRIPT [ARGUMENT ...]``: run a program that dies at a named point.

Instead of a script, ``-m MODULE`` is taken too. The program's whole process group dies, as ``kill -9`` kills it; it
gets a group of its own first. Children that it forks are counted and killed with it; those that it spawns only die.
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
        os.setpgid(0, 0)  # whoever started this is not to die with it
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
