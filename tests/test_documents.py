"""The pages of docs/ are true: their blocks run, from top to bottom, and print what is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.capabilities import has_jq, require
from support.documents import PageError, blocks_of, is_like, run_page

DOCS = Path(__file__).resolve().parent.parent / "docs"
# Generated, or with tests of their own that run their blocks and more.
RUN_ELSEWHERE = {"api.md", "decisions.md", "format.md", "performance.md", "reliability.md"}
PAGES = sorted(page for page in DOCS.rglob("*.md") if page.name not in RUN_ELSEWHERE)


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
    page = fenced(
        ("python job.py", "STORE = 'run'"),
        ("sh", "store=$(python -c 'import job; print(job.STORE)')\nsleep 50 &"),
        (
            "python",
            "import job\nfrom mpcheckpoint import Checkpoint\nCheckpoint(job.STORE).log('a').append('x', 1)",
        ),
        (
            "console",
            '$ ls\njob.py\nrun\n$ kill -9 -- -$! \\\n>   && echo "$store"\nrun\n$ wait $!\n...\n$ echo $?\n137',
        ),
        ("text", "not run"),
    )

    assert (
        run_page(
            written(page + "\n<!-- not run: it fails -->\n" + fenced(("sh", "false")), tmp_path), tmp_path
        )
        == 7
    )


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
