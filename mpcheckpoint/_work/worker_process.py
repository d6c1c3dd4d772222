"""What runs inside a worker process of a map, and what it sends to the process that started it."""

from __future__ import annotations

import pickle
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from mpcheckpoint._store.process import process
from mpcheckpoint._work.report import ItemReport, Kind, SentError
from mpcheckpoint._work.run_item import run_item
from mpcheckpoint._work.shortage import shortage_of

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from mpcheckpoint._work.outcomes import Result
    from mpcheckpoint._work.plan import ItemCall, Plan
    from mpcheckpoint._work.workers import Worker


class Hello(NamedTuple):
    """The first message of a worker process: it could start."""


class Clock(NamedTuple):
    """Whether an item's function runs now; sent only if its time is limited.

    Only the function's time is limited: ending a process while it records the result would make a failure of an item
    that did not fail.
    """

    is_running: bool


class Unreadable(NamedTuple):
    """Why a worker process cannot read the item that it was sent."""

    text: str


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

    def _take(self, number: int, frame: object) -> None:
        del number, frame
        if self._is_exposed:
            raise KeyboardInterrupt
        self.has_come = True


class _Call:
    """A call that signals may interrupt. If its time is limited, it sends when it begins and when it ends.

    A process that the call forks has no part in our end of the pipe: it is closed there.
    """

    def __init__(self, call: ItemCall, interrupts: _Interrupts, pipe: Connection, *, is_timed: bool) -> None:
        self._call = call
        self._interrupts = interrupts
        self._pipe = pipe
        self._is_timed = is_timed
        process.register(self)

    def __call__(self, item: Any, worker: Worker) -> Result | None:
        if self._is_timed:
            self._pipe.send(Clock(is_running=True))
        try:
            self._interrupts.expose()
            return self._call(item, worker)
        finally:
            self._interrupts.hold()
            if self._is_timed:
                # Even if the other side is gone, the result is recorded.
                with suppress(BrokenPipeError, ConnectionResetError):
                    self._pipe.send(Clock(is_running=False))

    def reset_after_fork(self) -> None:
        """In a forked child: close the pipe."""
        self._pipe.close()


def serve(pipe: Connection, plan: Plan, is_timed: bool) -> None:
    """Run items, in a process of its own, until the other side is gone."""
    interrupts = _Interrupts()
    interrupts.install()
    plan = plan._replace(call=_Call(plan.call, interrupts, pipe, is_timed=is_timed))
    try:
        pipe.send(Hello())
        while True:
            message = pipe.recv_bytes()
            interrupts.hold()
            pipe.send(_reported(plan, message))
            interrupts.expose()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the other side is gone
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)  # the other side was interrupted too, or learns of it by this


def _reported(plan: Plan, message: bytes) -> ItemReport | Trouble | Unreadable:
    try:
        entry = pickle.loads(message)
    except Exception as error:  # noqa: BLE001 - unpickling runs the user's code
        shortage = shortage_of(error)
        if shortage is not None:
            return ItemReport(Kind.SHORT, shortage=shortage)
        return Unreadable(f"it cannot be read there: {type(error).__name__}: {error}")
    try:
        return run_item(plan, entry)
    except Exception as error:  # noqa: BLE001 - the other side raises it
        return Trouble(SentError(error), f"{type(error).__name__}: {error}")
