"""``python -m support.appends.server``: run situations, each in a forked child. Started by `support.appends.pair`.

It reads one JSON object a line, and answers each by a line that begins with a mark, since children may print.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpcheckpoint import _core
from mpcheckpoint import _system as system
from support import process_tree
from support.appends import aftermath
from support.appends.planted import PLANTED
from support.appends.program import run
from support.appends.situations import CATALOGUE

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.appends.situations import Situation

MARK = "answer: "
# Where the traceback of a child is left that failed.
COMPLAINT = "complaint"
_LONGEST_RUN_S = 30.0


def main() -> None:
    """Answer until standard input ends."""
    # The proof of locks by another process starts an interpreter: not what is looked at here.
    system.locks._proof_by_child = lambda path: system.LockProof(True)
    process_tree.adopt_orphans()
    # What the children share with this process stays shared: a collection would write to all of it.
    gc.disable()
    gc.freeze()
    _answer({"core": _core.kind})
    for line in sys.stdin:
        asked = json.loads(line)
        directory = Path(asked["directory"])
        if asked["what"] == "run":
            situation = CATALOGUE[asked["situation"]]
            act = partial(_run, asked.get("planted"), situation, directory, asked["rules"])
        else:
            act = partial(aftermath.judge, directory)
        _answer({"status": _in_a_child(act, directory / COMPLAINT)})


def _run(planted: str | None, situation: Situation, directory: Path, rules: str) -> None:
    if planted is not None:
        PLANTED[planted][0]()
    run(situation, directory, rules)


def _answer(answer: dict[str, Any]) -> None:
    sys.stdout.write(f"\n{MARK}{json.dumps(answer)}\n")
    sys.stdout.flush()


def _in_a_child(act: Callable[[], object], complaint: Path) -> int:
    """Return the exit code of a child that does something, minus the signal if that ended it; what it left is dead."""
    child = os.fork()
    if not child:
        code = 1
        try:
            act()
            code = 0
        except BaseException:  # noqa: BLE001  # whatever it is, nothing of the server may run here
            complaint.write_text(traceback.format_exc(), encoding="utf-8")
        finally:
            os._exit(code)
    status = _awaited(child)
    process_tree.end(process_tree.living_descendants())
    return os.waitstatus_to_exitcode(status)


def _awaited(child: int) -> int:
    until_s = time.monotonic() + _LONGEST_RUN_S
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.alarm(int(until_s - time.monotonic()) + 1)
    try:
        return os.waitpid(child, 0)[1]
    finally:
        signal.alarm(0)


if __name__ == "__main__":
    main()
