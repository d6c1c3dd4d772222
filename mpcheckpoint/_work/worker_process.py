"""A worker process of a map, from within: what it does, and what it tells the process that started it."""

from __future__ import annotations

import pickle
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from mpcheckpoint._store.process import process
from mpcheckpoint._work.perform import Carried, Kind, Report, perform
from mpcheckpoint._work.shortage import shortage_of

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from mpcheckpoint._work.outcomes import Result
    from mpcheckpoint._work.perform import Call, Plan
    from mpcheckpoint._work.workers import Worker


class Hello(NamedTuple):
    """The first message of a worker process: it has been able to start."""


class Clock(NamedTuple):
    """Whether an item's function runs now; said only where its time is limited.

    Not the whole of an item is limited: a process that is ended while it records what the function made of the item
    would leave a failure where there was none.
    """

    is_running: bool


class Unreadable(NamedTuple):
    """Why a worker process cannot make an item of what it was sent."""

    text: str


class Trouble(NamedTuple):
    """What kept a worker process from recording an outcome."""

    carried: Carried
    text: str


class _Timed:
    """A call that says when it begins and when it is over."""

    def __init__(self, call: Call, pipe: Connection) -> None:
        self._call = call
        self._pipe = pipe

    def __call__(self, item: Any, worker: Worker) -> Result | None:
        self._pipe.send(Clock(is_running=True))
        try:
            return self._call(item, worker)
        finally:
            # Where the other side is gone, what was done is recorded all the same.
            with suppress(BrokenPipeError, ConnectionResetError):
                self._pipe.send(Clock(is_running=False))


class _Interrupts:
    """Lets signals end this worker while an item's function runs, or while there is nothing to do; not in between.

    What a function has made of its item is recorded first, and no item is begun that is given back at once.

    A Ctrl-C is kept for later by its handler, since it may arrive in a thread that the function has started; SIGTERM,
    which has no handler so that it ends any function, by the mask of this thread, as well as that can be.
    """

    def __init__(self) -> None:
        self._is_exposed = True
        self.has_come = False

    def install(self) -> None:
        """Take the place of what the parent did with these signals; what it ignored stays ignored."""
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
            KeyboardInterrupt: one has come before.
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


class _Exposed:
    """A call that signals may interrupt."""

    def __init__(self, call: Call, interrupts: _Interrupts) -> None:
        self._call = call
        self._interrupts = interrupts

    def __call__(self, item: Any, worker: Worker) -> Result | None:
        try:
            self._interrupts.expose()
            return self._call(item, worker)
        finally:
            self._interrupts.hold()


class _OurEnd:
    """Our end of the pipe. A process that a function forks has no part in it: it is closed there."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        process.register(self)

    def reset_after_fork(self) -> None:
        """In a forked child: let go."""
        self._pipe.close()


def serve(pipe: Connection, plan: Plan, is_timed: bool) -> None:
    """Work, in a process of its own, until there is nobody to work for."""
    interrupts = _Interrupts()
    interrupts.install()
    end = _OurEnd(pipe)
    plan = plan._replace(call=_Exposed(plan.call, interrupts))
    if is_timed:
        plan = plan._replace(call=_Timed(plan.call, pipe))
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
        sys.exit(128 + signal.SIGINT)  # the other side was interrupted as we were, or is told so
    finally:
        del end


def _reported(plan: Plan, message: bytes) -> Report | Trouble | Unreadable:
    try:
        entry = pickle.loads(message)
    except Exception as error:  # noqa: BLE001 - what it is made of is the user's
        shortage = shortage_of(error)
        if shortage is not None:
            return Report(Kind.SHORT, shortage=shortage)
        return Unreadable(f"it cannot be read there: {type(error).__name__}: {error}")
    try:
        return perform(plan, entry)
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to those who gave us the item
        return Trouble(Carried(error), f"{type(error).__name__}: {error}")
