"""Named points: places in the work of this library at which a process dies, the same each time."""

from __future__ import annotations

import itertools
import os
import re
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mpcheckpoint.testing._simulation.seam import CALLS, Seam

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpcheckpoint.testing._simulation.seam import SeamCall

_TEXT = re.compile(r"(?P<when>\w+) (?P<name>\w+)(?: (?P<number>[1-9][0-9]*))?(?: on (?P<on>.+))?")
_MOMENTS = ("before", "in", "after")
_CAN_BE_HALF_DONE = ("write_at",)


@dataclass(frozen=True, slots=True)
class Point:
    """A place to die at, such as ``before write_at 3`` or ``after sync_data 1 on \\.jsonl$``; ``str()`` gives the text.

    Attributes:
        when: "before" the call, "after" it, or "in" it, when half of the bytes of a ``write_at`` are written.
        name: the function of the platform seam, such as ``write_at``, ``sync_data``, ``publish``.
        number: the 1-based index of the call, among those of this function in the process that dies.
        on: a regular expression; only calls on files or directories whose path it matches somewhere are counted.
    """

    when: str
    name: str
    number: int = 1
    on: str = ""

    def __post_init__(self) -> None:
        if self.when not in _MOMENTS:
            raise ValueError(f"a point is {', '.join(_MOMENTS)} a call, not {self.when!r}")
        if self.name not in CALLS:
            raise ValueError(f"no function of the seam: {self.name!r}; there are {', '.join(CALLS)}")
        if self.when == "in" and self.name not in _CAN_BE_HALF_DONE:
            raise ValueError(
                f"a process cannot die in {self.name}, which is done whole or not at all: say before or after"
            )
        if self.number < 1:
            raise ValueError(f"calls are counted from 1, not from {self.number}")
        re.compile(self.on)

    @classmethod
    def parse(cls, text: str | Point) -> Point:
        """Return the point that ``text`` names: when, function, number (default 1), and perhaps ``on`` and a pattern.

        Raises:
            ValueError: it names none.
        """
        if isinstance(text, Point):
            return text
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(
                f"not a point: {text!r}; one is 'before write_at 3' or 'after sync_data 1 on jsonl$'"
            )
        return cls(match["when"], match["name"], int(match["number"] or 1), match["on"] or "")

    def __str__(self) -> str:
        return f"{self.when} {self.name} {self.number}" + (f" on {self.on}" if self.on else "")


def die() -> None:
    """End this process as ``kill -9`` does: no handler and no ``finally`` runs, no buffer is written."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_with_group() -> None:
    """End every process of this process group in the same way."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


@contextmanager
def kill_at(point: str | Point, *, die: Callable[[], None] = die) -> Iterator[None]:
    """Kill the process that reaches ``point`` inside the ``with`` block.

    Concurrency: calls of all threads are counted. A child that is forked inside the block counts on from the number of
    its parent, and dies alone; a spawned one is not reached.
    """
    armed = Point.parse(point)
    numbers = itertools.count(1)

    def act(call: SeamCall) -> Any:
        if not re.search(armed.on, call.path) or next(numbers) != armed.number:
            return call.proceed()
        if armed.when == "in":
            call.shortened().proceed()
        elif armed.when == "after":
            call.proceed()
        die()
        raise AssertionError(f"this process outlived {armed}")

    with Seam(act, names=(armed.name,)):
        yield
