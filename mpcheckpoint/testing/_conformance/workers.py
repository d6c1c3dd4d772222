"""What Workers promise: who lives is the same for all stores of a place, and the dead stay dead."""

from __future__ import annotations

import multiprocessing
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from unittest import SkipTest

from mpcheckpoint.testing._conformance.base import StorageUnderTest
from mpcheckpoint.testing._conformance.processes import ProcessTests, received_or_none, running
from mpcheckpoint.testing._conformance.verbs import Background, wait_until

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from mpcheckpoint._store.worker_protocol import Worker, Workers

_ITEMS = [f"item{number}" for number in range(20)]
_MOMENT_S = 0.2


class WorkerTests(StorageUnderTest):
    """The workers of two stores on one place, and what claims and maps make of them."""

    def workers(self) -> Workers:
        """Return the workers of a new Store."""
        return self.open_store(self.place).workers

    def test_all_stores_of_a_place_have_one_path_and_those_of_another_place_another(self) -> None:
        paths = [self.open_store(place).path for place in (self.place, self.place, self.other_place)]

        assert paths[0] == paths[1] != paths[2]

    def test_worker_lives_until_it_retires_as_all_stores_of_the_place_see(self) -> None:
        ours, theirs = self.workers(), self.workers()
        elsewhere = self.open_store(self.other_place).workers
        with ours.begin() as worker:
            assert re.fullmatch("[0-9a-f]{32}", worker.id)
            assert ours.is_live(worker.id)
            assert theirs.is_live(worker.id)
            assert not elsewhere.is_live(worker.id)
            theirs.clear()
            assert ours.is_live(worker.id), "a worker that lives was cleared away"
            assert set(theirs.holders([worker.id, "0" * 32])) == {worker.id}
        assert not ours.is_live(worker.id)
        assert not theirs.is_live(worker.id)
        assert not theirs.holders([worker.id])
        worker.retire()

    def test_each_worker_has_an_id_of_its_own(self) -> None:
        workers = [self.workers().begin() for _ in range(5)]

        assert len({worker.id for worker in workers}) == 5
        for number, worker in enumerate(workers):
            assert [self.workers().is_live(each.id) for each in workers] == [False] * number + [True] * (
                5 - number
            )
            worker.retire()

    def test_what_is_no_id_of_a_worker_does_not_live(self) -> None:
        workers = self.workers()
        with workers.begin() as worker:
            for worker_id in (
                "",
                "x",
                "0" * 32,
                worker.id.upper() + "0",
                worker.id[:-1],
                f"../{worker.id}",
                "%",
                "\0",
            ):
                assert not workers.is_live(worker_id)
                assert not workers.is_known(worker_id)
                workers.retire(worker_id)
                assert workers.begun_us(worker_id) is None
            assert workers.is_live(worker.id)

    def test_worker_that_another_store_retires_is_known_no_longer(self) -> None:
        ours, theirs = self.workers(), self.workers()
        with ours.begin() as worker:
            assert worker.begin_again()
            assert theirs.is_known(worker.id)
            theirs.retire(worker.id)
            theirs.retire(worker.id)
            assert not ours.is_known(worker.id)
            assert not worker.begin_again()

    def test_worker_shows_what_it_is_at_until_it_retires(self) -> None:
        ours, theirs = self.workers(), self.workers()
        with ours.begin() as worker, ours.begin():
            assert not list(theirs.shown())
            for data in (b'{"a":1}', b'{"long":"%s"}' % (b"x" * 5000), b"{}"):
                worker.show(data)
                assert [each.rstrip() for each in theirs.shown()] == [data]
        assert not list(theirs.shown())

    def test_worker_tells_since_when_it_has_its_object(self) -> None:
        ours, theirs = self.workers(), self.workers()
        with ours.begin() as worker:
            begun_us = theirs.begun_us(worker.id)
            assert begun_us is not None
            wait_until(
                lambda: worker.begin_again() and (theirs.begun_us(worker.id) or 0) > begun_us, self.patience_s
            )
        assert theirs.begun_us(worker.id) is None

    # --- what is made of them ---------------------------------------------------------------------------------

    def test_item_that_runs_in_a_map_of_one_store_is_waited_for_by_that_of_another(self) -> None:
        begun, may_end = threading.Event(), threading.Event()
        ran: list[str] = []

        def work(item: str) -> str:
            ran.append(item)
            begun.set()
            assert may_end.wait(self.patience_s)
            return item

        def run() -> list[str | None]:
            with ThreadPoolExecutor(1) as executor:
                outcomes = self.open_handle().log("a").map(work, ["x"], executor=executor, version="1")
                return [outcome.value for outcome in outcomes]

        one = Background(run)
        assert begun.wait(self.patience_s)
        two = Background(run)
        time.sleep(_MOMENT_S)  # in which the second one runs the item, too, if it takes the first for dead
        may_end.set()

        assert [one.result(self.patience_s), two.result(self.patience_s)] == [["x"], ["x"]]
        assert ran == ["x"]

    def test_map_that_is_ended_by_its_first_failure_starts_nothing_more(self) -> None:
        ran: list[str] = []

        def fail(item: str) -> None:
            ran.append(item)
            raise ValueError(item)

        with ThreadPoolExecutor(1) as executor:
            outcomes = list(self.open_handle().log("a").map(fail, _ITEMS, executor=executor, halt=1))
        assert ran == [outcome.object_key for outcome in outcomes] == _ITEMS[:1]


class WorkerProcessTests(ProcessTests):
    """The workers of two processes on one place."""

    def test_worker_of_a_process_that_is_killed_is_dead_at_once_and_stays_dead(self) -> None:
        workers = self.open_store(self.place).workers
        with self.another_process(_begin) as (process, pipe):
            worker_id = self.received(pipe)
            assert workers.is_live(worker_id)
            process.kill()
            process.join()
            wait_until(lambda: not workers.is_live(worker_id), self.patience_s)
        workers.clear()
        with workers.begin():
            assert not workers.is_live(worker_id)

    def test_forked_child_keeps_no_worker_of_its_parent_alive(self) -> None:
        self.require("is_shared_between_processes")
        if "fork" not in multiprocessing.get_all_start_methods():
            raise SkipTest("this system does not fork")
        context = multiprocessing.get_context("fork")
        workers = self.open_store(self.place).workers
        worker = workers.begin()
        mine, theirs = context.Pipe()
        with mine, theirs, running(context.Process(target=_outlive, args=(workers, worker, theirs))):
            assert self.received(mine) == (False, True), (
                "the child takes the worker for its own, or has it open"
            )
            assert workers.is_live(self.received(mine)), "a worker of the child's own does not live"
            assert workers.is_live(worker.id)
            worker.retire()
            assert not workers.is_live(worker.id)

    def test_claim_of_a_process_that_is_killed_is_free(self) -> None:
        log = self.open_handle().log("a")
        with self.another_process(_claim) as (process, pipe):
            assert self.received(pipe) is True
            with log.claim("x") as mine:
                assert mine is None
            process.kill()
            process.join()

            def is_free() -> bool:
                with log.claim("x") as claim:
                    return claim is not None

            wait_until(is_free, self.patience_s)


# --- in the other process ----------------------------------------------------------------------------------


def _begin(storage: StorageUnderTest, pipe: Connection) -> None:
    worker = storage.open_store(storage.place).workers.begin()
    pipe.send(worker.id)
    received_or_none(pipe)


def _outlive(workers: Workers, worker: Worker, pipe: Connection) -> None:
    worker.retire()
    pipe.send((worker.is_mine, worker.fd < 0 or not _is_open(worker.fd)))
    with workers.begin() as own:
        pipe.send(own.id)
        received_or_none(pipe)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _claim(storage: StorageUnderTest, pipe: Connection) -> None:
    with storage.open_handle().log("a").claim("x") as claim:
        pipe.send(claim is not None)
        received_or_none(pipe)
