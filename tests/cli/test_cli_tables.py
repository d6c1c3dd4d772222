"""Tables on terminals of 80, 60 and fewer columns: one line a log or an object. Through a pipe: all of it."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.cells import cell_len

from mpcheckpoint import Checkpoint
from mpcheckpoint._cli import commands
from mpcheckpoint._cli.fitting import cut_end, cut_middle, fitted
from mpcheckpoint._cli.log_table import fitting_table
from mpcheckpoint._cli.ls_columns import LONG_COLUMNS
from mpcheckpoint._cli.times import TimeForm, age, in_form, parse_time
from mpcheckpoint.maintenance import LogSurvey
from support.capabilities import require
from support.checkout import DOCS
from support.documents import blocks_of, is_like
from support.shell import CommandLine
from support.verbs import become_a_new_process, hold_append_lock

if TYPE_CHECKING:
    from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal
    from support.processes import Children

TUTORIAL = DOCS / "tutorial.md"
LONG = "data/2026/november/measurements-of-the-north-station/run-0007.csv"
WIDTHS = (80, 60, 40)


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    """The command line in a directory with the store of the tutorial, ``album``, and one with long names, ``store``."""
    with Checkpoint(tmp_path / "album", durability="never") as album:
        for log_key, count in (("photos", 40), ("shared", 31), ("squares", 60)):
            album.log(log_key).append_many([(f"photo{number}", "UPLOADED") for number in range(count)])
    with Checkpoint(tmp_path / "store", durability="never") as checkpoint:
        checkpoint.log(LONG).append_many([(LONG, {"text": "y" * 100}), ("x", None)])
        checkpoint.log("a").append("漢字" * 20, "z" * 100)
    become_a_new_process()
    return CommandLine(tmp_path)


def lines_of(cli: CommandLine, columns: int, *arguments: str) -> list[str]:
    """Return what a command shows on a terminal: each line as long as it came, which the terminal would wrap."""
    shown = cli.on_terminal(*arguments, columns=columns)
    assert shown.code == 0, shown
    lines = shown.out.splitlines()
    assert max(map(cell_len, lines)) <= columns, shown.out
    return lines


@pytest.mark.parametrize("arguments", [(), *((name,) for name in commands.cli.commands)])
def test_help_fits_a_terminal_of_80_columns(cli: CommandLine, arguments: tuple[str, ...]) -> None:
    lines_of(cli, 80, *arguments, "--help")


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("arguments", [("ls",), ("ls", "-l")])
def test_ls_keeps_one_line_a_log_on_a_terminal(
    cli: CommandLine, columns: int, arguments: tuple[str, ...]
) -> None:
    short = lines_of(cli, columns, *arguments, "--store", "album")
    long = lines_of(cli, columns, *arguments, "--store", "store")

    assert [line.split()[0] for line in short] == ["KEY", "photos", "shared", "squares"][: len(short)] or (
        columns == 40 and len(short) == 4
    )
    assert [line.split()[1] for line in short[1:]] == ["40", "31", "60"]
    assert all("whole" in line for line in short[1:] + long[1:])
    assert len(long) == 3
    name = next(line.split()[0] for line in long if line.startswith("d"))
    beginning, end = name.split("…")
    assert LONG.startswith(beginning)
    assert LONG.endswith(end)
    assert beginning
    assert end


@pytest.mark.parametrize("columns", [80, 60])
def test_table_of_the_tutorial_appears_as_shown_on_a_terminal(cli: CommandLine, columns: int) -> None:
    (block,) = [block.code for block in blocks_of(TUTORIAL.read_text()) if "$ mpcheckpoint ls" in block.code]
    picture = block.partition("$ mpcheckpoint ls\n")[2].partition("$")[0]
    assert picture.count("\n") == 4

    shown = "".join(f"{line}\n" for line in lines_of(cli, columns, "ls", "--store", "album"))

    assert is_like(shown, picture), shown


@pytest.mark.parametrize("columns", WIDTHS)
def test_show_keeps_one_line_an_object_on_a_terminal(cli: CommandLine, columns: int) -> None:
    lines = lines_of(cli, columns, "show", "--store", "store")

    assert [line.split()[0] for line in lines] == ["1", "1", "1"]
    assert "data/" in lines[0]
    assert lines[1].split()[2:] == ["x", "null"]
    assert lines[0].count("…") == (2 if columns < 100 else 1)


def test_show_of_an_object_shortens_what_stands_before_the_event_and_never_that(cli: CommandLine) -> None:
    shown = cli.on_terminal("show", LONG, "--store", "store", columns=60)

    (line,) = shown.out.splitlines()
    time, place, event = line.split(maxsplit=2)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", time)
    assert len(place) == 20
    assert event == '{"text":"' + "y" * 100 + '"}'


@pytest.mark.parametrize("arguments", [("ls", "-l"), ("show",), ("show", LONG)])
def test_tables_through_a_pipe_hold_all_however_narrow_the_terminal_is(
    cli: CommandLine, arguments: tuple[str, ...]
) -> None:
    ended = cli.run(*arguments, "--store", "store", env={"COLUMNS": "40"})

    assert LONG in ended.out
    assert "…" not in ended.out
    assert len(ended.out.splitlines()) == {("ls", "-l"): 3, ("show",): 3}.get(arguments, 1)
    assert re.search(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?[+-]\d\d:\d\d", ended.out)


@pytest.mark.guarantee(8)
def test_ls_long_names_the_holder_of_the_lock_on_a_terminal_of_80_columns(
    cli: CommandLine, store: Path, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    require(os.path.exists("/proc/locks"), "the system does not show who holds a lock")
    holder = children.start(hold_append_lock, store, acknowledgements.writer, method="fork")
    acknowledgements.wait_for(1)

    lines = lines_of(cli, 80, "ls", "-l", "--store", "store", "--key", "a")

    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert f" {holder.pid}" in lines[1]


def test_layout_shortens_times_first_then_names_then_headings_then_leaves_out() -> None:
    log = LogSurvey(LONG, "path", ("whole",), records=1234567, first_us=1, last_us=1, size_bytes=10**9)
    headings, times, names = [], [], []
    for width in range(250, 39, -1):
        table = fitting_table(LONG_COLUMNS, [log], width)
        assert sum(cell_len(line.plain) > width for line in table.lines()) == 0
        heads, row = table.rows
        cells = dict(zip(heads, row, strict=True))
        headings.append(len(" ".join(heads)))
        times.append(len(cells.get("LAST", "")))
        names.append(table.widths[0])

    assert times == sorted(times, reverse=True)
    assert headings == sorted(headings, reverse=True)
    assert set(times[:200]) >= {25, 19, 16, 11}
    first_cut = next(number for number, width in enumerate(names) if width < len(LONG))
    assert times[first_cut] <= len("9999w")
    assert headings[first_cut] == headings[0]


@pytest.mark.parametrize("width", range(12))
def test_cut_text_takes_no_more_columns_than_there_are(width: int) -> None:
    for text in ("", "a", "abcdefghij", "漢字漢字", "a漢b字c", "e\u0301" * 9):
        for cut in (cut_middle(text, width), cut_end(text, width)):
            assert cell_len(cut) <= width
        assert cell_len(fitted(text, width)) == width
        assert cell_len(fitted(text, width, is_right=True)) == width
    assert cut_middle("abcdefghij", 5) == "ab…ij"
    assert cut_end("abcdefghij", 5) == "abcd…"
    assert cut_middle("abcde", 5) == cut_end("abcde", 5) == "abcde"


def test_age_is_one_number_and_can_be_given_back() -> None:
    ages = {
        seconds: age(0, seconds * 1_000_000) for seconds in (0, 59, 119, 120, 7199, 7200, 172800, 2419200)
    }

    assert list(ages.values()) == ["0s", "59s", "119s", "2m", "119m", "2h", "2d", "4w"]
    assert age(10, 0) == "0s"
    assert parse_time("119m", 7199 * 1_000_000) == 59 * 1_000_000
    assert in_form(0, TimeForm.FULL)[:16] == in_form(0, TimeForm.MINUTES)
    assert in_form(0, TimeForm.MINUTES)[5:] == in_form(0, TimeForm.NO_YEAR)
