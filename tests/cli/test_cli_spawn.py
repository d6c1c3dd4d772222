"""What a command of ``mpcheckpoint map`` is given at its start: descriptors, signals, and the lock of its item."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import _system as system
from mpcheckpoint._cli import main
from mpcheckpoint._cli.maps import spawn
from mpcheckpoint._cli.maps.child import Child, End, KeptOutput
from mpcheckpoint._cli.maps.spawn import Spawner
from support.capabilities import require

if TYPE_CHECKING:
    from collections.abc import Iterator

DESCRIPTORS = Path("/proc/self/fd")


@pytest.fixture
def lock_file(tmp_path: Path) -> Iterator[system.Descriptor]:
    descriptor = system.create_locked(str(tmp_path / "worker"))
    assert descriptor is not None
    yield descriptor
    descriptor.close()


def output_of(command: str, capfd: pytest.CaptureFixture[str]) -> str:
    """Return what a shell's command prints when it runs for an item."""
    Path("items").write_text("a\n")
    arguments = ("--store", "store", "--key", "k", "-a", "items", "--print", "--", "sh", "-c", command, "sh")
    assert main(["map", *arguments]) == 0
    return capfd.readouterr().out


def test_command_inherits_its_streams_and_its_item_and_nothing_that_the_shell_left_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    require(DESCRIPTORS.exists(), "the system does not list descriptors")
    monkeypatch.chdir(tmp_path)
    left_open = os.open("left", os.O_RDWR | os.O_CREAT)
    os.set_inheritable(left_open, True)
    try:
        found = output_of("for fd in /proc/$$/fd/*; do readlink $fd; done; true", capfd).splitlines()
    finally:
        os.close(left_open)

    assert found[0] == os.devnull
    assert found[1] == found[2]
    assert found[1].startswith("pipe:")
    assert [Path(each).parent.name for each in found[3:]] == ["workers"]


def test_command_ends_by_a_pipe_that_nobody_reads_though_python_ignores_the_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN

    assert output_of("sh -c 'kill -PIPE $$'; echo $?", capfd) == "141\n"


@pytest.mark.parametrize("is_same", [False, True])
def test_command_holds_the_lock_of_its_item_whatever_number_its_descriptor_has(
    lock_file: system.Descriptor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_same: bool
) -> None:
    if is_same:
        monkeypatch.setattr(spawn, "_WORKER_FDS", (lock_file.fd, lock_file.fd + 1))
    reading, writing = os.pipe()
    pid = spawn.Spawner().start([b"sleep", b"60"], writing, lock_file.fd, leads_group=False)
    os.close(writing)
    os.close(reading)
    lock_file.close()
    try:
        assert system.is_locked(str(tmp_path / "worker"))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert not system.is_locked(str(tmp_path / "worker"))


def test_command_has_the_environment_of_the_start_of_the_map(
    lock_file: system.Descriptor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THIS_TEST", "\udcff é")
    reading, writing = os.pipe()
    pid = spawn.Spawner().start([b"printenv", b"OF_THIS_TEST"], writing, lock_file.fd, leads_group=False)
    os.close(writing)
    with os.fdopen(reading, "rb") as output:
        assert output.read() == b"\xff \xc3\xa9\n"
    assert os.waitpid(pid, 0) == (pid, 0)


def test_descriptors_are_found_where_the_system_does_not_list_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> list[str]:
        raise FileNotFoundError(path)

    reading, writing = os.pipe()
    try:
        os.set_inheritable(writing, True)
        monkeypatch.setattr(spawn.os, "listdir", refuse)
        spawn.Spawner()
        assert not os.get_inheritable(writing)
    finally:
        os.close(reading)
        os.close(writing)


def test_variable_without_a_name_keeps_no_command_from_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environb", {**os.environb, b"": b"x=y"})  # how Python takes up "=x=y"
    assert output_of("echo here", capfd) == "here\n"


def test_command_that_was_reaped_gets_no_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock_file: system.Descriptor
) -> None:
    monkeypatch.delattr(os, "waitid", raising=False)  # as on macOS before Python 3.13
    child = Child(Spawner(), [b"true"], lock_file.fd, leads_group=False)
    assert child.finish(KeptOutput(100), None) is End.ENDED
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _, number: sent.append(number))

    child.signal(signal.SIGTERM)

    assert sent == []
    assert child.reap() == 0
