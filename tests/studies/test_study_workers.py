"""Workers of one study: every trial once, whoever is killed, wherever."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.trial import TrialState

from mpcheckpoint import Checkpoint
from mpcheckpoint.optuna import JournalBackend
from support.verbs import become_a_new_process, hold_append_lock, tear, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from optuna.trial import FrozenTrial, Trial

    from mpcheckpoint.testing import SimulatedDisk
    from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal
    from support.processes import Children

WORKERS = 4
TRIALS = 50


def objective(trial: Trial) -> float:
    x = trial.suggest_float("x", -1, 1)
    trial.set_user_attr("pid", os.getpid())
    trial.report(x, step=0)
    return x * x


def begin(place: Path | str) -> JournalStorage:
    storage = JournalStorage(JournalBackend(place))
    optuna.create_study(storage=storage, study_name="tuning", load_if_exists=True)
    return storage


def work(storage: JournalStorage, trials: int | None) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.RandomSampler()
    study = optuna.load_study(study_name="tuning", storage=storage, sampler=sampler)
    study.optimize(objective, n_trials=trials)


def finished(storage: JournalStorage) -> list[FrozenTrial]:
    (study,) = storage.get_all_studies()
    return storage.get_all_trials(study._study_id, states=(TrialState.COMPLETE,))


def require_trials(place: Path | str, numbers: range) -> None:
    """Each of these trials ended, once; and a process that reads all anew finds the same."""
    for storage in (begin(place), begin(place)):
        (study,) = storage.get_all_studies()
        trials = storage.get_all_trials(study._study_id)
        assert [trial.number for trial in trials] == list(numbers)
        assert {trial.state for trial in trials} == {TrialState.COMPLETE}
        assert [trial.value for trial in trials] == [
            trial.params["x"] * trial.params["x"] for trial in trials
        ]
    ends = [
        record.event["trial_id"]
        for record in Checkpoint(place, read_only=True).log("optuna").read()
        if record.event["op_code"] == 6
    ]
    assert sorted(ends) == list(numbers)


@pytest.mark.guarantee(7)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_make_each_trial_once(store: Path, children: Children, method: str) -> None:
    storage = begin(store)  # forked ones share it, with the id of its worker; spawned ones get it pickled

    for _ in range(WORKERS):
        children.start(work, storage, TRIALS, method=method)
    children.wait_all()

    require_trials(store, range(WORKERS * TRIALS))
    made_by = [trial.user_attrs["pid"] for trial in finished(storage)]
    assert sorted(map(made_by.count, set(made_by))) == [TRIALS] * WORKERS


@pytest.mark.guarantee(7)
def test_workers_of_a_study_on_a_server_make_each_trial_once(
    postgres_database: str, children: Children
) -> None:
    storage = begin(postgres_database)

    for _ in range(WORKERS):
        children.start(work, storage, 10, method="fork")
    children.wait_all()

    require_trials(postgres_database, range(WORKERS * 10))


@pytest.mark.guarantee(8)
def test_workers_go_on_when_one_is_killed(store: Path, children: Children) -> None:
    storage = begin(store)
    workers = [children.start(work, storage, None, method="fork") for _ in range(WORKERS)]

    for count, worker in enumerate(workers[:-1], 1):
        at_least = len(finished(storage)) + 10
        wait_until(lambda: len(finished(storage)) >= at_least, "trials were made")  # noqa: B023
        assert worker.kill() == -signal.SIGKILL
        after = len(finished(storage))
        wait_until(lambda: len(finished(storage)) >= after + 10, f"trials go on without {count}")  # noqa: B023


@pytest.mark.guarantee(8)
def test_workers_go_on_when_a_process_is_killed_that_holds_the_append_lock(
    store: Path, children: Children, acknowledgements: AcknowledgementJournal
) -> None:
    storage = begin(store)
    holder = children.start(hold_append_lock, store, acknowledgements.writer, "optuna", method="fork")
    acknowledgements.wait_for(1)
    workers = [children.start(work, storage, 5, method="fork") for _ in range(2)]

    holder.kill()

    assert [worker.wait() for worker in workers] == [0, 0]
    require_trials(store, range(10))


@pytest.mark.guarantee(6)
@pytest.mark.guarantee(8)
def test_study_goes_on_after_all_workers_were_killed_and_the_log_torn(
    store: Path, children: Children
) -> None:
    storage = begin(store)
    for turn in range(3):
        for _ in range(WORKERS):
            children.start(work, storage, None, method="fork")
        at_least = 20 * (turn + 1)
        wait_until(lambda: len(finished(storage)) >= at_least, "trials were made")  # noqa: B023
        children.kill_all()
        tear(store, log_key="optuna")
        before = finished(begin(store))
        assert len(before) >= at_least

        storage = begin(store)
        work(storage, 1)

        assert [trial.number for trial in finished(storage)][: len(before)] == [
            trial.number for trial in before
        ]
        assert len(finished(storage)) == len(before) + 1
    (study,) = storage.get_all_studies()
    trials = storage.get_all_trials(study._study_id)
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert len(trials) - len(finished(storage)) <= 3 * WORKERS  # what those were at that were killed


def stores_after_a_loss_of_power(disk: SimulatedDisk) -> Iterator[Path]:
    for image in disk.images(16):
        place = disk.root.with_name(f"after {image.number}")
        image.write_to(place)
        become_a_new_process()
        yield place / "store"


@pytest.mark.guarantee(1)
@pytest.mark.parametrize("durability", ["always", "never"])
def test_snapshot_that_survives_the_power_stands_for_what_survives(
    disk: SimulatedDisk, durability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = begin_on(disk.root / "store", durability)
    (study,) = storage.get_all_studies()
    for _ in range(103):
        trial = storage.create_new_trial(study._study_id)
    assert trial == 102

    for store in stores_after_a_loss_of_power(disk):
        with_snapshot = trials_in(store)
        with monkeypatch.context() as patch:
            patch.setattr(JournalBackend, "load_snapshot", lambda self: None)
            assert trials_in(store) == with_snapshot
        assert len(with_snapshot) >= (103 if durability == "always" else 101)


def begin_on(store: Path, durability: str) -> JournalStorage:
    storage = JournalStorage(JournalBackend(Checkpoint(store, durability=durability).log("optuna")))
    optuna.create_study(storage=storage, study_name="tuning")
    return storage


def trials_in(store: Path) -> list[int]:
    storage = JournalStorage(JournalBackend(store))
    (study,) = storage.get_all_studies()
    return [trial.number for trial in storage.get_all_trials(study._study_id)]
