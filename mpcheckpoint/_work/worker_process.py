"""What runs inside a worker process of a map, and what it sends to the process that started it."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from mpcheckpoint._store.process import process
from mpcheckpoint._work.ctrl_c import raise_ctrl_c
from mpcheckpoint._work.forked_child import end_forked_child
from mpcheckpoint._work.item_pipe import ItemReceiver
from mpcheckpoint._work.memory_watch import MemoryWatch
from mpcheckpoint._work.messages import send
from mpcheckpoint._work.report import SentError, sent
from mpcheckpoint._work.run_item import FunctionCall, ItemRunner
from mpcheckpoint._work.sent_item import UnreadableError, header_of, unpacked

if TYPE_CHECKING:
    from mpcheckpoint._store.worker_protocol import Worker
    from mpcheckpoint._work.inputs import Input
    from mpcheckpoint._work.item_pipe import WorkerEnd
    from mpcheckpoint._work.outcomes import Result
    from mpcheckpoint._work.plan import ItemCall, Plan
    from mpcheckpoint._work.worker_options import WorkerOptions


class Hello(NamedTuple):
    """The first message of a worker process: it could start. With an initializer a second one says that it is ready."""

    is_ready: bool


class Unready(NamedTuple):
    """Why the initializer of a worker process failed."""

    raised: SentError
    text: str


class Clock(NamedTuple):
    """Whether an item's function runs now; sent only if its time is limited.

    Only the function's time is limited: ending a process while it records the result would make a failure of an item
    that did not fail.
    """

    is_running: bool


class Unreadable(NamedTuple):
    """Why a worker process cannot read the item that it was sent."""

    text: str


class Leaving(NamedTuple):
    """The last message of a worker process that begins no more items: another one is to have them."""


class Trouble(NamedTuple):
    """What kept a worker process from recording an outcome."""

    raised: SentError
    text: str


class _Interrupts:
    """Lets signals end this worker while an item's function runs, or while it is idle; not in between.

    So the result of a function is recorded first, and no item starts that is given back at once.

    The handler keeps a Ctrl-C for later, since it may arrive in a thread that the function has started. SIGTERM has no
    handler, so that it ends any function; the mask of this thread keeps it for later, as well as that can be done.
    """

    def __init__(self) -> None:
        self._is_exposed = True
        self.has_come = False

    def install(self) -> None:
        """Replace the parent's handlers of these signals; what it ignored stays ignored."""
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._take)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def hold(self) -> None:
        """Keep signals for later."""
        self._is_exposed = False
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def expose(self) -> None:
        """Let signals come.

        Raises:
            KeyboardInterrupt: a Ctrl-C was kept.
        """
        self._is_exposed = True
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        if self.has_come:
            raise KeyboardInterrupt

    def are_due(self) -> bool:
        """Return whether a signal was kept that will end this process."""
        return self.has_come or signal.SIGTERM in signal.sigpending()

    def _take(self, number: int, frame: object) -> None:
        del number, frame
        if self._is_exposed:
            raise KeyboardInterrupt
        self.has_come = True


class _Call:
    """A call that signals may interrupt. If its time is limited, it sends when it begins and when it ends. If its
    memory is, that is looked at in between.

    A process that the call forks has no part in our ends of the pipes: they are closed there.

    Attributes:
        is_late: whether a call took all its time. The process that started us may be about to end us for it.
    """

    def __init__(
        self, call: ItemCall, interrupts: _Interrupts, end: WorkerEnd, options: WorkerOptions
    ) -> None:
        self._call = call
        self._interrupts = interrupts
        self._end = end
        self._timeout_s = options.timeout_s
        self._memory: MemoryWatch | None = None
        if options.memory_bytes is not None:
            self._memory = MemoryWatch(options.memory_bytes, lambda over: end.pipe.send_bytes(sent(over)))
            self._memory.start()
        self.is_late = False
        process.register(self)

    def __call__(self, item: Any, worker: Worker) -> Result | None:
        if self._timeout_s is None:
            return self._exposed(item, worker)
        # Read before the other side can know that the call began: so it never ends us before we know that we are late.
        due_s = time.monotonic() + self._timeout_s
        self._end.pipe.send_bytes(sent(Clock(is_running=True)))
        try:
            return self._exposed(item, worker)
        finally:
            # Even if the other side is gone, the result is recorded.
            with suppress(BrokenPipeError, ConnectionResetError):
                self._end.pipe.send_bytes(sent(Clock(is_running=False)))
            self.is_late = time.monotonic() >= due_s

    def _exposed(self, item: Any, worker: Worker) -> Result | None:
        memory = self._memory
        try:
            if memory is not None:
                memory.begin()
            self._interrupts.expose()
            return self._call(item, worker)
        finally:
            self._interrupts.hold()
            if memory is not None:
                memory.end()

    def set_state(self, state: Any) -> None:
        """Hand the state of this worker to the function, beside the item; None is no state."""
        if isinstance(self._call, FunctionCall):
            self._call = self._call.with_state(state)

    def reset_after_fork(self) -> None:
        """In a forked child: close the pipes."""
        self._end.pipe.close()
        self._end.rights.close()


class _Server:
    """Runs the items that come, and says what became of each."""

    def __init__(self, end: WorkerEnd, plan: Plan, options: WorkerOptions) -> None:
        self._pipe = end.pipe
        self._receiver = ItemReceiver(end)
        self._options = options
        self._begun = 0
        self.interrupts = _Interrupts()
        self._call = _Call(plan.call, self.interrupts, end, options)
        self.runner = ItemRunner(plan._replace(call=self._call), keeps_file=True, unpacked=unpacked)

    def serve(self) -> None:
        """Run items until the other side is gone, or no more is to begin here.

        Raises:
            EOFError, BrokenPipeError, ConnectionResetError: the other side is gone.
            KeyboardInterrupt: a Ctrl-C came.
        """
        if not self._is_ready():
            return
        while True:
            message = self._receiver.wait()
            self.interrupts.hold()
            self._begun += 1
            try:
                for report in self.runner.run(header_of(message), self._following):
                    send(self._pipe, sent(report))
            except UnreadableError as error:
                self._pipe.send_bytes(sent(Unreadable(str(error))))
                return
            except (BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:  # noqa: BLE001 - the other side raises it
                self._pipe.send_bytes(sent(Trouble(SentError(error), f"{type(error).__name__}: {error}")))
                return
            if self._is_last():
                self._pipe.send_bytes(sent(Leaving()))
                return
            self.interrupts.expose()

    def _following(self) -> Input | None:
        """Return the item to go on with, unless a signal is to end this process, or may be on its way to do so."""
        if self._is_last() or self.interrupts.are_due():
            return None
        message = self._receiver.next()
        if message is None:
            return None
        self._begun += 1
        return header_of(message)

    def _is_last(self) -> bool:
        """Return whether no other item is to begin here: the process is to be replaced, or a late signal may come."""
        return self._call.is_late or (self._options.tasks is not None and self._begun >= self._options.tasks)

    def _is_ready(self) -> bool:
        """Say that this process has started; call the initializer, and say that it is ready, or why it is not."""
        initializer = self._options.initializer
        self._pipe.send_bytes(sent(Hello(is_ready=initializer is None)))
        if initializer is None:
            return True
        pid = os.getpid()
        try:
            state = initializer()
        except BaseException as error:  # noqa: BLE001 - the other side raises it
            if os.getpid() != pid:
                end_forked_child(error)
            raise_ctrl_c(error)
            self._pipe.send_bytes(sent(Unready(SentError(error), f"{type(error).__name__}: {error}")))
            return False
        if os.getpid() != pid:
            end_forked_child()
        self._call.set_state(state)
        self._pipe.send_bytes(sent(Hello(is_ready=True)))
        return True


def serve(end: WorkerEnd, plan: Plan, options: WorkerOptions) -> None:
    """Run items, in a process of its own, until the other side is gone."""
    server = _Server(end, plan, options)
    server.interrupts.install()
    try:
        server.serve()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the other side is gone
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)  # the other side was interrupted too, or learns of it by this
    finally:
        server.runner.retire()
