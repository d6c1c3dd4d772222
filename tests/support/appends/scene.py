"""What a situation is made with: a store, this process's handle of its log, other processes."""

from __future__ import annotations

import json
import os
import signal
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpcheckpoint import Checkpoint
from mpcheckpoint._format.frame import EndState, Payload, encode_line, running_crc
from support.recorder import control
from support.verbs import inside

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint import Log

# Of every run, so that two of them write the same bytes.
NOW_US = 1_800_000_000_000_000
SECOND_US = 1_000_000
_SEED = 1_000_003
_POLL_S = 0.0005
_LONGEST_STOP_S = 20.0


class Scene:
    """One situation while it is being made, in the process that is to append.

    Attributes:
        store: the store's directory; it is made by the first use of ``log``.
        now_us: what the wall clock of this process says.
    """

    def __init__(self, directory: Path, durability: str, lock_timeout_s: float | None) -> None:
        self.store = directory / "store"
        self.durability = durability
        self.lock_timeout_s = lock_timeout_s
        self._seed = _SEED
        self._log: Log | None = None
        self._known: dict[str, bytes] = {}
        self.now_us = NOW_US
        control.fix_time(self.now_us)
        control.fix_chance(self._seed)

    @property
    def log(self) -> Log:
        """The log "a", by a handle of this process."""
        if self._log is None:
            self._log = self.opened()
        return self._log

    def opened(self, **options: Any) -> Log:
        """Return another handle of the log."""
        options = {"durability": self.durability, "lock_timeout_s": self.lock_timeout_s} | options
        return Checkpoint(self.store, **options).log("a")

    def file(self, suffix: str) -> Path:
        """Return a file of the log: ".jsonl", ".lock", ".page", ".sync" or ".poison"."""
        return inside(self.store, f"a{suffix}")

    def pass_time(self, us: int) -> None:
        """Let the wall clock of this process go on, or back. It stands still meanwhile."""
        self.now_us += us
        control.fix_time(self.now_us)

    # --- other processes --------------------------------------------------------------------------------------

    def elsewhere(self, act: Callable[[Log], object]) -> None:
        """Have another process do something with the log, and wait for its end."""
        child = self._forked(lambda: act(self.opened(durability="always", lock_timeout_s=None)))
        _, status = os.waitpid(child, 0)
        if status:
            raise RuntimeError(f"the other process ended with status {status}")

    def beside(self, until_stopped: Callable[[], Callable[[], object]]) -> None:
        """Have another process prepare something, and finish it once this one has been stopped by a rule.

        Args:
            until_stopped: prepares, and returns what is to be done then. This process goes on after that.
        """
        reader, writer = os.pipe()
        parent = os.getpid()

        def act() -> None:
            finish = until_stopped()
            os.write(writer, b".")
            if _is_stopped(parent):
                finish()
                os.kill(parent, signal.SIGCONT)
            signal.pause()  # what it holds it keeps, unless it has let go of it

        self._forked(act)
        os.close(writer)
        if not os.read(reader, 1):
            raise RuntimeError("the other process is not ready")
        os.close(reader)

    def _forked(self, act: Callable[[], object]) -> int:
        self._seed += 1
        child = os.fork()
        if child:
            return child
        status = 1
        try:
            control.fix_time(NOW_US)
            control.fix_chance(self._seed)
            act()
            status = 0
        except BaseException:  # noqa: BLE001  # whatever it is, nothing of the parent's may run here
            traceback.print_exc()
        finally:
            os._exit(status)

    # --- files ------------------------------------------------------------------------------------------------

    def keep(self, suffix: str) -> None:
        """Remember the bytes of a file of the log as they are now."""
        self._known[suffix] = self.file(suffix).read_bytes()

    def put_back(self, suffix: str) -> None:
        """Let a file of the log have the bytes that were remembered."""
        self.file(suffix).write_bytes(self._known[suffix])

    def replace_by_copy(self, suffix: str) -> None:
        """Put a copy in the place of a file of the log, as one who restores it does."""
        path = self.file(suffix)
        copy = path.with_name("copy.of.it")
        copy.write_bytes(path.read_bytes())
        copy.replace(path)

    def end(self) -> EndState:
        """Return where the log ends."""
        content = self.file(".jsonl").read_bytes().rstrip(b"\n") + b"\n"  # without padding
        return EndState(len(content), int(content[-11:-3], 16), json.loads(content.splitlines()[-1])[1])

    def write_line(self) -> None:
        """Write a record after the end of the log, as a writer does that dies before it tells of it in the page."""
        end = self.end()
        line, _ = encode_line(
            Payload(b'"y"', b'"untold"'),
            stamp_us=end.stamp_us + 1,
            durable=0,
            more=0,
            crc=running_crc(end.stored_crc),
        )
        self.patch(".jsonl", end.offset, line)

    def other_file(self, content: bytes, name: str = "other") -> Path:
        """Make a file that is none of the log's."""
        path = self.store / name
        path.write_bytes(content)
        return path

    def patch(self, suffix: str, offset: int, data: bytes) -> None:
        """Write bytes over others in a file of the log."""
        content = bytearray(self.file(suffix).read_bytes())
        content[offset : offset + len(data)] = data
        self.file(suffix).write_bytes(content)

    def close_descriptors(self, suffix: str, instead: Path | None = None) -> None:
        """Close the open file of the log under this process, and give its number to another file."""
        for number in list(control.descriptors(self.file(suffix).name)):
            os.close(number)
            if instead is not None:
                fd = os.open(instead, os.O_RDWR | os.O_CLOEXEC)
                if fd != number:
                    os.dup2(fd, number, inheritable=False)
                    os.close(fd)


def _is_stopped(process: int) -> bool:
    """Wait until a process is stopped; return False if it ends, or is not stopped for long."""
    until_s = time.monotonic() + _LONGEST_STOP_S
    while time.monotonic() < until_s:
        try:
            state = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state == "T":
            return True
        time.sleep(_POLL_S)
    return False
