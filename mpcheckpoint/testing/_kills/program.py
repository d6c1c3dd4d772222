"""The program that a crash test kills: how it is started, and what its lines mean."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint.testing._kills.points import Point

_PLACEHOLDER = "{store}"
_INTERPRETER = re.compile(r"(python|pypy)[0-9.]*")
_OPTIONS_WITH_A_VALUE = ("-W", "-X")


@dataclass(frozen=True, slots=True)
class Program:
    """The program under test: how it is started, and what its lines mean."""

    argv: list[str]
    env: dict[str, str] | None
    cwd: str | os.PathLike[str] | None
    ack: Callable[[str], Any]
    timeout_s: float

    def __post_init__(self) -> None:
        if not any(_PLACEHOLDER in text for text in [*self.argv[1:], *(self.env or {}).values()]):
            raise ValueError(f"no argument of {self.argv} holds {_PLACEHOLDER}: where is the store?")

    def command(self, store: Path, point: Point | None) -> list[str]:
        """Return what to start, dying at ``point`` if there is one."""
        argv = [argument.replace(_PLACEHOLDER, str(store)) for argument in self.argv]
        return argv if point is None else _armed(argv, point)

    def environment(self, store: Path) -> dict[str, str]:
        """Return what to start it in."""
        if self.env is None:
            return dict(os.environ)
        return {name: value.replace(_PLACEHOLDER, str(store)) for name, value in self.env.items()}


def _armed(argv: list[str], point: Point) -> list[str]:
    if argv[0] != sys.executable and not _INTERPRETER.fullmatch(Path(argv[0]).name):
        raise ValueError(f"named points are for programs run by a Python interpreter, not by {argv[0]!r}")
    position = 1
    while position < len(argv) and argv[position].startswith("-") and argv[position] != "-m":
        if argv[position] == "-c":
            raise ValueError("named points are for scripts and modules, not for python -c")
        position += 2 if argv[position] in _OPTIONS_WITH_A_VALUE else 1
    return [*argv[:position], "-m", "mpcheckpoint.testing.killed_at", str(point), *argv[position:]]
