"""The rules of the test suite hold: each is broken here by a small suite of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any, cast

import pytest

from support import plugin, tally
from support.checkout import TESTS

LEAVES_A_PROCESS = """
    import subprocess

    def test_leaves_a_process():
        global process
        process = subprocess.Popen(["sleep", "100"])

    def test_leaves_none():
        process.wait(0)
"""
LEAVES_AN_ORPHAN = """
    import os, signal

    def test_leaves_an_orphan():
        parent = os.fork()
        if parent == 0:
            os.fork() and os._exit(0)
            signal.pause()
        os.waitpid(parent, 0)
"""
LEAVES_A_MOUNT = """
    from mpcheckpoint.testing._power_cuts.mounts import run

    def test_leaves_a_mount(tmp_path):
        run("mount", "-t", "tmpfs", "tmpfs", tmp_path)
"""
LACKS_SOMETHING = """
    from support.capabilities import require

    def test_lacks_something():
        require(False, "no such thing here")
"""
SENDS_SIGNALS = """
    import os, signal, subprocess, sys

    import pytest

    def ended_by(number):
        process = subprocess.Popen(["sleep", "100"])
        process.send_signal(number)
        try:
            return -process.wait(10)
        finally:
            process.kill()
            process.wait()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT])
    def test_child_hears_a_signal(number):
        assert ended_by(number) == number

    def test_this_process_hears_an_interrupt():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)

    def test_this_process_goes_on_when_its_terminal_is_closed():
        os.kill(os.getpid(), signal.SIGHUP)
"""
PASSES = """
    def test_passes(intensity):
        assert intensity == 3
"""


def run_suite(
    directory: Path, source: str, *options: str, prefix: tuple[str, ...] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a test module with the plugin under test, and nothing else of this suite's configuration.

    ``prefix`` stands before the command.
    """
    module = directory / "test_inner.py"
    module.write_text(dedent(source))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        os.devnull,
        "-p",
        "support.plugin",
        "-p",
        "no:cacheprovider",
    ]
    command = [*prefix, *command]
    command += ["--rootdir", str(directory), "--basetemp", str(directory / "tmp"), *options, str(module)]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MPCHECKPOINT", "PYTEST"))
    }
    return subprocess.run(
        command,
        env=environment | variables,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_suite_that_passes_passes(tmp_path: Path) -> None:
    done = run_suite(tmp_path, PASSES, "--intensity", "3")

    assert done.returncode == pytest.ExitCode.OK, done.stdout


@pytest.mark.parametrize("options", [(), ("-n", "2")])
def test_suite_whose_signals_are_ignored_hears_them_as_any_other(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    ignoring = ("sh", "-c", "trap '' INT HUP TERM QUIT; exec \"$@\"", "sh")

    done = run_suite(tmp_path, SENDS_SIGNALS, *options, prefix=ignoring)

    assert done.returncode == pytest.ExitCode.OK, done.stdout


def test_intensity_from_the_environment_is_taken(tmp_path: Path) -> None:
    done = run_suite(tmp_path, PASSES, MPCHECKPOINT_INTENSITY="3")

    assert done.returncode == pytest.ExitCode.OK, done.stdout


def test_test_that_leaves_a_process_fails_and_the_process_is_gone(tmp_path: Path) -> None:
    done = run_suite(tmp_path, LEAVES_A_PROCESS)

    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "the test left processes behind" in done.stdout
    assert "sleep 100" in done.stdout
    assert "2 passed, 1 error" in done.stdout


def test_test_that_leaves_an_orphan_fails(tmp_path: Path) -> None:
    done = run_suite(tmp_path, LEAVES_AN_ORPHAN)

    assert "the test left processes behind" in done.stdout
    assert "1 passed, 1 error" in done.stdout


# In the group of those that use loop devices, so that its mount is no surprise to them.
@pytest.mark.xdist_group("loop")
def test_session_that_leaves_a_mount_fails_and_the_mount_is_gone(tmp_path: Path) -> None:
    from mpcheckpoint.testing._power_cuts.mounts import mounts_below
    from support.capabilities import can_mount_tmpfs, require

    require(can_mount_tmpfs(), "mounting needs root")

    done = run_suite(tmp_path, LEAVES_A_MOUNT)

    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "mounts were left behind" in done.stdout
    assert mounts_below(tmp_path) == []


def test_suite_of_skips_only_fails_for_nothing_ran(tmp_path: Path) -> None:
    done = run_suite(tmp_path, LACKS_SOMETHING)

    assert "1 skipped" in done.stdout
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED


def test_suite_of_skips_only_spread_over_workers_fails_for_nothing_ran(tmp_path: Path) -> None:
    done = run_suite(tmp_path, LACKS_SOMETHING, "-n", "2")

    assert "1 skipped" in done.stdout
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED


def test_suite_without_a_guarantee_fails_where_guarantees_are_asked_for(tmp_path: Path) -> None:
    done = run_suite(tmp_path, PASSES, "-m", "guarantee", "-n", "2", "--dist", "loadgroup")

    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED


def test_lacking_capability_where_all_are_required_fails(tmp_path: Path) -> None:
    done = run_suite(tmp_path, LACKS_SOMETHING, MPCHECKPOINT_REQUIRE_ALL="1")

    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "no such thing here" in done.stdout


def test_guarantee_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    done = run_suite(tmp_path, "import pytest\n@pytest.mark.guarantee(99)\ndef test_it(): pass")

    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "none of G1 to G12" in done.stderr


def test_kills_of_all_workers_are_counted(tmp_path: Path) -> None:
    source = """
        import pytest, signal

        @pytest.mark.parametrize("number", range(4))
        def test_kills(number, children):
            children.start(signal.pause, method="fork").kill()
    """

    done = run_suite(tmp_path, source, "-n", "2")

    assert "kills: 4" in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("kills", "keyword", "too_few"),
    [
        (200, "", ["power cuts: 0 of 20"]),
        (199, "", ["kills: 199 of 200", "power cuts: 0 of 20"]),
        (0, "torn", []),
    ],
)
def test_whole_run_that_kills_or_cuts_too_little_says_so(
    kills: int, keyword: str, too_few: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"keyword": keyword, "markexpr": "", "collectonly": False, "--intensity": 1, "--share": "1/1"}
    config = SimpleNamespace(args_source=pytest.Config.ArgsSource.TESTPATHS, getoption=options.__getitem__)
    monkeypatch.setenv("MPCHECKPOINT_REQUIRE_ALL", "1")
    monkeypatch.setattr(tally, "counts", lambda: {"kills": kills})

    assert plugin._did_too_little(cast("pytest.Config", config)) == too_few


def test_shares_of_the_tests_are_all_of_them_and_none_twice() -> None:
    left_out: list[str] = []
    hook = SimpleNamespace(pytest_deselected=lambda items: left_out.extend(item.nodeid for item in items))
    names = [f"test_{number}" for number in range(50)]
    shares = []
    for part in ("1/2", "2/2"):
        config = SimpleNamespace(getoption={"--share": part}.__getitem__, hook=hook)
        path = Path("test_names.py")
        items: list[Any] = [
            SimpleNamespace(nodeid=name, path=path, iter_markers=lambda _: ()) for name in names
        ]
        plugin.pytest_collection_modifyitems(cast("pytest.Config", config), items)
        shares.append([item.nodeid for item in items])

    assert all(shares)
    assert sorted(shares[0] + shares[1]) == sorted(names)
    assert sorted(left_out) == sorted(names)


@pytest.mark.parametrize("share", ["0/2", "3/2", "1", "x/y"])
def test_share_that_is_none_is_refused(share: str) -> None:
    config = SimpleNamespace(getoption={"--share": share}.__getitem__)

    with pytest.raises(pytest.UsageError):
        plugin._share(cast("pytest.Config", config))


def test_test_of_an_outer_room_is_marked_so_and_there_are_these_rooms(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("outer") is not None
    assert all(any((TESTS / room).glob("test_*.py")) for room in plugin._OUTER_ROOMS)
