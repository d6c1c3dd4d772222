"""Faulty workers."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from support.memory_storage import MemoryStore
from support.memory_workers import MemoryWorker, MemoryWorkers
from support.planted import found_by

if TYPE_CHECKING:
    from collections.abc import Iterator


@found_by(
    "test_worker_lives_until_it_retires_as_all_stores_of_the_place_see",
    "test_claim_keeps_others_out_for_as_long_as_it_is_held",
    "test_item_that_runs_in_a_map_of_one_store_is_waited_for_by_that_of_another",
)
class EachStoreHasWorkersOfItsOwn(MemoryWorkers):
    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.known = {}


@found_by("test_worker_lives_until_it_retires_as_all_stores_of_the_place_see")
class AllPlacesShareTheirWorkers(MemoryWorkers):
    def __init__(self, path: str) -> None:
        super().__init__("")


@found_by("test_each_worker_has_an_id_of_its_own")
class NumbersWorkersAnew(MemoryWorkers):
    def begin(self) -> MemoryWorker:
        worker = super().begin()
        del self.known[worker.id]
        worker.id = f"{len(self.known) % 2:032x}"
        self.known[worker.id] = worker
        return worker


@found_by("test_worker_lives_until_it_retires_as_all_stores_of_the_place_see")
class TakesAllForAlive(MemoryWorkers):
    _ever: set[str] = set()  # noqa: RUF012 - that is the fault

    def begin(self) -> MemoryWorker:
        worker = super().begin()
        self._ever.add(worker.id)
        return worker

    def is_live(self, worker_id: str) -> bool:
        return worker_id in self._ever


@found_by("test_what_is_no_id_of_a_worker_does_not_live")
class KnowsWorkersByTheStartOfTheirIds(MemoryWorkers):
    def is_live(self, worker_id: str) -> bool:
        return any(each.startswith(worker_id) for each in self.known)


@found_by(
    "test_worker_that_another_store_retires_is_known_no_longer",
    "test_map_that_is_ended_by_its_first_failure_starts_nothing_more",
)
class KnowsNoWorker(MemoryWorkers):
    def is_known(self, worker_id: str) -> bool:
        return False


@found_by(
    "test_worker_that_another_store_retires_is_known_no_longer",
    "test_outcome_of_a_dead_worker_does_not_count_after_that_of_another",
    "test_outcome_of_a_dead_worker_does_not_count_while_another_runs_its_item",
    "test_claim_that_a_dead_worker_gives_back_is_not_taken_from_another",
    "test_worker_that_is_dead_stays_dead_whatever_its_process_does",
)
class LetsNobodyElseRetireAWorker(MemoryWorkers):
    def retire(self, worker_id: str) -> None:
        pass


@found_by(
    "test_worker_that_another_store_retires_is_known_no_longer",
    "test_worker_that_is_dead_stays_dead_whatever_its_process_does",
)
class BeginsAgainThoughRetired(MemoryWorkers):
    class Worker(MemoryWorker):
        def begin_again(self) -> bool:
            super().begin_again()
            return True

    worker_type = Worker


@found_by("test_worker_that_is_dead_stays_dead_whatever_its_process_does")
class LivesAgainOnceItBeginsAnotherObject(MemoryWorkers):
    class Worker(MemoryWorker):
        def begin_again(self) -> bool:
            is_known = super().begin_again()
            self._known[self.id] = self
            return is_known

    worker_type = Worker


@found_by("test_worker_that_is_dead_stays_dead_whatever_its_process_does")
class LivesAgainThoughRetired(MemoryWorkers):
    class Worker(MemoryWorker):
        def live_again(self) -> bool:
            self._known[self.id] = self
            return False

    worker_type = Worker


@found_by("test_worker_that_is_dead_stays_dead_whatever_its_process_does")
class ShowsWhatTheDeadShow(MemoryWorkers):
    _all: list[MemoryWorker] = []  # noqa: RUF012 - that is the fault

    def begin(self) -> MemoryWorker:
        self._all.append(worker := super().begin())
        return worker

    def shown(self) -> Iterator[bytes]:
        yield from [worker.data for worker in self._all if worker.data]


@found_by("test_worker_shows_what_it_is_at_until_it_retires")
class ShowsTheFirstThingForEver(MemoryWorkers):
    class Worker(MemoryWorker):
        def show(self, data: bytes) -> None:
            self.data = self.data or data

    worker_type = Worker


@found_by("test_worker_shows_what_it_is_at_until_it_retires")
class ShowsWorkersThatHaveNothingToSay(MemoryWorkers):
    def shown(self) -> Iterator[bytes]:
        yield from [worker.data for worker in self.known.values()]


@found_by("test_worker_tells_since_when_it_has_its_object")
class TellsWhenAWorkerWasMade(MemoryWorkers):
    class Worker(MemoryWorker):
        def begin_again(self) -> bool:
            return self.id in self._known

    worker_type = Worker


@found_by("test_worker_lives_until_it_retires_as_all_stores_of_the_place_see")
class ClearsTheLivingAway(MemoryWorkers):
    def clear(self) -> None:
        self.known.clear()


@found_by("test_all_stores_of_a_place_have_one_path_and_those_of_another_place_another")
class EachStoreHasAPathOfItsOwn(MemoryStore):
    _numbers = itertools.count()

    def __init__(self, place: object) -> None:
        super().__init__(place)  # type: ignore[arg-type]
        self.path = f"{self.path}.{next(self._numbers)}"
