"""What a handle says of a store that another machine keeps: how long it tries, and what it raises then."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._cli.commands import run
from mpcheckpoint._store.store import DirectoryStore
from mpcheckpoint._view.settings import RETRY_S, Settings, open_settings
from mpcheckpoint.checkpoint import checkpoint_on
from mpcheckpoint.errors import NoAnswerError, OutcomeUnknownError, StoreUnavailableError
from support.memory_storage import MemoryLog, MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from mpcheckpoint._types import Position


@pytest.mark.parametrize("retry_s", [-1, -0.001, float("nan")])
def test_time_to_retry_that_is_no_time_is_refused(store: Path, retry_s: float) -> None:
    with pytest.raises(ValueError, match="retry_s is a number of seconds, at least 0"):
        Checkpoint(store, retry_s=retry_s)


@pytest.mark.parametrize("retry_s", [None, "60"])
def test_time_to_retry_that_is_no_number_is_refused(store: Path, retry_s: Any) -> None:
    with pytest.raises(TypeError, match="retry_s is a number of seconds, at least 0, not "):
        Checkpoint(store, retry_s=retry_s)


def test_time_to_retry_is_in_the_settings_and_means_nothing_to_a_directory(store: Path) -> None:
    asked = Settings("", True, False, None, "always", None)
    settings = open_settings(store, asked._replace(retry_s=5))
    assert (settings.retry_s, open_settings(store, asked).retry_s) == (5, RETRY_S)

    log = pickle.loads(pickle.dumps(Checkpoint(store, retry_s=0))).log("a")
    log.append("x", 1)
    assert log.events("x") == (1,)


class UnansweredLog(MemoryLog):
    """Its server writes the first append, and does not answer."""

    asked = 0

    def append(self, *arguments: Any, **options: Any) -> Position:
        position = super().append(*arguments, **options)
        UnansweredLog.asked += 1
        if UnansweredLog.asked == 1:
            raise NoAnswerError("no answer for 60 s", reason="no answer")
        return position


class UnansweredStore(MemoryStore):
    log_type = UnansweredLog


def test_append_that_got_no_answer_leaves_a_log_that_goes_on(store: Path) -> None:
    log = checkpoint_on(UnansweredStore(store)).log("a")
    with pytest.raises(OutcomeUnknownError) as caught:
        log.append("x", 1, record_id="id")
    assert caught.value.position is None

    assert log.stats()["state"] == "whole"
    log.append("x", 1, record_id="id")
    log.append("x", 2)
    assert log.events("x") == (1, 2)


def test_command_on_a_store_that_cannot_be_reached_says_so_and_may_be_tried_again(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Checkpoint(store).log("a").append("x", 1)

    def unavailable(*_: object) -> list[str]:
        raise StoreUnavailableError("the server of the store cannot be reached", reason="unreachable")

    monkeypatch.setattr(DirectoryStore, "log_keys", unavailable)

    assert run(["forget", "x", "--store", str(store)]) == 75
    assert capsys.readouterr().err == "mpcheckpoint: the server of the store cannot be reached\n"
