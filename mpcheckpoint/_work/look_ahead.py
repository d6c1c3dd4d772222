"""Inputs on their way from the source of a map into it: taken a few at a time while they turn out to be done."""

from __future__ import annotations

import os
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from mpcheckpoint._work.input_thread import InputThread
from mpcheckpoint._work.inputs import Input, NotYet

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_AHEAD = 512


class LookAhead:
    """The inputs that were taken from the source and are not yet in the map.

    Usually one at a time. Each time that all of them were done already, twice as many are taken the next time, up to
    512, so that they are judged in one look at the log. As soon as one is to run, it is one at a time again: inputs may
    be large, and what their files are is to be judged late. From an iterable in a thread it is always one, since it may
    wait for the outcome of that one.

    Attributes:
        entries: the inputs, in their order. The map takes them out.
        next_place: the place after the last one that was taken.
        is_exhausted: the source has ended.
    """

    def __init__(self, source: Iterator[Input | NotYet]) -> None:
        self._source = source
        self._limit = 1 if isinstance(source, InputThread) else _MOST_AHEAD
        self._size = 1
        self._pid = os.getpid()
        self._error: Exception | None = None  # from the source, to be raised after what it gave before
        self.entries: deque[Input] = deque()
        self.next_place = 0
        self.is_exhausted = False
        self._was_idle = False

    @property
    def is_idle(self) -> bool:
        """Whether none is here, and the source had none when it was last asked, but may have one later."""
        return self._was_idle and not self.entries

    @property
    def is_at_end(self) -> bool:
        """Whether no input is left."""
        return self.is_exhausted and not self.entries

    @property
    def place(self) -> int:
        """The place of the next input."""
        return self.entries[0].place if self.entries else self.next_place

    def read(self, room: int) -> None:
        """Take inputs from the source if none is here. Requires: it is not exhausted.

        The iterable may fork, and return in both processes: in the child this takes nothing more.

        Args:
            room: how many may be taken, at least one.

        Raises:
            What the source raised.
        """
        if self.entries:
            return
        if self._error is not None:
            raise self._error
        try:
            self._read(min(self._size, room))
        except Exception as error:
            if not self.entries:
                raise
            self._error = error

    def _read(self, most: int) -> None:
        self._was_idle = False
        for entry in islice(self._source, most):
            if isinstance(entry, NotYet):
                self._was_idle = True
                return
            self.entries.append(entry)
            self.next_place = entry.place + 1
            # The next file is looked at when its turn comes.
            if entry.file is not None or os.getpid() != self._pid:
                return
        self.is_exhausted = len(self.entries) < most

    def note(self, *, were_all_done: bool) -> None:
        """Take note of whether the inputs that were here are all out, and were done already."""
        self._size = min(2 * self._size, self._limit) if were_all_done else 1
