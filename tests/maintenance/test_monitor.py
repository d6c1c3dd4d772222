"""A store that is watched: figures, rates, who uses a log, how far maps are; and nobody notices."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint._maintenance.monitoring import log_monitor
from mpcheckpoint._maintenance.monitoring.log_monitor import LogMonitor, LogSight
from mpcheckpoint._maintenance.monitoring.store_monitor import StoreMonitor
from mpcheckpoint._store.store import DirectoryStore
from mpcheckpoint._work.claims import claim_payload
from mpcheckpoint.errors import LogNotFoundError, StoreNotFoundError
from mpcheckpoint.log import handle_of
from support.capabilities import can_trace, has_command, require
from support.verbs import (
    Faults,
    become_a_new_process,
    bounded,
    flip,
    inside,
    lock_file,
    log_file,
    poison,
    tree,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as executor:
        yield executor


@contextmanager
def held(path: Path) -> Iterator[None]:
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def look(store: Path) -> LogSight:
    (log,) = StoreMonitor(store).look().logs
    return log


def fails_if_odd(item: str) -> int:
    return 1 // (1 - int(item) % 2)


def test_figures_are_those_of_the_log(store: Path, log: Log) -> None:
    log.append_many([("x", 1), ("y", 2)])

    seen = look(store)

    stats = log.stats()
    assert (seen.log_key, seen.state, seen.error) == ("a", "whole", None)
    assert (seen.records, seen.objects, seen.last_us) == (stats["records"], 2, stats["last_us"])
    assert seen.size_bytes == log_file(store).stat().st_size
    assert (seen.lock, seen.holder, seen.waiters) == ("free", None, 0)
    assert (seen.appends_s, seen.syncs_s, seen.map) == (0.0, 0.0, None)


def test_rates_are_of_the_last_seconds(store: Path, log: Log) -> None:
    found, clock = DirectoryStore(store, create=False, read_only=True), Clock()
    monitor = LogMonitor(found, found.find_log("a"), clock=clock)

    def rates() -> tuple[float, float]:
        monitor.read(lambda: False)
        seen = monitor.sight((), ())
        return seen.appends_s, seen.syncs_s

    assert rates() == (0.0, 0.0)
    for number in range(10):
        log.append_many([("x", number), ("y", number)])
    clock.now_s += 2
    appends_s, syncs_s = rates()
    assert appends_s == 5.0
    assert 4.0 <= syncs_s <= 5.0  # of the last append's sync the log does not tell yet
    for _ in range(3):
        clock.now_s += 2
        last = rates()
    assert last == (0.0, 0.0)
    monitor.close()


def test_users_of_a_log_are_told_apart(store: Path, log: Log) -> None:
    program = (
        "import sys; from mpcheckpoint import Checkpoint; word, store = sys.argv[1:]\n"
        "log = Checkpoint(store, read_only=word == 'read').log('a', create=False)\n"
        "log.events('x') if word == 'read' else log.append('y', 1)\n"
        "print('ready', flush=True); sys.stdin.readline()"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program, word, str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for word in ("append", "read")
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
        seen = look(store)
    finally:
        for child in children:
            child.communicate(b"\n", timeout=60)

    assert [each.pid for each in seen.writers] == [children[0].pid]
    assert [each.pid for each in seen.readers] == [children[1].pid]
    assert "append" in (seen.writers[0].command or "")
    again = look(store)
    assert (again.writers, again.readers) == ((), ())  # this process itself does not count


def test_holder_of_the_lock_is_named_and_nobody_is_waited_for(store: Path, log: Log) -> None:
    with held(lock_file(store)):
        seen = bounded(look, store)

    assert seen.lock == "held"
    assert seen.holder is not None
    assert seen.holder.pid == os.getpid()


@pytest.mark.parametrize("keeps", ["keep", "keep-ok"])
def test_progress_of_a_map_is_that_of_its_status(
    keeps: Any, store: Path, threads: ThreadPoolExecutor
) -> None:
    log = Checkpoint(store).log("a")
    monitor = StoreMonitor(store)

    def agrees() -> None:
        (seen,) = monitor.look().logs
        status = log.map_status()
        if status is None:
            assert seen.map is None
            return
        assert seen.map is not None
        found = seen.map
        assert (found.ok, found.failed, found.to_retry) == (status.ok, status.failed, status.to_retry)
        assert (found.version, found.items) == (status.version, status.items)

    agrees()
    for items, options in (
        (range(6), {"version": "1"}),
        (range(2), {"version": "2", "if_changed": keeps}),
        (range(4, 9), {"version": "2", "rerun": "again"}),
        (range(9), {"version": "2", "retry_failed": True}),
    ):
        list(log.map(fails_if_odd, map(str, items), executor=threads, **options))  # type: ignore[call-overload]
        agrees()
    for key, event in [
        ("3", {"run": 4, "attempt": 1}),
        ("30", {"run": 4, "attempt": 1}),
        ("3", {"run": 9, "ok": True}),
    ]:
        log.append(key, event)
        agrees()
    log.forget(["1", "2"])
    agrees()
    list(log.map(fails_if_odd, ["2"], executor=threads, version="2"))
    log.forget(["5"])
    list(log.map(fails_if_odd, ["5"], executor=threads, version="2"))
    agrees()
    monitor.close()


def test_forgotten_failures_are_not_told(store: Path, threads: ThreadPoolExecutor) -> None:
    log = Checkpoint(store).log("a")
    list(log.map(fails_if_odd, ["1", "3"], executor=threads))
    log.forget("1")
    found = look(store).map
    assert found is not None
    assert [each.object_key for each in found.failures] == ["3"]


def test_failures_and_what_runs_are_told(store: Path, threads: ThreadPoolExecutor) -> None:
    log = Checkpoint(store).log("a")
    list(log.map(fails_if_odd, map(str, range(60)), executor=threads))
    with handle_of(log).workers.begin() as worker:
        claims = [claim_payload("x", worker.id), claim_payload("dead", "0" * 32)]
        handle_of(log).append_if(claims, lambda view: None)
        found = look(store).map

    assert found is not None
    assert [item.object_key for item in found.running] == ["x"]
    assert len(found.failures) == 20
    assert found.failures[0].cause == "ZeroDivisionError: integer division or modulo by zero"
    assert [each.stamp_us for each in found.failures] == sorted(
        (each.stamp_us for each in found.failures), reverse=True
    )


def test_new_log_is_seen_and_one_that_cannot_be_read_is_told(store: Path, log: Log) -> None:
    monitor = StoreMonitor(store)
    assert len(monitor.look().logs) == 1

    Checkpoint(store).log("b").append("x", 1)
    become_a_new_process()
    inside(store, "c.jsonl").write_bytes(b"no log\n")
    Checkpoint(store).log("d")
    seen = monitor.look().logs

    assert [(each.log_key, each.state) for each in seen] == [
        ("a", "whole"),
        ("b", "whole"),
        ("d", "whole"),
        (None, "corrupt"),
    ]
    monitor.close()


def test_damaged_log_is_told_with_what_precedes_the_damage_and_read_once(
    store: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 5):
        log.append("x", number)
    flip(store, log_file(store).read_bytes().index(b'"x",3') + 1)
    become_a_new_process()
    monitor = StoreMonitor(store)

    (seen,) = monitor.look().logs

    assert (seen.state, seen.records) == ("corrupt", 3)
    assert seen.error is not None
    counted: list[object] = []
    monkeypatch.setattr(log_monitor.Figures, "add", lambda figures, chunk: counted.append(chunk))
    (again,) = monitor.look().logs
    assert (again.state, again.records, counted) == ("corrupt", 3, [])
    monitor.close()


def test_poisoned_log_is_told(store: Path, log: Log, faults: Faults) -> None:
    poison(log, faults)

    assert look(store).state == "poisoned"


def test_log_that_got_another_generation_is_counted_anew(store: Path, log: Log, faults: Faults) -> None:
    monitor = StoreMonitor(store)
    assert monitor.look().logs[0].records == 1
    poison(log, faults)
    log.recover()
    log.append("x", 2)

    (seen,) = monitor.look().logs

    assert (seen.state, seen.records) == ("whole", log.stats()["records"])
    monitor.close()


def test_what_is_not_there_is_refused(store: Path, log: Log) -> None:
    with pytest.raises(StoreNotFoundError):
        StoreMonitor(store / "nowhere")
    with pytest.raises(LogNotFoundError):
        StoreMonitor(store, ["a", "nowhere"])
    assert [each.log_key for each in StoreMonitor(store, ["a"]).look().logs] == ["a"]


def test_look_that_is_stopped_ends_after_the_chunk_that_it_reads(store: Path, log: Log) -> None:
    monitor = StoreMonitor(store)
    monitor.stop()

    assert monitor.look().logs[0].records == 0


def test_watching_writes_nothing(store: Path, threads: ThreadPoolExecutor) -> None:
    list(Checkpoint(store).log("a").map(fails_if_odd, map(str, range(9)), executor=threads))
    become_a_new_process()
    before = tree(store)

    monitor = StoreMonitor(store)
    for _ in range(3):
        monitor.look()
    monitor.close()

    assert tree(store) == before


@pytest.mark.guarantee(11)
@pytest.mark.rule(32)
def test_watching_asks_for_no_times_of_a_log_and_takes_no_lock(store: Path, log: Log, tmp_path: Path) -> None:
    """Since Linux 6.13 to ask for them makes the next append cost a third more."""
    require(has_command("strace"), "strace is not installed")
    if not can_trace():
        pytest.skip("strace may trace no process here")
    trace = tmp_path / "trace"
    program = (
        "import os, sys; from mpcheckpoint._maintenance.monitoring.store_monitor import StoreMonitor\n"
        "monitor = StoreMonitor(sys.argv[1]); monitor.look()\n"
        "os.access('/traced from here', os.F_OK)\n"
        "for _ in range(3): monitor.look()\n"
        "os.stat(os.path.join(sys.argv[1], '.checkpoint', 'a.jsonl'))  # so that the test sees that it would see it"
    )
    calls = "stat,lstat,fstat,newfstatat,statx,access,flock,fcntl,write,pwrite64"
    command = ["strace", "-f", "-y", "-o", str(trace), "-e", f"trace=?{calls.replace(',', ',?')}"]
    subprocess.run([*command, sys.executable, "-c", program, str(store)], check=True, timeout=120)

    _, traced = trace.read_text(errors="replace").split("/traced from here", 1)
    lines = traced.splitlines()
    of_times = [
        line
        for line in lines
        if "/a.jsonl" in line
        and "stat" in line
        and ("statx(" not in line or re.search(r"STATX_([AMC]TIME|BASIC_STATS|ALL)", line.partition("{")[0]))
    ]
    assert len(of_times) == 1, of_times  # the program's own
    assert [line for line in lines if re.search(r"flock\(|F_(OFD_)?SETLK|p?write(64)?\(", line)] == []
