"""``mpcheckpoint top``: the screen, its keys, and what it does without a terminal."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from textual.widgets import DataTable, Static

from mpcheckpoint import Checkpoint
from mpcheckpoint._cli import main
from mpcheckpoint._cli.top.screen import LEAST_COLUMNS, LEAST_LINES, LogScreen, TopApp
from mpcheckpoint._maintenance.monitoring.store_monitor import StoreMonitor
from support.shell import CommandLine
from support.verbs import become_a_new_process, flip, log_file, tree

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from textual.pilot import Pilot

OF_STORE = ("top", "--store", "store")
MARKUP = "[bold red]x[/] \x1b[31mred\x07"
LOOK_EVERY_S = 0.25


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a store of three logs; on one a map has run, of which an item failed."""
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(2) as threads:
        list(Checkpoint("store").log("map").map(int, ["1", "2", MARKUP], executor=threads))
    Checkpoint("store").log(MARKUP).append_many([("x", number) for number in range(9)])
    Checkpoint("store").log("few").append("x", 1)
    become_a_new_process()
    return tmp_path


def watch(
    steps: Callable[[TopApp, Pilot[int]], Awaitable[None]],
    size: tuple[int, int] = (110, 30),
    store: str = "store",
) -> int | None:
    """Run the screen without a terminal; return the exit code."""

    async def run() -> int | None:
        monitor = StoreMonitor(store)
        app = TopApp(monitor, LOOK_EVERY_S)
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: app._sight is not None)
            await steps(app, pilot)
        monitor.close()
        return app.return_value

    return asyncio.run(asyncio.wait_for(run(), 60))


async def until(pilot: Pilot[int], holds: Callable[[], bool]) -> None:
    while not holds():  # the whole has a limit
        await pilot.pause(0.02)


def text(app: TopApp, selector: str) -> str:
    return str(app.screen.query_one(selector, Static).render())


def rows(app: TopApp) -> list[list[str]]:
    table = app.screen_stack[0].query_one("#logs", DataTable)
    return [[str(cell) for cell in table.get_row_at(row)] for row in range(table.row_count)]


def keys(app: TopApp) -> list[str]:
    return [row[0] for row in rows(app)]


def test_screen_shows_logs_maps_and_failures_as_plain_text(work: Path) -> None:
    before = tree(work / "store")

    async def steps(app: TopApp, pilot: Pilot[int]) -> None:
        shown_name = "[bold red]x[/] \\x1b[31mred\\x07"
        assert keys(app) == [shown_name, "few", "map"]
        assert rows(app)[2][1:3] == ["whole", "3"]
        assert rows(app)[2][8] == "3"
        assert "3 logs" in text(app, "#head")
        assert text(app, "#maps") == "map: 3 done, 1 failed, 0 running, 0 processes"
        assert "map  " in text(app, "#failures")
        assert f"{shown_name}: ValueError: invalid literal" in text(app, "#failures")
        await pilot.press("q")

    assert watch(steps) == 0
    assert tree(work / "store") == before


def test_keys_sort_and_reverse(work: Path) -> None:
    async def steps(app: TopApp, pilot: Pilot[int]) -> None:
        first = keys(app)
        await pilot.press("r")
        assert keys(app) == first[::-1]
        await pilot.press("s", "s")
        assert [row[2] for row in rows(app)] == ["9", "3", "1"]
        await pilot.press("r")
        assert [row[2] for row in rows(app)] == ["1", "3", "9"]
        await pilot.click("#logs", offset=(2, 0))
        assert keys(app) == first
        await pilot.press("q")

    assert watch(steps) == 0


def test_new_appends_are_shown_until_the_screen_is_paused(work: Path) -> None:
    log = Checkpoint("store").log("few")

    async def steps(app: TopApp, pilot: Pilot[int]) -> None:
        log.append("x", 2)
        await until(pilot, lambda: rows(app)[1][2] == "2")
        assert float(rows(app)[1][3]) > 0
        await pilot.press("p")
        assert text(app, "#head").endswith("PAUSED")
        log.append("x", 3)
        await pilot.pause(3 * LOOK_EVERY_S)
        assert rows(app)[1][2] == "2"
        await pilot.press("p")
        await until(pilot, lambda: rows(app)[1][2] == "3")
        assert not text(app, "#head").endswith("PAUSED")
        await pilot.press("q")

    assert watch(steps) == 0


def test_enter_shows_all_about_a_log_and_escape_goes_back(work: Path) -> None:
    async def steps(app: TopApp, pilot: Pilot[int]) -> None:
        await pilot.press("down", "down", "enter")
        await until(
            pilot, lambda: isinstance(app.screen, LogScreen) and "log        map" in text(app, "#detail")
        )
        detail = text(app, "#detail")
        assert "records    3 of 3 objects" in detail
        assert "ValueError: invalid literal" in detail
        assert "lock       free" in detail
        await pilot.press("s")  # sorts the table only where that is seen
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, LogScreen))
        assert keys(app)[2] == "map"
        await pilot.press("q")

    assert watch(steps) == 0


def test_damaged_log_is_told_on_its_screen(work: Path) -> None:
    log = Checkpoint("store").log("map")
    for number in range(2):
        log.append("later", number)
    flip(work / "store", log_file(work / "store", "map").read_bytes().index(b'"later",0') + 1, "map")
    become_a_new_process()

    async def steps(app: TopApp, pilot: Pilot[int]) -> None:
        assert rows(app)[2][1] == "corrupt"
        await pilot.press("down", "down", "enter")
        await until(
            pilot, lambda: isinstance(app.screen, LogScreen) and "corrupt at offset" in text(app, "#detail")
        )
        await pilot.press("q")

    assert watch(steps) == 0


@pytest.mark.parametrize("size", [(LEAST_COLUMNS - 1, 40), (120, LEAST_LINES - 1), (1, 1)])
def test_terminal_that_is_too_small_is_told_and_one_that_grows_is_used(
    work: Path, size: tuple[int, int]
) -> None:
    async def steps(app: TopApp, pilot: Pilot[int]) -> None:
        assert app.screen.query_one("#small").display
        assert not app.screen.query_one("#all").display
        assert f"The terminal has {size[0]} x {size[1]}" in text(app, "#small")
        await pilot.resize_terminal(LEAST_COLUMNS, LEAST_LINES)
        await until(pilot, lambda: app.screen.query_one("#all").display)
        assert not app.screen.query_one("#small").display
        await pilot.resize_terminal(*size)
        await until(pilot, lambda: not app.screen.query_one("#all").display)
        await pilot.press("q")

    assert watch(steps, size) == 0


def test_empty_store_is_watched_until_there_is_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Checkpoint("store")

    async def steps(app: TopApp, pilot: Pilot[int]) -> None:
        assert rows(app) == []
        await pilot.press("enter", "s", "r")
        Checkpoint("store").log("new").append("x", 1)
        await until(pilot, lambda: keys(app) == ["new"])
        await pilot.press("q")

    assert watch(steps) == 0


@pytest.mark.parametrize(("typed", "code"), [(b"q", 0), (b"\x03", 130)])
def test_screen_on_a_terminal_ends_by_a_key_and_gives_the_terminal_back(
    work: Path, typed: bytes, code: int
) -> None:
    seen: list[bytes] = []

    shown = CommandLine(work).on_terminal(*OF_STORE, typed_at={b"few": typed}, react=seen.append)

    assert shown.code == code
    assert "appends/s" in shown.out
    assert seen[-1].rindex(b"\x1b[?1049l") > seen[-1].rindex(b"\x1b[?1049h")  # back from the alternate screen


def test_screen_that_is_told_to_end_ends(work: Path) -> None:
    async def steps(app: TopApp, pilot: Pilot[int]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await until(pilot, lambda: app.return_value is not None)

    assert watch(steps) == 143


def test_snapshot_is_plain_lines(work: Path) -> None:
    made = CommandLine(work).good(*OF_STORE, "--once", "--interval", "0.1")

    lines = made.out.splitlines()
    assert made.err == ""
    assert "\x1b" not in made.out
    assert re.match(r"store  3 logs  0\.0 appends/s  0\.0 syncs/s  \d\d:\d\d:\d\d$", lines[0])
    assert lines[1].split()[:5] == ["KEY", "STATE", "RECORDS", "APPENDS/S", "SYNCS/S"]
    assert lines[3].split()[:3] == ["few", "whole", "1"]
    assert "    map: 3 done, 1 failed, 0 running, 0 processes" in lines
    assert lines[-1].startswith("    map  ")
    only = CommandLine(work).good(*OF_STORE, "--key", "few", "--once", "--interval", "0.1")
    assert "map" not in only.out


def test_what_cannot_be_watched_is_one_line(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (("top", "--store", "nowhere"), "no store"),
        ((*OF_STORE, "--key", "unknown"), "it has"),
        (OF_STORE, "this is none; --once prints one look"),
        ((*OF_STORE, "--interval", "0"), "is not above 0"),
    ):
        assert main(arguments) == 2
        printed = capfd.readouterr()
        assert printed.out == ""
        (line,) = printed.err.splitlines()
        assert said in line


def test_screen_without_textual_says_what_to_install(work: Path) -> None:
    program = (
        "import sys; sys.modules['textual'] = None; sys.modules['textual.app'] = None\n"
        "from mpcheckpoint._cli import main; sys.exit(main(sys.argv[1:]))"
    )

    shown = CommandLine(work).on_terminal(*OF_STORE, program=[sys.executable, "-c", program])

    assert shown.code == 2
    assert "pip install 'mpcheckpoint[top]'" in shown.out


def test_other_commands_do_not_import_what_only_the_screen_takes() -> None:
    program = (
        "import sys; from mpcheckpoint._cli.commands import cli; every = [*cli.commands.values()]; "
        "print('textual' in sys.modules)"
    )

    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"False\n"
    )
