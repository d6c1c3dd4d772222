"""The options, hooks and fixtures of the tests."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from zlib import crc32

import hypothesis
import pytest

from mpcheckpoint._logfile import padding
from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal
from mpcheckpoint.testing._power_cuts.loopback import FS_TYPES, FsType, LoopFileSystem, why_no_power_cut
from mpcheckpoint.testing._power_cuts.mounts import force_unmount, mounts_below
from support import process_tree, tally
from support.capabilities import can_mount_tmpfs, is_root, require
from support.checkout import TESTS
from support.full_disk import ThinDisk
from support.processes import Children
from support.tmpfs import TmpFileSystem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_GUARANTEES = range(1, 13)
_EXIT_GRACE_S = 2.0
# What a whole run does at the least, times the intensity.
_PROMISED = {"kills": 200, "power cuts": 20}
# All tests that mount an image run in one worker, one after the other.
_MARKS_OF_FIXTURE = {
    "loop_file_system": (pytest.mark.xdist_group("loop"), pytest.mark.powercut),
    "make_thin_disk": (pytest.mark.xdist_group("loop"),),
}
# What they try of the core, others try without what these stand on.
_OUTER_ROOMS = {"cli", "report", "tools"}


# --- options and hooks -------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that multiplies the rounds."""
    parser.addoption(
        "--intensity",
        type=int,
        default=int(os.environ.get("MPCHECKPOINT_INTENSITY", "1")),
        metavar="N",
        help="multiply the rounds of kills and power cuts by N (default: MPCHECKPOINT_INTENSITY, else 1)",
    )
    parser.addoption(
        "--share",
        default="1/1",
        metavar="K/N",
        help="run the K-th of N parts of the tests, divided by their names (default: all)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make children import what this process imports, and hear what signals they are sent, and orphans ours."""
    if _intensity(config) < 1:
        raise pytest.UsageError("--intensity must be at least 1")
    _share(config)
    # `support` and test modules are importable in every child; what is in a child's current directory is not.
    folders = sorted({str(path.parent) for path in TESTS.glob("*/test_*.py")})
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(TESTS), *folders, os.environ.get("PYTHONPATH")])
    )
    os.environ["PYTHONSAFEPATH"] = "1"
    if not config.getoption(
        "numprocesses", None
    ):  # else it runs no test; its workers inherit what it ignores
        _unignore_signals()
    process_tree.adopt_orphans()
    # Time is no criterion on a machine that runs other workers beside this one.
    hypothesis.settings.register_profile(
        "mpcheckpoint", deadline=None, max_examples=100 * _intensity(config), print_blob=True
    )
    hypothesis.settings.load_profile("mpcheckpoint")


def _unignore_signals() -> None:
    """Handle the signals that this process was told to ignore, as a shell tells jobs in the background, and nohup.

    Children would inherit that, and the tests send them these signals. What is handled here, in whatever way, is not
    ignored in a program that a child executes.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)  # ignored as before, in this process


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the marks that go with a fixture, refuse guarantees that do not exist, and leave out other shares."""
    part, parts = _share(config)
    others = [item for item in items if crc32(item.nodeid.encode()) % parts != part - 1]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if crc32(item.nodeid.encode()) % parts == part - 1]
    for item in items:
        if item.path.is_relative_to(TESTS) and item.path.relative_to(TESTS).parts[0] in _OUTER_ROOMS:
            item.add_marker("outer")
        for fixture in getattr(item, "fixturenames", ()):
            for mark_to_add in _MARKS_OF_FIXTURE.get(fixture, ()):
                item.add_marker(mark_to_add)
        for mark in item.iter_markers("guarantee"):
            if len(mark.args) != 1 or mark.args[0] not in _GUARANTEES:
                raise pytest.UsageError(f"{item.nodeid}: guarantee{mark.args} is none of G1 to G12")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add what a worker of pytest-xdist counted."""
    tally.merge(getattr(node, "workeroutput", {}).get("tally", {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand a worker's counts on; fail a run in which no test ran, be it that all were skipped."""
    worker_output = getattr(session.config, "workeroutput", None)
    if worker_output is not None:
        worker_output["tally"] = tally.counts()
    elif session.exitstatus == pytest.ExitCode.OK and _ran_nothing(session.config):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
    elif session.exitstatus == pytest.ExitCode.OK and _did_too_little(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the counts of this run."""
    if tally.counts():
        terminalreporter.section("tally")
        terminalreporter.line(", ".join(f"{what}: {times}" for what, times in sorted(tally.counts().items())))
    for shortfall in _did_too_little(terminalreporter.config):
        terminalreporter.line(f"too few {shortfall}", red=True)


def _intensity(config: pytest.Config) -> int:
    return cast("int", config.getoption("--intensity"))


def _share(config: pytest.Config) -> tuple[int, int]:
    part, _, parts = str(config.getoption("--share")).partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise pytest.UsageError("--share is K/N, with K from 1 to N")
    return int(part), int(parts)


def _ran_nothing(config: pytest.Config) -> bool:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or config.getoption("collectonly"):
        return False
    return not any(
        reporter.stats.get(outcome) for outcome in ("passed", "failed", "error", "xfailed", "xpassed")
    )


def _did_too_little(config: pytest.Config) -> list[str]:
    """Return what a whole run that must leave nothing out did less often than promised."""
    is_part = (
        _share(config) != (1, 1)
        or config.getoption("keyword")
        or config.getoption("markexpr")
        or config.getoption("collectonly")
    )
    is_whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not is_part
    if not is_whole or not os.environ.get("MPCHECKPOINT_REQUIRE_ALL"):
        return []
    counts = tally.counts()
    return [
        f"{what}: {counts.get(what, 0)} of {times * _intensity(config)}"
        for what, times in _PROMISED.items()
        if counts.get(what, 0) < times * _intensity(config)
    ]


# --- nothing stays behind ----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_process_left_behind() -> Iterator[None]:
    """Fail a test that leaves a process running, and end that process, so that only this test fails."""
    earlier = process_tree.living_descendants()
    yield
    # Those who are about to notice that nobody needs them any more get a moment to leave by themselves.
    left = process_tree.await_exit(process_tree.living_descendants() - earlier, _EXIT_GRACE_S)
    description = process_tree.describe(left)
    process_tree.end(left)
    process_tree.reap(process_tree.dead_children() - earlier)
    if left:
        pytest.fail(f"the test left processes behind: {description}", pytrace=False)


@pytest.fixture(autouse=True, scope="session")
def _no_mount_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail the session if a mount is left below its temporary directory, and unmount it."""
    yield
    left = mounts_below(tmp_path_factory.getbasetemp())
    for mountpoint in left:
        force_unmount(mountpoint)
    if left:
        pytest.fail(f"mounts were left behind: {', '.join(map(str, left))}", pytrace=False)


# --- what tests ask for ------------------------------------------------------------------------------------


@pytest.fixture
def intensity(request: pytest.FixtureRequest) -> int:
    """Return the factor by which rounds of kills and power cuts are multiplied."""
    return _intensity(request.config)


@pytest.fixture
def children() -> Iterator[Children]:
    """Yield a starter of child processes; whatever runs at the end is killed and reaped."""
    with Children() as started:
        yield started


@pytest.fixture
def early_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have padding written from the second append on that makes a log longer, until the end of the test."""
    monkeypatch.setattr(padding, "_EXTENSIONS_BEFORE", 1)
    monkeypatch.setattr(padding, "_FIRST_BYTES", 700)


@pytest.fixture
def acknowledgements(tmp_path: Path) -> Iterator[AcknowledgementJournal]:
    """Yield a journal of acknowledgements outside every store."""
    with AcknowledgementJournal(tmp_path / "acknowledgements.fifo") as journal:
        yield journal


@pytest.fixture(params=FS_TYPES)
def loop_file_system(
    request: pytest.FixtureRequest, tmp_path: Path, children: Children
) -> Iterator[LoopFileSystem]:
    """Yield a fresh file system whose power can be cut; the test runs once for each kind.

    Marks the test as `powercut` and puts it into the group of those that use loop devices.
    """
    fstype: FsType = request.param
    obstacle = why_no_power_cut(fstype)
    require(not obstacle, f"a power cut needs root, loop devices and mkfs.{fstype}: {obstacle}")
    with LoopFileSystem(fstype, tmp_path) as file_system:
        yield file_system
        tally.add("power cuts", file_system.cuts)
        children.end()  # before it is unmounted, in whatever order the test asked for the two


@pytest.fixture
def make_tmpfs(
    tmp_path_factory: pytest.TempPathFactory, children: Children
) -> Iterator[Callable[[int], TmpFileSystem]]:
    """Yield a function that mounts a RAM disk of so many bytes until the end of the test."""
    require(can_mount_tmpfs(), "a small disk needs root, to mount a tmpfs")
    with ExitStack() as mounted:
        yield lambda size_bytes: mounted.enter_context(
            TmpFileSystem(tmp_path_factory.mktemp("disk"), size_bytes=size_bytes)
        )
        children.end()  # before it is unmounted, in whatever order the test asked for the two


@pytest.fixture
def make_thin_disk(
    tmp_path_factory: pytest.TempPathFactory, children: Children
) -> Iterator[Callable[..., ThinDisk]]:
    """Return a function that makes a ThinDisk, given how, and mounts it until the end of the test."""
    obstacle = why_no_power_cut("ext4") or why_no_power_cut("xfs")
    require(not obstacle, f"a thin disk needs root, loop devices and mkfs: {obstacle}")
    with ExitStack() as mounted:
        yield lambda fstype, **how: mounted.enter_context(
            ThinDisk(fstype, tmp_path_factory.mktemp("thin"), **how)
        )
        children.end()  # before it is unmounted, in whatever order the test asked for the two


@pytest.fixture
def run_as_nobody() -> Callable[..., Any]:
    """Return `call_as_nobody`: calls a function, with arguments, in a child that is not root."""
    require(is_root(), "becoming another user needs root")
    from support.nobody import call_as_nobody

    return call_as_nobody


@pytest.fixture
def public_tmp_path() -> Iterator[Path]:
    """Yield a temporary directory that every user can enter: pytest's own are closed to others."""
    directory = Path(tempfile.mkdtemp(prefix="mpcheckpoint-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)
