"""The journal of Optuna in a log: what is read is what was appended, in order and counted, by any process."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.study import StudyDirection

from mpcheckpoint import Checkpoint
from mpcheckpoint.errors import (
    ClosedError,
    CorruptLogError,
    InvalidPositionError,
    JournalError,
    MissingExtraError,
)
from mpcheckpoint.maintenance import restore
from mpcheckpoint.optuna import JournalBackend
from support.processes import call, in_a_child
from support.verbs import append_elsewhere, flip, log_file

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("without_syncs")

WORKER = "3a0f-140"


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Return where the journal is: a directory, or an address where the test asks for that."""
    if getattr(request, "param", "directory") == "directory":
        return tmp_path / "study"
    return str(request.getfixturevalue("postgres_database"))


both_engines = pytest.mark.parametrize("place", ["directory", "server"], indirect=True)


def operation(number: int) -> dict[str, Any]:
    return {"op_code": 2, "worker_id": WORKER, "study_id": 0, "user_attr": {"n": number}}


def numbers(operations: Any) -> list[int]:
    return [each["user_attr"]["n"] for each in operations]


def append(backend: JournalBackend, *which: int) -> None:
    for number in which:
        backend.append_logs([operation(number)])


# --- what is read is what was appended ------------------------------------------------------------------------


@both_engines
def test_operations_come_back_as_json_makes_them(place: Path | str) -> None:
    backend, file_backend = JournalBackend(place), JsonBackend()
    given = [
        {"op_code": optuna.storages.journal._storage.JournalOperation.CREATE_STUDY, "worker_id": WORKER},
        {"directions": (StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE), "worker_id": WORKER},
        {"values": [float("inf"), float("-inf"), 0.1, -0.0], "params": {1: None, "\ud800": 10**30}},
        {},
    ]

    for each in given:
        backend.append_logs([each])
        file_backend.append_logs([each])
    backend.append_logs(given)
    file_backend.append_logs(given)
    backend.append_logs([])

    assert list(backend.read_logs(0)) == file_backend.operations
    assert list(JournalBackend(place).read_logs(6)) == untold(file_backend.operations[6:])


class JsonBackend:
    """What comes back from a file of JSON lines, such as Optuna's own backend writes."""

    def __init__(self) -> None:
        self.operations: list[dict[str, Any]] = []

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.operations += [json.loads(json.dumps(log)) for log in logs]


def untold(operations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return operations of another backend, as far as they are about no worker."""
    assert not any("worker_id" in each for each in operations)
    return operations


def test_value_that_is_not_a_number_comes_back_as_that(store: Path) -> None:
    backend = JournalBackend(store)
    backend.append_logs([{"op_code": 6, "values": [float("nan")]}])

    ((value,),) = (each["values"] for each in backend.read_logs(0))

    assert value != value  # noqa: PLR0124 - the test for NaN


def test_operation_that_is_no_json_is_refused_and_nothing_written(store: Path) -> None:
    backend = JournalBackend(store)

    with pytest.raises(TypeError, match="not JSON serializable"):
        backend.append_logs([operation(0), {"user_attr": object()}])

    assert list(backend.read_logs(0)) == []


@both_engines
def test_reading_from_any_number_gives_the_rest(place: Path | str) -> None:
    backend = JournalBackend(place)
    append(backend, *range(5))
    other = JournalBackend(place)

    for _ in range(2):
        for start in (3, 0, 5, 2, 4, 1):
            assert numbers(backend.read_logs(start)) == list(range(start, 5))
            assert numbers(other.read_logs(start)) == list(range(start, 5))


@both_engines
def test_each_reading_gives_what_came_since_from_any_process(place: Path | str) -> None:
    backend = JournalBackend(place)
    read: list[int] = []
    in_another = {0: call, 1: in_a_child, 2: in_a_child}
    for turn, run in in_another.items():
        append(backend, 10 * turn)
        run(append_anew, place, 10 * turn + 1)
        append(backend, 10 * turn + 2)
        read += numbers(backend.read_logs(len(read)))
        assert list(backend.read_logs(len(read))) == []

    assert read == [10 * turn + each for turn in in_another for each in range(3)]


def append_anew(place: Path | str, number: int) -> None:
    append(JournalBackend(place), number)


def test_storages_that_share_a_backend_each_read_all(store: Path) -> None:
    backend = JournalBackend(store)
    storages = [JournalStorage(backend) for _ in range(3)]
    study = storages[0].create_new_study([StudyDirection.MINIMIZE], "tuning")

    ids = [storage.create_new_trial(study) for _ in range(30) for storage in storages]

    assert ids == list(range(90))
    for storage in storages:
        assert [trial.number for trial in storage.get_all_trials(study)] == ids


def test_reading_that_was_left_half_way_begins_anew(store: Path) -> None:
    append(JournalBackend(store), *range(4))
    backend = JournalBackend(store)

    assert next(iter(backend.read_logs(1)))["user_attr"] == {"n": 1}
    assert numbers(backend.read_logs(1)) == [1, 2, 3]


def test_journal_that_is_read_on_reads_only_what_is_new(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = JournalBackend(store)
    append(backend, *range(50))
    assert numbers(backend.read_logs(0)) == list(range(50))
    decoded: list[Any] = []
    monkeypatch.setattr(JournalBackend, "_operation", lambda self, record: decoded.append(record.event) or {})

    append(backend, 50)
    assert len(list(backend.read_logs(50))) == 1

    assert numbers(decoded) == [50]


# --- workers --------------------------------------------------------------------------------------------------


def workers_read(backend: JournalBackend) -> list[str]:
    return [each["worker_id"] for each in backend.read_logs(0)]


def test_worker_is_known_to_itself_and_to_nobody_else(store: Path) -> None:
    backend = JournalBackend(store)
    append(backend, 0)
    in_a_child(append, backend, 1)
    call(append_anew, store, 2)
    append(pickle.loads(pickle.dumps(backend)), 3)

    assert workers_read(backend)[0] == WORKER
    assert len(set(workers_read(backend))) == 4
    assert workers_read(JournalBackend(store)).count(WORKER) == 0
    child = in_a_child(append_and_read, backend)
    assert child.count(WORKER) == 1
    assert child[-1] == WORKER
    assert workers_read(backend).count(WORKER) == 1


def append_and_read(backend: JournalBackend) -> list[str]:
    append(backend, 4)
    return workers_read(backend)


@pytest.mark.parametrize("is_read_before", [False, True])
def test_trial_of_a_forked_child_is_not_taken_for_ones_own(
    store: Path, is_read_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Optuna appends "a trial", reads, and takes the last one that has its worker's id. The child copied that id.
    backend = JournalBackend(store)
    storage = JournalStorage(backend)
    study = storage.create_new_study([StudyDirection.MINIMIZE], "tuning")
    if is_read_before:
        storage.create_new_trial(study)
    append_logs, of_child = backend.append_logs, []

    def append_and_let_the_child(logs: list[dict[str, Any]]) -> None:
        append_logs(logs)
        monkeypatch.undo()
        of_child.append(in_a_child(storage_trial, storage, study))

    monkeypatch.setattr(backend, "append_logs", append_and_let_the_child)
    of_parent = storage.create_new_trial(study)

    assert [of_parent, *of_child] == [is_read_before, is_read_before + 1]


def storage_trial(storage: JournalStorage, study: int) -> int:
    storage._thread_lock = multiprocessing.get_context("fork").RLock()  # the parent is inside
    return storage.create_new_trial(study)


def test_backend_that_is_forked_amid_a_reading_reads_on_in_the_child(store: Path) -> None:
    backend = JournalBackend(store)
    append(backend, 0)
    assert numbers(backend.read_logs(0)) == [0]
    append(backend, 1)

    with backend._mutex:  # another thread of the parent may hold it
        assert in_a_child(read_from, backend, 1) == [1]

    assert numbers(backend.read_logs(1)) == [1]


def read_from(backend: JournalBackend, number: int) -> list[int]:
    return numbers(backend.read_logs(number))


# --- what is no journal ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("object_key", "event"), [("photo1", "UPLOADED"), ("journal", 17), ("journal", "[]")]
)
def test_log_of_something_else_is_refused(store: Path, object_key: str, event: Any) -> None:
    Checkpoint(store).log("optuna").append(object_key, event)

    with pytest.raises(JournalError, match="'optuna' is no journal of Optuna") as refused:
        JournalBackend(store)

    assert refused.value.reason == "no journal"
    assert JournalBackend(store, "another").read_logs(0) is not None


def test_record_of_something_else_in_a_journal_is_refused(store: Path) -> None:
    backend = JournalBackend(store)
    append(backend, 0)
    assert numbers(backend.read_logs(0)) == [0]
    Checkpoint(store).log("optuna").append("photo1", "UPLOADED")

    for _ in range(2):
        with pytest.raises(JournalError, match="photo1"):
            list(backend.read_logs(1))
    with pytest.raises(JournalError, match="photo1"):
        list(JournalBackend(store).read_logs(0))


def test_log_that_was_opened_before_is_used_with_its_settings(store: Path) -> None:
    with Checkpoint(store, durability="never") as checkpoint:
        log = checkpoint.log("mine")
        append(JournalBackend(log), 0)
        assert len(log.events("journal")) == 1
        with pytest.raises(TypeError, match="log_key is to be left out, not 'optuna'"):
            JournalBackend(log, "optuna")
        backend = JournalBackend(log)
    with pytest.raises(ClosedError):
        list(backend.read_logs(0))


def test_missing_optuna_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mpcheckpoint.optuna")
    monkeypatch.setitem(sys.modules, "optuna", None)

    with pytest.raises(MissingExtraError, match=r"pip install 'mpcheckpoint\[optuna\]'") as missing:
        __import__("mpcheckpoint.optuna")

    assert (missing.value.extra, missing.value.library) == ("optuna", "optuna")


def test_optuna_is_not_imported_by_those_who_do_not_use_it() -> None:
    code = "import sys, mpcheckpoint.maintenance; print('optuna' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"False\n"


# --- damage, compaction, restore ------------------------------------------------------------------------------


@pytest.mark.parametrize("is_forgotten", [False, True])
def test_compaction_that_drops_no_operation_changes_nothing(store: Path, is_forgotten: bool) -> None:
    backend, journal = JournalBackend(store), Checkpoint(store).log("optuna")
    if is_forgotten:  # something, which is told where it is told what was dropped
        journal.forget("somebody")
    append(backend, 0, 1)
    assert numbers(backend.read_logs(0)) == [0, 1]
    with journal.claim("somebody"):
        pass

    assert journal.compact(keep_ids_s=0).is_changed

    assert (b'"dropped"' in log_file(store, "optuna").read_bytes()) is is_forgotten
    append(backend, 2)
    assert numbers(backend.read_logs(2)) == [2]
    assert numbers(backend.read_logs(0)) == [0, 1, 2]


@both_engines
@pytest.mark.parametrize("how", ["keep_last", "drop", "fold"])
def test_compaction_that_dropped_operations_is_found_out(place: Path | str, how: str) -> None:
    rules: dict[str, dict[str, Any]] = {
        "keep_last": {"keep_last": 2},
        "drop": {"drop": lambda record: record.event["user_attr"]["n"] == 1},
        "fold": {"fold": lambda earlier, later: later},
    }
    backend = JournalBackend(place)
    append(backend, *range(4))
    assert numbers(backend.read_logs(0)) == [0, 1, 2, 3]
    append(backend, 4)

    Checkpoint(place).log("optuna").compact(**rules[how])
    append(backend, 5)

    for attempt in (
        lambda: backend.read_logs(4),
        lambda: backend.read_logs(0),
        lambda: JournalBackend(place),
    ):
        with pytest.raises(JournalError, match=r"dropped .* by a compaction") as refused:
            list(attempt())  # type: ignore[call-overload]
        assert refused.value.reason == "operations dropped"


@both_engines
@pytest.mark.parametrize("is_purged", [False, True])
def test_journal_that_was_forgotten_and_compacted_is_not_read_on(place: Path | str, is_purged: bool) -> None:
    backend, journal = JournalBackend(place), Checkpoint(place).log("optuna")
    append(backend, 0, 1)
    assert numbers(backend.read_logs(0)) == [0, 1]
    journal.forget("journal")
    append(backend, 2)
    for each, number in ((backend, 2), (backend, 0), (JournalBackend(place), 0)):
        with pytest.raises(JournalError, match="'optuna' was forgotten, and no compaction") as refused:
            list(each.read_logs(number))
        assert refused.value.reason == "journal forgotten"

    journal.compact(purge=is_purged)
    append(JournalBackend(place), 3, 4, 5)

    for number in (3, 2, 0, 4):
        with pytest.raises(JournalError, match="'optuna' was forgotten") as refused:
            list(backend.read_logs(number))
        assert refused.value.reason == "journal forgotten"
    assert numbers(JournalBackend(place).read_logs(0)) == [2, 3, 4, 5]  # a journal of its own


def test_damage_is_told_and_never_passed_over(store: Path) -> None:
    backend = JournalBackend(store)
    append(backend, *range(4))
    flip(store, log_file(store, "optuna").read_bytes().index(b'{"n":1}') + 5, "optuna")

    with pytest.raises(CorruptLogError):
        list(JournalBackend(store).read_logs(0))


def test_operations_that_a_restore_took_out_are_missed(store: Path, tmp_path: Path) -> None:
    backend = JournalBackend(store)
    append(backend, 0)
    Checkpoint(store).backup(tmp_path / "backup")
    append(backend, 1)
    assert numbers(backend.read_logs(0)) == [0, 1]
    restore(tmp_path / "backup", store)
    append_elsewhere(store, "journal", operation(2))

    for _ in range(2):
        with pytest.raises(InvalidPositionError):
            list(backend.read_logs(2))
    with pytest.raises(JournalError, match=r"2 operations were read .* and it holds 0"):
        list(JournalBackend(store, "another").read_logs(2))
