"""An event that no line holds is refused before anything is written, and the message says what to do instead."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._cli.commands import run
from mpcheckpoint._format import codec
from mpcheckpoint.errors import LimitExceededError
from support.verbs import inside

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mpcheckpoint import Log, Transaction

pytestmark = pytest.mark.guarantee(10)

LIMIT = 2000
LARGE = "a" * LIMIT
ADVICE = "store the data in a file and record its name and hash, or split it into several events"


@pytest.fixture(autouse=True)
def _limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MAX_LINE_BYTES", LIMIT)
    monkeypatch.setattr(codec, "_PLAINLY_SMALL_BYTES", 100)


def in_a_transaction(log: Log, event: object, default: Any = None) -> None:
    with log.transaction() as transaction:
        transaction.append("x", 1)
        transaction.append("x", event, default=default)


def in_an_update(log: Log, event: object, default: Any = None) -> None:
    def append(transaction: Transaction) -> None:
        transaction.append("x", len(transaction.events("x")))
        transaction.append("x", event, default=default)

    log.update(append)


WAYS: dict[str, Callable[..., object]] = {
    "append": lambda log, event, default=None: log.append("x", event, default=default),
    "append on a condition": lambda log, event, default=None: log.append(
        "x", event, expected_count=1, record_id="id", default=default
    ),
    "append_many": lambda log, event, default=None: log.append_many(
        [("x", 1), ("x", event)], default=default
    ),
    "append_many on a condition": lambda log, event, default=None: log.append_many(
        [("x", 1), ("x", event)], expected_counts={"x": 1}, default=default
    ),
    "transaction": in_a_transaction,
    "update": in_an_update,
}


@pytest.mark.parametrize("event", [LARGE, [LARGE], {"a": [LARGE]}], ids=["text", "list", "dict"])
@pytest.mark.parametrize("way", WAYS)
def test_event_that_no_line_holds_is_refused_with_advice_and_nothing_written(
    store: Path, log: Log, way: str, event: object
) -> None:
    before = {path.name: path.read_bytes() for path in inside(store).glob("*.jsonl")}

    with pytest.raises(LimitExceededError) as caught:
        WAYS[way](log, event)

    size = len(codec.encode_event(event))
    assert str(caught.value) == (
        f"the event for 'x' takes {size} bytes, and a line holds at most {LIMIT}, with all that is in it; {ADVICE}"
    )
    assert caught.value.reason == "event too large"
    assert {path.name: path.read_bytes() for path in inside(store).glob("*.jsonl")} == before
    WAYS[way](log, "small")


def test_event_that_default_makes_too_large_is_refused_alike(log: Log) -> None:
    for append in WAYS.values():
        with pytest.raises(LimitExceededError, match=ADVICE):
            append(log, b"a", default=lambda value: value.decode() * LIMIT)
    assert log.events("x") == (0,)


def test_refusal_of_a_large_event_is_three_lines_of_a_terminal_whatever_the_key(log: Log) -> None:
    with pytest.raises(LimitExceededError) as caught:
        log.append("a key of many characters " * 100, LARGE)

    assert len(str(caught.value)) <= 3 * 80


def test_result_of_a_map_that_no_line_holds_is_a_failure_that_says_what_to_do(
    log: Log,
) -> None:
    with ThreadPoolExecutor(1) as threads:
        (outcome,) = log.map(lambda item: LARGE, ["y"], executor=threads)

    assert not outcome.ok
    assert outcome.error is not None
    assert outcome.error.startswith("LimitExceededError: the result is too large: the event for 'y' takes")
    assert outcome.error.endswith(ADVICE)


def test_import_of_an_event_that_no_line_holds_says_which_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"object_key": "x", "event": event}) for event in (1, LARGE)]
    (tmp_path / "in.jsonl").write_text("\n".join([*lines, ""]))

    assert run(["import", "--store", "store", "--key", "k", "in.jsonl"]) != 0

    told = re.sub(r"\s+", " ", capsys.readouterr().err)
    assert "in.jsonl:2: the event for 'x' takes" in told
    assert ADVICE in told
    with Checkpoint(tmp_path / "store") as checkpoint:
        assert checkpoint["x"] == (1,)
