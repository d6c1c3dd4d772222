"""A map that is to stop at the first failure begins nothing after that failure was recorded."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint._work import worker_process
from mpcheckpoint._work.report import ItemReport, sent
from mpcheckpoint.errors import CheckpointError, WriteFailedError
from support.executors import workers
from support.shell import CommandLine
from support.verbs import Faults, inside, log_file, wait_until

if TYPE_CHECKING:
    pass

NAMES = [f"item{number}" for number in range(12)]
PATIENCE_S = 60.0
KINDS = [*multiprocessing.get_all_start_methods(), "threads", "pool"]


def claims_after_the_failure(store: Path, log_key: str = "a") -> list[str]:
    """Return which items were claimed after the first failure was recorded, as the log itself has it."""
    lines = [json.loads(line) for line in log_file(store, log_key).read_bytes().split(b"\n") if line.strip()]
    texts = [json.dumps(line) for line in lines]
    failed = next(place for place, text in enumerate(texts) if '"ok": false' in text)
    claims = [place for place, text in enumerate(texts) if '"claim"' in text and '"worker": "' in text]
    assert min(claims) < failed
    return [texts[place] for place in claims if place > failed]


def fail(item: str) -> str:
    raise ValueError(item)


def fail_at_item2(item: str) -> str:
    if item == "item2":
        raise ValueError(item)
    return item


@pytest.mark.parametrize("on_error", ["halt", "raise"])
@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_begun_after_a_failure_was_recorded(
    kind: str, jobs: int, on_error: str, log: Log, store: Path
) -> None:
    with workers(kind, jobs) as options:
        run = log.map(fail_at_item2, NAMES, on_error=on_error, **options)
        if on_error == "raise":
            with pytest.raises(ValueError, match="item2"):
                list(run)
        else:
            list(run)
            assert run.is_halted

    assert claims_after_the_failure(store) == []
    recorded = {outcome.item for outcome in log.results()}
    assert "item2" in recorded
    if jobs == 1:
        assert recorded == set(NAMES[:3])
    assert list(inside(store, "workers").iterdir()) == []


def test_item_that_has_failed_while_its_failure_could_not_be_recorded_halts_nothing_else(
    log: Log, faults: Faults
) -> None:
    faults.fail("remove", 5, on="workers/", times=1)

    with ThreadPoolExecutor(1) as one, pytest.raises(WriteFailedError, match="halting"):
        list(log.map(fail_at_item2, ["item2"], executor=one, on_error="halt"))

    assert list(log.results()) == []


def take_away_at_item2(directory: Path, item: str) -> str:
    """Remove what stands in the directory of the workers, as one does who cleans up."""
    if item == "item2":
        for path in directory.iterdir():
            path.unlink()
    return item


@pytest.mark.parametrize("on_error", ["halt", "raise"])
@pytest.mark.parametrize("kind", ["fork", "threads"])
def test_map_whose_permit_is_removed_says_so_and_does_not_end_as_if_all_were_done(
    kind: str, on_error: str, log: Log, store: Path
) -> None:
    clean_up = partial(take_away_at_item2, inside(store, "workers"))
    with workers(kind, 1) as options:
        with pytest.raises(CheckpointError, match=r"was removed.*start the map again") as caught:
            list(log.map(clean_up, NAMES, on_error=on_error, **options))
        assert caught.value.reason == "permit removed"
        assert [outcome.item for outcome in log.results()] == NAMES[:3]

        assert len(list(log.map(clean_up, NAMES, on_error=on_error, **options))) == len(NAMES)


def test_failure_of_another_start_does_not_let_a_map_whose_permit_is_removed_end_quietly(
    log: Log, store: Path
) -> None:
    has_begun, may_end = threading.Event(), threading.Event()

    def clean_up(item: str) -> str:
        has_begun.set()
        assert may_end.wait(PATIENCE_S)
        return take_away_at_item2(inside(store, "workers"), item)

    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as another:
        run = log.map(clean_up, ["item0", "bad", *NAMES[1:]], on_error="halt", version="1", executor=one)
        assert has_begun.wait(PATIENCE_S)
        # It waits for the worker by now, and is no news to the process that gave it out.
        failed = list(log.map(fail, ["bad"], version="1", executor=another))
        may_end.set()

        with pytest.raises(CheckpointError, match=r"was removed.*start the map again"):
            list(run)
    assert [outcome.ok for outcome in failed] == [False]
    assert run.failures == 0


def test_worker_that_dies_once_it_has_recorded_a_failure_has_halted_the_map(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sent_or_dead(message: object) -> bytes:
        if isinstance(message, ItemReport) and message.raised.error is not None:
            os._exit(1)
        return sent(message)

    monkeypatch.setattr(worker_process, "sent", sent_or_dead)
    with workers("fork", 1) as options:
        run = log.map(fail_at_item2, NAMES, on_error="halt", **options)
        outcomes = list(run)

    assert [outcome.item for outcome in outcomes] == NAMES[:3]
    assert run.is_halted
    assert [outcome.item for outcome in log.results()] == NAMES[:3]


def test_command_line_whose_permit_is_removed_does_not_say_that_all_is_well(tmp_path: Path) -> None:
    shell = CommandLine(tmp_path)

    ended = shell.run(
        *("map", "--store", "store", "--key", "a", "-j", "1", "--halt-on-error"),
        *("--", "sh", "-c", "rm store/.checkpoint/workers/*", "x"),
        stdin=b"a\nb\nc\n",
    )

    assert ended.code == 2
    assert "start the map again" in ended.err


def linger_or_fail(directory: Path, item: str) -> str:
    """Fail for "bad" as soon as "late" runs, which takes longer than it may."""
    if item == "late":
        (directory / "late").touch()
        time.sleep(1000)
    wait_until((directory / "late").exists, "the other runs")
    raise ValueError(item)


def test_item_whose_time_is_up_after_another_has_failed_is_recorded_too(log: Log, tmp_path: Path) -> None:
    outcomes = list(
        log.map(
            partial(linger_or_fail, tmp_path),
            ["late", "bad", "other"],
            jobs=2,
            timeout_s=1,
            on_error="halt",
            mp_context=multiprocessing.get_context("fork"),
        )
    )

    errors = {outcome.item: outcome.error or "" for outcome in outcomes}
    assert set(errors) == {"late", "bad"}
    assert errors["late"] == "timed out after 1 s"
    assert errors["bad"].startswith("ValueError: bad")


def die_or_fail(directory: Path, item: str) -> None:
    if item == "dies":
        (directory / "dies").touch()
        os.kill(os.getpid(), signal.SIGTERM)
    wait_until((directory / "dies").exists, "the other runs")
    time.sleep(0.3)
    raise ValueError(item)


def test_death_that_is_held_while_another_item_fails_is_recorded_too(log: Log, tmp_path: Path) -> None:
    run = log.map(
        partial(die_or_fail, tmp_path),
        ["dies", "bad"],
        jobs=2,
        on_error="halt",
        mp_context=multiprocessing.get_context("fork"),
    )

    assert [outcome.item for outcome in run] == ["bad"]
    assert [event.get("death") for event in log.events("dies")] == [1]


def test_failure_of_another_start_halts_only_that_one(log: Log, store: Path) -> None:
    with ThreadPoolExecutor(1) as one:
        list(Checkpoint(store).log("a").map(fail_at_item2, ["item2"], executor=one))

        run = log.map(fail_at_item2, NAMES, executor=one, on_error="halt")

        assert {outcome.item for outcome in run} == set(NAMES)
    assert not run.is_halted


@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_command_line_that_halts_begins_nothing_after_the_failure(jobs: int, tmp_path: Path) -> None:
    shell = CommandLine(tmp_path)
    items = "".join(f"{name}\n" for name in ["bad", *NAMES]).encode()
    command = "echo $1 >> runs; case $1 in bad) exit 3;; esac; sleep 0.2"

    ended = shell.run(
        *("map", "--store", "store", "--key", "a", "-j", str(jobs), "--halt-on-error"),
        *("--", "sh", "-c", command, "x"),
        stdin=items,
    )

    assert ended.code == 1
    assert "halted by a failure" in ended.err
    begun = (tmp_path / "runs").read_text().split()
    assert len(begun) <= jobs
    assert claims_after_the_failure(tmp_path / "store") == []
    if jobs == 1:
        assert begun == ["bad"]
