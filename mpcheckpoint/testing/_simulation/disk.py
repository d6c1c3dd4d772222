"""A disk that loses power, fills up and fails, in place of the real one."""

from __future__ import annotations

import errno
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from mpcheckpoint.testing._simulation.images import DiskImage, fill, images
from mpcheckpoint.testing._simulation.model import DiskModel
from mpcheckpoint.testing._simulation.seam import CALLS, Seam

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint.testing._simulation.seam import SeamCall

When = Literal["before", "in", "after"]


class SimulatedCrash(BaseException):
    """The process died here. Nothing more of it reaches the disk; code that catches this would not run in reality."""


@dataclass
class _PlannedFault:
    """What happens at certain calls."""

    at: int
    times: int
    name: str | None
    on: re.Pattern[str]
    act: Callable[[SeamCall], Any]
    seen: int = 0

    def is_due(self, call: SeamCall, path: str) -> bool:
        if self.name not in (None, call.name) or not self.on.search(path):
            return False
        self.seen += 1
        return self.at <= self.seen < self.at + self.times


class SimulatedDisk:
    """A directory that acts as a disk of its own: a model of what is durable, with faults on demand.

    Inside the ``with`` block every call that the library makes on files below ``root`` goes through the model. The
    bytes are in real files, so that other programs can read them; ``images`` tells what a loss of power would leave. A
    sync costs nothing. The same seed and the same calls give the same images.

    Locking: for one thread, which may play several processes (``SimulatedProcess``).
    """

    def __init__(self, root: str | os.PathLike[str], *, seed: int = 0) -> None:
        """Stand in for the disk that holds the directory ``root``; all that is in it now counts as durable."""
        self.root = Path(root).resolve()
        self._prefix = f"{self.root}{os.sep}"
        self.seed = seed
        self.is_crashed = False
        # What was called, and the 1-based indexes of the calls that changed, or synced, anything on the disk.
        self.calls: list[str] = []
        self.changing: list[int] = []
        self._plans: list[_PlannedFault] = []
        self._seam = Seam(self._handle)
        self._model = DiskModel(self.root)

    def __enter__(self) -> Self:
        self._seam.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._seam.__exit__()

    # --- faults -----------------------------------------------------------------------------------------------

    def crash(self, *, at: int = 1, when: When = "before", name: str | None = None, on: str = "") -> None:
        """Let the process die at call number ``at`` from now on: before it, after it, or with half of a write done.

        After that, every call raises SimulatedCrash and does nothing.

        Args:
            name: count only calls of this function of the seam (one of ``CALLS``), such as ``sync_data``.
            on: count only calls on files in whose path this regular expression is found.
        """

        def die(call: SeamCall) -> Any:
            if when == "after":
                self._do(call)
            elif when == "in" and call.name == "write_at":
                self._do(call.shortened())
            self.is_crashed = True
            raise SimulatedCrash(f"{when} {call}")

        self._plan(die, at=at, times=1, name=name, on=on)

    def fail(
        self,
        error: int | BaseException,
        *,
        at: int = 1,
        times: int = 1,
        name: str | None = None,
        on: str = "",
    ) -> None:
        """Let ``times`` calls, from call number ``at`` from now on, fail with ``error``: an errno or an exception.

        A call that fails does nothing. But after a sync that fails with an errno, no later sync writes what this one
        should have written, as on Linux, and the next sync through every other descriptor open then fails once too.
        """

        def refuse(call: SeamCall) -> Any:
            if not isinstance(error, int):
                raise error  # a Ctrl-C, or no memory: the system was not asked
            if call.name == "sync_data":
                self._model.fail_to_sync(call.arguments[0])
            raise OSError(error, os.strerror(error))

        self._plan(refuse, at=at, times=times, name=name, on=on)

    def write_short(self, taken_bytes: int, *, at: int = 1, times: int = 1, on: str = "") -> None:
        """Let ``times`` calls, from call number ``at`` from now on, write only so many bytes if they are writes."""

        def take_less(call: SeamCall) -> Any:
            return self._do(call.shortened(taken_bytes) if call.name == "write_at" else call)

        self._plan(take_less, at=at, times=times, name=None, on=on)

    def fill_up(self, free_bytes: int, *, on: str = "") -> None:
        """Let writes take only ``free_bytes`` more bytes in all and then fail with ENOSPC, until ``clear``."""
        left = free_bytes

        def take(call: SeamCall) -> Any:
            nonlocal left
            if left <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            taken = self._do(call.shortened(left))
            left -= taken
            return taken

        self._plan(take, at=1, times=1 << 62, name="write_at", on=on)

    def meanwhile(
        self, action: Callable[[], object], *, at: int = 1, name: str | None = None, on: str = ""
    ) -> None:
        """Call ``action`` right before call number ``at`` from now on: what another process does at that moment.

        Let a ``SimulatedProcess`` do it, with a ``lock_timeout_s``: it must not wait for a lock that is held here.
        """

        def interrupt(call: SeamCall) -> Any:
            action()
            return self._do(call)

        self._plan(interrupt, at=at, times=1, name=name, on=on)

    def clear(self) -> None:
        """Plan no more faults. What has happened stays."""
        self._plans = []

    def _plan(
        self, act: Callable[[SeamCall], Any], *, at: int, times: int, name: str | None, on: str
    ) -> None:
        if at < 1 or times < 1:
            raise ValueError(f"calls are counted from 1, not {min(at, times)}")
        if name is not None and name not in CALLS:
            raise ValueError(f"no function of the seam: {name!r}; there are {list(CALLS)}")
        self._plans.append(_PlannedFault(at, times, name, re.compile(on), act))

    # --- loss of power ----------------------------------------------------------------------------------------

    def images(self, limit: int = 16) -> list[DiskImage]:
        """Return at most ``limit`` different images of what a loss of power at this moment may leave.

        All images if they are so few, else a sample that the seed chooses. The first has all that was written: what the
        death of the process alone leaves.
        """
        return list(images(self._model.choices(), limit=limit, seed=self.seed))

    def revive(self) -> None:
        """Let a new process run, without faults, after a crash. What was not synced still is not."""
        self.is_crashed = False
        self.clear()

    def restore(self, image: DiskImage) -> None:
        """Replace all that is there by an image, and call it durable. Requires: no file below is open."""
        for path in self.root.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        fill(self.root, image.content)
        self._model = DiskModel(self.root)
        self.is_crashed = False

    # --- calls ------------------------------------------------------------------------------------------------

    def _handle(self, call: SeamCall) -> Any:
        if self.is_crashed:
            raise SimulatedCrash("this process is dead")
        path = call.path
        if not path.startswith(self._prefix) and path != str(self.root):
            # The directories above the disk count as durable.
            return None if call.name == "sync_directory" else call.proceed()
        self.calls.append(f"{call.name} {path[len(str(self.root)) + 1 :]}")
        due = [plan for plan in self._plans if plan.is_due(call, path)]
        return due[0].act(call) if due else self._do(call)

    def _do(self, call: SeamCall) -> Any:
        result = self._model.do(call)
        if self._model.has_changed:
            self.changing.append(len(self.calls))
        return result
