"""No thread of native code sleeps on while there is something to do for it.

It looks again after 50 ms by itself. Here it does so after an hour: what no other thread wakes it for does not end.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import mpcheckpoint
from support.capabilities import native_core, require
from support.checkout import ROOT

AN_HOUR = "-DLONGEST_NAP_NS=3600000000000LL"
THREADS_THAT_APPEND = """
import random
import sys
import threading

from mpcheckpoint import Checkpoint
from mpcheckpoint._core import native


def work(number):
    choose = random.Random(number).random
    for event in range(40):
        chosen = choose()
        if chosen < 0.6:
            log.append("x", event)
        elif chosen < 0.7:
            log.append("x", event, durability="never")
        elif chosen < 0.85:
            log.append_many([("x", event), ("y", event)])
        else:
            log.append_many([("x", event)], expected_counts={"nobody": 0})


log = Checkpoint(sys.argv[1]).log("a")
for round in range(12):  # between two of them all stand still, and the last one to wait has nobody but itself
    threads = [threading.Thread(target=work, args=(8 * round + number,)) for number in range(2 + round % 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print(native.__file__)
"""


@pytest.mark.guarantee(8)
def test_threads_whose_naps_take_an_hour_append_without_waiting_for_their_end(tmp_path: Path) -> None:
    native_core()
    compiler = os.environ.get("CC") or str(sysconfig.get_config_var("CC") or "cc")
    require(shutil.which(compiler.split()[0]) is not None, "needs a C compiler")
    package = tmp_path / "mpcheckpoint"
    shutil.copytree(
        Path(mpcheckpoint.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "*.so")
    )
    build = [sys.executable, str(ROOT / "native" / "build.py"), "--into", str(package)]
    subprocess.run(build, check=True, env={**os.environ, "CC": f"{compiler} {AN_HOUR}"})

    run = subprocess.run(
        [sys.executable, "-c", THREADS_THAT_APPEND, str(tmp_path / "store")],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "MPCHECKPOINT_PURE": "0"},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )

    assert run.stdout.startswith(str(package))
