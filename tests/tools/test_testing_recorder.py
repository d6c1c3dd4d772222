"""What a recorder writes down of calls that return, raise, or end with their process."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint import _system as system
from mpcheckpoint.errors import (
    ConflictError,
    InvalidEventError,
    InvalidKeyError,
    LockTimeoutError,
    OutcomeUnknownError,
    WriteFailedError,
)
from mpcheckpoint.testing._histories.linearizability import check_history
from mpcheckpoint.testing._histories.recorder import HistoryRecorder, load_history
from mpcheckpoint.testing._histories.verdict import NotLinearizableError
from support import tally
from support.processes import call

if TYPE_CHECKING:
    from pathlib import Path

    from mpcheckpoint import Log
    from mpcheckpoint.testing._histories.operation import Operation
    from mpcheckpoint.testing._histories.recorder import RecordableLog
    from support.verbs import Faults


@pytest.fixture
def histories(tmp_path: Path) -> Path:
    return tmp_path / "histories"


@pytest.fixture
def recorder(store: Path, histories: Path) -> HistoryRecorder:
    return HistoryRecorder(Checkpoint(store).log("a"), histories, process_name="p")


def only(histories: Path) -> Operation:
    (operation,) = load_history(histories)
    return operation


def test_recorder_writes_down_every_kind_of_call_with_its_answer(
    recorder: HistoryRecorder, histories: Path
) -> None:
    events = [None, True, 1, 1.5, "é\U0001f600\n", [1, {"b": 2, "a": []}]]
    first = recorder.append("x", events[0])
    last = recorder.append_many([("x", event) for event in events[1:]])
    with pytest.raises(ConflictError):
        recorder.append("x", 7, expected_count=5, record_id="r")
    assert recorder.events("x") == tuple(events)
    assert recorder.count("x") == 6
    assert len(recorder.read()) == 6

    one, batch, conflict, seen, number, whole = load_history(histories)

    assert (one.process, one.number, one.log_key, one.kind) == ("p", 1, "a", "append")
    assert (one.records, one.outcome, one.result) == ((("x", None),), "ok", first)
    assert batch.records == tuple(("x", event) for event in events[1:])
    assert (batch.kind, batch.result) == ("append_many", last)
    assert (conflict.outcome, conflict.result) == ("conflict", 6)
    assert (conflict.expected_count, conflict.record_id) == (5, "r")
    assert (seen.kind, seen.object_key, seen.result) == ("events", "x", tuple(events))
    assert (number.kind, number.result) == ("count", 6)
    assert (whole.kind, whole.result) == ("read", tuple(("x", event, None) for event in events))
    assert check_history(load_history(histories)).operations == 6


def test_recorder_writes_down_conditions_and_which_of_them_conflicted(
    recorder: HistoryRecorder, histories: Path
) -> None:
    first = recorder.append_many([("x", 1)], expected_end="start")
    last = recorder.append_many([("y", 2)], expected_counts={"x": 1, "z": 0}, expected_end=first)
    with pytest.raises(ConflictError):
        recorder.append_many([("x", 3)], expected_counts={"x": 1, "y": 2})
    with pytest.raises(ConflictError) as caught:
        recorder.append_many([("x", 3)], expected_end=first)
    assert recorder.append_many([], expected_counts={"y": 1}) is None
    with pytest.raises(ConflictError):
        recorder.append_many([], expected_end="start")
    recorder.append_many([("x", 4)], expected_counts={}, expected_end=caught.value.end)

    start, both, counts, end, nothing, nothing_at_start, after = load_history(histories)

    assert (start.expected_end, start.expected_counts, start.result) == ("start", None, first)
    assert (both.expected_end, both.expected_counts, both.result) == (first, {"x": 1, "z": 0}, last)
    assert (counts.outcome, counts.object_key, counts.result) == ("conflict", "y", 1)
    assert (end.outcome, end.object_key, end.result, end.expected_end) == ("conflict", None, 1, first)
    assert (nothing.records, nothing.outcome, nothing.result, nothing.is_append) == ((), "ok", None, False)
    assert (nothing_at_start.outcome, nothing_at_start.result) == ("conflict", 2)
    assert (after.outcome, after.expected_end) == ("ok", last)
    recorder.read()
    assert check_history(load_history(histories)).operations == 8


def test_recorder_writes_down_reads_of_a_part_of_an_object_and_positions(
    recorder: HistoryRecorder, histories: Path
) -> None:
    positions = [recorder.append("x", number) for number in range(3)]
    assert recorder.events("x", start=1) == (1, 2)
    assert recorder.last("x") == (2,)
    assert recorder.last("x", 4) == (0, 1, 2)
    recorder.read()

    *_, since, last, whole, read = load_history(histories)

    assert (since.kind, since.start, since.result) == ("events", 1, (1, 2))
    assert (last.kind, last.n, last.object_key, last.result) == ("last", 1, "x", (2,))
    assert (whole.n, whole.result) == (4, (0, 1, 2))
    assert read.positions == tuple(positions)
    assert check_history(load_history(histories)).operations == 7


def test_log_that_knows_no_conditions_is_asked_as_before(log: Log, histories: Path) -> None:
    class Old:
        log_key = "a"

        def append_many(self, records: Any, *, durability: str | None = None) -> Any:
            return log.append_many(records, durability=durability)

        def events(self, object_key: str) -> Any:
            return log.events(object_key)

    recorder = HistoryRecorder(cast("RecordableLog", Old()), histories)
    recorder.append_many([("y", 1)], durability="never")
    assert recorder.events("y") == (1,)


def test_conditions_that_are_none_raise_and_are_no_operation(
    recorder: HistoryRecorder, histories: Path
) -> None:
    wrong: list[dict[str, Any]] = [
        {"expected_end": "end"},
        {"expected_end": 3},
        {"expected_counts": {"x": -1}},
        {"expected_counts": {3: 1}},
    ]
    for given in wrong:
        with pytest.raises((ValueError, InvalidKeyError)):
            recorder.append_many([("x", 1)], **given)
    assert not load_history(histories)


def test_batch_on_a_condition_that_got_no_answer_has_an_unknown_outcome(
    recorder: HistoryRecorder, histories: Path, faults: Faults
) -> None:
    end = recorder.append("x", 1)
    faults.fail("sync_data", errno.EIO, on=r"\.jsonl$")
    with pytest.raises(OutcomeUnknownError):
        recorder.append_many([("x", 2)], expected_counts={"x": 1}, expected_end=end)
    recorder.read()
    unknown = load_history(histories)[1]
    assert (unknown.outcome, unknown.expected_counts, unknown.expected_end) == ("unknown", {"x": 1}, end)
    assert check_history(load_history(histories)).unknown == 1


def test_recorded_times_lie_around_the_call(recorder: HistoryRecorder, histories: Path) -> None:
    before = time.monotonic_ns()
    recorder.append("x", 1)
    after = time.monotonic_ns()
    operation = only(histories)
    assert operation.end_ns is not None
    assert before <= operation.start_ns < operation.end_ns <= after


def test_clock_of_histories_is_one_for_all_processes() -> None:
    before = time.monotonic_ns()
    told = call(time.monotonic_ns, method="spawn")
    assert before < told < time.monotonic_ns()


def test_recorder_hands_on_what_the_log_returns_and_empty_batches(recorder: HistoryRecorder) -> None:
    assert recorder.log_key == "a"
    assert recorder.append_many([]) is None
    position = recorder.append("x", 1, record_id="r", durability="never")
    assert recorder.append("x", 1, record_id="r") == position
    assert [record.position for record in recorder.read()] == [position]


# --- calls that raise ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [object(), float("nan"), {1: 2}, (1, 2)])
def test_append_of_what_is_no_json_value_is_refused_as_by_the_log(
    recorder: HistoryRecorder, histories: Path, event: Any
) -> None:
    with pytest.raises(InvalidEventError):
        recorder.append("x", event)
    assert only(histories).outcome == "refused"


def test_append_that_was_not_written_is_refused(
    recorder: HistoryRecorder, histories: Path, faults: Faults
) -> None:
    recorder.append("x", 1)
    faults.fail("write_at", errno.ENOSPC)
    with pytest.raises(WriteFailedError):
        recorder.append("x", 2)
    assert [operation.outcome for operation in load_history(histories)] == ["ok", "refused"]


def test_append_that_got_no_lock_is_refused(
    recorder: HistoryRecorder, histories: Path, faults: Faults
) -> None:
    for name in ("try_lock", "lock"):
        faults.act(name, lambda *_: False)
    with pytest.raises(LockTimeoutError):
        recorder.append("x", 2)
    assert only(histories).outcome == "refused"


def test_append_whose_sync_failed_has_an_unknown_outcome(
    recorder: HistoryRecorder, histories: Path, faults: Faults
) -> None:
    recorder.append("x", 1)
    faults.fail("sync_data", errno.EIO, on=r"\.jsonl$")
    with pytest.raises(OutcomeUnknownError):
        recorder.append("x", 2)
    assert [operation.outcome for operation in load_history(histories)] == ["ok", "unknown"]
    assert recorder.count("x") == 2
    assert check_history(load_history(histories)).unknown == 1


def test_interrupted_append_has_an_unknown_outcome(
    recorder: HistoryRecorder, histories: Path, faults: Faults
) -> None:
    recorder.append("x", 1)
    faults.fail_afterwards("write_at", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        recorder.append("x", 2)
    assert [operation.outcome for operation in load_history(histories)] == ["ok", "unknown"]


# --- processes and threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_recorder_goes_on_in_other_processes_in_files_of_their_own(
    recorder: HistoryRecorder, histories: Path, method: str
) -> None:
    recorder.append("x", 1)
    call(recorder.append, "x", 2, method=method)
    recorder.append("x", 3)
    assert len(list(histories.iterdir())) == 2
    assert [operation.records[0][1] for operation in load_history(histories)] == [1, 2, 3]
    assert check_history(load_history(histories)).operations == 3


def test_recorder_of_many_threads_loses_no_call(recorder: HistoryRecorder, histories: Path) -> None:
    def append() -> None:
        for number in range(50):
            recorder.append(f"x{number % 5}", number, durability="never")

    threads = [threading.Thread(target=append) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.read()
    operations = load_history(histories)
    assert [operation.number for operation in operations] == sorted({each.number for each in operations})
    assert check_history(operations).operations == 401


def test_closed_recorder_goes_on_in_another_file(recorder: HistoryRecorder, histories: Path) -> None:
    with recorder:
        recorder.append("x", 1)
    recorder.append("x", 2)
    recorder.close()
    assert len(load_history(histories)) == len(list(histories.iterdir())) == 2


def append_and_die(recorder: HistoryRecorder) -> None:
    with pytest.MonkeyPatch.context() as patches:
        recorder.append("x", 1)
        patches.setattr(system, "write_at", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        recorder.append("x", 2)


def test_call_whose_process_was_killed_has_an_unknown_outcome(
    recorder: HistoryRecorder, histories: Path
) -> None:
    with pytest.raises(ChildProcessError):
        call(append_and_die, recorder, method="fork")
    tally.add("kills")
    assert [operation.outcome for operation in load_history(histories)] == ["ok", "unknown"]


# --- files -----------------------------------------------------------------------------------------------------


def test_history_cut_at_any_byte_is_one_of_calls_that_were_or_were_not_done(
    recorder: HistoryRecorder, histories: Path
) -> None:
    recorder.append("x", 1)
    recorder.events("x")
    (path,) = histories.iterdir()
    whole = path.read_bytes()
    outcomes = set()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        operations = load_history(histories)
        check_history(operations)
        outcomes.add(tuple(operation.outcome for operation in operations))
    assert outcomes == {(), ("unknown",), ("ok",), ("ok", "unknown"), ("ok", "ok")}


# As recorders wrote it before there were conditions of batches.
OLD = r"""
{"call": 1, "process": "p", "log_key": "a", "kind": "append", "records": [["x", 1]], "expected_count": 0, \
"record_id": "r", "start_ns": 1}
{"return": 1, "end_ns": 2, "outcome": "ok", \
"result": "a@dd9aa94a96a643bbb0c3224115285307:327:1795960956624450:0:06dda3c4958b413c9a9146e2c857d516"}
{"call": 2, "process": "p", "log_key": "a", "kind": "append_many", "records": [["x", 2], ["y", 3]], "start_ns": 3}
{"return": 2, "end_ns": 4, "outcome": "ok", \
"result": "a@dd9aa94a96a643bbb0c3224115285307:443:1795960956628531:0:06dda3c4958b413c9a9146e2c857d516"}
{"call": 3, "process": "p", "log_key": "a", "kind": "append", "records": [["x", 9]], "expected_count": 1, "start_ns": 5}
{"return": 3, "end_ns": 6, "outcome": "conflict", "result": 2}
{"call": 4, "process": "p", "log_key": "a", "kind": "events", "object_key": "x", "start_ns": 7}
{"return": 4, "end_ns": 8, "outcome": "ok", "result": [1, 2]}
{"call": 5, "process": "p", "log_key": "a", "kind": "count", "object_key": "y", "start_ns": 9}
{"return": 5, "end_ns": 10, "outcome": "ok", "result": 1}
{"call": 6, "process": "p", "log_key": "a", "kind": "read", "start_ns": 11}
{"return": 6, "end_ns": 12, "outcome": "ok", "result": [["x", 1, "r"], ["x", 2, null], ["y", 3, null]]}
{"call": 7, "process": "p", "log_key": "a", "kind": "append", "records": [["y", 4]], "start_ns": 13}
"""


def test_history_of_an_earlier_release_is_read_and_judged(histories: Path) -> None:
    histories.mkdir()
    path = histories / "1-old.history.jsonl"
    path.write_text(OLD.replace("\\\n", "").lstrip(), encoding="utf-8")

    append, batch, conflict, events, count, read, unknown = load_history(histories)

    assert (append.expected_count, append.record_id, append.records) == (0, "r", (("x", 1),))
    assert (batch.expected_counts, batch.expected_end, batch.records) == (None, None, (("x", 2), ("y", 3)))
    assert append.result < batch.result
    assert (conflict.outcome, conflict.result) == ("conflict", 2)
    assert (events.result, events.start, count.result) == ((1, 2), 0, 1)
    assert (read.result[0], read.positions, unknown.outcome) == (("x", 1, "r"), (), "unknown")
    assert check_history(load_history(histories)).operations == 7
    path.write_text(
        path.read_text(encoding="utf-8").replace('"result": 2}', '"result": 3}'), encoding="utf-8"
    )
    with pytest.raises(NotLinearizableError):
        check_history(load_history(histories))


def test_file_that_is_no_history_is_refused_by_name(recorder: HistoryRecorder, histories: Path) -> None:
    recorder.append("x", 1)
    (path,) = histories.iterdir()
    for content in (b"{}\n", b"[]\n", b"x\n", b'{"return": 9}\n'):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=path.name):
            load_history(histories)


def test_line_that_cannot_be_written_raises_before_the_call(
    recorder: HistoryRecorder, histories: Path, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    monkeypatch.setattr(os, "write", lambda fd, data: len(data) - 1)
    with pytest.raises(OSError, match="history was cut"):
        recorder.append("x", 1)
    monkeypatch.undo()
    assert log.events("x") == (0,)


def test_directory_that_is_not_there_holds_no_history(histories: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_history(histories / "mistyped")


def test_history_files_are_json_lines(recorder: HistoryRecorder, histories: Path) -> None:
    recorder.append("x", 1)
    (path,) = histories.iterdir()
    begin, end = map(json.loads, path.read_text().splitlines())
    assert list(begin) == ["call", "process", "log_key", "kind", "records", "start_ns"]
    assert list(end) == ["return", "end_ns", "outcome", "result"]
