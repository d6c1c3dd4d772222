"""``mpcheckpoint doctor`` and ``examine``: a plain verdict on a place, with figures, and nothing left behind."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint import _system as system
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._maintenance.places import probes, scratch
from mpcheckpoint._maintenance.places.scratch import Scratch
from mpcheckpoint._system.mount import Mount
from mpcheckpoint._system.words import PolledWord
from mpcheckpoint.maintenance import Examination, Finding, examine
from support.capabilities import can_mount_tmpfs, require
from support.full_disk import fill
from support.processes import call
from support.shell import CommandLine
from support.tmpfs import TmpFileSystem
from support.verbs import inside, log_file, tear, told, tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.verbs import Faults

# What takes time: syncs, and a process that must be refused a lock. Real ones are in what runs through the shell.
pytestmark = pytest.mark.usefixtures("without_syncs")

_PROOF_BY_CHILD = system.locks._proof_by_child

CHECKS = [
    "place",
    "file system",
    "locks",
    "sync",
    "names",
    "wake-ups",
    "space",
    "open files",
    "clock",
    "core",
    "store",
]


def looked(directory: Path) -> Examination:
    """Return what an examination finds, appends left out; nothing may be left behind."""
    before = names_below(directory)
    examination = examine(directory, append_s=0)
    assert names_below(directory) == before
    return examination


def names_below(directory: Path) -> list[str]:
    return sorted(str(path) for path in directory.rglob("*"))


def finding(examination: Examination, check: str) -> Finding:
    """Return the one finding of a check."""
    (found,) = (each for each in examination.findings if each.check == check)
    return found


def mounted(monkeypatch: pytest.MonkeyPatch, kind: str = "ext4", *options: str) -> None:
    """Let every place lie on such a file system."""
    monkeypatch.setattr(system, "mount_of", lambda path: Mount("/", kind, "/dev/x", ("rw", *options)))


# --- what cannot be tried ----------------------------------------------------------------------------------


@pytest.mark.guarantee(11)
def test_place_examined_while_no_process_can_be_started_is_not_called_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The fixture of this module answers for the child.
    monkeypatch.setattr(system.locks, "_proof_by_child", _PROOF_BY_CHILD)
    monkeypatch.setattr(system.locks, "_lock_in_child", None)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))

    examination = examine(tmp_path, append_s=0.1)

    assert examination.verdict == "warn"
    assert "not proven between processes" in finding(examination, "locks").text
    assert "no-python could not be run" in finding(examination, "locks").text
    assert "not measured" in finding(examination, "appends").text
    assert list(tmp_path.iterdir()) == []


# --- good places -------------------------------------------------------------------------------------------


def test_good_place_is_called_so_with_figures(shell_and_place: tuple[CommandLine, Path]) -> None:
    shell, place = shell_and_place

    ended = shell.run("doctor", "place", "--json")

    found = {row["check"]: row for row in ended.rows}
    assert set(found) == {*CHECKS, "appends"}
    assert ended.code == {"ok": 0, "warn": 1}[max(row["verdict"] for row in ended.rows)]
    assert found["locks"]["figures"]["pair_us"] > 0
    assert found["sync"]["figures"]["median_us"] <= found["sync"]["figures"]["worst_us"]
    assert found["appends"]["figures"]["one_per_s"] > 0
    assert found["appends"]["figures"]["processes"] >= 2
    assert found["space"]["figures"]["free_bytes"] > 0
    assert found["file system"]["figures"]["type"] in found["file system"]["text"]
    assert list(place.iterdir()) == []


@pytest.fixture
def shell_and_place(tmp_path: Path) -> tuple[CommandLine, Path]:
    place = tmp_path / "place"
    place.mkdir()
    return CommandLine(tmp_path), place


def test_place_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    examination = looked(tmp_path / "new" / "store")

    assert "can be made in" in finding(examination, "place").text
    assert not (tmp_path / "new").exists()
    assert examination.verdict in ("ok", "warn")


def test_store_that_is_in_use_is_only_read(tmp_path: Path) -> None:
    with Checkpoint(tmp_path / "store") as checkpoint:
        log = checkpoint.log("a")
        log.append("x", 1)
        before = tree(inside(tmp_path / "store"))

        examination = looked(tmp_path / "store")

        assert tree(inside(tmp_path / "store")) == before
        assert finding(examination, "store").text == "1 log, each with a sound header"
        log.append("x", 2)


# --- bad places --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["file", "below a file", "link to nothing"])
def test_what_is_no_directory_is_bad(tmp_path: Path, what: str) -> None:
    place = tmp_path / "place"
    if what == "link to nothing":
        place.symlink_to(tmp_path / "nowhere")
    else:
        place.write_bytes(b"")

    examination = examine(place / "store" if what == "below a file" else place)

    assert (examination.verdict, len(examination.findings)) == ("bad", 1)
    assert "no directory" in examination.findings[0].text


def test_place_that_is_read_only_full_or_in_memory_is_told(tmp_path: Path) -> None:
    require(can_mount_tmpfs(), "no tmpfs can be mounted here")
    with TmpFileSystem(tmp_path, 4 << 20) as disk:
        in_memory = looked(disk.mountpoint)
        assert in_memory.verdict == "warn"
        assert "survives a loss of power" in finding(in_memory, "file system").text
        assert finding(in_memory, "sync").verdict == "ok"
        assert finding(in_memory, "space").verdict == "warn"

        fill(disk.mountpoint / "filler")
        full = looked(disk.mountpoint)
        assert finding(full, "space").verdict == "bad"
        assert "No space left" in " ".join(each.text for each in full.findings)
        (disk.mountpoint / "filler").unlink()

        disk.remount_read_only()
        read_only = looked(disk.mountpoint)
        assert finding(read_only, "place").verdict == "bad"
        assert "Read-only file system" in finding(read_only, "place").text


def doctored(place: Path) -> tuple[str, str]:
    examination = examine(place, append_s=0)
    return examination.verdict, finding(examination, "place").text


def test_place_without_permission_is_bad(public_tmp_path: Path, run_as_nobody: Callable[..., Any]) -> None:
    verdict, text = run_as_nobody(doctored, public_tmp_path)

    assert verdict == "bad"
    assert "Permission denied" in text


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_system_without_locks_is_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(system.locks, "lock", refuse)
    monkeypatch.setattr(system.locks, "try_lock", refuse)

    examination = examine(tmp_path, append_s=0.1)

    assert finding(examination, "locks").verdict == "bad"
    assert os.strerror(error) in finding(examination, "locks").text
    assert "appends" not in [each.check for each in examination.findings]
    assert list(tmp_path.iterdir()) == []


def test_locks_that_do_nothing_are_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system.locks, "lock", lambda fd, timeout_s=None: True)
    monkeypatch.setattr(system.locks, "try_lock", lambda fd: True)

    assert "locked at the same time" in finding(looked(tmp_path), "locks").text


@pytest.mark.parametrize(
    ("kind", "options", "verdict", "text"),
    [
        ("ext4", (), "ok", "ext4 on / (/dev/x; rw)"),
        ("ext4", ("nobarrier",), "warn", "nobarrier"),
        ("ext4", ("barrier=0",), "warn", "barrier=0"),
        ("ext4", ("data=writeback",), "warn", "stale bytes"),
        ("overlay", (), "warn", "use a volume"),
        ("tmpfs", (), "warn", "in memory"),
        ("fuse.bindfs", (), "warn", "a program's file system"),
        ("fuse.bindfs", (), "warn", "not known to this release"),
        ("newfs", (), "warn", "not known to this release"),
        ("xfs", (), "ok", "a local file system"),
        ("fuseblk", (), "warn", "a program's file system"),
        ("fakeowner", (), "bad", "another system"),
        ("fuse.juicefs", (), "bad", "keep the store on a local one"),
    ],
)
def test_file_system_is_judged(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    options: tuple[str, ...],
    verdict: str,
    text: str,
) -> None:
    mounted(monkeypatch, kind, *options)

    found = finding(looked(tmp_path), "file system")

    assert found.verdict == verdict
    assert text in found.text


def test_unknown_file_system_is_told_of_once_also_where_appends_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(system, "unknown_file_system", lambda path: "newfs")
    mounted(monkeypatch, "newfs")

    examination = examine(tmp_path, append_s=0.01)

    assert "newfs" in finding(examination, "file system").text
    assert finding(examination, "appends").verdict == "ok"
    assert told(caplog) == []


@pytest.mark.parametrize(("is_asked_for", "verdict"), [(False, "bad"), (True, "warn")])
def test_network_file_system_is_bad_unless_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_asked_for: bool, verdict: str
) -> None:
    mounted(monkeypatch, "nfs4")
    monkeypatch.setattr(system, "network_file_system", lambda path: "nfs4")
    monkeypatch.setenv("MPCHECKPOINT_ALLOW_NETWORK", "1" if is_asked_for else "")

    assert finding(looked(tmp_path), "file system").verdict == verdict


# --- where what is open is kept in its directory ------------------------------------------------------------


class HidesWhatIsOpen:
    """Removes files as FUSE and NFS do: one that is open gets another name, and goes when it was closed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, lets_go: bool = True) -> None:
        self._lets_go = lets_go
        self.hidden: list[str] = []
        self._remove, self._list = system.remove, system.list_directory
        monkeypatch.setattr(system, "remove", self.remove)
        monkeypatch.setattr(system, "list_directory", self.list_directory)

    def remove(self, path: str) -> None:
        if ".fuse_hidden" in path:
            raise OSError(errno.EBUSY, "Device or resource busy", path)
        if not self.is_open(path) and self._lets_go:
            self._remove(path)
            return
        self.hidden.append(os.path.join(os.path.dirname(path), f".fuse_hidden{len(self.hidden)}"))
        os.rename(path, self.hidden[-1])

    def list_directory(self, path: str) -> list[str]:
        for hidden in self.hidden:
            if os.path.exists(hidden) and not self.is_open(hidden) and self._lets_go:
                os.unlink(hidden)
        return self._list(path)

    @staticmethod
    def is_open(path: str) -> bool:
        descriptors = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        return any(os.path.exists(each) and os.path.samefile(each, path) for each in descriptors)


@pytest.mark.guarantee(11)
def test_place_that_keeps_what_is_open_gets_a_verdict_and_is_left_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    HidesWhatIsOpen(monkeypatch)

    examination = examine(tmp_path, append_s=0)

    assert [each.check for each in examination.findings] == CHECKS
    assert list(tmp_path.iterdir()) == []


@pytest.mark.guarantee(11)
def test_what_cannot_be_removed_is_named_and_all_other_checks_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "_LONGEST_REMOVAL_S", 0.1)
    HidesWhatIsOpen(monkeypatch, lets_go=False)

    examination = examine(tmp_path, append_s=0)

    (left,) = tmp_path.iterdir()
    assert finding(examination, "clean-up").verdict == "warn"
    assert str(left) in finding(examination, "clean-up").text
    assert {each.check for each in examination.findings} == {*CHECKS, "clean-up"}


# --- syncs, names, wake-ups --------------------------------------------------------------------------------


def test_syncs_that_are_too_quick_are_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted(monkeypatch)
    monkeypatch.setattr(system, "sync_data", lambda fd: None)

    found = finding(looked(tmp_path), "sync")

    assert found.verdict == "warn"
    assert "no disk is that quick" in found.text


def test_syncs_that_are_slow_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted(monkeypatch)
    monkeypatch.setattr(probes, "_SLOW_S", 0.0)
    monkeypatch.setattr(probes, "_INCREDIBLE_S", 0.0)

    assert "append in batches" in finding(looked(tmp_path), "sync").text


@pytest.mark.parametrize(
    ("call", "check"), [("sync_data", "sync"), ("sync_directory", "names"), ("replace", "names")]
)
def test_what_the_disk_refuses_is_bad(tmp_path: Path, faults: Faults, call: str, check: str) -> None:
    faults.fail(call, errno.EIO)

    found = finding(looked(tmp_path), check)

    assert (found.verdict, found.figures["errno"]) == ("bad", errno.EIO)
    assert "Input/output error" in found.text


def test_wake_ups_that_are_not_there_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: Faults
) -> None:
    fault = faults.fail("shared_word", errno.ENODEV, times=100)
    assert finding(looked(tmp_path), "wake-ups").verdict == "warn"
    fault.clear()

    monkeypatch.setattr(system, "shared_word", PolledWord)
    assert finding(looked(tmp_path), "wake-ups").figures == {"is_woken": False}


# --- limits and clock --------------------------------------------------------------------------------------


def examined_with_few_files(place: Path) -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    return finding(examine(place, append_s=0), "open files")


def test_low_limit_on_open_files_is_told(tmp_path: Path) -> None:
    found = call(examined_with_few_files, tmp_path, method="spawn")

    assert (found.verdict, found.figures["limit"]) == ("warn", 128)
    assert "ulimit -n" in found.text


@pytest.mark.parametrize(
    ("times_us", "verdict", "text"),
    [
        ((-1,), "bad", "outside the years"),
        ((8_000_000_000_000_000,), "bad", "outside the years"),
        ((1_000_000_000_000_000,), "warn", "that is past"),
        ((1_800_000_000_000_000, 1_800_000_500_000_000), "warn", "it was set by +"),
    ],
)
def test_clock_that_makes_no_sense_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times_us: tuple[int, ...], verdict: str, text: str
) -> None:
    times = list(times_us)
    monkeypatch.setattr(system, "now_us", lambda: times.pop(0) if len(times) > 1 else times[0])

    found = finding(looked(tmp_path), "clock")

    assert found.verdict == verdict
    assert text in found.text


# --- the store that stands there ---------------------------------------------------------------------------


def test_store_that_needs_looking_after_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: Faults
) -> None:
    store = tmp_path / "store"
    checkpoint = Checkpoint(store)
    for log_key in ("newer", "poisoned", "ahead"):
        checkpoint.log(log_key).append("x", 1)
    faults.fail("sync_data", errno.EIO, on="poisoned")
    with pytest.raises(OSError, match="sync failed"):
        checkpoint.log("poisoned").append("x", 2)
    clock.observe(system.now_us() + 3_600_000_000)
    checkpoint.log("ahead").append("x", 2)
    tear(store, log_key="ahead")
    monkeypatch.setattr(clock, "highest_us", 0)
    newer = log_file(store, "newer")
    newer.write_bytes(newer.read_bytes().replace(b'"version":1', b'"version":9'))
    inside(store, "photos1612345678").write_bytes(b'{"a": 1}\n')
    inside(store, "x.jsonl.0.tmp").write_bytes(b"")

    texts = [f"{each.verdict}: {each.text}" for each in looked(store).findings if each.check == "store"]

    for verdict, text in (
        ("bad", "format version 9"),
        ("bad", "'poisoned' takes no appends"),
        ("warn", "'ahead' ends 3,600 s in the future"),
        ("warn", f"mpcheckpoint import --store {store} {store}"),
        ("ok", "1 temporary file"),
    ):
        assert [each for each in texts if each.startswith(verdict) and text in each], (text, texts)
    assert not [each for each in texts if "each with a sound header" in each]


@pytest.mark.parametrize("what", ["file", "symbolic link"])
def test_what_stands_where_the_store_should_is_bad(tmp_path: Path, what: str) -> None:
    if what == "file":
        inside(tmp_path).write_bytes(b"")
    else:
        (tmp_path / "elsewhere").mkdir()
        inside(tmp_path).symlink_to(tmp_path / "elsewhere")

    found = finding(looked(tmp_path), "store")

    assert found.verdict == "bad"
    assert f"is a {what}" in found.text


# --- nothing left behind -----------------------------------------------------------------------------------


def test_what_a_killed_check_left_is_recognised_and_removed(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from mpcheckpoint._maintenance.places.scratch import Scratch\n"
        "with Scratch(sys.argv[1]) as scratch:\n"
        "    os.mkdir(scratch.path + '/inside')\n"
        "    open(scratch.path + '/inside/file', 'w').close()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, tmp_path], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()

    with Scratch(str(tmp_path)) as in_use:  # another check that runs at this moment
        examination = examine(tmp_path, append_s=0)
        assert [path.name for path in tmp_path.iterdir()] == [os.path.basename(in_use.path)]

    assert finding(examination, "place").figures["removed"] == 1
    assert not left.exists()
    assert list(tmp_path.iterdir()) == []


def test_check_that_is_interrupted_leaves_nothing(tmp_path: Path, faults: Faults) -> None:
    faults.fail("sync_data", KeyboardInterrupt(), at=3)

    with pytest.raises(KeyboardInterrupt):
        examine(tmp_path, append_s=0)

    assert list(tmp_path.iterdir()) == []


def test_examination_whose_findings_nobody_takes_leaves_nothing(tmp_path: Path) -> None:
    def refuse(found: Finding) -> None:
        if found.check == "locks":
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError) as caught:
        examine(tmp_path, append_s=0, on_finding=refuse)

    assert list(tmp_path.iterdir()) == [], caught


def test_doctor_whose_output_nobody_reads_ends_quietly_and_leaves_nothing(tmp_path: Path) -> None:
    command = f"'{sys.executable}' -m mpcheckpoint doctor . | true; echo ${{PIPESTATUS[0]}}"

    ended = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, check=False, timeout=60
    )

    assert (ended.stdout, ended.stderr) == (b"141\n", b"")
    assert list(tmp_path.iterdir()) == []


def test_doctor_in_a_shell_ends_with_a_plain_verdict(tmp_path: Path) -> None:
    shell = CommandLine(tmp_path)
    (tmp_path / "a\x1b[31mfile").write_bytes(b"")

    bad = shell.run("doctor", "a\x1b[31mfile")

    assert bad.code == 2
    assert "\x1b" not in bad.out
    assert bad.out.splitlines()[-1] == "this place cannot hold a store as it is"
    assert "Missing argument" in shell.refused("doctor")
    assert "give STORE once" in shell.refused("doctor", "a", "--store", "b")
