"""A shortage is nobody's failure: what cannot be started is given back, starts pause, and no item is called failed.

Faults are put at each start that a map makes: of threads, processes, pipes, worker files and the log's own files.
"""

from __future__ import annotations

import errno
import itertools
import logging
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial, partialmethod
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint._cli import main
from mpcheckpoint._cli.maps.command_pool import CommandPool
from mpcheckpoint._view.log_handle import LogHandle
from mpcheckpoint._work import held_items, process_pool, run_item, shortage
from mpcheckpoint._work.dispatch import Dispatcher
from mpcheckpoint._work.held_items import HeldItemNotices
from mpcheckpoint._work.inputs import Input
from mpcheckpoint._work.outcomes import Result
from mpcheckpoint._work.plan import LogRef, Plan
from mpcheckpoint._work.pool import ExecutorPool
from mpcheckpoint._work.report import ItemReport, Kind
from mpcheckpoint._work.run_item import FunctionCall
from mpcheckpoint._work.runs import join_run
from mpcheckpoint._work.shortage import Shortage, ShortageEvent, StartThrottle, shortage_of
from mpcheckpoint._work.start_process import start_process
from mpcheckpoint.errors import OutcomeUnknownError, ShortageError, WriteFailedError
from mpcheckpoint.log import handle_of
from support.shell import MPCHECKPOINT, CommandLine
from support.verbs import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.verbs import Faults

pytestmark = pytest.mark.guarantee(11)

ERRNOS = [errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE]
NAMES = [f"item{number}" for number in range(12)]
ITEMS = "".join(f"{name}\n" for name in NAMES)
POSIX_SPAWN = os.posix_spawnp
NO_THREAD = RuntimeError("can't start new thread")


def by_name(number: int) -> str:
    return errno.errorcode[number]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortage, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(shortage, "LONGEST_PAUSE_S", 0.1)


@pytest.fixture
def log(store: Path) -> Log:
    return Checkpoint(store).log("k")


class Failing:
    """Stands for a call that raises an error at some of its first calls, and does what it should at the others."""

    def __init__(self, real: Callable[..., Any], error: Callable[[], BaseException], calls: range) -> None:
        self._real = real
        self._error = error
        self._calls = calls
        self.count = 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.count += 1
        if self.count in self._calls:
            raise self._error()
        return self._real(*args, **options)


def failing_start(monkeypatch: pytest.MonkeyPatch, number: int, calls: range) -> Failing:
    """Have the start of some commands fail; what else starts processes is left alone."""
    start = Failing(POSIX_SPAWN, os_error(number), calls)
    monkeypatch.setattr(os, "posix_spawnp", start)
    return start


def os_error(number: int) -> Callable[[], OSError]:
    return lambda: OSError(number, os.strerror(number))


def well(item: str) -> str:
    return item


def results(store: Path) -> dict[str, bool]:
    with Checkpoint(store, read_only=True) as checkpoint:
        return {outcome.object_key: outcome.ok for outcome in checkpoint.log("k").results()}


# --- commands ----------------------------------------------------------------------------------------------


@pytest.fixture
def run_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """``map`` within this process, over twelve items; return its exit code and what it said."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "items").write_text(ITEMS)

    def run(*command: str, jobs: int = 4, options: tuple[str, ...] = ()) -> tuple[int, str]:
        line = ["map", "--store", "store", "--key", "k", "-j", str(jobs), "-a", "items", *options]
        code = main([*line, "--", *(command or ("true",))])
        return code, capfd.readouterr().err

    return run


def assert_told_once(said: str, count: int = 1) -> None:
    assert said.count("mpcheckpoint: short of ") == count, said
    assert "Traceback" not in said
    assert "failed:" not in said


@pytest.mark.parametrize("number", ERRNOS, ids=by_name)
def test_command_that_a_shortage_keeps_from_starting_runs_when_it_is_over(
    number: int, run_map: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = failing_start(monkeypatch, number, range(3, 10))

    code, said = run_map()

    assert code == 0
    assert start.count == 12 + 7
    assert_told_once(said)
    assert "12 items: 12 run now (12 ok, 0 failed)" in said
    assert results(tmp_path / "store") == dict.fromkeys(NAMES, True)


@pytest.mark.parametrize("call", ["create_locked", "open_file"])
@pytest.mark.parametrize("number", ERRNOS, ids=by_name)
def test_worker_file_or_lock_that_a_shortage_keeps_from_opening_is_opened_later(
    number: int, call: str, run_map: Callable[..., tuple[int, str]], tmp_path: Path, faults: Faults
) -> None:
    # The first files are those of the start itself; it waits for them, too.
    for at in (1, 5, 20):
        faults.fail(call, number, at=at, times=3, on=r"workers/|\.checkpoint")

        code, said = run_map(options=("--rerun", f"at {at}"))

        assert code == 0, said
        assert "12 run now (12 ok, 0 failed)" in said
        assert "failed:" not in said
    assert results(tmp_path / "store") == dict.fromkeys(NAMES, True)


def test_thread_that_cannot_be_started_is_started_later(
    run_map: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start
    attempts = 0

    def start_if_allowed(thread: threading.Thread) -> None:
        nonlocal attempts
        attempts += thread.name == "command"
        if thread.name == "command" and 2 <= attempts <= 8:
            raise NO_THREAD
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_if_allowed)

    code, said = run_map()

    assert code == 0
    assert attempts > 8
    assert "short of threads (can't start new thread): starts pause" in said
    assert "ulimit -u" in said
    assert "fewer --jobs" in said
    assert_told_once(said)


def test_terminal_without_a_thread_for_its_bar_gets_lines_and_keeps_its_cursor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = "import threading\nreal = threading.Thread.start\n\ndef start(self):\n"
    refuse = "    if 'Refresh' in type(self).__name__: raise RuntimeError(\"can't start new thread\")\n    real(self)\n"
    (tmp_path / "sitecustomize.py").write_text(f"{start}{refuse}threading.Thread.start = start\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    shown: list[bytes] = []
    (tmp_path / "items").write_text(ITEMS)

    ended = CommandLine(tmp_path).on_terminal(
        *("map", "--store", "store", "--key", "k", "-a", "items", "--", "true"), react=shown.append
    )

    assert ended.code == 0
    assert "12 run now (12 ok, 0 failed)" in ended.out
    everything = shown[-1]
    assert everything.rfind(b"\x1b[?25h") >= everything.rfind(b"\x1b[?25l")


def test_shortage_that_ends_is_said_to_be_over(
    run_map: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_start(monkeypatch, errno.EAGAIN, range(1, 4))

    _, said = run_map("sh", "-c", "sleep 0.03", jobs=1)

    assert_told_once(said)
    assert said.count("mpcheckpoint: no longer short of processes or threads, after ") == 1


def test_shortage_in_which_nothing_runs_stops_the_map_with_its_own_exit_code_and_a_start_without_it_carries_on(
    run_map: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortage, "STANDSTILL_S", 0.5)
    failing_start(monkeypatch, errno.EMFILE, range(4, 10**6))

    code, said = run_map("sh", "-c", 'echo "$1" >> runs', "x")

    assert code == 75 == os.EX_TEMPFAIL
    assert_told_once(said, 2)  # as it began, and as it stopped the map
    assert "3 items: 3 run now (3 ok, 0 failed)" in said
    assert "ulimit -n" in said
    assert "start the same map again" in said
    assert len(results(tmp_path / "store")) == 3
    monkeypatch.setattr(os, "posix_spawnp", POSIX_SPAWN)
    assert run_map("sh", "-c", 'echo "$1" >> runs', "x")[0] == 0
    assert sorted((tmp_path / "runs").read_text().split()) == sorted(NAMES)


def test_shortage_before_anything_has_run_is_waited_out_and_then_told_by_the_exit_code(
    run_map: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: Faults
) -> None:
    monkeypatch.setattr(shortage, "STANDSTILL_S", 0.3)
    faults.fail("open_file", errno.ENFILE, times=10**6)

    code, said = run_map()

    assert code == 75
    assert "short of open files on this machine" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.E2BIG, errno.ENOEXEC], ids=by_name)
def test_command_that_cannot_be_started_for_a_reason_of_its_own_has_failed(
    number: int, run_map: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_start(monkeypatch, number, range(3, 4))

    code, said = run_map()

    assert code == 1
    assert "short of" not in said
    assert f"could not be started: {os.strerror(number)}" in said
    assert sorted(results(tmp_path / "store").values()) == [False, *[True] * 11]


def test_result_that_a_shortage_keeps_from_being_recorded_is_recorded_later_and_its_item_runs_once(
    log: Log, monkeypatch: pytest.MonkeyPatch, faults: Faults
) -> None:
    ran: list[str] = []

    def run(item: str) -> None:
        ran.append(item)
        if item == "item3":
            error = WriteFailedError("too many open files", reason="too many open files")
            error.errno = errno.EMFILE
            real, calls = LogHandle.append_if, iter([error, error])

            def append_if(*args: Any, **options: Any) -> Any:
                for each in calls:
                    raise each
                return real(*args, **options)

            monkeypatch.setattr(LogHandle, "append_if", append_if)

    with ThreadPoolExecutor(1) as one:
        outcomes = list(log.map(run, NAMES, executor=one))

    assert all(outcome.ok for outcome in outcomes)
    assert sorted(ran) == sorted(NAMES)


# --- functions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ERRNOS, ids=by_name)
def test_worker_process_that_cannot_be_started_is_started_later(
    number: int, log: Log, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = Failing(start_process, os_error(number), range(2, 9))
    monkeypatch.setattr(process_pool, "start_process", start)
    caplog.set_level(logging.WARNING, "mpcheckpoint")

    context = multiprocessing.get_context("fork")
    outcomes = list(log.map(well, NAMES, jobs=3, mp_context=context))

    assert [outcome.ok for outcome in outcomes] == [True] * 12
    assert sum("short of" in message and "starts pause" in message for message in caplog.messages) == 1


def test_pipe_for_a_worker_that_cannot_be_made_is_made_later(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = multiprocessing.get_context("fork")
    pipe = Failing(context.Pipe, os_error(errno.EMFILE), range(1, 5))
    monkeypatch.setattr(type(context), "Pipe", lambda self, duplex=True: pipe(duplex))

    assert len(list(log.map(well, NAMES, jobs=3, mp_context=context))) == 12
    assert pipe.count >= 5


@pytest.mark.parametrize("number", ERRNOS, ids=by_name)
def test_worker_process_that_cannot_open_its_file_gives_the_item_back(
    number: int, log: Log, faults: Faults
) -> None:
    # The fault is in each forked worker, at its second item; the first file is that of the map itself.
    faults.fail("create_locked", number, at=3, times=2)

    outcomes = list(log.map(well, NAMES, jobs=2, mp_context=multiprocessing.get_context("fork")))

    assert [outcome.ok for outcome in outcomes] == [True] * 12


def test_map_that_halts_and_that_a_shortage_keeps_from_beginning_leaves_no_file_and_no_thread(
    log: Log, monkeypatch: pytest.MonkeyPatch, faults: Faults
) -> None:
    monkeypatch.setattr(shortage, "STANDSTILL_S", 0.2)
    faults.fail("create_locked", errno.EMFILE, at=2, times=10**6, on="workers/")  # the first is the permit

    with ThreadPoolExecutor(1) as one, pytest.raises(ShortageError):
        log.map(well, iter(NAMES), executor=one, on_error="halt")

    assert os.listdir(os.path.join(handle_of(log).store.path, "workers")) == []
    wait_until(lambda: all(each.name != "mpcheckpoint-items" for each in threading.enumerate()), "it ended")


def test_outcome_that_a_shortage_keeps_from_being_read_back_is_waited_for_and_then_told_by_a_typed_error(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortage, "STANDSTILL_S", 0.2)
    monkeypatch.setattr(
        run_item, "_MOST_TOLD_BYTES", 0
    )  # every outcome is too long to be sent with its report
    event_of = Failing(Dispatcher._outcome_of, os_error(errno.EMFILE), range(1, 4))
    monkeypatch.setattr(Dispatcher, "_outcome_of", partialmethod(event_of))

    with ThreadPoolExecutor(1) as one:
        assert len(list(log.map(well, NAMES, executor=one))) == 12

        monkeypatch.setattr(event_of, "_calls", range(10**6))
        with pytest.raises(ShortageError):
            list(log.map(well, ["another"], executor=one))


def test_what_is_waited_for_is_not_told_while_a_shortage_keeps_it_from_being_seen(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_items, "_AFTER_S", 0)
    told: list[str] = []
    waits = HeldItemNotices(handle_of(log), lambda text, is_left: told.append(text))
    look = Failing(handle_of(log).query, os_error(errno.EMFILE), range(1, 2))
    with log.claim("x"), monkeypatch.context() as patched:
        patched.setattr(handle_of(log), "query", look)
        waits.look(["x"])
        assert (look.count, told) == (1, [])
        waits.look(["x"])

    assert len(told) == 1


class Heavy:
    """An item that there is no memory to send, or to read where it arrives, the first times."""

    def __init__(self, directory: Path, where: str) -> None:
        self.directory, self.where = directory, where

    def __getstate__(self) -> dict[str, Any]:
        self.fail_at("sent")
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.fail_at("read")

    def fail_at(self, where: str) -> None:
        for number in range(2):
            flag = self.directory / f"{where}{number}"
            if where == self.where and not flag.exists():
                flag.touch()
                raise MemoryError


def run_heavy(item: Heavy) -> str:
    return item.where


@pytest.mark.parametrize(
    ("where", "kind"), [("sent", "fork"), ("read", "fork"), ("sent", "spawn"), ("sent", "pool")]
)
def test_item_that_there_is_no_memory_to_send_is_sent_later(
    where: str, kind: str, log: Log, tmp_path: Path
) -> None:
    heavy = Heavy(tmp_path, where)
    with ExitStack() as stack:
        options: dict[str, Any] = {"mp_context": multiprocessing.get_context(kind)} if kind != "pool" else {}
        if kind == "pool":
            options["executor"] = stack.enter_context(ProcessPoolExecutor(1))
        (outcome,) = log.map(run_heavy, [heavy], key=lambda item: "x", **options)

    assert outcome.ok
    assert (tmp_path / f"{where}1").exists()


def hang_or_die(runs: Path, item: str) -> None:
    with runs.open("a") as file:
        file.write(f"{item}\n")
    if item == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(1000)


@pytest.mark.parametrize(("item", "most_runs"), [("hangs", 1), ("dies", 3)])
def test_time_out_or_death_that_a_shortage_keeps_from_being_recorded_is_recorded_later(
    item: str, most_runs: int, log: Log, tmp_path: Path, faults: Faults
) -> None:
    parent, runs = os.getpid(), tmp_path / "runs"
    shortages = iter(range(2))

    def act(real: Callable[..., Any], *args: Any) -> Any:
        if os.getpid() == parent and next(shortages, None) is not None:
            raise os_error(errno.EMFILE)()
        return real(*args)

    faults.act("create_locked", act, at=2, times=10**6, on="workers/")  # the first is that of the map itself
    context = multiprocessing.get_context("fork")
    outcomes = list(log.map(partial(hang_or_die, runs), [item], jobs=1, mp_context=context, timeout_s=0.5))

    assert next(shortages, None) is None
    assert len(runs.read_text().split()) == most_runs
    [outcome] = outcomes
    assert not outcome.ok
    assert ("timed out" if item == "hangs" else "3 times") in (outcome.error or "")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_map_of_functions_that_nothing_can_start_stops_with_a_typed_error_that_pickles(
    method: str, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortage, "STANDSTILL_S", 0.3)
    monkeypatch.setattr(process_pool, "start_process", Failing(well, os_error(errno.EAGAIN), range(1, 10**6)))

    with pytest.raises(
        ShortageError, match=r"short of processes or threads .* in which nothing ran"
    ) as raised:
        list(log.map(well, NAMES, jobs=3, mp_context=multiprocessing.get_context(method)))

    assert raised.value.errno == errno.EAGAIN
    again = pickle.loads(pickle.dumps(raised.value))
    assert (str(again), again.errno) == (str(raised.value), errno.EAGAIN)
    assert list(log.results()) == []
    assert log.map_status().running == ()  # type: ignore[union-attr]
    monkeypatch.undo()
    assert len(list(log.map(well, NAMES, jobs=3, mp_context=multiprocessing.get_context("fork")))) == 12


def test_failed_fork_leaves_no_descriptor_open(monkeypatch: pytest.MonkeyPatch) -> None:
    context: Any = multiprocessing.get_context("fork")
    monkeypatch.setattr(os, "fork", Failing(os.fork, os_error(errno.EAGAIN), range(1, 10)))
    before = set(os.listdir("/proc/self/fd"))

    for _ in range(3):
        with pytest.raises(BlockingIOError):
            start_process(context.Process(target=well, args=("x",)))

    # Fewer may be open: what earlier tests left is closed once it is collected.
    assert set(os.listdir("/proc/self/fd")) <= before


def test_fork_server_that_ends_without_a_word_is_taken_for_a_shortage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for method, expected in (("forkserver", BlockingIOError), ("spawn", EOFError)):
        process: Any = multiprocessing.get_context(method).Process(target=well)
        monkeypatch.setattr(process, "start", Failing(well, EOFError, range(1, 2)))
        with pytest.raises(expected):
            start_process(process)


def test_item_that_an_executor_queued_and_could_start_no_thread_for_does_not_run_unasked(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Failing(threading.Thread.start, lambda: NO_THREAD, range(1, 2))
    ran: list[str] = []
    plan = Plan(LogRef(handle_of(log)), join_run(handle_of(log), ""), FunctionCall(ran.append))

    with ThreadPoolExecutor(2) as two:
        pool = ExecutorPool(plan, two, 2)
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", lambda thread: start(thread))  # noqa: PLW0108 - binds self
            with pytest.raises(RuntimeError, match="new thread"):
                pool.submit(Input(0, "a", "a", {}))
        pool.submit(Input(1, "b", "b", {}))
        wait_until(lambda: ran == ["b"], "the other one has run")
        pool.stop(is_interrupted=False)

    assert ran == ["b"]


def test_map_in_threads_that_cannot_be_started_goes_on_with_those_there_are(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start
    allowed = 2

    def start_if_allowed(thread: threading.Thread) -> None:
        nonlocal allowed
        if allowed == 0:
            raise NO_THREAD
        allowed -= 1
        start(thread)

    with ThreadPoolExecutor(8) as executor, monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start_if_allowed)
        outcomes = list(log.map(well, NAMES, executor=executor))

    assert sorted(outcome.item for outcome in outcomes if outcome.ok) == sorted(NAMES)


# --- the threads of commands -------------------------------------------------------------------------------


def plan_of(log: Log, function: Callable[[str], object]) -> Plan:
    return Plan(LogRef(handle_of(log)), join_run(handle_of(log), ""), FunctionCall(function))


def test_threads_end_when_there_is_nothing_left_to_do_and_are_never_more_than_allowed(log: Log) -> None:
    most = 0

    def look(item: str) -> None:
        nonlocal most
        most = max(most, sum(thread.name == "command" for thread in threading.enumerate()))

    pool = CommandPool(plan_of(log, look), 3)
    names = iter(range(50))
    told: list[tuple[Input, ItemReport]] = []
    while len(told) < 50:
        while pool.has_room() and (number := next(names, None)) is not None:
            pool.submit(Input(number, str(number), str(number), {}))
        told += pool.collect(10)
    wait_until(
        lambda: not any(thread.name == "command" for thread in threading.enumerate()), "they have ended"
    )
    assert pool.collect(0) == []

    pool.submit(Input(50, "last", "last", {}))
    assert [report.kind for _, report in pool.collect(10)] == [Kind.RECORDED]
    pool.stop(is_interrupted=False)

    assert {entry.object_key for entry, report in told if report.kind is Kind.RECORDED} == set(
        map(str, range(50))
    )
    assert 1 <= most <= 3


def test_item_that_no_thread_could_be_started_for_was_not_given_out(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Failing(threading.Thread.start, lambda: NO_THREAD, range(1, 2))
    pool = CommandPool(plan_of(log, well), 2)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", lambda thread: start(thread))  # noqa: PLW0108 - binds self
        with pytest.raises(RuntimeError, match="new thread"):
            pool.submit(Input(0, "a", "a", {}))
    assert pool.recall() == []
    pool.submit(Input(1, "b", "b", {}))

    assert [(entry.object_key, report.kind) for entry, report in pool.collect(10)] == [("b", Kind.RECORDED)]
    pool.stop(is_interrupted=False)


def test_thread_whose_start_was_interrupted_is_waited_for(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    start, may_end = threading.Thread.start, threading.Event()
    ran: list[str] = []

    def run(item: str) -> None:
        assert may_end.wait(30)
        ran.append(item)

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    pool = CommandPool(plan_of(log, run), 2, on_stop=may_end.set)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", interrupted)
        pool._waiting.append(Input(0, "a", "a", {}))  # for which a thread is being started
        with pytest.raises(KeyboardInterrupt):
            pool.submit(Input(1, "b", "b", {}))
    wait_until(lambda: not pool._waiting, "it has taken the item")
    pool.stop(is_interrupted=True)

    assert ran == ["a"]
    assert not pool._threads


def test_thread_whose_start_was_interrupted_before_it_began_is_not_waited_for(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    pool = CommandPool(plan_of(log, well), 2)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.submit(Input(0, "a", "a", {}))
    pool.stop(is_interrupted=True)

    assert not pool._threads


def test_outcome_that_a_thread_of_commands_cannot_record_is_raised_by_the_map(log: Log) -> None:
    class NoCall:
        def __call__(self, item: object, worker: object) -> Result:
            raise WriteFailedError("refused", path="x", reason="refused")

    handle = handle_of(log)
    pool = CommandPool(Plan(LogRef(handle), join_run(handle, ""), NoCall()), 1)
    pool.submit(Input(0, "a", "a", {}))
    with pytest.raises(WriteFailedError):
        pool.collect(10)
    assert pool.has_room()
    pool.stop(is_interrupted=False)


# --- how starts pause --------------------------------------------------------------------------------------

SHORT = Shortage("processes", "no more", "raise the limit", errno.EAGAIN)


class Clock:
    """Stands for the time module."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(shortage, "time", clock)
    monkeypatch.setattr(shortage, "FIRST_PAUSE_S", 0.25)
    monkeypatch.setattr(shortage, "LONGEST_PAUSE_S", 10.0)
    return clock


def work(starts: StartThrottle, clock: Clock, limit: int, seconds: float) -> tuple[list[float], int]:
    """Start what may be started where ``limit`` can run at a time, for ever; return when starts failed, and how many
    run at the end."""
    failed, running = [], 0
    end_s = clock.now_s + seconds
    while clock.now_s < end_s:
        while starts.has_room(running):
            if running < limit:
                running += 1
            else:
                failed.append(clock.now_s)
                starts.has_failed(SHORT, running, lambda: False)
        clock.now_s += 0.05
    return failed, running


def test_starts_grow_apart_and_what_there_is_is_used(clock: Clock) -> None:
    told: list[ShortageEvent] = []
    starts = StartThrottle(20, told.append)

    failed, running = work(starts, clock, 5, 120)

    assert running == 5
    pauses = [later - earlier for earlier, later in itertools.pairwise(failed)]
    assert max(pauses) <= 10.2
    assert pauses[-3] > 7
    assert len(failed) < 25
    assert [event.is_over for event in told] == [False]


def test_starts_go_on_as_before_when_the_shortage_is_over_and_that_is_told_once(clock: Clock) -> None:
    told: list[ShortageEvent] = []
    starts = StartThrottle(20, told.append)
    work(starts, clock, 5, 5)

    _, running = work(starts, clock, 10**6, 0.01)
    for _ in range(1000):
        running += starts.has_room(running)
        clock.now_s += 0.05
        if len(told) == 2:
            break

    assert [event.is_over for event in told] == [False, True]
    assert starts.has_room(10**6)


def test_nothing_that_moves_for_a_minute_stops_the_map(clock: Clock) -> None:
    starts = StartThrottle(20, lambda _: None)
    begun_s = clock.now_s

    with pytest.raises(ShortageError):
        work(starts, clock, 0, 1000)

    assert 60 <= clock.now_s - begun_s <= 75


def test_item_that_waits_is_started_as_soon_as_there_is_room(clock: Clock) -> None:
    starts = StartThrottle(20, lambda _: None)
    starts.has_failed(SHORT, 0, lambda: True)
    assert 0 < (starts.patience_s(None, 0, is_wanted=True) or 0) <= 0.25

    clock.now_s += 0.25

    assert starts.patience_s(None, 0, is_wanted=True) == 0
    assert 0 < (starts.patience_s(None, 0, is_wanted=False) or 0) <= 0.25  # nothing waits: no need to hurry


def test_progress_of_others_counts_as_progress(clock: Clock) -> None:
    starts = StartThrottle(20, lambda _: None)
    for _ in range(100):  # a thousand seconds
        starts.has_failed(SHORT, 0, lambda: True)
        clock.now_s += 10


def test_map_whose_neighbour_runs_something_waits_for_it(
    log: Log, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortage, "STANDSTILL_S", 0.2)
    monkeypatch.setattr("mpcheckpoint._work.status._MOMENT_S", 0.0)
    is_over = threading.Event()
    monkeypatch.setattr(process_pool, "start_process", Failing(well, os_error(errno.EAGAIN), range(1, 10**6)))
    fork = multiprocessing.get_context("fork")

    with (
        ThreadPoolExecutor(1) as one,
        Checkpoint(store) as other,
        other.log("k").map(lambda item: is_over.wait(30), ["long"], executor=one) as neighbour,
    ):
        mine = log.map(well, ["long", "short"], jobs=1, mp_context=fork)
        threading.Timer(1.0, is_over.set).start()
        with pytest.raises(ShortageError):
            list(mine)
        assert is_over.is_set()  # not before the neighbour was done
        list(neighbour)


def test_what_is_a_shortage_and_what_is_not() -> None:
    for number in ERRNOS:
        assert shortage_of(OSError(number, "x")) is not None
    assert shortage_of(NO_THREAD) is not None
    assert shortage_of(MemoryError()) is not None
    unknown = OutcomeUnknownError("written, not synced", position=None)
    unknown.errno = errno.ENOMEM
    for other in (OSError(errno.ENOSPC, "x"), RuntimeError("x"), ValueError("x"), unknown):
        assert shortage_of(other) is None


# --- real limits -------------------------------------------------------------------------------------------

SLEEP = ("sh", "-c", "exec sleep 0.05", "x")


def line(store: Path, *command: str, jobs: int = 12) -> list[str]:
    return [*MPCHECKPOINT, "map", "--store", str(store), "--key", "k", "-j", str(jobs), "--", *command]


def start_with(limit: int, value: int, argv: list[str]) -> subprocess.Popen[str]:
    """Start ``map`` over the twelve items, with a real limit."""

    def set_limit() -> None:
        resource.setrlimit(limit, (value, value))

    return subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=set_limit,  # noqa: PLW1509 - no other thread runs here
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(ITEMS, timeout=60)
    return process.returncode, said


def test_few_descriptors_are_enough_and_burn_no_item(tmp_path: Path) -> None:
    code, said = finish(start_with(resource.RLIMIT_NOFILE, 24, line(tmp_path / "store", *SLEEP)))

    assert code == 0, said
    assert_told_once(said)
    assert "ulimit -n" in said
    assert results(tmp_path / "store") == dict.fromkeys(NAMES, True)


def map_as_nobody(store: Path, maps: int) -> list[tuple[int, str]]:
    """Run the map in several processes at once, all of whom may have no more than ten processes and threads."""
    running = [start_with(resource.RLIMIT_NPROC, 10, line(store, *SLEEP)) for _ in range(maps)]
    return [finish(process) for process in running]


@pytest.mark.rule(40)
@pytest.mark.parametrize("maps", [1, 2])
def test_few_processes_are_enough_for_one_map_or_two_and_burn_no_item(
    maps: int, public_tmp_path: Path, run_as_nobody: Callable[..., Any]
) -> None:
    public_tmp_path.chmod(0o777)

    ended = run_as_nobody(map_as_nobody, public_tmp_path / "store", maps)

    for code, said in ended:
        assert code == 0, said
        assert "failed:" not in said
        assert said.count("short of") <= 2 * said.count("no longer short of") + 1, said
    assert any("short of" in said for _, said in ended)
    assert results(public_tmp_path / "store") == dict.fromkeys(NAMES, True)


def fork_as_nobody(store: Path) -> list[bool]:
    """Map a function in more worker processes than are allowed."""
    resource.setrlimit(resource.RLIMIT_NPROC, (6, 6))
    log = Checkpoint(store).log("k")
    return [
        outcome.ok
        for outcome in log.map(well, NAMES, jobs=12, mp_context=multiprocessing.get_context("fork"))
    ]


def test_few_processes_are_enough_for_worker_processes(
    public_tmp_path: Path, run_as_nobody: Callable[..., Any]
) -> None:
    public_tmp_path.chmod(0o777)

    assert run_as_nobody(fork_as_nobody, public_tmp_path / "store") == [True] * 12
