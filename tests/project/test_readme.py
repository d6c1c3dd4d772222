"""The README is true: its examples run, its commands are the ones CI runs, its guarantees have tests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from support.checkout import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
PYTHON_BLOCKS = [code for language, code in BLOCKS if language == "python"]
FILES = list((ROOT / "mpcheckpoint").rglob("*.py"))
SHELL_LINES = [code.strip() for language, code in BLOCKS if language == "sh"]


def test_python_examples_run_twice_in_one_directory_succeed(tmp_path: Path) -> None:
    assert len(PYTHON_BLOCKS) == 3
    for number, code in [*enumerate(PYTHON_BLOCKS)] * 2:
        script = tmp_path / f"example{number}.py"
        script.write_text(code, encoding="utf-8")

        run = subprocess.run(
            [sys.executable, str(script)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

        assert run.returncode == 0, run.stderr


def test_map_command_on_the_repository_s_files_gives_a_result_for_each(tmp_path: Path) -> None:
    install, _, rest = SHELL_LINES[0].partition(" && find ")
    pipeline = "find " + rest
    assert install == "python3 -m venv .venv && .venv/bin/pip install -q ."
    pipeline = pipeline.replace(".venv/bin/mpcheckpoint", f"{sys.executable} -m mpcheckpoint")
    pipeline = pipeline.replace("find mpcheckpoint", f"find {ROOT / 'mpcheckpoint'}")

    for ran in (len(FILES), 0):  # the second time there is nothing left to do
        run = subprocess.run(
            ["bash", "-o", "pipefail", "-c", pipeline],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        assert f"{len(FILES)} items: {ran} run now" in run.stderr
        assert run.stdout.count("ok  ") == len(FILES)
        assert str(ROOT / "mpcheckpoint" / "errors.py") in run.stdout


def test_test_command_is_the_one_that_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    function = re.search(r"readme_test_command\(\) \{\n\s*(.*?)\n\}", ci)

    assert function is not None
    assert function.group(1) == SHELL_LINES[1]


def test_guarantees_are_listed_whole() -> None:
    assert re.findall(r"^\| (G\d+) \w", README, re.MULTILINE) == [f"G{number}" for number in range(1, 13)]


def test_links_lead_to_files_that_exist() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)

    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_figures_are_those_of_the_performance_page() -> None:
    figures = re.search(
        r"([\d,]+) durable appends a second by one process and ([\d,]+) by eight, ([\d.]+) and ([\d.]+) times SQLite",
        README,
    )
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    rates, ratios = (
        re.search(
            rf"<!-- table: append-{table} -->.*?^\| mpcheckpoint \|(.*?)\|$", page, re.MULTILINE | re.DOTALL
        )
        for table in ("rate", "ratio")
    )

    assert figures is not None
    assert rates is not None
    assert ratios is not None
    one, _, eight, *_ = (cell.strip() for cell in rates[1].split("|"))
    ratio_one, _, ratio_eight, *_ = (cell.strip() for cell in ratios[1].split("|"))
    assert figures.groups() == (one, eight, ratio_one, ratio_eight)
    others = re.search(
        r"put ([\d,]+) records a second on disk \(SQLite: ([\d,]+)\), .*? read in ([\d.]+) s \(SQLite: ([\d.]+)\)",
        README,
    )
    assert others is not None
    for engine, written, read in zip(
        ("mpcheckpoint", "sqlite"), others.groups()[:2], others.groups()[2:], strict=True
    ):
        assert f"\n| {engine} | {written} |" in page
        assert f"\n| 1,000,000 | 1 | view | {engine} | {read} |" in page
