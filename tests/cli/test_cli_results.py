"""``mpcheckpoint results`` in every form, filtered and sorted, on the screen and in files."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import stat
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from mpcheckpoint import Checkpoint
from mpcheckpoint._cli import main
from mpcheckpoint._cli.maps.outcome_forms import Form
from mpcheckpoint._work.results import COLUMNS
from support.shell import CommandLine

ITEMS = ["plain", 'a "quoted", item', "two\nlines\tand a tab", "carriage\rreturn\\", "\x1b[31mred", "bad"]
RESULTS = ("results", "--store", "store", "--key", "k")


def echoed(item: str) -> dict[str, Any]:
    if item == "bad":
        raise ValueError("no good")
    return {"exit_code": 0, "output": item}


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    """The command line in a directory with a store, on one log of which a map of strange items ran."""
    list(Checkpoint(tmp_path / "store").log("k").map(echoed, ITEMS, jobs=1))
    return CommandLine(tmp_path)


def printed(cli: CommandLine, form: str, *options: str) -> str:
    return cli.good(*RESULTS, "--format", form, *options).out


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


# --- forms -------------------------------------------------------------------------------------------------


def test_results_as_json_are_one_array_of_what_json_lines_are(cli: CommandLine) -> None:
    lines = cli.good(*RESULTS, "--json").out

    assert printed(cli, "jsonl") == lines
    assert json.loads(printed(cli, "json")) == [json.loads(line) for line in lines.splitlines()]
    assert printed(cli, "json", "--since", "@4000000000") == "[]\n"
    first = json.loads(lines.splitlines()[0])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}[+-]\d\d:\d\d", first["began"])
    assert first["began"] <= first["ended"]
    assert first["worker"].isdigit()


def test_results_as_csv_are_read_back_whatever_is_in_them(cli: CommandLine) -> None:
    text = printed(cli, "csv")
    rows = rows_of(text)

    assert list(rows[0]) == list(COLUMNS)
    assert [row["item"] for row in rows] == ITEMS
    assert [row["ok"] for row in rows] == ["true"] * 5 + ["false"]
    assert [json.loads(row["value"])["output"] for row in rows[:5]] == ITEMS[:5]
    assert rows[5]["value"] == ""
    assert rows[5]["error"].startswith("ValueError: no good\n")
    assert text.startswith(
        "item,object_key,ok,error,began,ended,duration_s,attempts,worker,rerun,version,value\n"
    )


def test_results_as_csv_are_items_for_map_again(cli: CommandLine) -> None:
    (cli.directory / "again.csv").write_text(printed(cli, "csv"))
    options = ("--csv", "-a", "again.csv", "--item-key", "object_key", "--", "printf", "%s", "{item}")

    cli.good("map", "--store", "store", "--key", "again", *options)

    rows = cli.good("results", "--store", "store", "--key", "again", "--json").rows
    assert sorted(row["value"]["output"] for row in rows) == sorted(ITEMS)


def test_results_as_tsv_are_one_line_an_item_without_quotes(cli: CommandLine) -> None:
    head, *lines = printed(cli, "tsv").removesuffix("\n").split("\n")
    rows = [dict(zip(head.split("\t"), line.split("\t"), strict=True)) for line in lines]

    assert [row["item"] for row in rows] == [
        "plain",
        'a "quoted", item',
        r"two\nlines\tand a tab",
        r"carriage\rreturn\\",
        "\x1b[31mred",
        "bad",
    ]


def test_results_as_a_table_are_one_line_an_item_whole_in_a_pipe(cli: CommandLine) -> None:
    head, *lines = printed(cli, "table").splitlines()

    assert head.split() == ["STATE", "BEGAN", "DURATION", "ATTEMPTS", "WORKER", "ITEM", "ERROR"]
    assert len(lines) == len(ITEMS)
    assert lines[2].endswith(r"  two\nlines\tand a tab")
    assert lines[4].endswith(r"  \x1b[31mred")
    assert re.fullmatch(r"failed  \S+ +\d\.\d{3} s +1  \d+ +bad +ValueError: no good", lines[5])


@pytest.mark.parametrize("columns", [120, 80, 60, 40, 20])
def test_results_as_a_table_fit_the_terminal(cli: CommandLine, columns: int) -> None:
    lines = cli.on_terminal(*RESULTS, "--format", "table", columns=columns).out.splitlines()

    assert len(lines) == len(ITEMS) + 1
    assert max(map(len, lines)) <= columns
    assert ("WORKER" in lines[0]) == (columns >= 120)
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("form", ["csv", "tsv"])
def test_control_characters_of_an_item_reach_a_file_and_no_terminal(cli: CommandLine, form: str) -> None:
    import pty
    import subprocess

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "mpcheckpoint", *RESULTS, "--format", form]
    with subprocess.Popen(command, cwd=cli.directory, stdout=theirs) as process:
        os.close(theirs)
        shown = b""
        while b"bad" not in shown:
            shown += os.read(ours, 65536)
        process.wait(60)
    os.close(ours)

    assert b"\x1b" not in shown
    assert "\x1b[31mred" in printed(cli, form)
    cli.good(*RESULTS, "--format", form, "-o", "file")
    assert b"\x1b[31mred" in (cli.directory / "file").read_bytes()


def test_results_as_parquet_have_the_columns_of_the_table_in_python(cli: CommandLine) -> None:
    cli.good(*RESULTS, "--format", "parquet", "-o", "results.parquet")

    table = parquet.read_table(cli.directory / "results.parquet")
    assert table.equals(Checkpoint(cli.directory / "store", read_only=True).log("k").results().to_arrow())
    assert table["item"].to_pylist() == ITEMS


def test_parquet_without_its_library_says_what_installs_it(cli: CommandLine) -> None:
    (cli.directory / "hidden").mkdir()
    (cli.directory / "hidden" / "pyarrow.py").write_text("raise ImportError('hidden')")

    ended = cli.run(
        *RESULTS, "--format", "parquet", "-o", "x", env={"PYTHONPATH": str(cli.directory / "hidden")}
    )

    assert ended.code == 2
    assert "pip install 'mpcheckpoint[arrow]'" in ended.err
    assert not (cli.directory / "x").exists()


# --- files -------------------------------------------------------------------------------------------------


def test_output_file_is_replaced_as_a_whole_and_keeps_its_mode(cli: CommandLine) -> None:
    file = cli.directory / "out"
    cli.good(*RESULTS, "--format", "csv", "-o", "out")
    before = file.read_text() + "and more"
    file.write_text(before)
    file.chmod(0o640)
    with open(file) as reader:
        assert cli.good(*RESULTS, "--format", "csv", "-o", "out").out == ""

        assert reader.read() == before
    assert file.read_bytes().decode() == printed(cli, "csv")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert sorted(os.listdir(cli.directory)) == ["out", "store"]


@pytest.fixture
def here(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process works in the directory of the store."""
    monkeypatch.chdir(cli.directory)


FORMS = [form.value for form in Form]
FOREIGN = [
    *(
        b"a\nb\n",
        b"item\n",
        b'{"item":1}\n',
        b'{"item":1,"note":"object_key"}\n',
        b'[\n{"item":1}]',
        b"[1]\n",
    ),
    *(b"ok\n", b"failed to start\n", b"STATE of things\n", b"PAR1", b"PAR1PAR1", b"\0", b"\n"),
]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("form", FORMS)
def test_output_of_each_form_replaces_results_of_that_form_and_leaves_other_files_alone(
    form: str, capfd: pytest.CaptureFixture[str]
) -> None:
    line, file = (*RESULTS, "--format", form, "-o", "out"), Path("out")
    for each in FORMS:
        assert main([*RESULTS, "--format", each, "-o", each]) == 0
    wanted = Path(form).read_bytes()
    foreign = [Path(each).read_bytes() for each in FORMS if each != form]

    for content in (b"", wanted):
        file.write_bytes(content)
        assert main(line) == 0
        assert form == "parquet" or file.read_bytes() == wanted
    for content in (*FOREIGN, *foreign):
        file.write_bytes(content)
        capfd.readouterr()
        assert main(line) == 2
        assert "out is no earlier output of results in this form: it is left alone" in capfd.readouterr().err
        assert file.read_bytes() == content


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("form", FORMS)
def test_output_without_outcomes_is_replaced(form: str) -> None:
    line = [*RESULTS, "--format", form, "-o", "out"]

    assert main([*line, "--since", "@4000000000"]) == 0
    assert main(line) == 0


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("form", FORMS)
def test_output_whose_first_item_is_long_is_replaced(form: str) -> None:
    long = ["x" * 200_000]
    event = {"run": 1, "ok": True, "error": None, "value": 1, "duration_s": 9999.0, "item": long}
    Checkpoint("store").log("k").append("long", event)
    line = [*RESULTS, "--format", form, "--slowest", "1", "-o", "out"]

    assert main(line) == 0
    assert main(line) == 0


def test_output_that_cannot_be_written_is_told_and_leaves_nothing(cli: CommandLine) -> None:
    for name, why in [("nowhere/out", "No such file"), ("store", "directory")]:
        for form in ("csv", "parquet"):
            refusal = cli.refused(*RESULTS, "--format", form, "-o", name)

            assert f"cannot write {name}: " in refusal
            assert why in refusal
    assert os.listdir(cli.directory) == ["store"]


def test_output_is_left_as_it_was_if_the_log_is_corrupt(cli: CommandLine) -> None:
    cli.good(*RESULTS, "--format", "csv", "-o", "out")
    before = (cli.directory / "out").read_text()
    log = cli.directory / "store" / ".checkpoint" / "k.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"plain"', b'"qlain"'))

    refusal = cli.refused(*RESULTS, "--format", "csv", "-o", "out")

    assert "cannot write" not in refusal
    assert (cli.directory / "out").read_text() == before


# --- which -------------------------------------------------------------------------------------------------


def test_results_are_chosen_by_state_time_and_duration(cli: CommandLine) -> None:
    log = Checkpoint(cli.directory / "store").log("k")
    event = {"run": 1, "ok": True, "error": None, "value": 1, "duration_s": 9.0}
    time.sleep(0.01)
    later_us = log.append("slow", event).stamp_us

    def items(*options: str) -> list[str]:
        return [row["item"] for row in cli.good(*RESULTS, "--json", *options).rows]

    assert items("--slowest", "1") == ["slow"]
    assert items("--failed", "--slowest", "5") == ["bad"]
    assert items("--since", f"@{later_us / 1e6:.6f}") == ["slow"]
    assert items("--since", "1h") == [*ITEMS, "slow"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--slowest", "0"), "--slowest"),
        (("--since", "soon"), "'soon' is no time"),
        (("--format", "xml"), "'xml' is not one of"),
        (("--format", "csv", "--json"), "--json is --format jsonl, and excludes --format csv"),
        (("--format", "parquet"), "--format parquet takes --output FILE"),
        (("--format", "parquet", "-o", "-"), "--format parquet takes --output FILE"),
        (("--watch", "--slowest", "3"), "--watch and --slowest exclude each other"),
        (("--summary", "--format", "csv"), "--summary and --format exclude each other"),
        (("--joblog", "-", "--since", "1h"), "--joblog and --since exclude each other"),
        (("--summary", "-o", "x"), "--summary and --output exclude each other"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    cli: CommandLine, options: tuple[str, ...], complaint: str
) -> None:
    assert complaint in cli.refused(*RESULTS, *options)
