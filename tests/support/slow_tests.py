"""Which tests are slow: a list of what was measured, from which tests get their mark, and what measures anew.

Measured is processor time, of a test and of the processes it started: on a busy machine the clock tells of others. Who
waits for the loop waits for tests that only wait, too: the clock counts where it says more than twice as much.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from support.checkout import TESTS

if TYPE_CHECKING:
    from collections.abc import Iterator

LIST = TESTS / "slow_tests.txt"
# A test is slow if its cases cost more than this each, or together.
EACH_S = 0.2
TOGETHER_S = 0.8
# What is not in the list and costs this much in one case is told of at the end of each run.
FAR_TOO_MUCH_S = 3.0
# Slow, and in the fast loop all the same: without these nothing there would start a command or kill a process.
KEPT = frozenset(
    {
        "cli/test_cli.py::test_item_that_comes_twice_runs_once",
        "cli/test_cli.py::test_results_of_a_map_in_python_are_printed_too",
        "cli/test_cli_ls.py::test_ls_of_a_poisoned_log_ends_with_1",
        "cli/test_cli_map_options.py::test_second_ctrl_c_makes_short_work_of_commands_that_ignore_the_first",
        "cli/test_cli_tail.py::test_tail_beside_damage_prints_what_can_be_read_and_ends_with_2",
        "cli/test_import_command.py::test_dry_run_of_an_import_changes_nothing",
        "crash/test_jumping_clocks.py::test_clock_that_jumps_back_an_hour_and_forward_a_year_changes_no_order",
    }
)
_HEAD = """\
# Tests that the fast loop leaves out (`tox -e fast`), with the seconds of processor time that all their cases took.
# Written by `pytest --measure` from what it ran; it keeps the lines of tests that did not run.
"""


class Costs:
    """What tests cost in this run: for each the number of its cases, their sum, and the dearest, in seconds."""

    def __init__(self) -> None:
        self.of: dict[str, tuple[int, float, float]] = {}

    def add(self, test: str, cases: int, sum_s: float, most_s: float) -> None:
        """Count cases of a test."""
        earlier = self.of.get(test, (0, 0.0, 0.0))
        self.of[test] = (earlier[0] + cases, earlier[1] + sum_s, max(earlier[2], most_s))

    def slow(self) -> dict[str, float]:
        """Return the tests that are slow, and what all cases of each took."""
        return {
            test: sum_s
            for test, (cases, sum_s, _) in self.of.items()
            if sum_s > min(cases * EACH_S, TOGETHER_S)
        }


_costs = Costs()


def name_of(nodeid: str) -> str:
    """Return the name of a test, which all its cases share, as the list has it."""
    return nodeid.partition("[")[0].removeprefix("tests/")


def read(text: str) -> dict[str, float]:
    """Return what a list says: the tests, and what they took."""
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    return {test: float(seconds) for test, seconds in lines}


def written(listed: dict[str, float], costs: Costs, names: set[str]) -> str:
    """Return the list after a run: of what ran, what was slow in it; of the rest, what was listed and is a test."""
    rest = {test: seconds for test, seconds in listed.items() if test not in costs.of and test in names}
    slow = sorted((rest | costs.slow()).items())
    return _HEAD + "".join(f"{test} {seconds:.1f}\n" for test, seconds in slow)


# --- hooks ---------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes the list."""
    parser.addoption(
        "--measure", action="store_true", help=f"write tests/{LIST.name} from what this run takes"
    )


@pytest.hookimpl(tryfirst=True)  # before -m is applied
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that the list has as slow."""
    slow = read(LIST.read_text(encoding="utf-8"))
    for item in items:
        if name_of(item.nodeid) in slow.keys() - KEPT:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Measure what a case costs."""
    before, started_s = os.times(), time.monotonic()
    result = yield
    after, passed_s = os.times(), time.monotonic() - started_s
    spent_s = max(sum(after[:4]) - sum(before[:4]), passed_s / 2)
    is_left_out = any(map(item.get_closest_marker, ("slow", "exhaustive", "powercut")))
    _costs.add(name_of(item.nodeid), 1, spent_s, 0.0 if is_left_out else spent_s)
    return result


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand a worker's measurements on."""
    worker_output = getattr(session.config, "workeroutput", None)
    if worker_output is not None:
        worker_output["costs"] = _costs.of


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add what a worker of pytest-xdist measured."""
    for test, cost in getattr(node, "workeroutput", {}).get("costs", {}).items():
        _costs.add(test, *cost)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell of tests that are slow and not said to be; write the list, if that was asked for."""
    slow = {test: most_s for test, (_, _, most_s) in _costs.of.items() if most_s > FAR_TOO_MUCH_S}
    if slow:
        terminalreporter.section("slow, and not marked so (pytest --measure)")
        for test, most_s in sorted(slow.items()):
            terminalreporter.line(f"{most_s:5.1f} s {test}")
    if terminalreporter.config.getoption("measure"):
        names = {
            f"{path.relative_to(TESTS)}::{line[4:].partition('(')[0]}"
            for path in TESTS.glob("*/test_*.py")
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.startswith("def test_")
        }
        listed = read(LIST.read_text(encoding="utf-8"))
        LIST.write_text(written(listed, _costs, names), encoding="utf-8")
