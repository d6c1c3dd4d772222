"""A worker process of a map, from within: what it does, and what it tells the process that started it."""

from __future__ import annotations

import pickle
import signal
from typing import TYPE_CHECKING, Any, NamedTuple

from mpcheckpoint._work.perform import Carried, perform

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from mpcheckpoint._work.outcomes import Result
    from mpcheckpoint._work.perform import Call, Plan, Report
    from mpcheckpoint._work.workers import Worker


class Hello(NamedTuple):
    """The first message of a worker process: it has been able to start."""


class Clock(NamedTuple):
    """Whether an item's function runs now; said only where its time is limited.

    Not the whole of an item is limited: a process that is ended while it records what the function made of the item
    would leave a failure where there was none.
    """

    is_running: bool


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
            self._pipe.send(Clock(is_running=False))


def serve(pipe: Connection, plan: Plan, inherited: list[Connection], is_timed: bool) -> None:
    """Work, in a process of its own, until there is nobody to work for."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in inherited:
        other.close()
    try:
        pipe.send(Hello())
        if is_timed:
            plan = plan._replace(call=_Timed(plan.call, pipe))
        while True:
            pipe.send(_reported(plan, pipe.recv_bytes()))
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        return  # the other side is gone, or was interrupted as we were


def _reported(plan: Plan, message: bytes) -> Report | Trouble:
    try:
        return perform(plan, pickle.loads(message))
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to those who gave us the item
        return Trouble(Carried(error), f"{type(error).__name__}: {error}")
