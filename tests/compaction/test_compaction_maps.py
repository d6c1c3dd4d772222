"""Claims, maps and imports go on over a compaction: nothing runs twice, nothing is imported twice."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint._compaction.superseded import Superseded
from mpcheckpoint._work.reruns import History, Keeps, Rule, RunNote, head_of
from mpcheckpoint.maintenance import import_lines
from support.processes import in_a_child
from support.verbs import become_a_new_process, log_file

if TYPE_CHECKING:
    from pathlib import Path

    from support.processes import Children

pytestmark = pytest.mark.guarantee(12)


def controls(store: Path) -> list[str]:
    lines = [json.loads(line) for line in log_file(store).read_bytes().splitlines()]
    return [line[5]["control"] for line in lines if line[4] is None]


# --- claims -----------------------------------------------------------------------------------------------------


def test_claim_of_a_live_worker_is_kept_and_those_given_back_are_dropped(store: Path) -> None:
    log = Checkpoint(store).log("a")
    for number in range(4):
        with log.claim("done") as claim:
            assert claim is not None
            log.append("done", number)
    with log.claim("x") as claim:
        assert claim is not None
        log.compact(keep_last=1)
        assert controls(store).count("claim") == 1
        assert not in_a_child(can_claim, store, "x")
        assert in_a_child(can_claim, store, "done")
        log.compact(keep_last=1)
        assert not in_a_child(can_claim, store, "x")
    assert in_a_child(can_claim, store, "x")


def test_claim_of_a_dead_worker_is_dropped(store: Path, children: Children) -> None:
    children.start(claim_and_die, store, method="fork").wait()
    log = Checkpoint(store).log("a")
    assert controls(store).count("claim") == 1

    assert log.compact().is_changed

    assert controls(store).count("claim") == 0
    with log.claim("x") as claim:
        assert claim is not None


def can_claim(store: Path, object_key: str) -> bool:
    become_a_new_process()
    with Checkpoint(store).log("a").claim(object_key) as claim:
        return claim is not None


def claim_and_die(store: Path) -> None:
    become_a_new_process()
    with Checkpoint(store).log("a").claim("x"):
        os._exit(0)


# --- maps -------------------------------------------------------------------------------------------------------


ITEMS = ["a", "bb", "ccc", "bad"]
ran: list[str] = []


def work(item: str) -> int:
    ran.append(item)
    if item == "bad":
        raise ValueError(item)
    return len(item)


def run_map(log: Log, **options: Any) -> list[str]:
    """Run a map in threads of this process; return which items ran."""
    ran.clear()
    options.setdefault("version", "1")
    with ThreadPoolExecutor(2) as executor:
        for _ in log.map(work, ITEMS, executor=executor, **options):
            pass
    return sorted(ran)


def outcomes(log: Log, **options: Any) -> dict[str, tuple[bool, Any]]:
    return {each.object_key: (each.ok, each.value if each.ok else None) for each in log.results(**options)}


def test_map_resumed_after_compactions_runs_no_item_again(store: Path) -> None:
    log = Checkpoint(store).log("a")
    run_map(log)
    before = outcomes(log)
    assert len(before) == 4
    for turn in range(3):
        log.append("other", turn)
        log.compact()
        assert run_map(log) == []
        assert outcomes(log) == before
    log.compact(keep_last=1)
    assert run_map(log) == []
    assert outcomes(log) == before


def test_reruns_and_failed_items_that_ran_again_leave_one_outcome_a_name(store: Path) -> None:
    log = Checkpoint(store).log("a")
    run_map(log)
    for _ in range(3):
        assert run_map(log, retry_failed=True) == ["bad"]
    run_map(log, rerun="monday")
    run_map(log, rerun="tuesday")
    before = [outcomes(log), outcomes(log, rerun="monday"), outcomes(log, rerun="tuesday")]
    count = log.count("bad")

    assert log.compact().is_changed

    assert [outcomes(log), outcomes(log, rerun="monday"), outcomes(log, rerun="tuesday")] == before
    assert run_map(log) == run_map(log, rerun="monday") == run_map(log, rerun="tuesday") == []
    assert log.count("bad") == count
    assert sum(record.object_key == "bad" for record in log.read()) == 3
    assert not log.compact().is_changed
    assert run_map(log, rerun="wednesday") == sorted(ITEMS)


def test_last_success_is_kept_under_a_later_failure_for_a_version_that_keeps_what_is_ok(store: Path) -> None:
    log = Checkpoint(store).log("a")
    run_map(log, version="1")
    run_map(log, version="2", if_changed="keep-ok")
    log.compact()

    assert run_map(log, version="3", if_changed="keep-ok") == ["bad"]


# --- what counts: any history, any rule --------------------------------------------------------------------------


NAMES = [None, "one", "two"]
RUNS = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(list(Keeps))), min_size=1, max_size=4)
KINDS = st.sampled_from(["ok", "failed", "attempt"])


def event_of(run: int, kind: str) -> bytes:
    if kind == "attempt":
        return b'{"run":%d,"attempt":1}' % run
    return b'{"run":%d,"ok":%b}' % (run, b"true" if kind == "ok" else b"false")


def last_counting(rule: Rule, events: list[tuple[int, bytes]]) -> int | None:
    for number, event in reversed(events):
        head = head_of(event)
        assert head is not None
        if rule.counts(head):
            return number
    return None


@settings(max_examples=400, deadline=None)
@given(runs=RUNS, data=st.data())
def test_whatever_runs_recorded_the_outcome_that_counts_for_any_start_stays(runs: Any, data: Any) -> None:
    """Also where starts of several versions run at once, and record in any order."""
    notes = [RunNote(number, f"v{number}", name, keeps) for number, (name, keeps) in enumerate(runs, 1)]
    recorded = data.draw(st.lists(st.tuples(st.integers(1, len(notes)), KINDS), max_size=8), label="recorded")
    superseded = Superseded()
    for note in notes:
        superseded.note(note.note().fields)
    events = [(number, event_of(run, kind)) for number, (run, kind) in enumerate(recorded)]

    gone = {found for number, event in events for found in superseded.look(number, "x", event)}
    left = [(number, event) for number, event in events if number not in gone]

    history = History(notes)
    planned = [None, *(RunNote(9, "v9", name, keeps) for name in NAMES for keeps in Keeps)]
    for name in NAMES:
        for plan in planned:
            if plan is None or plan.rerun == name:
                rule = history.rule(name, plan)
                assert last_counting(rule, left) == last_counting(rule, events), (name, plan)


# --- imports ----------------------------------------------------------------------------------------------------


def test_second_import_of_each_source_after_a_compaction_repeats_nothing(store: Path, tmp_path: Path) -> None:
    log = Checkpoint(store).log("a")
    sources = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    for number, source in enumerate(sources):
        source.write_text(
            "".join(json.dumps({"object_key": "x", "event": [number, n]}) + "\n" for n in range(5))
        )
        import_lines(log, source)
    assert log.count("x") == 10
    assert controls(store).count("import") >= 2

    assert log.compact(keep_last=3).is_changed
    for source in sources:
        import_lines(log, source)
        with source.open("a") as file:
            file.write(json.dumps({"object_key": "x", "event": "more"}) + "\n")
        import_lines(log, source)

    assert log.count("x") == 12
    assert log.events("x") == ([1, 2], [1, 3], [1, 4], "more", "more")
    log.compact()
    assert controls(store).count("import") == 2


@pytest.mark.parametrize("compacts", [False, True])
def test_import_takes_ids_of_forgotten_objects_for_new_ones(
    store: Path, tmp_path: Path, *, compacts: bool
) -> None:
    log, other = Checkpoint(store).log("a"), Checkpoint(tmp_path / "other").log("b")
    for number in range(3):
        other.append("x", number, record_id=f"id {number}")
    log.append("x", "old", record_id="id 0")
    log.append("y", "old", record_id="id 0")
    log.forget("x")
    log.append("x", 1, record_id="id 1")
    log.append("x", "last")
    if compacts:
        log.compact(keep_last=1)

    import_lines(log, log_file(tmp_path / "other", "b"))

    assert log.events("x")[-3:] == ("last", 0, 2)
    assert log.events("y") == ("old",)


def test_import_of_a_log_leaves_out_a_record_whose_id_was_dropped(store: Path, tmp_path: Path) -> None:
    log, other = Checkpoint(store).log("a"), Checkpoint(tmp_path / "other").log("b")
    for each in (log, other):
        each.append("x", 0, record_id="id 0")
        each.append("x", 1, record_id="id 1")
    log.compact(keep_last=1)

    import_lines(log, log_file(tmp_path / "other", "b"))

    assert log.events("x") == (1,)
    assert log.count("x") == 2
