"""The pages of docs/ are true: their blocks run, from top to bottom, and print what is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from mpcheckpoint._cli.commands import cli
from mpcheckpoint._cli.interrupts import ENDING, Stopped, exit_code_of
from support.capabilities import has_jq, require
from support.checkout import DOCS, ROOT
from support.documents import PageError, blocks_of, is_like, run_page
from support.scripts import script

if TYPE_CHECKING:
    pass

# Generated, or with tests of their own that run their blocks and more.
RUN_ELSEWHERE = {
    "api.md",
    "decisions.md",
    "format.md",
    "performance.md",
    "reliability.md",
    "several-machines.md",
}
PAGES = sorted(
    page for page in DOCS.rglob("*.md") if page.name not in RUN_ELSEWHERE and page.parent.name != "api"
)


def written(text: str, directory: Path) -> Path:
    page = directory / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


def fenced(*blocks: tuple[str, str]) -> str:
    return "\n".join(f"```{info}\n{code}\n```\n" for info, code in blocks)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_page_run_from_top_to_bottom_does_what_it_shows(page: Path, tmp_path: Path) -> None:
    code = "".join(block.code for block in blocks_of(page.read_text(encoding="utf-8")))
    require(has_jq() or not re.search(r"\bjq\b", code), "jq is not installed")

    run_page(page, tmp_path)


def test_blocks_that_are_not_run_here_say_who_runs_them() -> None:
    reasons = {
        f"{page.relative_to(DOCS)}:{line}": text
        for page in PAGES
        for line, text in enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
        if "<!-- not run" in text
    }

    for place, reason in reasons.items():
        (by_whom,) = re.findall(r"tests/[\w/]+\.py|tox builds and installs it", reason) or [place]
        assert by_whom.startswith("tox") or (ROOT / by_whom).is_file(), (place, reason)


# --- what finds a wrong page out ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("blocks", "complaint"),
    [
        ([("sh", "true"), ("sh", "false")], r"page.md:6: failed, exit code 1"),
        ([("sh", "false | true")], "failed"),
        ([("sh", 'echo "$nobody_set_this"')], "failed"),
        ([("sh", "cat <<end\nnever closed"), ("sh", "true")], "failed"),
        ([("sh", "exit 0"), ("sh", "true")], "page.md:2: failed, exit code 0"),
        ([("sh", "exec true")], "failed"),
        (
            [("python", "x = 1\n\nassert x == 2")],
            r"(?s)page.md:2: failed.*line 4, in <module>\n.*AssertionError",
        ),
        ([("python", "import warnings\nwarnings.warn('old')")], "UserWarning"),
        ([("python", "import mpcheckpoint.nowhere")], "ModuleNotFoundError"),
        ([("console", "$ echo one\ntwo")], r"page.md:2: shown is\ntwo\nbut it printed\none"),
        ([("console", "$ echo one")], "shown is"),
        ([("console", "$ true\n...\nend")], "shown is"),
        ([("console", "$ echo one\none\n$ echo two\nthree")], "page.md:4: shown is"),
        ([("console", "$ (exit 3)\n$ true")], "exit code 3 and no"),
        ([("console", "$ (exit 3)\n$ echo $?\n4")], "shown is"),
        ([("console", "echo one")], "a transcript begins with"),
        ([("console", "$ exit 0")], "failed"),
        ([("python job.py", "print(1)")], "no later block uses job.py"),
        ([("console", "$ mpcheckpoint results --store nowhere --key k")], "exit code 2"),
    ],
)
def test_page_with_a_wrong_block_is_found_out(
    blocks: list[tuple[str, str]], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(PageError, match=complaint):
        run_page(written(fenced(*blocks), tmp_path), tmp_path)


def test_page_that_does_not_end_is_found_out(tmp_path: Path) -> None:
    page = written(fenced(("sh", "echo begun\nread line < <(exec sleep 50)")), tmp_path)

    with pytest.raises(PageError, match=r"(?s)none within 1 s.*begun"):
        run_page(page, tmp_path, timeout_s=1)


def test_blocks_of_a_page_share_directory_files_and_variables(tmp_path: Path) -> None:
    record = "import job\nfrom mpcheckpoint import Checkpoint\nCheckpoint(job.STORE).log('a').append('x', 1)"
    page = fenced(
        ("python job.py", "STORE = 'run'"),
        ("sh", "store=$(python -c 'import job; print(job.STORE)')\nsleep 50 &"),
        ("python", record),
        ("sh", "kill -9 %%\nwait $! || ended=$?"),
        ("console", "$ ls\njob.py\nrun\n$ echo $store \\\n>   $ended\nrun 137\n$ (exit 3)\n$ echo $?\n3"),
        ("text", "not run"),
    )
    not_run = "\n<!-- not run: it fails -->\n" + fenced(("sh", "false"))

    assert run_page(written(page + not_run, tmp_path), tmp_path) == 8


@pytest.mark.parametrize(
    ("printed", "shown", "expected"),
    [
        ("one 1.5 s\n", "one ... s", True),
        ("one 1.5 s\n", "one ... ms", False),
        ("one\ntwo\n", "one...", False),
        ("one\ntwo\nthree\n", "one\n...\nthree", True),
        ("one\nthree\n", "one\n...\nthree", True),
        ("one\ntwo\n", "one\n...\nthree", False),
        ("one (.*)\n", "one (.*)", True),
        ("one two\n", "one (.*)", False),
        ("", "", True),
        ("one\n", "", False),
        ("", "one", False),
        ("\none\n", "one", False),
        ("one  \n\n", "one", True),
    ],
)
def test_output_is_compared_line_by_line_with_what_is_shown(printed: str, shown: str, expected: bool) -> None:
    assert is_like(printed, shown) is expected


# --- what is written by scripts ----------------------------------------------------------------------------


def test_picture_is_drawn_from_the_source() -> None:
    draw_structure = script("draw_structure")
    drawn = draw_structure.draw(draw_structure.layers())

    assert draw_structure.PICTURE.read_text(encoding="utf-8") == drawn, "run: python tools/draw_structure.py"


def test_map_of_the_modules_is_drawn_from_the_source() -> None:
    draw_structure = script("draw_structure")

    assert draw_structure.PAGE.read_text(encoding="utf-8") == draw_structure.page(), (
        "run: python tools/draw_structure.py"
    )


def test_picture_of_an_import_that_goes_up_shows_it() -> None:
    draw_structure = script("draw_structure")
    top, *rest = draw_structure.layers()
    wrong = [top, *rest[:-1], rest[-1]._replace(below=frozenset({top.name}))]

    assert draw_structure.draw(wrong) != draw_structure.draw([top, *rest])


# --- scripts, exit codes, links -------------------------------------------------------------------------------------


SCRIPT = re.compile(r"""\b(?:ba)?sh -c (['"])(?P<script>.*?)\1""", re.DOTALL)


def scripts_in(code: str) -> list[str]:
    return [found["script"] for found in SCRIPT.finditer(code)]


def test_items_are_handed_to_a_shell_as_arguments_and_never_written_into_its_script() -> None:
    help_lines = [
        line
        for line in CliRunner().invoke(cli, ["map", "--help"], terminal_width=200).output.splitlines()
        if line.strip().startswith("mpcheckpoint map ")
    ]
    pages = [ROOT / "README.md", *PAGES]
    code = help_lines + [
        block.code for page in pages for block in blocks_of(page.read_text(encoding="utf-8"))
    ]
    scripts = [script for each in code for script in scripts_in(each)]

    assert scripts_in("sh -c 'a {}' sh {}; bash -c \"b\"") == ["a {}", "b"]
    assert len(scripts) >= 5
    assert [script for script in scripts if "{" in script] == []


def exit_codes_in_help(command: str) -> str:
    text = CliRunner().invoke(cli, [command, "--help"]).output
    found = re.search(r"Exit codes:(.*?)(?:\n\n|\nOptions:|\Z)", text, re.DOTALL)
    assert found is not None, f"the help of {command} does not say its exit codes"
    return " ".join(found[1].split())


def test_exit_codes_in_the_table_are_those_of_each_command_s_help() -> None:
    text = (DOCS / "exit-codes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| (.*?) \| (.*?) ?\| (.*?) \|$", text, re.MULTILINE)

    assert [row[0] for row in rows] == sorted(cli.commands)
    for command, *cells in rows:
        said = exit_codes_in_help(command)
        codes = {int(code) for code in re.findall(r"(?<![\w.])([012])(?![\w.])", said)}
        assert codes == {code for code, cell in enumerate(cells) if cell}, (command, said)
        for cell in filter(None, cells[1:]):
            assert cell.partition(" (with `--")[0] in said, (command, said)


def test_exit_codes_of_signals_that_end_a_map_are_in_its_help_and_on_the_page() -> None:
    page = (DOCS / "exit-codes.md").read_text(encoding="utf-8")
    codes = [f"{exit_code_of(Stopped(number))}" for number in ENDING]

    assert len(codes) == 3
    assert set(codes) <= set(re.findall(r"\b1\d\d\b", exit_codes_in_help("map")))
    assert set(codes) <= set(re.findall(r"^\| (\d+) \|", page, re.MULTILINE))


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: str(page.relative_to(DOCS)))
def test_links_of_a_page_lead_to_what_exists(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert "://" in target or file.exists(), target
        assert not anchor or anchor in anchors(file), target


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"README.md"}

    assert {page for page in pages if f"]({page})" not in index} == set()
