"""Reruns have names: each item given is to have an outcome under the name, and everybody judges that by one rule."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log, Outcome
from mpcheckpoint._format.codec import encode_payload
from mpcheckpoint._format.control import Note, note_payload
from mpcheckpoint._work import runs
from mpcheckpoint._work.reruns import (
    History,
    IfChanged,
    Keeps,
    RecordHead,
    RunNote,
    head_of,
    head_of_decoded,
    history_of,
)
from mpcheckpoint._work.runs import ItemState, JoinedRun, join_run, state_of
from mpcheckpoint.errors import ChangedItemError, ChangedVersionError
from mpcheckpoint.log import handle_of
from support.checkout import GOLDEN
from support.shell import MPCHECKPOINT, CommandLine, Ended
from support.verbs import inside, seeded, tree, wait_until

if TYPE_CHECKING:
    from support.processes import Child, Children

NAMES = [f"item{number}" for number in range(6)]
OF_K = ("--store", "store", "--key", "k")


class Ran:
    """Which items were run, in order; those in ``bad`` fail."""

    def __init__(self, *bad: str) -> None:
        self.items: list[str] = []
        self.bad = set(bad)
        self._lock = threading.Lock()

    def __call__(self, item: str) -> str:
        with self._lock:
            self.items.append(item)
        if item in self.bad:
            raise ValueError(item)
        return item.upper()

    def take(self) -> list[str]:
        """Return what ran since the last call, sorted."""
        items, self.items = self.items, []
        return sorted(items)


def mapped(log: Log, fn: Any, items: list[str] = NAMES, **options: Any) -> dict[str, Outcome]:
    with ThreadPoolExecutor(2) as executor:
        run = log.map(fn, items, executor=executor, retry_delay_s=0.01, **options)
        return {outcome.object_key: outcome for outcome in run}


def state(log: Log, run: JoinedRun, item: str) -> ItemState:
    return handle_of(log).query(lambda view: state_of(view, run, item, handle_of(log).workers))


# --- one name ----------------------------------------------------------------------------------------------


def test_rerun_runs_each_item_once_under_its_name_and_another_name_begins_anew(log: Log) -> None:
    fn = Ran()
    mapped(log, fn)
    assert fn.take() == NAMES

    for name in ("x", "y"):
        mapped(log, fn, NAMES[:4], rerun=name)
        assert fn.take() == NAMES[:4]
        mapped(log, fn, rerun=name)
        assert fn.take() == NAMES[4:]
    for name in ("x", "y", None):
        outcomes = mapped(log, fn, rerun=name)
        assert {outcome.rerun for outcome in outcomes.values()} == {name or "y"}
        assert all(outcome.repeated for outcome in outcomes.values())
    assert fn.take() == []
    assert log.reruns() == ("x", "y")


def test_items_that_a_rerun_is_not_given_keep_what_they_have(log: Log) -> None:
    fn = Ran()
    mapped(log, fn, version="1")

    mapped(log, str.lower, ["item3"], version="1", rerun="x")

    results = {outcome.item: outcome for outcome in log.results()}
    assert sorted(results) == NAMES
    assert {item: outcome.rerun for item, outcome in results.items()} == dict.fromkeys(NAMES) | {"item3": "x"}
    assert results["item3"].value == "item3"
    assert {outcome.version for outcome in results.values()} == {"1"}
    assert list(log.pending(NAMES)) == []
    assert list(log.pending(NAMES, rerun="x")) == [name for name in NAMES if name != "item3"]
    assert [outcome.item for outcome in log.results(rerun="x")] == ["item3"]
    assert list(log.results(rerun="never begun")) == []
    mapped(log, fn, version="1")
    assert fn.take() == NAMES  # of the first time


def test_rerun_of_what_never_ran_counts_without_a_name_too(log: Log) -> None:
    fn = Ran()
    mapped(log, fn, NAMES[:2], version="1", rerun="x")

    assert list(log.pending(NAMES)) == NAMES[2:]
    with pytest.raises(
        ChangedVersionError, match="the rerun 'x' on the log 'a' was started as '1', not as '2'"
    ):
        mapped(log, fn, version="2")
    mapped(log, fn, version="1")

    assert fn.take() == NAMES


def test_map_without_a_version_is_told_as_one(log: Log) -> None:
    mapped(log, Ran())

    with pytest.raises(ChangedVersionError, match="was started without a version, not as 'echo'"):
        mapped(log, Ran(), version="echo")
    mapped(log, Ran(), version="echo", if_changed="keep")
    with pytest.raises(ChangedVersionError, match="was started as 'echo', not without a version"):
        mapped(log, Ran())


def test_outcomes_name_their_run_and_rerun_in_the_log(log: Log) -> None:
    mapped(log, len, ["a"], version="1")
    mapped(log, Ran("a"), ["a"], version="2", rerun="x", retries=1)

    first, attempt, second = log.events("a")
    as_ever = ["run", "ok", "error", "value", "duration_s"]
    assert list(first) == [*as_ever, "worker"]
    assert list(attempt)[:3] == ["run", "attempt", "rerun"]
    assert list(second)[:3] == ["run", "ok", "rerun"]
    assert (first["run"], attempt["run"], second["run"], second["rerun"]) == (1, 2, 2, "x")
    assert [(outcome.rerun, outcome.version) for outcome in log.results()] == [("x", "2")]


def test_attempts_are_counted_for_each_rerun(log: Log) -> None:
    fn = Ran("item0")

    outcomes = [mapped(log, fn, ["item0"], rerun=name, retries=2)["item0"] for name in (None, "x", "y", "x")]

    assert [outcome.attempts for outcome in outcomes] == [3, 3, 3, 3]
    assert len(fn.take()) == 9


def test_attempts_of_one_name_do_not_use_up_those_of_another(log: Log) -> None:
    def failed(name: str | None) -> int:
        return state(log, join_run(handle_of(log), "", rerun=name), "item0").attempts.failed

    number = join_run(handle_of(log), "", rerun="x").note.number
    log.append("item0", {"run": number, "attempt": 1, "rerun": "x", "error": "e", "pause_s": 0})

    assert (failed("x"), failed("y"), failed(None)) == (1, 0, 0)


def test_retry_failed_composes_with_a_name(log: Log) -> None:
    fn = Ran("item1")
    mapped(log, fn)
    mapped(log, fn, NAMES[:3], rerun="x")
    fn.bad.clear()
    fn.take()

    mapped(log, fn, rerun="x", retry_failed=True)
    assert fn.take() == sorted([*NAMES[3:], "item1"])
    mapped(log, fn, rerun="x", retry_failed=True)
    mapped(log, fn, retry_failed=True)  # the last outcome of all of them is well
    assert fn.take() == []


def test_same_key_with_another_input_is_refused_under_the_name_and_begins_anew_under_another(
    log: Log,
) -> None:
    def key(item: Any) -> str:
        return str(item[0])

    mapped(log, repr, [["a", 1]], key=key)  # type: ignore[list-item] - items of another kind are the point
    with pytest.raises(ChangedItemError, match="name of a new rerun"):
        list(log.map(repr, [["a", 2]], key=key, jobs=1))

    (outcome,) = log.map(repr, [["a", 2]], key=key, jobs=1, rerun="x")
    assert (outcome.ok, outcome.item) == (True, ["a", 2])
    with pytest.raises(ChangedItemError):
        list(log.map(repr, [["a", 3]], key=key, jobs=1, rerun="x"))


def test_outcome_of_an_older_start_does_not_count_for_the_name_and_none_is_lost(
    log: Log, store: Path
) -> None:
    gate, runs = threading.Event(), threading.Event()

    def wait(item: str) -> str:
        runs.set()
        gate.wait(30)
        return "old"

    with ThreadPoolExecutor(1) as one:
        older = log.map(wait, ["a", "b"], executor=one)
        runs.wait(30)
        other = threading.Thread(
            target=mapped, args=(Checkpoint(store).log("a"), str.upper, ["a", "b"]), kwargs={"rerun": "x"}
        )
        other.start()
        wait_until(
            lambda: [each.item for each in log.results(rerun="x")] == ["b"], "one is done under the name"
        )
        gate.set()
        outcomes = {outcome.item: outcome for outcome in older}
        other.join()

    # One was taken before there was a name, the other had an outcome by then.
    assert {item: outcome.value for item, outcome in outcomes.items()} == {"a": "old", "b": "B"}
    assert {item: len(log.events(item)) for item in "ab"} == {"a": 2, "b": 1}
    assert {outcome.item: outcome.value for outcome in log.results()} == {"a": "A", "b": "B"}


# --- another version ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [None, "x"])
@pytest.mark.parametrize(("if_changed", "again"), [("keep", []), ("keep-ok", ["item1", "item4"])])
def test_changed_version_is_refused_or_keeps_what_it_is_told(
    name: str | None, if_changed: str, again: list[str], log: Log
) -> None:
    fn = Ran("item1", "item4")
    mapped(log, fn, NAMES[:5], version="1", rerun=name)
    fn.bad.clear()
    fn.take()
    with pytest.raises(ChangedVersionError, match=r"if_changed=\"keep-ok\"") as refused:
        mapped(log, fn, version="2", rerun=name)
    assert "--if-changed keep-ok" in (refused.value.shell_advice or "")
    assert fn.take() == []

    first = mapped(log, fn, NAMES[:5], version="2", rerun=name, if_changed=if_changed)
    assert fn.take() == again
    assert {item for item, outcome in first.items() if outcome.version == "2"} == set(again)
    mapped(log, fn, version="2", rerun=name, if_changed=if_changed)  # the same line
    mapped(log, fn, version="2", rerun=name)
    assert fn.take() == ["item5"]
    with pytest.raises(ChangedVersionError):
        mapped(log, fn, version="1", rerun=name)


@pytest.mark.parametrize("name", [None, "x"])
def test_changed_version_of_a_map_that_has_done_nothing_is_no_other_one(name: str | None, log: Log) -> None:
    fn = Ran()
    mapped(log, fn, [], version="1", rerun=name)

    with log.claim("item1"), pytest.raises(ChangedVersionError):
        mapped(log, fn, [], version="2", rerun=name)  # somebody is at work
    outcomes = mapped(log, fn, version="2", rerun=name)

    assert fn.take() == NAMES
    assert {outcome.version for outcome in outcomes.values()} == {"2"}
    with pytest.raises(ChangedVersionError):
        mapped(log, fn, version="1", rerun=name)


@pytest.mark.parametrize("name", [None, "x"])
def test_outcome_of_an_unused_version_that_comes_while_it_is_given_up_does_not_count(
    name: str | None, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    fn, real = Ran(), runs._is_begun
    mapped(log, fn, [], version="1", rerun=name)

    def be_late(*given: Any) -> bool:
        monkeypatch.setattr(runs, "_is_begun", real)
        mapped(log, fn, ["item1"], version="1", rerun=name)
        return real(*given)

    monkeypatch.setattr(runs, "_is_begun", be_late)
    outcomes = mapped(log, fn, ["item1"], version="2", rerun=name)

    assert fn.take() == ["item1", "item1"]
    assert outcomes["item1"].version == "2"


def test_failures_that_the_new_version_makes_are_kept_by_the_same_line(log: Log) -> None:
    fn = Ran("item1", "item4")
    mapped(log, fn, version="1", retries=1)
    fn.bad.remove("item1")
    fn.take()

    outcomes = mapped(log, fn, version="2", if_changed="keep-ok", retries=1)
    assert fn.take() == ["item1", "item4", "item4"]  # attempts of the other version are not counted
    assert outcomes["item4"].attempts == 2
    mapped(log, fn, version="2", if_changed="keep-ok", retries=1)
    assert fn.take() == []
    mapped(log, fn, version="1", if_changed="keep-ok")
    assert fn.take() == ["item4"]
    assert mapped(log, fn, version="1")["item4"].version == "1"


def test_each_name_has_a_version_of_its_own_and_none_stops_another(log: Log) -> None:
    fn = Ran()
    mapped(log, fn, NAMES[:2], version="1")
    mapped(log, fn, NAMES[:2], version="2", rerun="x")
    mapped(log, fn, NAMES[:2], version="3", rerun="y")

    for version, name in (("1", None), ("2", "x"), ("3", "y")):
        fn.take()
        mapped(log, fn, NAMES[:2], version=version, rerun=name)
        assert fn.take() == []
        with pytest.raises(ChangedVersionError):
            mapped(log, fn, version="4", rerun=name)


def test_start_that_runs_with_the_version_before_stops_and_its_failure_does_not_count(
    log: Log, store: Path
) -> None:
    gate, runs = threading.Event(), threading.Event()

    def fail_late(item: str) -> str:
        runs.set()
        gate.wait(30)
        raise ValueError("of version 1")

    fn = Ran()
    with ThreadPoolExecutor(1) as one:
        older = log.map(fail_late, NAMES, executor=one, version="1")
        runs.wait(30)
        newer = Checkpoint(store).log("a")
        gone_on = threading.Thread(
            target=mapped, args=(newer, fn), kwargs={"version": "2", "if_changed": "keep-ok"}
        )
        gone_on.start()
        wait_until(lambda: len(fn.items) == len(NAMES) - 1, "the new version has run the others")
        gate.set()
        with pytest.raises(ChangedVersionError, match="went on as '2'"):
            list(older)
        gone_on.join()

    assert fn.take() == NAMES
    assert all(outcome.ok and outcome.version == "2" for outcome in log.results())


def test_all_who_change_the_version_at_once_agree(log: Log, store: Path) -> None:
    fn = Ran("item1")
    mapped(log, fn, version="1")
    fn.bad.clear()
    fn.take()
    barrier = threading.Barrier(4)

    def take_part() -> None:
        mine = Checkpoint(store).log("a")
        barrier.wait(30)
        mapped(mine, fn, version="2", if_changed="keep-ok")

    with ThreadPoolExecutor(4) as four:
        for each in [four.submit(take_part) for _ in range(4)]:
            each.result()

    assert fn.take() == ["item1"]
    assert [note["run"] for note in handle_of(log).query(lambda view: list(view.map_notes))] == [1, 2]


# --- the rule ----------------------------------------------------------------------------------------------


OK, FAILED = RecordHead(b"1", is_outcome=True, is_ok=True), RecordHead(b"1", is_outcome=True, is_ok=False)


@pytest.mark.parametrize(
    ("notes", "expected"),
    [
        # What counts of run 1 for the map without a name, and for the rerun "x": the failures, too (all), or not (ok).
        ([RunNote(1, "v")], ("all", None)),
        ([RunNote(1, "v", "x")], ("all", "all")),
        ([RunNote(1, "v"), RunNote(2, "v")], (None, None)),
        ([RunNote(1, "v"), RunNote(2, "w", None, Keeps.ALL)], ("all", None)),
        ([RunNote(1, "v"), RunNote(2, "w", None, Keeps.OK)], ("ok", None)),
        ([RunNote(1, "v"), RunNote(2, "w", None, Keeps.OK), RunNote(3, "v", None, Keeps.ALL)], ("ok", None)),
        ([RunNote(1, "v"), RunNote(2, "w", "x")], ("all", None)),
        ([RunNote(1, "v", "x"), RunNote(2, "w", "x", Keeps.OK)], ("all", "ok")),
        ([RunNote(1, "v", "x"), RunNote(2, "w", None, Keeps.OK)], ("ok", "all")),
        ([RunNote(1, "v", "x"), RunNote(2, "w", "y")], ("all", "all")),
        ([RunNote(1, "v", "x"), RunNote(2, "v")], (None, "all")),  # begun by a version that knew no names
    ],
)
def test_what_counts_follows_from_what_each_run_keeps(
    notes: list[RunNote], expected: tuple[str | None, str | None]
) -> None:
    rules = [History(notes).rule(name) for name in (None, "x")]

    assert (
        tuple("all" if rule.counts(FAILED) else "ok" if rule.counts(OK) else None for rule in rules)
        == expected
    )
    assert not any(rule.counts(RecordHead(b"1", is_outcome=False, is_ok=False)) for rule in rules)
    assert not any(rule.counts(OK._replace(run=b"9")) for rule in rules)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"run": 1, "ok": True, "error": None}, RecordHead(b"1", is_outcome=True, is_ok=True)),
        ({"run": 12345678, "ok": False, "rerun": "x"}, RecordHead(b"12345678", is_outcome=True, is_ok=False)),
        ({"run": 10**18 - 1, "ok": False}, RecordHead(b"9" * 18, is_outcome=True, is_ok=False)),
        ({"run": 123456789, "attempt": 2}, RecordHead(b"123456789", is_outcome=False, is_ok=False)),
        ({"run": 0, "attempt": "x"}, RecordHead(b"0", is_outcome=False, is_ok=False)),
        ({"ok": True, "run": 1}, None),
        ({"run": 1}, None),
        ({"run": -1, "ok": True}, None),
        ({"run": 10**18, "ok": True}, None),
        ({"run": 1, "x": 2, "ok": True}, None),
        ({"run": True, "ok": True}, None),
        ({"run": 1, "ok": 1}, None),
        ({"run": 1.0, "ok": True}, None),
        ({"run": "1", "ok": True}, None),
        ([1, 2], None),
        ("run", None),
        ({}, None),
    ],
)
def test_record_of_a_map_is_told_from_its_first_bytes_as_from_the_whole(
    event: Any, expected: RecordHead | None
) -> None:
    assert head_of(encode_payload("a", event).event) == head_of_decoded(event) == expected


def test_beginnings_of_outcomes_that_count_say_the_same_as_their_heads() -> None:
    notes = [
        RunNote(1, "1"),
        RunNote(2, "2", keeps=Keeps.ALL),
        RunNote(3, "3", "name"),
        RunNote(12, "4", keeps=Keeps.OK),
        RunNote(10**17, "4", "name", keeps=Keeps.OK),
    ]
    runs = [0, *(note.number for note in notes), 4, 21, 120]
    events: list[dict[str, Any]] = [{"run": run, "ok": ok} for run in runs for ok in (True, False, 1)]
    events += [{"run": run, name: 1} for run in runs for name in ("attempt", "death", "other")]
    for many in range(len(notes) + 1):
        for rerun in (None, "name", "other"):
            rule = History(notes[:many]).rule(rerun)
            for event in events:
                data = encode_payload("a", event).event
                head = head_of(data)
                assert data.startswith(rule.beginnings) is (head is not None and bool(rule.counts(head)))


@pytest.mark.parametrize(
    "fields",
    [
        {"run": -1, "version": ""},
        {"run": 10**18, "version": ""},
        {"run": True, "version": ""},
        {"run": 2, "version": "", "rerun": 5},
        {"run": 2, "version": None, "rerun": "x"},
    ],
)
def test_note_that_is_none_of_a_run_is_passed_over(fields: dict[str, Any], log: Log) -> None:
    mapped(log, len, ["a"])
    handle_of(log).append_if([note_payload(Note("map", fields))], lambda view: None)

    assert [note.number for note in handle_of(log).query(history_of).notes] == [1]
    assert mapped(log, len, ["a"])["a"].repeated


def test_number_of_a_run_whose_note_was_lost_to_damage_is_not_given_to_another(log: Log) -> None:
    fn = Ran()
    mapped(log, fn, NAMES[:2])
    lost = {"run": 2, "ok": True, "rerun": "lost", "error": None, "value": 1, "duration_s": 0.1}
    log.append("item0", lost)
    handle_of(log).append_if(
        [note_payload(Note("salvaged", {"from": "", "damages": 1, "gaps": []}))], lambda view: None
    )
    fn.take()

    mapped(log, fn, NAMES[:2], rerun="x")

    assert fn.take() == NAMES[:2]
    assert [note.number for note in handle_of(log).query(history_of).notes] == [1, 3]


def test_look_ahead_agrees_with_what_then_runs_and_writes_nothing(log: Log, store: Path) -> None:
    chance = seeded("reruns")
    for _ in range(40):
        options = {
            "version": chance.choice("12"),
            "rerun": chance.choice([None, "x", "y"]),
            "retry_failed": chance.random() < 0.3,
        }
        if_changed = chance.choice(list(IfChanged))
        items = chance.sample(NAMES, 3)
        fn = Ran(*chance.sample(NAMES, 2))
        before = tree(store)
        try:
            run = join_run(handle_of(log), if_changed=if_changed, **options, is_dry_run=True)
        except ChangedVersionError:
            with pytest.raises(ChangedVersionError):
                mapped(log, fn, items, if_changed=if_changed.value, **options)
            continue
        would_run = sorted(item for item in items if state(log, run, item).outcome is None)
        assert tree(store) == before

        mapped(log, fn, items, if_changed=if_changed.value, **options)

        assert fn.take() == would_run
        assert list(log.pending(items, rerun=options["rerun"])) == []
        # Without a name what failed is left to do again once a run without a name has kept all but that.
        left = list(log.pending(items))
        assert not left or any(
            note.rerun is None and note.keeps is Keeps.OK for note in handle_of(log).query(history_of).notes
        )
        assert not any(outcome.ok for outcome in log.results() if outcome.object_key in left)
        for name in (None, options["rerun"]):
            status = log.map_status(rerun=name)
            results = list(log.results(rerun=name))
            assert status is not None
            assert (status.ok + status.failed, status.failed) == (
                len(results),
                sum(not outcome.ok for outcome in results),
            )


# --- stores of before there were names ---------------------------------------------------------------------


def old_store(directory: Path) -> Path:
    """Make the store of a rerun of before there were names, half done: see tests/golden/README.md."""
    store = directory / "store"
    inside(store).mkdir(parents=True)
    shutil.copy(GOLDEN / "reruns.jsonl", inside(store, "reruns.jsonl"))
    return store


OLD = ("sh", "-c", 'test $1 -ne 4 && echo "out $1"', "x")


def test_old_store_with_a_rerun_half_done_reads_as_it_did(tmp_path: Path) -> None:
    log = Checkpoint(old_store(tmp_path), read_only=True).log("reruns")

    assert [(outcome.item, outcome.ok, outcome.rerun) for outcome in log.results()] == [
        ("1", True, None),
        ("2", True, None),
    ]
    assert list(log.pending(list("12345"))) == ["3", "4", "5"]
    status = log.map_status()
    assert status is not None
    assert (status.run, status.ok, status.failed, status.to_retry) == (2, 2, 0, 1)
    assert log.reruns() == ()


def test_old_store_with_a_rerun_half_done_is_carried_on(tmp_path: Path) -> None:
    old_store(tmp_path)
    shell = CommandLine(tmp_path)
    line = ("map", "--store", "store", "--key", "reruns", "--retries", "2", "--retry-delay", "0")
    items = b"1\n2\n3\n4\n5\n"

    assert shell.good(*line, "--dry-run", "--", *OLD, stdin=items).out == "3\n4\n5\n"
    ended = shell.run(*line, "--", *OLD, stdin=items)
    assert "3 run now (2 ok, 1 failed), 2 done already" in ended.err
    rows = shell.good("results", "--store", "store", "--key", "reruns", "--json").rows
    assert {row["item"]: (row["ok"], row["attempts"]) for row in rows} == {
        **dict.fromkeys("1235", (True, 1)),
        "4": (False, 3),
    }
    named = shell.run(*line, "--rerun", "x", "--", *OLD, stdin=b"2\n4\n")
    assert "2 run now (1 ok, 1 failed)" in named.err
    assert shell.good(*line, "--dry-run", "--", *OLD, stdin=items).out == ""


# --- the command line --------------------------------------------------------------------------------------


NOTE = ("sh", "-c", 'echo "$1" >> runs; case $1 in bad*) exit 3;; esac', "note")
FIXED = ("sh", "-c", 'echo "$1" >> runs', "note")


class Shell(CommandLine):
    """Maps commands in a directory."""

    def map(self, *arguments: str, items: str) -> Ended:
        lines = "".join(f"{item}\n" for item in items.split())
        return self.run("map", *OF_K, "-j", "2", *arguments, stdin=lines.encode())

    @property
    def runs(self) -> list[str]:
        """What ran since this was asked for last, sorted."""
        path = self.directory / "runs"
        lines = sorted(path.read_text().splitlines()) if path.exists() else []
        path.write_text("")
        return lines


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_one_item_run_again_leaves_the_others_as_they_are(shell: Shell) -> None:
    shell.map("--", *NOTE, items="1 2 3 4 bad")
    assert shell.runs == ["1", "2", "3", "4", "bad"]

    ended = shell.map("--rerun", "fix", "--", *NOTE, items="3")

    assert (ended.code, shell.runs) == (0, ["3"])
    assert "results --store store --key k --rerun fix" in ended.err
    rows = shell.good("results", *OF_K, "--json").rows
    assert {row["item"]: (row["rerun"], row["ok"]) for row in rows} == {
        **dict.fromkeys("124", (None, True)),
        "3": ("fix", True),
        "bad": (None, False),
    }
    assert {row["version"] for row in rows} == {
        "sh -c 'echo \"$1\" >> runs; case $1 in bad*) exit 3;; esac' note"
    }
    assert "  3  (rerun fix)\n" in shell.good("results", *OF_K).out
    summary = shell.run("results", *OF_K, "--summary")
    assert (summary.code, "done      5: 4 ok, 1 failed\nreruns    fix\n" in summary.out) == (1, True)
    named = shell.good("results", *OF_K, "--summary", "--rerun", "fix").out
    assert "rerun     fix\ndone      1: 1 ok, 0 failed\n" in named
    assert shell.map("--dry-run", "--", *NOTE, items="1 2 3 4 bad").out == ""
    assert shell.map("--dry-run", "--rerun", "fix", "--", *NOTE, items="1 2 3 4 bad").out == "1\n2\n4\nbad\n"
    assert '"rerun":"fix"' in shell.good("show", "3", "--store", "store").out


def test_after_a_corrected_command_the_failed_items_run_without_the_rest(shell: Shell) -> None:
    assert shell.map("--", *NOTE, items="a bad1 b bad2").code == 1
    assert shell.runs == ["a", "b", "bad1", "bad2"]

    refused = shell.map("--", *FIXED, items="a bad1 b bad2")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "--if-changed keep-ok" in refused.err
    line = ("--if-changed", "keep-ok", "--", *FIXED)
    dry = shell.map("--dry-run", *line, items="a bad1 b bad2")
    ended = shell.map(*line, items="a bad1 b bad2")

    assert dry.out == "bad1\nbad2\n"
    assert (ended.code, shell.runs) == (0, ["bad1", "bad2"])
    assert (
        shell.map(*line, items="a bad1 b bad2").code
        == shell.map("--", *FIXED, items="a bad1 b bad2").code
        == 0
    )
    assert shell.runs == []
    assert shell.good("results", *OF_K, "--summary").out.startswith(
        "what      sh -c 'echo \"$1\" >> runs' note\n"
    )


def test_changed_command_may_keep_all_that_is_done(shell: Shell) -> None:
    shell.map("--", *NOTE, items="a bad")
    assert shell.runs == ["a", "bad"]

    assert shell.map("--if-changed", "keep", "--", *FIXED, items="a bad c").code == 1
    assert shell.runs == ["c"]


@pytest.mark.parametrize(
    "arguments",
    [("--rerun", "--", "true"), ("--rerun", "-j", "3", "true"), ("--rerun=", "true"), ("--rerun",)],
)
def test_rerun_without_a_name_is_refused_with_advice_and_runs_nothing(
    arguments: tuple[str, ...], shell: Shell
) -> None:
    ended = shell.map(*arguments, items="a")

    assert (ended.code, (shell.directory / "store").exists()) == (2, False)
    assert "a rerun needs a name" in ended.err
    assert "another name begins anew" in ended.err


def test_results_of_a_rerun_that_never_was_name_those_that_were(shell: Shell) -> None:
    shell.map("--", "true", items="a")
    assert "no rerun 'x' on the log 'k'" in shell.refused("results", *OF_K, "--rerun", "x")
    shell.map("--rerun", "y", "--", "true", items="a")

    assert "its reruns are 'y'" in shell.refused("results", *OF_K, "--rerun", "x", "--watch")


# --- killed, shared, late ----------------------------------------------------------------------------------


COUNT = 40
SLOW = ("sh", "-c", 'echo "$1" >> runs; sleep 0.02; echo "$1" >> ended', "work")


class Job:
    """The line ``map --rerun NAME`` over COUNT items, in processes beside the test."""

    def __init__(self, directory: Path, children: Children) -> None:
        self.directory = directory
        self._children = children
        self.write(range(COUNT))

    def write(self, numbers: range) -> None:
        """Let these be the items of the starts that follow."""
        (self.directory / "items").write_text("".join(f"{number}\n" for number in numbers))

    def start(self, *options: str, jobs: int = 2) -> Child:
        return self._children.start_command(
            [*MPCHECKPOINT, "map", *OF_K, "-j", str(jobs), "-a", "items", *options, "--", *SLOW],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def begun(self) -> list[int]:
        """Return which items were begun, in order."""
        path = self.directory / "runs"
        return list(map(int, path.read_text().splitlines())) if path.exists() else []

    def forget_runs(self) -> None:
        (self.directory / "runs").unlink()

    def recorded(self, name: str | None) -> set[int]:
        """Return the items that have an outcome under that name."""
        with Checkpoint(self.directory / "store", read_only=True) as checkpoint:
            return {int(outcome.object_key) for outcome in checkpoint.log("k").results(rerun=name)}


@pytest.fixture
def job(tmp_path: Path, children: Children) -> Job:
    return Job(tmp_path, children)


@pytest.mark.guarantee(8)
@pytest.mark.parametrize("whom", ["process", "group"])
def test_killed_rerun_is_carried_on_by_the_same_line(whom: str, job: Job) -> None:
    assert job.start(jobs=4).wait() == 0
    job.forget_runs()
    kept: dict[int, int] = {}
    for kills in range(1, 4):
        child = job.start("--rerun", "x")
        wait_until(lambda kills=kills: len(job.begun()) >= 9 * kills, "some items run")  # type: ignore[misc]
        if whom == "group":
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        else:
            child.kill()
        begun = job.begun()
        kept |= {item: begun.count(item) for item in job.recorded("x") if item not in kept}

    assert job.start("--rerun", "x").wait() == 0

    begun = job.begun()
    assert job.recorded("x") == set(range(COUNT))
    assert len(begun) <= COUNT + 3 * 2  # what ran at a kill runs again
    assert {item: begun.count(item) for item in kept} == kept
    assert len(kept) >= 15
    job.forget_runs()
    assert (job.start("--rerun", "x").wait(), job.start().wait(), job.begun()) == (0, 0, [])


def test_starts_at_once_and_one_that_comes_late_run_each_item_once_under_the_name(job: Job) -> None:
    assert job.start(jobs=4).wait() == 0
    job.forget_runs()

    starts = [job.start("--rerun", "x", jobs=1) for _ in range(3)]
    wait_until(lambda: len(job.begun()) >= COUNT // 2, "half of them ran")
    job.write(range(10, COUNT + 10))  # other input under the same name
    starts.append(job.start("--rerun", "x", jobs=1))
    codes = [child.wait() for child in starts]
    codes.append(job.start("--rerun", "x").wait())

    assert codes == [0] * 5
    assert sorted(job.begun()) == list(range(COUNT + 10))
    assert job.recorded("x") == job.recorded(None) == set(range(COUNT + 10))


def test_reruns_of_two_names_at_once_each_run_everything(job: Job) -> None:
    codes = [child.wait() for child in [job.start("--rerun", name) for name in ("x", "y")]]

    assert codes == [0, 0]
    assert sorted(job.begun()) == sorted([*range(COUNT), *range(COUNT)])
    assert job.recorded("x") == job.recorded("y") == set(range(COUNT))


def test_interrupted_rerun_says_that_the_same_line_carries_on(tmp_path: Path, children: Children) -> None:
    (tmp_path / "items").write_text("a\n")
    with (tmp_path / "said").open("wb") as said:
        child = children.start_command(
            [
                *MPCHECKPOINT,
                "map",
                *OF_K,
                "-a",
                "items",
                "--rerun",
                "x",
                "--",
                "sh",
                "-c",
                "touch runs; sleep 1000",
            ],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
    wait_until((tmp_path / "runs").exists, "the item runs")
    os.killpg(child.pid, signal.SIGINT)

    assert child.wait() == 130
    assert "Start the same line again to carry on" in (tmp_path / "said").read_text()


def test_summary_and_watch_show_the_rerun_that_is_under_way(tmp_path: Path, children: Children) -> None:
    shell = Shell(tmp_path)
    shell.map("--", "true", items="a b c bad")
    (tmp_path / "items").write_text("bad\na\nb\nc\n")
    command = "[ $1 = bad ] && exit 3; [ $1 = a ] && exit 0; while [ ! -e go ]; do sleep 0.05; done"
    child = children.start_command(
        [
            *MPCHECKPOINT,
            "map",
            *OF_K,
            "-j",
            "2",
            "-a",
            "items",
            "--rerun",
            "x",
            "--",
            "sh",
            "-c",
            command,
            "x",
        ],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = Checkpoint(tmp_path / "store", read_only=True).log("k")
    try:
        wait_until(lambda: len(list(log.results(rerun="x"))) == 2, "two are done")
        summary = shell.run("results", *OF_K, "--summary")
        (row,) = shell.run("results", *OF_K, "--summary", "--json").rows
        with shell.beside("results", *OF_K, "--watch", "--json") as watched:
            watched.wait_for(lambda text: '"item":"a"' in text)
            (tmp_path / "go").touch()
            seen = watched.wait()
    finally:
        (tmp_path / "go").touch()
        child.wait()

    assert "rerun     x\ndone      2 of 4: 1 ok, 1 failed\n" in summary.out
    assert (row["rerun"], row["done"], row["items"], row["failed"]) == ("x", 2, 4, 1)
    assert row["starts"] == [{"pid": child.pid, "items": 4, "rerun": "x"}]
    assert seen.code == child.wait() == shell.run("results", *OF_K, "--summary").code == 1
    # Only what was made under the name, the failure of it, too.
    assert sorted(json.loads(line)["item"] for line in seen.out.splitlines()) == ["a", "b", "bad", "c"]


def test_watch_counts_anew_when_a_changed_command_keeps_only_what_is_ok(
    tmp_path: Path, children: Children
) -> None:
    shell = Shell(tmp_path)
    wait = "while [ ! -e go ]; do sleep 0.05; done"
    (tmp_path / "items").write_text("bad\nslow\n")

    def start(*arguments: str) -> Child:
        return children.start_command(
            [*MPCHECKPOINT, "map", *OF_K, "-j", "1", *arguments],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    first = start("-a", "items", "--", "sh", "-c", f"[ $1 = bad ] && exit 3; {wait}", "x")
    log = Checkpoint(tmp_path / "store").log("k")
    wait_until(lambda: len(list(log.results())) == 1, "one has failed")
    with shell.beside("results", *OF_K, "--watch", "--json") as watched:
        watched.wait_for(lambda text: '"item":"bad"' in text)
        second = start("-a", "items", "--if-changed", "keep-ok", "--", "sh", "-c", f"{wait}", "x")
        wait_until(lambda: len(handle_of(log).query(history_of).notes) == 2, "the second has begun its run")
        (tmp_path / "go").touch()
        codes = (first.wait(), second.wait())
        seen = watched.wait()

    assert codes == (2, 0)  # what the first still made of its item is of the command before: it stops
    assert seen.code == 0
    last = {row["item"]: row["ok"] for row in seen.rows}
    assert last == {"bad": True, "slow": True}


def share(store: Path, runs: Path) -> None:
    log = Checkpoint(store).log("a")
    with ThreadPoolExecutor(2) as executor:
        list(
            log.map(
                partial(append, runs), [f"{number}" for number in range(60)], executor=executor, rerun="x"
            )
        )


def append(runs: Path, item: str) -> str:
    with runs.open("ab") as file:
        file.write(f"{item}\n".encode())
    return item


def test_processes_that_call_the_same_rerun_at_once_run_each_item_once(
    store: Path, tmp_path: Path, children: Children
) -> None:
    for _ in range(3):
        children.start(share, store, tmp_path / "runs")
    children.wait_all()

    assert sorted((tmp_path / "runs").read_text().split(), key=int) == [f"{number}" for number in range(60)]


def test_map_of_a_rerun_in_processes_tells_its_workers_the_name(store: Path) -> None:
    log = Checkpoint(store).log("a")
    list(log.map(len, NAMES, jobs=2))

    outcomes = list(log.map(len, NAMES, jobs=2, rerun="x"))

    assert {(outcome.rerun, outcome.repeated) for outcome in outcomes} == {("x", False)}
