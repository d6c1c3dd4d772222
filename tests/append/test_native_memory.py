"""The functions of the native core by which records are appended leave no memory behind, however often they are called.

A million calls of each function: ``pytest --intensity 10 -k memory_behind -s``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import EndState
from support.capabilities import native_core, require
from support.leaks import CALLS, require_no_leak
from support.verbs import generation_of, log_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpcheckpoint import Log

# By the tests here, and by those of the scan, the count, the encoding, the index and the bodies of a server.
CALLED = {
    *("AppendState", "HighestStamp", "await_group", "crc32", "file_facts", "futex_wait", "futex_wake"),
    "lock_in_child",
    *(
        "scan",
        "count",
        "payload",
        "payloads",
        "batch",
        "parts_bytes",
        "index",
        "shifted",
        "recode",
        "block",
        "recode_block",
        "Tally",
        "records",
        "last_records",
        "bodies",
    ),
}
# What the interpreter keeps of some calls, to use it again.
SOME_BYTES = 256 * 1024
# What no word of a page holds after a record or two: nobody waits for it to change.
NO_WORD = 0xFFFF_1234


@pytest.fixture
def store() -> Iterator[Path]:
    """Where a store is to stand: in memory, where that can be. A hundred thousand syncs of a disk take minutes."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    directory = Path(tempfile.mkdtemp(dir=memory, prefix="mpcheckpoint-memory-"))
    yield directory / "store"
    shutil.rmtree(directory)


def test_each_function_of_the_native_core_is_called_by_a_test_of_its_memory() -> None:
    native = native_core()
    functions = {name for name, each in vars(native).items() if callable(each) and not name.startswith("__")}

    assert functions - {"Numbers", "Block"} <= CALLED


@pytest.mark.parametrize("durability", ["never", "always"])
def test_appends_leave_no_memory_behind(store: Path, durability: str, intensity: int) -> None:
    if system.native is None:
        pytest.skip("the native core does not run")
    log = Checkpoint(store, durability=durability).log("a")

    require_no_leak(lambda: log.append("y", "y"), calls=CALLS * intensity)


def test_batches_leave_no_memory_behind(store: Path, intensity: int) -> None:
    if system.native is None:
        pytest.skip("the native core does not run")
    log = Checkpoint(store, durability="never").log("a")
    batch = [("y", {"n": 1.5}), ("z", None)]

    require_no_leak(lambda: log.append_many(batch), calls=CALLS * intensity)


def calls_of(store: Path) -> dict[str, Callable[[], object]]:
    """Return calls of the functions that speak to the system, each also with what it refuses."""
    native: Any = native_core()
    for name in ("await_group", "file_facts"):
        require(hasattr(native, name), f"this platform's native core has no {name}")
    page: Any = generation_of(store).page
    path, address = os.fsencode(log_file(store)), page.words[0].address

    def refused(function: Callable[..., object], *arguments: object) -> None:
        try:
            function(*arguments)
        except TypeError:
            return
        raise AssertionError("it was not refused")

    def waits() -> None:
        native.futex_wait(address, NO_WORD, 0.0)
        refused(native.futex_wait, address, "value", 0.0)

    def wakes() -> None:
        native.futex_wake(address, 1)
        refused(native.futex_wake, address)

    def facts() -> None:
        native.file_facts(-100, path, 0)
        native.file_facts(-100, b"/nowhere", 0)
        refused(native.file_facts, -100, "/nowhere", 0)

    def locks() -> None:
        native.lock_in_child(path)
        native.lock_in_child(b"/nowhere")
        refused(native.lock_in_child, "/nowhere")

    def groups() -> None:
        page.await_group(1 << 40, 0, 0.1)
        refused(native.await_group, -1, b"short")

    def crcs() -> None:
        native.crc32(path, 0xFFFFFFFF)
        refused(native.crc32, "text")

    return {
        "await_group": groups,
        "crc32": crcs,
        "file_facts": facts,
        "futex_wait": waits,
        "futex_wake": wakes,
        "lock_in_child": locks,
    }


@pytest.mark.parametrize(
    "name", ["await_group", "crc32", "file_facts", "futex_wait", "futex_wake", "lock_in_child"]
)
def test_function_that_speaks_to_the_system_leaves_no_memory_behind(
    store: Path, log: Log, name: str, intensity: int
) -> None:
    if system.native is None:
        pytest.skip("the native core does not run")

    # A child a call takes long, and a stack is all that could be left of it.
    calls = CALLS // 10 if name == "lock_in_child" else CALLS
    require_no_leak(calls_of(store)[name], calls=calls * intensity)


def test_what_is_known_of_a_log_leaves_no_memory_behind(store: Path, log: Log, intensity: int) -> None:
    """Made, attached to the files of a log, asked and told everything, used, and let go of."""
    if system.native is None:
        pytest.skip("the native core does not run")
    native: Any = native_core()
    told: list[tuple[object, ...]] = []
    generation = generation_of(store)

    class Told:
        def __getattr__(self, name: str) -> Any:
            return told.append if name == "attach" else getattr(own, name)

        def __setattr__(self, name: str, value: object) -> None:
            setattr(own, name, value)

    own, generation.state = generation.state, Told()  # type: ignore[assignment]
    log.append("x", 1, record_id="id")  # in Python, which attaches
    generation.state = own
    assert len(told) == 1

    def use() -> None:
        state = native.AppendState(EndState)
        state.attach(told[0])
        state.end = EndState(*state.end)._replace(offset=1 << 40)
        state.left, state.failed_write, state.failed_sync = b"left", (b"data", [], 0), (0, 5, False, 1, ())
        state.attach(told[0])
        assert (state.end.offset, state.left, state.waiters) == (1 << 40, b"left", 0)
        for wrong in ((), (b"path",) * 3, (*told[0][:-1], 7)):
            with suppress(TypeError):
                state.attach(wrong)
        state.settle_taken()
        state.wake()
        state.detach()
        stamp = native.HighestStamp()
        stamp.observe(1 << 40)
        assert stamp.give(1, 1) == (1 << 40) + 1

    require_no_leak(use, calls=CALLS * intensity, most_bytes=SOME_BYTES)


def test_threads_that_write_for_each_other_leave_no_memory_behind(store: Path, intensity: int) -> None:
    if system.native is None:
        pytest.skip("the native core does not run")
    log = Checkpoint(store).log("a")

    def burst() -> None:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def work() -> None:
        for _ in range(250):
            log.append("y", "y")

    # Threads that run at once have arenas of their own in C's memory, and how much of these is resident is chance: up
    # to 2 MB were seen on a busy machine. What is given out of them counts as everywhere.
    calls = CALLS * intensity // 1000
    require_no_leak(burst, calls=calls, most_bytes=SOME_BYTES, chance_bytes=4 * 2**20)
