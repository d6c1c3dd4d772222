"""Run the command for an item, without a shell in between."""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING, Self

from mpcheckpoint._cli.maps.child import Child, End, KeptOutput, end_leftovers
from mpcheckpoint._cli.maps.spawn import Spawner
from mpcheckpoint._cli.terminal import say
from mpcheckpoint._work.causes import NOT_STARTED, TIMED_OUT
from mpcheckpoint._work.flag import Flag
from mpcheckpoint._work.outcomes import Result
from mpcheckpoint._work.retries import HELD_S, is_kill, is_told_to_end
from mpcheckpoint._work.shortage import shortage_of
from mpcheckpoint._work.worker_options import memory_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._cli.interrupts import Interrupts
    from mpcheckpoint._cli.maps.start_gate import StartGate
    from mpcheckpoint._cli.maps.template import Item, Template
    from mpcheckpoint._store.worker_protocol import Worker

_FAILED_S = 0.02
_POLL_S = 0.02
# A command whose time is up gets so long to obey SIGTERM.
_GRACE_S = 5.0
# When the map ends, commands get so long to end by themselves (with a message in between), then to obey SIGTERM, then
# to be gone after SIGKILL.
_STOP_S = ((0.5, None), (1.5, signal.SIGTERM), (5.0, signal.SIGKILL))
_KILLED_S = 5.0


class RunCommand:
    """Run one command line for each item, in any number of threads.

    Each command inherits the descriptor of its worker. So a command that outlives this process keeps its item claimed,
    and its rerun does not overlap it. ``Child`` says which process group it belongs to.

    Locking: ``_lock`` guards ``_running``, and that it is stopping. It is held while a command is started, so that
    ``stop`` misses none; and while one is reaped or signalled, so that no signal goes to a stranger with the same
    number.
    """

    def __init__(
        self,
        template: Template,
        output_limit_bytes: int,
        timeout_s: float | None,
        memory_bytes: int | None,
        interrupts: Interrupts,
        gate: StartGate,
    ) -> None:
        self._gate = gate
        self._spawner = Spawner()
        self._template = template
        self._output_limit_bytes = output_limit_bytes
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._leads_groups = timeout_s is not None or memory_bytes is not None
        self._interrupts = interrupts
        self._lock = threading.Lock()
        self._running: set[Child] = set()
        self._stopping = Flag()

    def __call__(self, item: Item, worker: Worker) -> Result | None:
        """Run the command; return its exit code and output, or None if it was interrupted.

        Raises:
            OSError: it could not be started for want of processes, descriptors or memory. Any other reason to fail is
                in the result.
        """
        try:
            child = self._started(item, worker)
        except (OSError, ValueError) as error:  # ValueError: a NUL byte in an argument
            if shortage_of(error) is not None:
                raise
            reason = error.strerror if isinstance(error, OSError) else None
            return Result(False, None, f"{NOT_STARTED}{reason or error}")
        if child is None:
            return None
        kept = KeptOutput(self._output_limit_bytes)
        try:
            end = child.finish(kept, self._timeout_s)
            if end is End.LATE:
                child.end(kept, _GRACE_S)
            elif end is End.OVER_MEMORY:
                child.kill(kept)
        except BaseException:
            child.signal(signal.SIGKILL)
            self._reaped(child)
            raise
        code = self._reaped(child)
        is_by_itself = end is End.ENDED
        if (code != 0 or not is_by_itself) and self._was_interrupted(is_told_to_end(code) and is_by_itself):
            end_leftovers(worker, child.group, lambda: self._interrupts.are_urgent)
            return None
        failure = self._error_of(end, code, child.used_bytes)
        is_death = is_by_itself and is_kill(code)
        return Result(failure is None, {"exit_code": code} | kept.fields(), failure, is_death=is_death)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # A Ctrl-C may have kept an earlier call from beginning.
        self.stop()

    def stop(self) -> None:
        """Start no more commands. Wait for those that run, then end them by signals; return when they have ended.

        A Ctrl-C meanwhile kills them at once. Stopping twice is fine.
        """
        with self._lock:  # a command that is being started is among those that run
            self._stopping.set()
        self._gate.open()
        self._interrupts.obey()
        if self._leads_groups and self._interrupts.have_come(0):
            self._signal(signal.SIGINT)  # groups of their own: the terminal did not interrupt them with us
        for patience_s, signal_number in _STOP_S:
            self._await_end(patience_s, lambda: self._interrupts.are_urgent)
            if not self._running or self._interrupts.are_urgent:
                break
            if signal_number is not None:
                self._signal(signal_number)
            else:
                commands = "a command" if len(self._running) == 1 else f"{len(self._running)} commands"
                say(f"mpcheckpoint: waiting for {commands} to end; Ctrl-C ends what runs at once")
        if self._running:
            self._signal(signal.SIGKILL)
            self._await_end(_KILLED_S, lambda: False)
        self._interrupts.let_end()

    def _await_end(self, timeout_s: float, is_enough: Callable[[], bool]) -> None:
        deadline = time.monotonic() + timeout_s
        while self._running and time.monotonic() < deadline and not is_enough():
            time.sleep(_POLL_S)

    def _signal(self, number: int) -> None:
        with self._lock:
            for child in self._running:
                child.signal(number)

    def _started(self, item: Item, worker: Worker) -> Child | None:
        with self._lock:
            if self._stopping.is_set:
                return None
            argv = self._template.argv(item)
            child = Child(
                self._spawner,
                argv,
                worker.fd,
                leads_group=self._leads_groups,
                memory_bytes=self._memory_bytes,
            )
            self._running.add(child)
            return child

    def _error_of(self, end: End, code: int, used_bytes: int) -> str | None:
        if end is End.LATE:
            return f"{TIMED_OUT}{self._timeout_s:g} s"
        if end is End.OVER_MEMORY:
            assert self._memory_bytes is not None
            return memory_error(used_bytes, self._memory_bytes)
        return _error_of(code)

    def _reaped(self, child: Child) -> int:
        with self._lock:
            self._running.discard(child)
            return child.reap()

    def _was_interrupted(self, is_suspect: bool) -> bool:
        """Return whether a command ended because of us, or of a signal to the whole job that is about to end us.

        A signal reaches the processes of a job one after the other, and may end the command before it reaches us. So we
        wait for it before we call the command failed: a moment, or a second if such a signal ended the command.
        """
        return self._stopping.is_set or self._interrupts.have_come(HELD_S if is_suspect else _FAILED_S)


def _error_of(code: int) -> str | None:
    if code == 0:
        return None
    if code > 0:
        return f"exit code {code}"
    try:
        return f"killed by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:  # a real-time signal has no name
        return f"killed by signal {-code}"
