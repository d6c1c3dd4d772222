"""Snapshots of Optuna's state: they spare a reading of the whole journal, take a bounded place, and are never wrong."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState

from mpcheckpoint import Checkpoint
from mpcheckpoint.errors import JournalError
from mpcheckpoint.maintenance import restore
from mpcheckpoint.optuna import JournalBackend
from support.processes import in_a_child
from support.verbs import Faults, log_file, told

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("without_syncs")

SNAPSHOTS = "optuna.snapshots"


def make_trials(storage: JournalStorage, study: int, count: int) -> None:
    for _ in range(count):
        storage.set_trial_state_values(storage.create_new_trial(study), TrialState.COMPLETE, [1.0])


def begin(backend: JournalBackend, trials: int) -> tuple[JournalStorage, int]:
    storage = JournalStorage(backend)
    study = storage.create_new_study([StudyDirection.MINIMIZE], "tuning")
    make_trials(storage, study, trials)
    return storage, study


def trial_numbers(storage: JournalStorage) -> list[int]:
    (study,) = storage.get_all_studies()
    return [trial.number for trial in storage.get_all_trials(study._study_id)]


def read_from(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list of the numbers that storages read on from, from now on."""
    asked: list[int] = []
    read_logs = JournalBackend.read_logs

    def read_and_note(self: JournalBackend, log_number_from: int) -> Any:
        asked.append(log_number_from)
        return read_logs(self, log_number_from)

    monkeypatch.setattr(JournalBackend, "read_logs", read_and_note)
    return asked


def test_storage_that_opens_a_long_journal_reads_what_came_after_the_snapshot(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(JournalBackend(store), 130)
    asked = read_from(monkeypatch)

    storage = JournalStorage(JournalBackend(store))

    assert asked == [1 + 2 * 100 + 1]  # the study, 100 trials that ended, and one more that had begun
    assert trial_numbers(storage) == list(range(130))


def test_storage_that_was_opened_from_a_snapshot_goes_on_as_the_others_do(store: Path) -> None:
    earlier, study = begin(JournalBackend(store), 105)
    later = JournalStorage(JournalBackend(store))

    for storage in (later, earlier, later):
        make_trials(storage, study, 1)
    in_a_child(make_trials, later, study, 1)

    assert trial_numbers(earlier) == trial_numbers(later) == list(range(109))


def test_storage_that_has_read_before_the_snapshot_was_made_reads_on(store: Path) -> None:
    late = JournalStorage(JournalBackend(store))
    begin(JournalBackend(store), 101)

    assert trial_numbers(late) == list(range(101))


def test_snapshots_take_the_place_of_one(store: Path) -> None:
    storage, study = begin(JournalBackend(store), 101)
    bytes_of_one = log_file(store, SNAPSHOTS).stat().st_size
    make_trials(storage, study, 300)

    assert len(list(Checkpoint(store).log(SNAPSHOTS).read())) == 1
    assert log_file(store, SNAPSHOTS).stat().st_size < 4 * bytes_of_one


def test_snapshot_of_another_version_of_optuna_is_not_used(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(JournalBackend(store), 101)
    assert JournalBackend(store).load_snapshot() is not None
    monkeypatch.setattr(optuna, "__version__", f"{optuna.__version__}.1")

    assert JournalBackend(store).load_snapshot() is None
    assert trial_numbers(JournalStorage(JournalBackend(store))) == list(range(101))


def test_snapshot_of_a_journal_that_was_made_anew_is_not_used(store: Path) -> None:
    begin(JournalBackend(store), 101)
    log_file(store, "optuna").unlink()

    storage, _ = begin(JournalBackend(store), 3)

    assert trial_numbers(JournalStorage(JournalBackend(store))) == trial_numbers(storage) == [0, 1, 2]


def test_snapshot_that_was_kept_after_a_restore_to_an_earlier_state_is_not_used(
    store: Path, tmp_path: Path
) -> None:
    backend = JournalBackend(store)
    storage, study = begin(backend, 3)
    Checkpoint(store).backup(tmp_path / "backup")
    make_trials(storage, study, 2)
    restore(tmp_path / "backup", store)

    backend.save_snapshot(b"state")  # of a worker that had read before

    assert JournalBackend(store).load_snapshot() is None


@pytest.mark.parametrize("is_purged", [False, True])
def test_snapshot_of_a_journal_that_was_forgotten_is_not_used(store: Path, is_purged: bool) -> None:
    begin(JournalBackend(store), 101)
    journal = Checkpoint(store).log("optuna")
    journal.forget("journal")
    with pytest.raises(JournalError, match="no compaction has dropped it yet"):
        JournalStorage(JournalBackend(store))

    journal.compact(purge=is_purged)
    assert JournalBackend(store).load_snapshot() is None
    storage, _ = begin(JournalBackend(store), 3)

    assert trial_numbers(JournalStorage(JournalBackend(store))) == trial_numbers(storage) == [0, 1, 2]


def test_journal_without_a_snapshot_has_none(store: Path) -> None:
    assert JournalBackend(store).load_snapshot() is None
    assert Checkpoint(store).logs() == ["optuna"]


def test_snapshot_that_stands_for_nothing_comes_back(store: Path) -> None:
    JournalBackend(store).save_snapshot(b"state")

    assert JournalBackend(store).load_snapshot() == b"state"


def test_snapshot_that_cannot_be_written_is_left_out_and_the_study_goes_on(
    store: Path, caplog: pytest.LogCaptureFixture, faults: Faults
) -> None:
    storage, study = begin(JournalBackend(store), 101)
    before = JournalBackend(store).load_snapshot()
    faults.fail("write_at", errno.ENOSPC, times=1000, on=r"snapshots")

    with caplog.at_level(logging.WARNING, "mpcheckpoint"):
        make_trials(storage, study, 101)

    (warning,) = told(caplog)
    assert "no snapshot of the journal 'optuna' was kept" in warning.getMessage()
    assert JournalBackend(store).load_snapshot() == before
    assert trial_numbers(JournalStorage(JournalBackend(store))) == list(range(202))


def test_log_of_something_else_is_not_taken_for_snapshots_nor_compacted(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = JournalBackend(store)
    other = Checkpoint(store).log(SNAPSHOTS)
    for number in range(3):
        other.append("photo1", number)

    with caplog.at_level(logging.WARNING, "mpcheckpoint"):
        backend.save_snapshot(b"state")
    (warning,) = told(caplog)
    assert f"the log '{SNAPSHOTS}' is no journal" in warning.getMessage()
    with pytest.raises(JournalError, match="photo1"):
        backend.load_snapshot()

    assert other.events("photo1") == (0, 1, 2)


def test_snapshot_that_does_not_name_its_first_operation_is_passed_over(store: Path) -> None:
    backend = JournalBackend(store)
    backend.append_logs([{"op_code": 0, "worker_id": "w"}])
    assert len(list(backend.read_logs(0))) == 1
    backend.save_snapshot(b"state")
    assert JournalBackend(store).load_snapshot() == b"state"
    (event,) = Checkpoint(store).log(SNAPSHOTS).events("journal")

    for kept in ({**event, "first": None}, {name: event[name] for name in event.keys() - {"first"}}):
        Checkpoint(store).log(SNAPSHOTS).append("journal", kept)
        assert backend.load_snapshot() is None
