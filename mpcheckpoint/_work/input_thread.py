"""A thread that reads the items, so that the iterable may wait for the outcome of an earlier item."""

from __future__ import annotations

import contextvars
import os
import threading
import weakref
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import NamedTuple

from mpcheckpoint._work.forked_child import end_forked_child
from mpcheckpoint._work.held_signals import HeldSignals
from mpcheckpoint._work.inputs import NOT_YET, Input, NotYet

# How long to wait for an item: at first, and after the iterable once took longer.
_FIRST_PATIENCE_S = 0.2
_PATIENCE_S = 0.002


class _Answer(NamedTuple):
    """What the iterable gave: an item; or nothing, at its end; or what it raised."""

    entry: Input | None
    error: BaseException | None = None


class InputThread:
    """An iterator of inputs that never waits long: if the iterable has not answered yet, it yields NOT_YET.

    The thread asks the iterable for one item at a time, and only when one is wanted. What the iterable raises is raised
    here.

    Rejected: to ask in the caller's thread. An iterable that waits until an outcome is given out waits for that very
    thread, for ever, as soon as a second worker is free.
    """

    def __init__(self, source: Iterator[Input]) -> None:
        self._questions: SimpleQueue[bool] = SimpleQueue()
        self._answers: SimpleQueue[_Answer] = SimpleQueue()
        self._is_asked = False
        self._is_over = False
        self._patience_s = _FIRST_PATIENCE_S
        # A daemon, so that an iterable that waits for ever does not keep the interpreter from exiting. It has no
        # reference to self, so that a map that is forgotten ends it.
        self._thread = threading.Thread(
            target=contextvars.copy_context().run,
            args=(_answer, source, self._questions, self._answers),
            name="mpcheckpoint-items",
            daemon=True,
        )
        try:
            with HeldSignals():
                self._thread.start()
                self._stop = weakref.finalize(self, self._questions.put, False)
                self._stop.atexit = False
        except BaseException:
            self._questions.put(False)  # at once, not when what the exception refers to is collected
            raise

    def __iter__(self) -> InputThread:
        return self

    def __next__(self) -> Input | NotYet:
        """Return the next input if it comes soon, else NOT_YET."""
        if self._is_over:
            raise StopIteration
        if not self._is_asked:
            self._is_asked = True
            self._questions.put(True)
        try:
            answer = self._answers.get(timeout=self._patience_s)
        except Empty:
            self._patience_s = _PATIENCE_S
            return NOT_YET
        self._is_asked = False
        self._is_over = answer.entry is None
        if answer.error is not None:
            raise answer.error
        if answer.entry is None:
            raise StopIteration
        return answer.entry

    @property
    def is_current(self) -> bool:
        """Whether the caller runs in this thread: it is the iterable itself, or something that it calls."""
        return threading.current_thread() is self._thread

    def stop(self) -> None:
        """Ask for nothing more: the thread ends as soon as the iterable returns. Stopping twice is fine."""
        self._is_over = True
        self._stop()


def _answer(source: Iterator[Input], questions: SimpleQueue[bool], answers: SimpleQueue[_Answer]) -> None:
    """Answer until nothing is left to ask for.

    If the iterable forks a process that returns here too, that process ends: nobody asks there, and it would wait for
    ever.
    """
    pid = os.getpid()
    while questions.get():
        try:
            entry = next(source, None)
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            if os.getpid() != pid:
                end_forked_child(error)
            answers.put(_Answer(None, error))
            return
        if os.getpid() != pid:
            end_forked_child()
        answers.put(_Answer(entry))
        if entry is None:
            return
