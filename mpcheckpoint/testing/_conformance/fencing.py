"""What a storage promises of a worker that is dead, and whose process goes on: nothing that it does late counts.

An administrator may retire a worker, or a server may lose the session that kept it alive. Others work on what it had.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mpcheckpoint.log import handle_of
from mpcheckpoint.testing._conformance.base import StorageUnderTest
from mpcheckpoint.testing._conformance.blocked import resume, stop
from mpcheckpoint.testing._conformance.processes import ProcessTests, received_or_none
from mpcheckpoint.testing._conformance.verbs import Background, events, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from mpcheckpoint import Log


class FencingTests(StorageUnderTest):
    """Workers that are dead, in this process."""

    def test_outcome_of_a_dead_worker_does_not_count_after_that_of_another(self) -> None:
        late = _Stuck(self)
        self.end_worker(self.place, late.worker_id)
        assert _mapped_in_time(self) == ["timely"]

        assert late.goes_on() == ["timely"]
        self.require_one_outcome("timely")

    def test_outcome_of_a_dead_worker_does_not_count_while_another_runs_its_item(self) -> None:
        late = _Stuck(self)
        self.end_worker(self.place, late.worker_id)
        timely = _Stuck(self, "timely")

        late.may_end.set()
        assert timely.worker_id != late.worker_id
        wait_until(late.has_ended.is_set, self.patience_s)
        assert timely.goes_on() == ["timely"]
        assert late.goes_on() == ["timely"]
        self.require_one_outcome("timely")

    def test_claim_that_a_dead_worker_gives_back_is_not_taken_from_another(self) -> None:
        logs = [self.open_handle().log("a") for _ in range(3)]
        first = logs[0].claim("x")
        dead = first.__enter__()
        assert dead is not None
        self.end_worker(self.place, dead.worker)
        with logs[1].claim("x") as second:
            assert second is not None
            assert second.worker != dead.worker
            first.__exit__(None, None, None)
            with logs[2].claim("x") as third:
                assert third is None, "two workers have one object"
        with logs[2].claim("x") as third:
            assert third is not None

    def test_worker_that_is_dead_stays_dead_whatever_its_process_does(self) -> None:
        ours, theirs = (self.open_store(self.place).workers for _ in range(2))
        worker = ours.begin()
        worker.show(b"{}")
        self.end_worker(self.place, worker.id)
        others = []
        for _ in range(3):
            assert not worker.begin_again()
            worker.show(b'{"late":1}')
            others.append(ours.begin())
            assert worker.id not in {each.id for each in others}
            for workers in (ours, theirs):
                assert not workers.is_live(worker.id)
                assert not list(workers.shown())
                assert all(workers.is_live(each.id) for each in others)
        worker.retire()
        assert not theirs.is_live(worker.id)
        assert not worker.live_again()
        assert not theirs.is_live(worker.id)

    def require_one_outcome(self, value: str) -> None:
        """Require that the item has this outcome, and has had no other."""
        assert [outcome.value for outcome in self.open_handle().log("a").results()] == [value]
        assert len(events(self.open_log())) == 1


class FencingProcessTests(ProcessTests):
    """A worker that is dead, in another process."""

    def test_outcome_of_a_dead_worker_of_a_process_that_was_stopped_does_not_count(self) -> None:
        log = self.open_handle().log("a")
        with self.another_process(_run_when_told) as (process, pipe):
            assert self.received(pipe) == "begun"
            worker_id = _holder(log)
            assert worker_id is not None
            stop(process)
            self.end_worker(self.place, worker_id)
            assert _mapped_in_time(self) == ["timely"]
            resume(process)
            pipe.send("go on")

            assert self.received(pipe) == ["timely"]
        assert [outcome.value for outcome in log.results()] == ["timely"]
        assert len(events(self.open_log())) == 1


class _Stuck:
    """A map of one item, whose worker is in the middle of it."""

    def __init__(self, storage: StorageUnderTest, value: str = "late") -> None:
        self.may_end, self.has_ended = threading.Event(), threading.Event()
        begun = threading.Event()
        self._patience_s = storage.patience_s
        log = storage.open_handle().log("a")

        def work(_item: str) -> str:
            begun.set()
            assert self.may_end.wait(4 * storage.patience_s)
            self.has_ended.set()
            return value

        self._run = Background(_mapped, log, work)
        assert begun.wait(storage.patience_s), "the item was not begun"
        holder = _holder(log)
        assert holder is not None
        self.worker_id = holder

    def goes_on(self) -> list[object]:
        """Let the worker end its item; return the outcomes that its map gives out."""
        self.may_end.set()
        return self._run.result(self._patience_s)


def _mapped(log: Log, work: Callable[[str], str]) -> list[object]:
    with ThreadPoolExecutor(1) as executor:
        return [outcome.value for outcome in log.map(work, ["x"], executor=executor, version="1")]


def _mapped_in_time(storage: StorageUnderTest) -> list[object]:
    """Run the map by another handle."""
    log = storage.open_handle().log("a")
    return Background(_mapped, log, lambda _: "timely").result(storage.patience_s)


def _holder(log: Log) -> str | None:
    """Return the worker that has claimed the item last."""
    return handle_of(log).query(lambda view: view.claim_of("x"))


# --- in the other process ----------------------------------------------------------------------------------


def _run_when_told(storage: StorageUnderTest, pipe: Connection) -> None:
    def work(_item: str) -> str:
        pipe.send("begun")
        received_or_none(pipe)
        return "late"

    pipe.send(_mapped(storage.open_handle().log("a"), work))
