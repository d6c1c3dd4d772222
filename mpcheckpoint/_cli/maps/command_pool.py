"""The threads that wait for commands: as many as there is work for."""

from __future__ import annotations

import threading
import time
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING

from mpcheckpoint._work.held_signals import HeldSignals
from mpcheckpoint._work.pool import arrived
from mpcheckpoint._work.report import ItemReport, Kind
from mpcheckpoint._work.run_item import ItemRunner
from mpcheckpoint._work.shortage import shortage_of
from mpcheckpoint.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._work.inputs import Input
    from mpcheckpoint._work.plan import Plan


class CommandPool:
    """A ``WorkerPool`` of up to ``jobs`` threads of its own. A thread ends when there is nothing left to do.

    A thread that is done with one item goes on with the next that waits, and claims it with the outcome of the first.
    With a gate it does not: each item waits at the gate before it is claimed.

    Rejected: ThreadPoolExecutor. Its idle threads stay. Where processes are short, they take the places that the
    commands need: with a limit of three it starts two threads, and then no command, ever. Rejected: any executor; its
    future, and one for what runs elsewhere, cost an item more than its claim does.

    Invariant: each item that waits has a thread, up to ``jobs``: a new one, or one that is done and about to look for
    more. ``_lock`` guards all fields but ``_reports``.

    Attributes:
        most: how many items are taken at a time: a few more than there are threads, so that none waits for us.
    """

    def __init__(
        self,
        plan: Plan,
        jobs: int,
        *,
        gate: Callable[[], None] | None = None,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        """Start no thread yet.

        Args:
            gate: returns when the next item may start.
            on_stop: called before what runs is waited for.
        """
        self.most = 2 * jobs
        self._plan = plan
        self._jobs = jobs
        self._gate = gate
        self._on_stop = on_stop
        self._lock = threading.Lock()
        self._waiting: deque[Input] = deque()
        self._at_gate: dict[threading.Thread, Input] = {}  # by the thread that waits there with it
        self._given = 0  # items that were given out and not collected
        self._threads: set[threading.Thread] = set()
        self._free = 0  # threads that have no item
        self._reports: SimpleQueue[tuple[Input, ItemReport | BaseException]] = SimpleQueue()

    # --- for the map ------------------------------------------------------------------------------------------

    def has_room(self) -> bool:
        return self._given < self.most

    def submit(self, entry: Input) -> None:
        """Give out an item.

        Raises:
            RuntimeError: no thread can be started for it. It was not given out.
        """
        with self._lock:
            if self._free <= len(self._waiting) and len(self._threads) < self._jobs:
                self._start()
            self._waiting.append(entry)
            self._given += 1

    def collect(self, timeout_s: float | None) -> list[tuple[Input, ItemReport]]:
        """Return reports as soon as there are any; none after ``timeout_s``.

        Raises:
            CheckpointError: an outcome could not be recorded.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        found = arrived(self._reports, deadline)
        with self._lock:
            self._given -= len(found)
        return [(entry, _report_of(told)) for entry, told in found]

    def recall(self) -> list[Input]:
        with self._lock:
            recalled = [*self._at_gate.values(), *self._waiting]
            self._at_gate.clear()
            self._waiting.clear()
            self._given -= len(recalled)
        return recalled

    def stop(self, *, is_interrupted: bool) -> None:
        """Drop what has not started, and wait for what runs. Stopping twice is fine."""
        del is_interrupted  # the commands know
        self.recall()
        self._on_stop()
        while True:
            with self._lock:
                thread = next(iter(self._threads), None)
                if thread is not None and thread.ident is None:
                    # None could be started, and a Ctrl-C came just then. It has no item, and gets none.
                    self._threads.discard(thread)
                    continue
            if thread is None:
                return
            thread.join()

    # --- the threads ------------------------------------------------------------------------------------------

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name="command")
        self._threads.add(thread)
        self._free += 1
        try:
            with HeldSignals():
                thread.start()
        except Exception:  # not of a Ctrl-C: then it runs, and is waited for as any other
            self._threads.discard(thread)
            self._free -= 1
            raise

    def _work(self) -> None:
        while (entry := self._next()) is not None:
            self._run(entry)
            del entry  # let go of the item before the next one comes

    def _next(self) -> Input | None:
        """Return the next item for a thread that has none; None if the thread is to end."""
        this = threading.current_thread()
        while True:
            with self._lock:
                self._free -= 1
                if not self._waiting:
                    self._threads.discard(this)
                    return None
                entry = self._waiting.popleft()
                if self._gate is None:
                    return entry
                self._at_gate[this] = entry
            self._gate()
            with self._lock:
                if self._at_gate.pop(this, None) is entry:
                    return entry
                self._free += 1  # it was taken back

    def _run(self, entry: Input) -> None:
        """Run an item, and those that follow. Counts this thread as free before anybody hears of the last one."""
        taken = deque([entry])

        def following() -> Input | None:
            if self._gate is not None:
                return None
            with self._lock:
                upcoming = self._waiting.popleft() if self._waiting else None
            if upcoming is not None:
                taken.append(upcoming)
            return upcoming

        try:
            for report in ItemRunner(self._plan).run(entry, following):
                ended = taken.popleft()
                if not taken:
                    self._set_free()
                self._reports.put((ended, report))
        except BaseException as error:  # noqa: BLE001 - the map raises it
            if taken:
                self._set_free()
            for each in taken:  # the second one did not begin
                self._reports.put((each, error))

    def _set_free(self) -> None:
        with self._lock:
            self._free += 1


def _report_of(told: ItemReport | BaseException) -> ItemReport:
    """Return what a thread told of an item, or raise it."""
    if isinstance(told, ItemReport):
        return told
    shortage = None if isinstance(told, CheckpointError) else shortage_of(told)
    if shortage is None:
        raise told
    return ItemReport(Kind.SHORT, shortage=shortage)
