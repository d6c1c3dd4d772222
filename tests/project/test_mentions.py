"""Files of the tests that comments and pages name are where they say."""

from __future__ import annotations

import re

from support.checkout import DOCS, ROOT, TESTS

CODE = [*(ROOT / "mpcheckpoint").rglob("*.py"), *TESTS.rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
PAGES = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *TESTS.rglob("*.md")]
SETTINGS = [ROOT / "tox.ini", ROOT / "pyproject.toml"]


def test_every_test_file_that_is_named_exists() -> None:
    named = {
        (str(file.relative_to(ROOT)), name)
        for file in [*CODE, *PAGES, *SETTINGS]
        if file.name != "CHANGELOG.md"  # which tells of files as they were
        for name in re.findall(r"\btests/[\w/]*test_\w+\.py\b", file.read_text(encoding="utf-8"))
    }

    assert [(file, name) for file, name in sorted(named) if not (ROOT / name).is_file()] == []
    assert len(named) > 30
