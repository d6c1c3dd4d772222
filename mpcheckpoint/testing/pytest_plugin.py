"""The fixture ``crash_test`` for pytest; enable it in the ``conftest.py`` of your tests' root::

    pytest_plugins = ["mpcheckpoint.testing.pytest_plugin"]

It is not enabled by being installed: then every run of pytest would load this library.
"""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint.testing._kills.crash_test import crash_test as crash_test_function
from mpcheckpoint.testing._kills.report import CrashTestFailure

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mpcheckpoint.testing._kills.report import Report


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what repeats a failure, and what makes a run longer."""
    group = parser.getgroup("crash tests (mpcheckpoint)")
    group.addoption("--crash-seed", type=int, metavar="N", help="choose all random instants with this seed")
    group.addoption("--crash-first", type=int, metavar="N", help="begin with the N-th random kill")
    group.addoption("--crash-kills", type=int, metavar="N", help="end with the N-th random kill")
    group.addoption(
        "--crash-factor",
        type=int,
        default=1,
        metavar="N",
        help="do N times as many random kills (default: 1)",
    )


@pytest.fixture
def crash_test(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Report]:
    """Return `mpcheckpoint.testing.crash_test`, with its store below ``tmp_path`` and its options on the command line.

    A failure says how to call pytest to repeat it; a report goes to the test's output, which ``-rP`` shows.
    """

    def run(argv: Any, *, kills: int, **options: Any) -> Report:
        # Not there if the plugin was enabled too late for its options: by a test module.
        seed, first, last = (
            request.config.getoption(f"crash_{name}", None) for name in ("seed", "first", "kills")
        )
        options.setdefault("place", tmp_path)
        options |= {} if seed is None else {"seed": seed}
        options |= {} if first is None else {"first": first}
        kills = kills * request.config.getoption("crash_factor", 1) if last is None else last
        try:
            report = crash_test_function(argv, kills=kills, **options)
        except CrashTestFailure as failure:
            node = shlex.quote(request.node.nodeid)
            instants = f"--crash-first={failure.first_kill} --crash-kills={failure.kill}"
            failure.add_note(f"with pytest: pytest {node} --crash-seed={failure.seed} {instants}")
            raise
        sys.stdout.write(f"{report}\n")
        return report

    return run
