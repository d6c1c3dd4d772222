"""The recorder below the C library sees every call, changes none, and does what its rules say."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import _core
from support.capabilities import can_trace, has_command, native_core, require
from support.recorder.library import SOURCE, recorder, under_recorder
from support.recorder.records import Call, comparable, differences, read_record
from support.verbs import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.processes import Children

MOST_LINES = 500
# Starts quickly: without the library, and without what a site adds.
BARE = [sys.executable, "-I", "-S", "-c"]
START = """
import os
fd = os.open("file", os.O_RDWR | os.O_CREAT)
"""
WRITE = START + 'os.pwrite(fd, b"abc", 0)\nos.pwrite(fd, b"def", 3)\nos.fdatasync(fd)\n'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The directory of which calls are recorded, and in which programs run."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def recorded(
    place: Path, program: str, *, rules: str = "", status: int = 0, **settings: object
) -> tuple[list[Call], str]:
    """Return the calls of a program, and what it printed. It has to end with that status."""
    record = place.with_name("record")
    record.unlink(missing_ok=True)
    done = subprocess.run(
        [*BARE, textwrap.dedent(program)],
        env=under_recorder(is_pure=True, out=record, below=place, rules=rules, **settings),
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    # Of the program itself, not of the interpreter's start, which looks at its current directory.
    return [call for call in read_record(record) if call.path != "."], done.stdout


def brief(calls: list[Call]) -> list[str]:
    return [f"{call.name} {call.path} {call.arguments}".strip() for call in calls]


# --- what is recorded ----------------------------------------------------------------------------------------


def test_record_has_name_path_arguments_result_and_bytes_of_each_call(place: Path) -> None:
    calls, _ = recorded(place, WRITE + "os.pread(fd, 4, 1)\nos.ftruncate(fd, 2)\nos.close(fd)\n")

    assert brief(calls)[1:] == [
        "pwrite file offset=0 length=3",
        "pwrite file offset=3 length=3",
        "fdatasync file",
        "pread file offset=1 length=4",
        "ftruncate file length=2",
        "close file",
    ]
    assert calls[0][:3] == (0, "open", "file")
    assert [(call.result, bytes.fromhex(call.data)) for call in calls[1:5]] == [
        (3, b"abc"),
        (3, b"def"),
        (0, b""),
        (4, b"bcde"),
    ]


def test_record_has_what_failed_with_its_errno(place: Path) -> None:
    calls, printed = recorded(
        place,
        "import os\ntry:\n    os.open('none', os.O_RDONLY)\nexcept OSError as error:\n    print(error.errno)",
    )

    assert [(call.name, call.path, call.result, call.error) for call in calls] == [
        ("open", "none", -1, errno.ENOENT)
    ]
    assert int(printed) == errno.ENOENT


def test_record_has_names_locks_looks_and_maps(place: Path) -> None:
    calls, _ = recorded(
        place,
        START
        + """
        import fcntl
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.mkdir("made")
        os.rename("file", "renamed")
        os.link("renamed", "linked")
        os.unlink("linked")
        os.rmdir("made")
        os.stat("renamed"), os.lstat("renamed"), os.fstat(fd)
        os.access("renamed", os.F_OK)
        os.lseek(fd, 0, os.SEEK_END), os.write(fd, b"end"), os.fsync(fd), os.read(fd, 3)
        """.replace("\n        ", "\n"),
    )

    assert brief(calls)[1:] == [
        "flock file operation=6",
        "flock file operation=8",
        "mkdir made mode=0777",
        "rename file flags=0 to=renamed",
        "link renamed flags=0 to=linked",
        "unlink linked",
        "rmdir made",
        "stat renamed flags=0",
        "stat renamed flags=0x100",
        "fstat renamed",
        "access renamed mode=0 flags=0",
        "lseek renamed offset=0 whence=2",
        "write renamed length=3",
        "fsync renamed",
        "read renamed length=3",
    ]
    assert next(call.data for call in calls if call.name == "fstat").endswith("links=1 size=0")


def test_record_has_calls_through_ctypes_of_the_library_itself(place: Path) -> None:
    program = """
        import ctypes, mmap, os
        libc = ctypes.CDLL(None)
        fd = os.open("file", os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, 4096)
        buffer = ctypes.create_string_buffer(256)
        assert libc.statx(fd, b"", 0x1000, 0x200, buffer) == 0
        libc.mmap.restype = ctypes.c_void_p
        address = libc.mmap(None, 4096, 1, 1, fd, 0)
        libc.syscall.argtypes = [ctypes.c_long, ctypes.c_void_p, *[ctypes.c_long] * 5]
        futex = {"x86_64": 202, "aarch64": 98, "riscv64": 98}.get(os.uname().machine)
        if futex is not None:
            libc.syscall(futex, address + 132, 1, 7, 0, 0, 0)
        libc.munmap(ctypes.c_void_p(address), 4096)
    """
    calls, _ = recorded(place, program)

    assert next(call.data for call in calls if call.name == "statx").endswith("links=1 size=4096")
    assert "mmap file length=4096 protection=1 flags=0x1 offset=0" in brief(calls)
    if os.uname().machine in {"x86_64", "aarch64", "riscv64"}:
        assert "futex file offset=132 operation=1 value=7 wait_us=-1" in brief(calls)


def test_record_has_nothing_of_other_places_and_other_processes(place: Path) -> None:
    place.with_name("place of another").mkdir()
    calls, _ = recorded(
        place,
        """
        import os
        parent = os.path.dirname(os.getcwd())
        os.close(os.open(parent + "/place of another/file", os.O_RDWR | os.O_CREAT))
        os.close(os.open(parent + "/beside", os.O_RDWR | os.O_CREAT))
        child = os.fork()
        if child == 0:
            os.open("by the child", os.O_RDWR | os.O_CREAT)
            os._exit(0)
        os.waitpid(child, 0)
        os.open("by the parent", os.O_RDWR | os.O_CREAT)
        """,
    )

    assert [call.path for call in calls] == ["by the parent"]
    assert (place / "by the child").exists()


def test_record_names_a_file_however_it_was_opened(place: Path) -> None:
    (place / "below").mkdir()
    calls, _ = recorded(
        place,
        """
        import os
        there = os.open("below", os.O_RDONLY)
        fd = os.open("file", os.O_RDWR | os.O_CREAT, dir_fd=there)
        other = os.dup(fd)
        os.dup2(other, 77)
        os.pwrite(77, b"x", 0)
        os.unlink("below/file")
        os.pwrite(other, b"x", 0)
        """,
    )

    assert brief(calls)[2:] == [
        "pwrite below/file offset=0 length=1",
        "unlink below/file",
        "pwrite below/file (deleted) offset=0 length=1",
    ]


def test_record_of_many_bytes_differs_in_any_of_them(place: Path) -> None:
    one, same, other = (
        recorded(place, START + f'os.pwrite(fd, b"x" * 99_999 + b"{last}", 0)')[0] for last in "aab"
    )

    assert one[-1].data.startswith("length=100000 hash=")
    assert one[-1] == same[-1] != other[-1]


# --- what is not changed -------------------------------------------------------------------------------------


def test_program_prints_and_leaves_the_same_under_the_recorder(place: Path) -> None:
    program = (
        WRITE + "print(fd, os.fstat(fd).st_size, os.pread(fd, 9, 0), os.listdir('.'), os.getenv('HOME'))"
    )
    _, printed = recorded(place, program)
    left = (place / "file").read_bytes()
    (place / "file").unlink()
    alone = subprocess.run([*BARE, program], cwd=place, capture_output=True, text=True, check=True)

    assert alone.stdout == printed
    assert (place / "file").read_bytes() == left == b"abcdef"


APPENDS = """
import sys
from mpcheckpoint import Checkpoint
log = Checkpoint(sys.argv[1]).log("a")
log.append("x", 0)
log.append_many([("x", number) for number in range(3)])
"""
# The kernel has several calls for what is one function, and the other way round.
NAMES = {
    "openat": "open",
    "pread64": "pread",
    "pwrite64": "pwrite",
    "newfstatat": "stat",
    "fstat": "stat",
    "renameat2": "rename",
    "renameat": "rename",
    "linkat": "link",
    "mkdirat": "mkdir",
    "unlinkat": "unlink",
}
OTHERS = ("flock", "fdatasync", "fsync", "ftruncate", "statx", "rename", "link", "unlink", "mkdir", "rmdir")
TRACED = ",".join(f"?{name}" for name in (*NAMES, *OTHERS))


def traced_calls(trace: str, store: Path) -> list[tuple[str, ...]]:
    """Return name and path of the calls on files below a store, as strace has written them; of reads and writes also
    length, offset and result."""
    found = []
    for line in trace.splitlines():
        match = re.match(r"(\w+)\((.*)", line)
        paths = re.findall(rf"[<\"]{re.escape(str(store))}/([^\">]*)[>\"]", match[2]) if match else []
        if match and paths:
            numbers = re.search(r", (\d+), (\d+)\) += (\d+)$", line) if "64" in match[1] else None
            found.append((NAMES.get(match[1], match[1]), paths[0], *(numbers.groups() if numbers else ())))
    return found


def recorded_calls(calls: list[Call]) -> list[tuple[str, ...]]:
    """Return the same of recorded calls."""
    found = []
    for call in calls:
        name = NAMES.get(call.name, call.name)
        numbers = re.fullmatch(r"offset=(\d+) length=(\d+)", call.arguments)
        more = (numbers[2], numbers[1], str(call.result)) if numbers else ()
        if name in {*NAMES.values(), *OTHERS}:
            found.append((name, call.path.removesuffix(" (deleted)"), *more))
    return found


def comparable_calls(calls: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Leave out what differs: names by chance, and looks into directories, which the C library opens by itself."""
    return [
        (name, re.sub(r"[0-9a-f]{32}", "N", path), *more)
        for name, path, *more in calls
        if path not in {".", ".checkpoint"}
    ]


@pytest.mark.slow
@pytest.mark.parametrize("is_pure", [True, False], ids=["Python", "native core"])
def test_record_of_appends_is_what_the_kernel_was_asked_for(tmp_path: Path, is_pure: bool) -> None:
    """strace sees the same calls of the same program where it runs without the recorder."""
    require(has_command("strace"), "strace is not installed")
    if not can_trace():
        pytest.skip("strace may trace no process here")
    store, record, trace = tmp_path / "store", tmp_path / "record", tmp_path / "trace"
    settings = under_recorder(is_pure=is_pure, out=record, below=store)
    program = [sys.executable, "-c", APPENDS, str(store)]
    subprocess.run(program, env=settings, check=True)
    subprocess.run(["rm", "-r", str(store)], check=True)
    plain = {name: value for name, value in settings.items() if not name.startswith(("LD_", "RECORDER_"))}
    # Of the process itself: the proof that locks exclude another one starts one.
    subprocess.run(
        ["strace", "-y", "-e", f"trace={TRACED}", "-o", str(trace), *program], env=plain, check=True
    )

    seen = comparable_calls(recorded_calls(read_record(record)))
    assert seen == comparable_calls(traced_calls(trace.read_text(encoding="utf-8"), store))
    assert {len(call) for call in seen if call[0] == "pwrite"} == {5}
    assert len(seen) > 30


def test_native_core_calls_no_function_that_reaches_files_unseen() -> None:
    require(has_command("nm"), "nm is not installed")
    native = native_core()

    def symbols(path: str, kind: str) -> set[str]:
        listed = subprocess.run(["nm", "-D", kind, path], capture_output=True, text=True, check=True).stdout
        return {line.split()[-1].partition("@")[0] for line in listed.splitlines()}

    harmless = re.compile(
        r"_?Py\w+|__?(cxa|ITM|gmon|stack_chk|errno|assert)\w*|_?(mem|str|pthread_|sem_|sigaction|clock_)\w+"
        r"|(m|c|re)alloc|free|getpid|sched_yield|nanosleep|v?snprintf|abort|__(mem|str|v?snprintf)\w*_chk"
        r"|clone|waitpid|sigfillset"  # a child that asks for a lock by functions that are seen
    )
    needed = symbols(str(native.__file__), "--undefined-only")
    seen = symbols(str(recorder()), "--defined-only")
    assert {name for name in needed - seen if not harmless.fullmatch(name)} == set()
    assert {"pread64", "pwrite64", "openat64", "fstat64", "__pread64_chk", "syscall"} <= seen


def test_source_of_the_recorder_is_short() -> None:
    assert len(SOURCE.read_text(encoding="utf-8").splitlines()) < MOST_LINES


# --- rules ---------------------------------------------------------------------------------------------------

TELLS = (
    START
    + """
for number in range(3):
    try:
        print(os.pwrite(fd, b"abc", 3 * number))
    except OSError as error:
        print(error.errno)
"""
)


@pytest.mark.parametrize(
    ("rules", "printed", "left"),
    [
        ("pwrite file 2 fail=28", [3, 28, 3], b"abc\0\0\0abc"),
        ("pwrite file 2 fail-after=5", [3, 5, 3], b"abcabcabc"),
        ("pwrite file 2 answer=2", [3, 2, 3], b"abc\0\0\0abc"),
        ("pwrite file 2 short=1", [3, 1, 3], b"abca\0\0abc"),
        ("pwrite f* 1x2 fail=28", [28, 28, 3], b"\0\0\0\0\0\0abc"),
        ("p* * 3 fail=28", [3, 3, 28], b"abcabc"),
        ("pwrite other 1 fail=28", [3, 3, 3], b"abcabcabc"),
        ("pwrite * 4 fail=28", [3, 3, 3], b"abcabcabc"),
        ("pwrite * 1 fail=28; pwrite * 2 short=2\npwrite * 3 answer=1", [28, 2, 1], b"\0\0\0ab"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rule_makes_the_calls_that_fit_go_another_way(
    place: Path, rules: str, printed: list[int], left: bytes
) -> None:
    calls, lines = recorded(place, TELLS, rules=rules)

    assert list(map(int, lines.split())) == printed
    assert (place / "file").read_bytes() == left
    assert [call.error or call.result for call in calls if call.name == "pwrite"] == printed


def test_rule_that_interrupts_a_call_has_python_make_it_again(place: Path) -> None:
    calls, _ = recorded(place, WRITE, rules=f"pwrite file 1 fail={errno.EINTR}")

    assert brief(calls)[1:4] == ["pwrite file offset=0 length=3"] * 2 + ["pwrite file offset=3 length=3"]
    assert (place / "file").read_bytes() == b"abcdef"


@pytest.mark.parametrize(("action", "left"), [("kill", b"abc"), ("kill-after", b"abcdef")])
def test_rule_that_kills_does_so_before_the_call_or_after_it(place: Path, action: str, left: bytes) -> None:
    calls, _ = recorded(place, WRITE, rules=f"pwrite file 2 {action}", status=-signal.SIGKILL)

    assert (place / "file").read_bytes() == left
    assert brief(calls)[-1] == "pwrite file offset=3 length=3"
    assert calls[-1].note == action


def test_rule_that_delays_takes_its_time(place: Path) -> None:
    _, printed = recorded(
        place,
        "import time\n"
        + START
        + "began = time.monotonic()\nos.fdatasync(fd)\nprint(time.monotonic() - began)",
        rules="fdatasync * 1 delay=50",
    )

    assert float(printed) >= 0.05


def test_rule_that_stops_waits_before_the_call_until_it_is_told_to_go_on(
    place: Path, children: Children
) -> None:
    settings = under_recorder(
        is_pure=True, out=place.with_name("record"), below=place, rules="pwrite file 2 stop"
    )
    child = children.start_command([*BARE, WRITE], env=settings, cwd=place)
    status = Path(f"/proc/{child.pid}/stat")
    wait_until(lambda: status.read_text(encoding="ascii").rpartition(")")[2].split()[0] == "T", "it stops")
    before = (place / "file").read_bytes()

    child.resume()

    assert child.wait() == 0
    assert (before, (place / "file").read_bytes()) == (b"abc", b"abcdef")


@pytest.mark.parametrize(
    "rules",
    ["pwrite", "pwrite * 1", "pwrite * 1 burn=5", "pwrite * x fail=5", "\n".join(["a b 1 kill"] * 40)],
)
def test_rule_that_is_none_is_refused(place: Path, rules: str) -> None:
    recorded(place, WRITE, rules=rules, status=70)


# --- time and chance -----------------------------------------------------------------------------------------

DRAWS = "import os, time, uuid\nprint(time.time_ns(), os.urandom(8).hex(), uuid.uuid4(), uuid.uuid4())"


def test_time_and_chance_that_are_fixed_are_those_of_every_run(place: Path) -> None:
    _, one = recorded(place, DRAWS, time_us=1_700_000_000_000_001, seed=7)
    _, same = recorded(place, DRAWS, time_us=1_700_000_000_000_001, seed=7)
    _, other = recorded(place, DRAWS, time_us=1_700_000_000_000_001, seed=8)

    time_ns, _, first, second = one.split()
    assert time_ns == "1700000000000001000"
    assert one == same != other
    assert first != second


def test_time_and_chance_that_are_not_fixed_go_on(place: Path) -> None:
    before_ns = time.time_ns()
    _, one = recorded(place, DRAWS)
    _, other = recorded(place, DRAWS)

    assert before_ns < int(one.split()[0]) < int(other.split()[0])
    assert not set(one.split()[1:]) & set(other.split()[1:])


# --- what is different is found ------------------------------------------------------------------------------

PLANTED: dict[str, Callable[[str], str]] = {
    "a call more": lambda program: program + "os.fdatasync(fd)\n",
    "a call fewer": lambda program: program.replace("os.fdatasync(fd)\n", ""),
    "other bytes": lambda program: program.replace("def", "dEf"),
    "another offset": lambda program: program.replace(", 3)", ", 4)"),
    "another order": lambda program: (
        START + WRITE.removeprefix(START).replace("0)\nos", "0)\nos.fdatasync(fd)\nos", 1)
    ),
    "another file": lambda program: program.replace('"file"', '"another"'),
    "another permission": lambda program: program.replace("O_CREAT)", "O_CREAT, 0o600)"),
    "another result": lambda program: program.replace("os.pwrite", "os.truncate('file', 0), os.pwrite"),
}


@pytest.mark.parametrize("mistake", PLANTED)
def test_program_that_asks_for_something_else_is_found(place: Path, mistake: str) -> None:
    def fresh(program: str) -> list[Call]:
        for path in place.iterdir():
            path.unlink()
        return comparable(recorded(place, program)[0])

    usual = fresh(WRITE)

    assert differences(usual, fresh(WRITE)) == ""
    assert differences(usual, fresh(PLANTED[mistake](WRITE))).startswith("call ")


def test_core_that_runs_is_the_one_that_was_asked_for(place: Path) -> None:
    def kind(is_pure: bool) -> str:
        command = [sys.executable, "-c", "from mpcheckpoint import _core; print(_core.kind)"]
        environment = under_recorder(is_pure=is_pure)
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    assert kind(True) == "pure"
    if _core.native is not None:
        assert kind(False) == "native"
