"""What an outcome tells of its run, which outcomes are chosen, and the tables that they become."""

from __future__ import annotations

import copy
import io
import os
import pickle
import pprint
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import MISSING, asdict, fields, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas
import pyarrow
import pytest
from pyarrow import parquet

from mpcheckpoint import Log, Outcome, Results
from mpcheckpoint._work.results import COLUMNS
from mpcheckpoint._work.worker_name import worker_name
from mpcheckpoint.errors import MissingExtraError
from support.executors import workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path

KINDS = ("threads", "pool", "fork", "spawn")
LONG = 100_000  # longer than what a worker sends with its report


def own_process(item: str) -> list[Any]:
    return [os.getpid(), "x" * (LONG if item == "long" else 1)]


def late(item: str) -> None:
    with open(item, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(60)


def outcome(item: Any, ok: bool = True, **fields: Any) -> Outcome:
    return replace(Outcome(item, str(item), ok, None, None if ok else "why", 1.0, True), **fields)


def by_key(outcomes: Iterator[Outcome]) -> dict[str, Outcome]:
    return {each.object_key: each for each in outcomes}


# --- the class ---


def test_outcome_is_a_value_that_is_compared_copied_and_pickled_as_the_dataclass_that_it_was() -> None:
    one = Outcome("a", "a", True, [1], None, 1.5, False, ended_us=5_000_000)

    assert one == replace(one) == copy.copy(one) == pickle.loads(pickle.dumps(one))
    assert one != replace(one, attempts=2)
    assert replace(one, attempts=2).attempts == 2
    assert asdict(one) == {
        "item": "a",
        "object_key": "a",
        "ok": True,
        "value": [1],
        "error": None,
        "duration_s": 1.5,
        "repeated": False,
        "attempts": 1,
        "rerun": None,
        "version": "",
        "ended_us": 5_000_000,
        "worker": None,
    }
    assert hash(replace(one, value=1)) == hash(replace(one, value=1))
    assert one.began_us == 3_500_000
    assert {each.name: each.default for each in fields(one) if each.default is not MISSING} == {
        "attempts": 1,
        "rerun": None,
        "version": "",
        "ended_us": 0,
        "worker": None,
    }
    assert eval(pprint.pformat(replace(one, item="x" * 80)), {"Outcome": Outcome}) == replace(
        one, item="x" * 80
    )
    assert weakref.ref(one)() is one
    assert repr(one) == (
        "Outcome(item='a', object_key='a', ok=True, value=[1], error=None, duration_s=1.5, repeated=False, attempts=1, "
        "rerun=None, version='', ended_us=5000000, worker=None)"
    )
    with pytest.raises(AttributeError):
        one.ok = False  # type: ignore[misc]


# --- when, and by what -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_outcome_tells_when_it_ran_and_in_which_process_alike_from_map_and_log(log: Log, kind: str) -> None:
    before_us = time.time_ns() // 1000

    with workers(kind, 2) as options:
        given = by_key(log.map(own_process, ["a", "b", "long"], **options))

    stamps = {record.object_key: record.stamp_us for record in log.read()}
    for found in (given, by_key(log.results())):
        assert {key: each.ended_us for key, each in found.items()} == stamps
        for each in found.values():
            assert before_us <= each.began_us <= each.ended_us
            assert each.ended_us - each.began_us == round(each.duration_s * 1e6)
            assert each.worker is not None
            process, _, thread = each.worker.partition("/")
            assert process == str(each.value[0])
            assert thread.isdigit() == (kind == "threads")
    assert {key: each.worker for key, each in given.items()} == {
        key: each.worker for key, each in by_key(log.results()).items()
    }


def test_outcome_that_is_given_out_again_tells_the_same(log: Log, threads: ThreadPoolExecutor) -> None:
    first = by_key(log.map(own_process, ["a"], executor=threads))["a"]

    again = by_key(log.map(own_process, ["a"], executor=threads))["a"]

    assert again == replace(first, repeated=True)


def test_each_thread_of_a_process_has_a_name_of_its_own(log: Log, threads: ThreadPoolExecutor) -> None:
    from threading import Barrier

    barrier = Barrier(2)
    both = list(log.map(lambda _: barrier.wait(30), ["a", "b"], executor=threads))

    names = {each.worker for each in both}
    assert len(names) == 2
    assert all(name is not None and name.startswith(f"{os.getpid()}/") for name in names)


def test_thread_that_begins_after_another_has_ended_has_its_name() -> None:
    names: list[str] = []
    for _ in range(3):
        thread = threading.Thread(target=lambda: names.append(worker_name()))
        thread.start()
        thread.join()

    assert len(set(names)) == 1


def test_worker_of_an_outcome_is_the_process_that_was_ended_and_not_the_one_that_recorded_it(
    log: Log, tmp_path: Path
) -> None:
    (found,) = log.map(late, [str(tmp_path / "pid")], timeout_s=0.5, jobs=1)

    assert found.worker == (tmp_path / "pid").read_text()
    assert found.worker != str(os.getpid())


def test_failed_attempt_names_its_worker_too(log: Log, threads: ThreadPoolExecutor) -> None:
    list(log.map(lambda _: {}["x"], ["a"], executor=threads, retries=1, retry_delay_s=0))

    attempt, last = log.events("a")

    assert list(attempt)[-3:] == ["duration_s", "worker", "pause_s"]
    assert attempt["worker"].startswith(f"{os.getpid()}/")
    assert list(last)[-2:] == ["worker", "attempts"]


@pytest.mark.parametrize("fields", [{}, {"worker": 7}])
def test_outcome_of_a_writer_that_knew_no_workers_is_read_as_before(
    log: Log, threads: ThreadPoolExecutor, fields: dict[str, Any]
) -> None:
    list(log.map(own_process, ["a"], executor=threads))
    old = {"run": 1, "ok": True, "error": None, "value": 1, "duration_s": 0.5}
    stamp_us = log.append("b", old | fields).stamp_us

    found = by_key(log.results())["b"]

    assert (found.worker, found.ended_us, found.began_us) == (None, stamp_us, stamp_us - 500_000)


# --- which -------------------------------------------------------------------------------------------------


def chosen_of(log: Log, **choice: Any) -> list[str]:
    return [each.object_key for each in log.results(**choice)]


@pytest.fixture
def mixed(log: Log, threads: ThreadPoolExecutor) -> Log:
    """A log of a map with outcomes of known durations, recorded in the order of their names."""
    list(log.map(own_process, ["first"], executor=threads))
    for number, (ok, duration_s) in enumerate([(True, 3.0), (False, 5.0), (True, 9.0), (False, 5.0)]):
        event = {"run": 1, "ok": ok, "error": None if ok else "why", "value": 1, "duration_s": duration_s}
        log.append(f"item{number}", event)
    return log


def test_results_are_filtered_and_sorted(mixed: Log) -> None:
    assert chosen_of(mixed) == ["first", "item0", "item1", "item2", "item3"]
    assert chosen_of(mixed, failed=True) == ["item1", "item3"]
    assert chosen_of(mixed, slowest=3) == ["item2", "item1", "item3"]
    assert chosen_of(mixed, slowest=9, failed=True) == ["item1", "item3"]
    stamps = {record.object_key: record.stamp_us for record in mixed.read()}
    assert chosen_of(mixed, since=stamps["item2"]) == ["item2", "item3"]
    assert chosen_of(mixed, since=stamps["item2"] + 1, slowest=1) == ["item3"]


@pytest.mark.parametrize(
    ("choice", "complaint"),
    [
        ({"slowest": 0}, "slowest is a number of outcomes, at least 1, or None, not 0"),
        ({"slowest": True}, "slowest is"),
        ({"since": 1.5}, "since is a datetime, a timedelta or whole microseconds since 1970, not 1.5"),
        ({"since": datetime(2026, 11, 1)}, "names no time zone"),
        ({"since": -1}, "since is"),
        ({"rerun": ""}, "a rerun needs a name"),
    ],
)
def test_choice_that_is_none_is_refused_at_once(log: Log, choice: dict[str, Any], complaint: str) -> None:
    with pytest.raises((TypeError, ValueError), match=complaint):
        log.results(**choice)


def test_results_are_an_iterator_that_reads_when_it_is_asked(mixed: Log) -> None:
    results = mixed.results()

    assert iter(results) is results
    assert next(results).object_key == "first"
    assert results.to_arrow().num_rows == 4
    assert list(results) == []


# --- tables ------------------------------------------------------------------------------------------------

MOMENT = datetime(2026, 11, 1, 12, 30, 0, 123456, tzinfo=UTC)
MOMENT_US = (MOMENT - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
TOLD = {"ended_us": MOMENT_US, "duration_s": 0.5, "worker": "4711/2", "version": "wc -l {}"}
SEVERAL = [
    outcome("a,b\n", value={"exit_code": 0, "output": "é\n"}, **TOLD),
    outcome({"n": 1}, ok=False, attempts=3, rerun="monday", **TOLD),
    outcome([2**70, None], value=2**70, worker=None, ended_us=MOMENT_US),
]


def test_data_frame_holds_values_as_they_were_and_times_in_utc() -> None:
    frame = Results(iter(SEVERAL)).to_pandas()

    assert list(frame.columns) == list(COLUMNS)
    assert list(frame["item"]) == [each.item for each in SEVERAL]
    assert list(frame["value"]) == [each.value for each in SEVERAL]
    assert list(frame["worker"]) == ["4711/2", "4711/2", None]
    assert list(frame["error"]) == [None, "why", None]
    assert {name: str(frame[name].dtype) for name in ("ok", "began", "ended", "duration_s", "attempts")} == {
        "ok": "bool",
        "began": "datetime64[us, UTC]",
        "ended": "datetime64[us, UTC]",
        "duration_s": "float64",
        "attempts": "int64",
    }
    assert frame["ended"][0].to_pydatetime() == MOMENT
    assert frame["began"][0].to_pydatetime() == MOMENT - timedelta(seconds=0.5)


def test_arrow_table_has_one_type_a_column_and_values_as_json() -> None:
    table = Results(iter(SEVERAL)).to_arrow()

    assert table.schema.field("began").type == pyarrow.timestamp("us", tz="UTC")
    assert table["item"].to_pylist() == ["a,b\n", '{"n":1}', "[1180591620717411303424,null]"]
    assert table["value"].to_pylist() == [
        '{"exit_code":0,"output":"é\\n"}',
        None,
        "1180591620717411303424",
    ]
    assert table["ended"].to_pylist() == [MOMENT] * 3
    assert table["rerun"].to_pylist() == [None, "monday", None]
    assert table["version"].to_pylist() == ["wc -l {}", "wc -l {}", ""]


@pytest.mark.parametrize("rows", [0, 1, 10_000, 10_001, 25_000])
def test_tables_of_many_outcomes_hold_each_once_and_in_order(rows: int) -> None:
    def many() -> Results:
        return Results(outcome(number, ended_us=number) for number in range(rows))

    file = io.BytesIO()
    assert many().write_parquet(file) == rows
    numbers = list(map(str, range(rows)))

    assert many().to_arrow()["object_key"].to_pylist() == numbers
    assert list(many().to_pandas()["object_key"]) == numbers
    assert parquet.read_table(io.BytesIO(file.getvalue()))["object_key"].to_pylist() == numbers


def test_parquet_is_read_back_as_the_table_was(tmp_path: Path) -> None:
    Results(iter(SEVERAL)).write_parquet(tmp_path / "results.parquet")

    assert parquet.read_table(tmp_path / "results.parquet").equals(Results(iter(SEVERAL)).to_arrow())
    assert list(pandas.read_parquet(tmp_path / "results.parquet")["ok"]) == [True, False, True]


@pytest.mark.parametrize(
    ("library", "extra", "table"),
    [
        ("pandas", "pandas", Results.to_pandas),
        ("pyarrow", "arrow", Results.to_arrow),
        ("pyarrow", "arrow", lambda results: results.write_parquet(io.BytesIO())),
    ],
)
def test_table_without_its_library_says_what_installs_it_and_takes_nothing(
    library: str, extra: str, table: Callable[[Results], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    results = Results(iter(SEVERAL))

    with pytest.raises(MissingExtraError, match=rf"pip install 'mpcheckpoint\[{extra}\]'") as caught:
        table(results)

    assert (caught.value.extra, caught.value.library) == (extra, library)
    assert isinstance(caught.value, ImportError)
    assert len(list(results)) == len(SEVERAL)


def test_libraries_of_tables_are_not_imported_before_a_table_is_wanted() -> None:
    code = "import sys, mpcheckpoint; print(sorted({'pandas', 'pyarrow', 'rich'} & set(sys.modules)))"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"[]\n"
