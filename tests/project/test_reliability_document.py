"""What docs/reliability.md shows is so: its job survives its crash test, its examples run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support import tally
from support.checkout import ROOT

DOCUMENT = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
JOB, JOB_TEST, CONFTEST, *SCRIPTS = PYTHON_BLOCKS


def run(argv: list[str], cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *argv], cwd=cwd, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.guarantee(1)
def test_job_survives_its_crash_test_and_the_report_is_like_the_one_shown(tmp_path: Path) -> None:
    (tmp_path / "upload_job.py").write_text(JOB, encoding="utf-8")
    (tmp_path / "test_upload_job.py").write_text(JOB_TEST, encoding="utf-8")
    (tmp_path / "conftest.py").write_text(CONFTEST, encoding="utf-8")

    output = run(["-P", "-m", "pytest", "-rP", "-p", "no:cacheprovider"], tmp_path)

    (shown,) = re.findall(r"```text\n(.*?)\n```", DOCUMENT, re.DOTALL)
    assert re.sub(r"[\d.]+", "N", shown) in re.sub(r"[\d.]+", "N", output), output
    tally.add("kills", int(re.findall(r"(\d+) kills", output)[0]))


def test_job_that_prints_before_it_appends_is_found_out(tmp_path: Path) -> None:
    append = '    uploads.append(photo, "UPLOADED")\n'
    assert append in JOB
    (tmp_path / "upload_job.py").write_text(
        JOB.replace(append, f"    print(photo, flush=True)\n{append}"), encoding="utf-8"
    )
    (tmp_path / "test_upload_job.py").write_text(JOB_TEST, encoding="utf-8")
    (tmp_path / "conftest.py").write_text(CONFTEST, encoding="utf-8")

    with pytest.raises(AssertionError, match="lost: 'photo"):
        run(["-P", "-m", "pytest", "-p", "no:cacheprovider"], tmp_path)


@pytest.mark.parametrize("number", range(len(SCRIPTS)))
def test_example_runs(number: int, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(SCRIPTS[number], encoding="utf-8")

    run(["-P", "example.py"], tmp_path)


def test_links_lead_to_what_exists() -> None:
    headings = {
        re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", DOCUMENT, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", DOCUMENT.replace("\n", " ")):
        path, _, anchor = target.partition("#")
        assert (ROOT / "docs" / path).exists(), target
        assert not anchor or anchor in headings, target


def test_files_that_are_named_exist() -> None:
    for name in re.findall(r"`(tests/[\w*/.]+)`", DOCUMENT):
        assert list(ROOT.glob(name)), name
