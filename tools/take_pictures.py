"""Take the pictures of docs/pictures: of a report in a browser, and of the live screen.

    python tools/take_pictures.py

It runs a map that is killed and started again, in a directory of its own, and takes Debian's packages chromium and
chromium-driver. The pictures differ a little each time, as the times of items do.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PICTURES = CHECKOUT / "docs" / "pictures"

sys.path.insert(0, str(CHECKOUT / "tests"))
from mpcheckpoint._cli.top.screen import TopApp  # noqa: E402
from mpcheckpoint._maintenance.monitoring.store_monitor import StoreMonitor  # noqa: E402
from support.browser import browser  # noqa: E402 - found only now

_MPCHECKPOINT = [sys.executable, "-m", "mpcheckpoint"]
_WIDTH, _HEIGHT = 1100, 900
_ITEMS = 400
_COMMAND = "sleep 0.0$(($1 % 7 + 1)); echo converted $1; [ $(($1 % 43)) != 0 ]"


def main() -> None:
    """Take them."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        _run_a_map(work)
        _take_report(work)
        asyncio.run(_take_screen(work))


def _run_a_map(work: Path) -> None:
    """Run a map, kill it with all its workers after a while, and start it again."""
    (work / "items").write_text("".join(f"{number}\n" for number in range(1, _ITEMS + 1)))
    line = [*_MPCHECKPOINT, "map", "--store", "run-42", "--key", "photos", "--jobs", "4", "-a", "items", "--"]
    line += ["sh", "-c", _COMMAND, "sh", "{}"]
    sys.stdout.write(shlex.join(line) + "\n")
    killed = subprocess.Popen(line, cwd=work, stderr=subprocess.DEVNULL)
    time.sleep(2.5)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    time.sleep(5)
    subprocess.run(line, cwd=work, stderr=subprocess.DEVNULL, check=False)


def _take_report(work: Path) -> None:
    subprocess.run([*_MPCHECKPOINT, "report", "--store", "run-42", "-o", "report.html"], cwd=work, check=True)
    with browser(work / "browser") as page:
        page.resize(_WIDTH, _HEIGHT)
        for scheme in ("light", "dark"):
            page.prefer(scheme)
            page.open(work / "report.html")
            page.picture(PICTURES / f"report-{scheme}.png")


async def _take_screen(work: Path) -> None:
    """Watch two maps that run; what textual draws asks for a font of a network, which a picture can do without."""
    lines = [
        [*_MPCHECKPOINT, "map", "--store", "run-43", "--key", key, "--jobs", jobs, "-a", "items", "--"]
        for key, jobs in (("photos", "2"), ("thumbnails", "1"))
    ]
    maps = [
        subprocess.Popen([*line, "sh", "-c", _COMMAND, "sh", "{}"], cwd=work, stderr=subprocess.DEVNULL)
        for line in lines
    ]
    await asyncio.sleep(3)
    os.chdir(work)  # the picture shows the name of the store
    app = TopApp(StoreMonitor("run-43"), 1.0)
    async with app.run_test(size=(100, 22)) as pilot:
        await pilot.pause(3.5)
        picture = re.sub(r"@font-face \{.*?\}", "", app.export_screenshot(), flags=re.DOTALL)
        (PICTURES / "top.svg").write_text(picture, encoding="utf-8")
        await pilot.press("q")
    for each in maps:
        each.terminate()
        each.wait()


if __name__ == "__main__":
    main()
