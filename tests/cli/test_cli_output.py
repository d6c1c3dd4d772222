"""Standard output of every command: it gets all of it, however slow it is, or a line on standard error says why not."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import termios
from pathlib import Path

import pytest

from mpcheckpoint import Checkpoint
from support.capabilities import require
from support.shell import MPCHECKPOINT, TIMEOUT_S, CommandLine
from support.verbs import become_a_new_process, wait_until

RECORDS = 200
LOGS = 30
PAGE_BYTES = 4096
_LOOKS = 20

# Each prints more than a pipe of one page holds.
LONG = {
    "tail": ("tail", "-n", "1000", "--store", "store"),
    "tail --json": ("tail", "-n", "1000", "--store", "store", "--json"),
    "show": ("show", "--store", "store"),
    "ls": ("ls", "--store", "store", "--json"),
    "verify": ("verify", "--store", "store", "--json"),
    "repair": ("repair", "--store", "store", "--json"),
    "results": ("results", "--store", "store", "--key", "map"),
    "results --json": ("results", "--store", "store", "--key", "map", "--json"),
    "results --watch": ("results", "--store", "store", "--key", "map", "--json", "--watch"),
    "map --print": ("map", "--store", "store", "--key", "map", "--print", "-a", "items", "--", "echo"),
    "map --dry-run": ("map", "--store", "new", "--key", "new", "--dry-run", "-a", "items", "--", "echo"),
}
# Of the others, what they print is short.
ALL = LONG | {
    "doctor": ("doctor", "store"),
    "import": ("import", "--store", "other", "--key", "k", "--as", "n", "--object", "o", "records"),
    "--help": ("map", "--help"),
    "--version": ("--version",),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a store of many logs, one of which a map ran on."""
    directory = tmp_path_factory.mktemp("output")
    items = [f"a name that is long enough {number}" for number in range(RECORDS)]
    (directory / "items").write_text("".join(f"{item}\n" for item in items))
    (directory / "records").write_text("".join(f'{{"o": "{item}"}}\n' for item in items[:3]))
    with Checkpoint(directory / "store", durability="never") as checkpoint:
        for number in range(LOGS):
            checkpoint.log(f"log{number}").append_many([(item, number) for item in items[:10]])
    CommandLine(directory).good("map", "--store", "store", "--key", "map", "-a", "items", "--", "echo")
    become_a_new_process()
    return directory


def started(directory: Path, command: tuple[str, ...], stdout: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*MPCHECKPOINT, *command],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def held_bytes(fd: int) -> int:
    """Return how many bytes a pipe holds."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), "little")


def small_pipe() -> tuple[int, int]:
    """Return a pipe of one page that is non-blocking for its writer."""
    require(hasattr(fcntl, "F_SETPIPE_SZ"), "the size of pipes cannot be set")
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PAGE_BYTES)
    os.set_blocking(writing, False)
    return reading, writing


def wait_until_full(process: subprocess.Popen[bytes], reading: int) -> None:
    """Return when a process sleeps whose output stands in a pipe that has no room for more."""
    looks = 0

    def is_full() -> bool:
        nonlocal looks
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        # Not at the first look: a process may sleep for a moment for other reasons.
        looks = looks + 1 if state == "S" and held_bytes(reading) > 0 else 0
        return state == "Z" or looks >= _LOOKS

    require(os.path.exists("/proc/self/stat"), "the system does not show the state of a process")
    wait_until(is_full, "the pipe is full")


def read_all(fd: int) -> bytes:
    shown = b""
    while data := os.read(fd, PAGE_BYTES):
        shown += data
    os.close(fd)
    return shown


@pytest.mark.parametrize("name", LONG)
def test_output_that_is_non_blocking_and_full_for_a_moment_loses_nothing(directory: Path, name: str) -> None:
    whole = CommandLine(directory).run(*LONG[name])
    assert len(whole.out) > PAGE_BYTES, "it fits into the pipe: nothing is tried"
    reading, writing = small_pipe()

    with started(directory, LONG[name], writing) as process:
        os.close(writing)
        try:
            wait_until_full(process, reading)
            shown = read_all(reading)
            _, said = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()

    assert process.returncode == whole.code, said
    assert b"Traceback" not in said
    if name != "ls":  # who holds the locks may differ
        assert sorted(shown.splitlines()) == sorted(whole.out.encode().splitlines())
    assert len(shown.splitlines()) == len(whole.out.splitlines())


def test_messages_on_a_non_blocking_standard_error_come_all(directory: Path) -> None:
    lines = 100
    bad = directory / "bad"
    bad.write_text("no record, and long enough to fill the pipe with words about it\n" * lines)
    command = ("import", "--store", "other", "--key", "bad", "--skip-bad", "--dry-run", "bad")
    reading, writing = small_pipe()

    with subprocess.Popen(
        [*MPCHECKPOINT, *command], cwd=directory, stdout=subprocess.DEVNULL, stderr=writing
    ) as process:
        os.close(writing)
        try:
            wait_until_full(process, reading)
            said = read_all(reading)
        finally:
            process.kill()

    assert said.count(b"skipped") == lines


@pytest.mark.parametrize(
    ("name", "redirection", "reason"),
    [
        *((name, ">/dev/full", "No space left on device") for name in ALL),
        *((name, ">&-", "it is closed") for name in ("ls", "map --print", "results --watch", "--help")),
        ("ls", "1</dev/null", "it is not open for writing"),
    ],
)
def test_output_that_cannot_be_written_is_named_by_every_command(
    directory: Path, name: str, redirection: str, reason: str
) -> None:
    require(os.path.exists("/dev/full"), "the system has no /dev/full")

    ended = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *MPCHECKPOINT, *ALL[name]],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    said = ended.stderr.decode().splitlines()
    assert ended.returncode == 2, ended
    assert said[-1] == f"mpcheckpoint: cannot write to standard output: {reason}"
    assert "Traceback" not in ended.stderr.decode()


@pytest.mark.parametrize("name", ["ls", "map --print", "results --watch", "doctor", "import", "--help"])
def test_reader_that_has_gone_ends_every_command_quietly(directory: Path, name: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)

    with started(directory, ALL[name], writing) as process:
        os.close(writing)
        _, said = process.communicate(timeout=TIMEOUT_S)

    assert (process.returncode, said) == (-signal.SIGPIPE, b"")


def test_command_that_prints_nothing_needs_no_standard_output(directory: Path) -> None:
    quiet = [each for each in LONG["map --print"] if each != "--print"]

    ended = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *MPCHECKPOINT, *quiet],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    assert ended.returncode == 0, ended


@pytest.mark.parametrize("name", ["tail --json", "--help"])
def test_ctrl_c_ends_a_command_that_waits_for_its_full_output(directory: Path, name: str) -> None:
    reading, writing = small_pipe()
    os.write(writing, bytes(PAGE_BYTES - 1))
    with started(directory, ALL[name], writing) as process:
        os.close(writing)
        try:
            wait_until_full(process, reading)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()
            os.close(reading)

    assert process.returncode == 130, said
    assert said.decode().strip() in ("mpcheckpoint: interrupted", "")
