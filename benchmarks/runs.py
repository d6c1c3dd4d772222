"""How things are run: engines in turn, processes that begin together, a partner in another process."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from threading import BrokenBarrierError
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from multiprocessing.connection import Connection
    from multiprocessing.synchronize import Barrier

    Start = Callable[[], object]

Argument = TypeVar("Argument")
Result = TypeVar("Result")
Turn = TypeVar("Turn")

_START_TIMEOUT_S = 120.0


def turns(engines: Sequence[Turn], rounds: int) -> Iterator[Turn]:
    """Yield the engines in turn, in every other round backwards: who comes first has no lasting advantage."""
    for number in range(rounds):
        yield from engines if number % 2 == 0 else reversed(engines)


def run_together(work: Callable[[Start, Argument], Result], arguments: Sequence[Argument]) -> list[Result]:
    """Call ``work(start, argument)`` in a fresh process for each argument and return the results.

    ``work`` prepares, calls ``start``, which returns in all processes at once, and then does what is measured.

    Raises:
        What ``work`` raised in any of them.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(arguments), timeout=_START_TIMEOUT_S)
    # Invariant: each call has a process of its own, since none returns before all have reached the barrier.
    with ProcessPoolExecutor(
        len(arguments), mp_context=context, initializer=_keep, initargs=(barrier,)
    ) as pool:
        futures = [pool.submit(_call, work, argument) for argument in arguments]
        errors = [error for future in futures if (error := future.exception()) is not None]
    if errors:
        raise min(errors, key=lambda error: isinstance(error, BrokenBarrierError))  # the cause, not its echo
    return [future.result() for future in futures]


def run_alone(work: Callable[[Start, Argument], Result], argument: Argument) -> Result:
    """Call ``work`` as above in one fresh process and return its result."""
    return run_together(work, [argument])[0]


_barriers: list[Barrier] = []


def _keep(barrier: Barrier) -> None:
    _barriers.append(barrier)  # a barrier reaches a child when that is started, never later


def _call(work: Callable[[Start, Argument], Result], argument: Argument) -> Result:
    barrier = _barriers[-1]
    try:
        return work(barrier.wait, argument)
    except BaseException:
        barrier.abort()  # the others need not wait for us
        raise


class Partner:
    """Another process that does what it is asked."""

    def __init__(self, connection: Connection) -> None:
        """Speak to it through ``connection``."""
        self._connection = connection

    def send(self, question: Any) -> None:
        """Ask, and go on while it works."""
        self._connection.send(question)

    def receive(self) -> Any:
        """Wait for its answer. EOFError: it died; what of is on the standard error."""
        return self._connection.recv()

    def ask(self, question: Any = None) -> Any:
        """Ask and wait."""
        self.send(question)
        return self.receive()


@contextmanager
def partner(
    open_answer: Callable[[Argument], AbstractContextManager[Callable[[Any], Any]]], argument: Argument
) -> Iterator[Partner]:
    """Start another process, which enters ``open_answer(argument)`` and answers with what that gives."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_answer, args=(theirs, open_answer, argument))
    process.start()
    theirs.close()
    try:
        yield Partner(ours)
    finally:
        ours.close()  # ends it
        process.join()


def _answer(
    connection: Connection,
    open_answer: Callable[[Any], AbstractContextManager[Callable[[Any], Any]]],
    argument: Any,
) -> None:
    with connection, open_answer(argument) as answer:
        while True:
            try:
                question = connection.recv()
            except EOFError:
                return
            connection.send(answer(question))


def peak_memory_bytes() -> int:
    """Return the most memory this process has had resident.

    Requires: its parent stayed small. Linux passes the parent's peak on to a spawned child.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
