"""Starting child processes in every way Python knows, killing them, and never leaving one behind."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING, Any, Self

from support import process_tree, tally

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess
    from types import TracebackType

INTERPRETER = "interpreter"  # no multiprocessing: a fresh `python`, as from a shell
METHODS: tuple[str, ...] = (*multiprocessing.get_all_start_methods(), INTERPRETER)
WAIT_TIMEOUT_S = 60.0
HANGS_AFTER_S = 20.0


class Child:
    """One child process, however it was started."""

    def __init__(self, process: BaseProcess | subprocess.Popen[bytes], name: str) -> None:
        if process.pid is None:
            raise ValueError(f"{name} was not started")
        self.process = process
        self.pid = process.pid
        self.name = name

    @property
    def is_running(self) -> bool:
        """Whether it has not exited yet."""
        return self._exit_code() is None

    def wait(self, timeout_s: float = WAIT_TIMEOUT_S) -> int:
        """Reap it and return its exit code, minus the signal if that ended it. Raises TimeoutError."""
        if self.is_running:
            # Rejected: join() alone. It waits for a pipe to close that the children of the child hold too.
            has_exited = not process_tree.await_exit({self.pid}, timeout_s)
            if has_exited and self._exit_code() is None and not isinstance(self.process, subprocess.Popen):
                self.process.join(timeout_s)  # the fork server passes the exit code on a moment later
        code = self._exit_code()
        if code is None:
            where = process_tree.where_it_stands(self.pid)
            raise TimeoutError(f"{self.name} (process {self.pid}) still runs after {timeout_s} s\n{where}")
        return code

    def kill(self) -> int:
        """Kill it with SIGKILL wherever it is, reap it, and return its exit code."""
        if self.is_running:
            os.kill(self.pid, signal.SIGKILL)
            tally.add("kills")
        return self.wait()

    def stop(self) -> None:
        """Stop it with SIGSTOP and return once it stands still."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Let a stopped one go on."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Close the pipes to it."""
        if isinstance(self.process, subprocess.Popen):
            for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
                if stream is not None:
                    stream.close()

    def _exit_code(self) -> int | None:
        return self.process.poll() if isinstance(self.process, subprocess.Popen) else self.process.exitcode


class Children:
    """The processes a test starts: at the end of the ``with`` block they and all of theirs are dead and reaped."""

    def __init__(self) -> None:
        self.all: list[Child] = []
        self._earlier: set[int] = set()

    def __enter__(self) -> Self:
        self._earlier = process_tree.living_descendants()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Kill and reap every process that was started since the block was entered, by whomever.

        Unlike `kill` it adds nothing to the tally: what is ended here was not killed to prove anything.
        """
        for child in self.all:
            if child.is_running:  # by its own means first: whom `process_tree.end` reaps it cannot wait for
                os.kill(child.pid, signal.SIGKILL)
                child.wait()
        process_tree.end(process_tree.living_descendants() - self._earlier)
        for child in self.all:
            child.wait()
            child.close()

    def start(self, function: Callable[..., object], *args: Any, method: str = "spawn") -> Child:
        """Call ``function(*args)`` in a child made by ``method``, one of METHODS.

        Except for "fork" the function must be found by its name in its module, and the arguments must pickle.
        """
        name = f"{getattr(function, '__name__', function)} by {method}"
        if method == INTERPRETER:
            payload = pickle.dumps((sys.path, pickle.dumps((function, args))))
            return self.start_command([sys.executable, "-m", "support.call", payload.hex()], name=name)
        context: Any = multiprocessing.get_context(method)  # typeshed's common base class knows no Process
        process: BaseProcess = context.Process(target=function, args=args, name=name)
        process.start()
        return self._add(process, name)

    def start_command(
        self, argv: Sequence[str | os.PathLike[str]], *, name: str = "", **popen_options: Any
    ) -> Child:
        """Start a command; ``popen_options`` as for subprocess.Popen."""
        process: subprocess.Popen[bytes] = subprocess.Popen(argv, **popen_options)
        return self._add(process, name or " ".join(map(str, argv))[:80])

    def wait_all(self, timeout_s: float = WAIT_TIMEOUT_S) -> None:
        """Reap all children and raise AssertionError unless each exited with 0."""
        codes = {f"{child.name} (process {child.pid})": child.wait(timeout_s) for child in self.all}
        failed = {name: code for name, code in codes.items() if code != 0}
        assert not failed, f"children failed, by exit code: {failed}"

    def kill_all(self) -> None:
        """Kill with SIGKILL those that still run, all of them before the first is waited for, and reap them."""
        running = [child for child in self.all if child.is_running]
        for child in running:
            os.kill(child.pid, signal.SIGKILL)
        tally.add("kills", len(running))
        for child in running:
            child.wait()

    def _add(self, process: BaseProcess | subprocess.Popen[bytes], name: str) -> Child:
        child = Child(process, name)
        self.all.append(child)
        return child


def call(
    function: Callable[..., Any], *args: Any, method: str = "spawn", timeout_s: float = WAIT_TIMEOUT_S
) -> Any:
    """Return what ``function(*args)`` returns in a new process made by a start method of multiprocessing.

    An exception in the child is raised here, with the child's traceback as a note. A child that dies without an answer
    raises ChildProcessError.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with receiver, Children() as children:
        child = children.start(_answer, sender, function, args, method=method)
        sender.close()  # else the pipe would not end when the child dies
        if not receiver.poll(timeout_s):
            raise TimeoutError(f"{child.name}: no answer after {timeout_s} s")
        try:
            is_ok, answer = receiver.recv()
        except EOFError:
            raise ChildProcessError(f"{child.name}: ended with {child.wait()} and no answer") from None
        child.wait()
    if not is_ok:
        raise answer
    return answer


def in_a_child(function: Callable[..., Any], *args: Any) -> Any:
    """Return what a call returns in a forked child; raise TimeoutError if it hangs there."""
    return call(function, *args, method="fork", timeout_s=HANGS_AFTER_S)


def _answer(sender: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        sender.send((True, function(*args)))
    except BaseException as error:  # noqa: BLE001  # whatever it is, it belongs to the parent
        error.add_note(f"in a child process:\n{traceback.format_exc()}")
        sender.send((False, error))
