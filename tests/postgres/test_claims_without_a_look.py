"""Claims that are judged of an older view: what other processes did since is found out by the server."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint._postgres.address import Address
from mpcheckpoint._postgres.store import PostgresStore
from mpcheckpoint._view import earlier
from mpcheckpoint._view.view import LogView
from mpcheckpoint.checkpoint import Checkpoint, checkpoint_on
from mpcheckpoint.log import handle_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_A_GOOD_MEGABYTE = [("filler", "x" * 1000)] * 1100


def opened(address: str) -> Checkpoint:
    return checkpoint_on(PostgresStore(Address.parse(address), create=True, read_only=False, retry_s=10))


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def noted_worker(checkpoint: Checkpoint, object_key: str) -> str | None:
    """Return which worker has an object by what the log says."""
    return handle_of(checkpoint.log("a")).query(lambda view: view.claim_of(object_key))


@pytest.fixture
def handles(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Checkpoint, Checkpoint]]:
    """Yield two handles on one store, the first of which has looked at the log, and takes that for recent."""
    monkeypatch.setattr(earlier, "_LASTING_S", math.inf)
    with opened(postgres_database) as first, opened(postgres_database) as second:
        with first.log("a").claim("before"):
            pass
        assert first.log("a").count("before") == 0
        yield first, second


def test_claim_of_what_another_one_has_claimed_since_the_last_look_gives_none(
    handles: tuple[Checkpoint, Checkpoint],
) -> None:
    first, second = handles
    with second.log("a").claim("x") as held:
        assert held is not None

        with first.log("a").claim("x") as claim:
            assert claim is None


def test_claim_after_an_interrupted_look_is_judged_of_a_new_one(
    handles: tuple[Checkpoint, Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = handles
    log = first.log("a")
    with second.log("a").claim("x") as held:
        assert held is not None
        with monkeypatch.context() as patch:
            patch.setattr(LogView, "apply", interrupt)
            with pytest.raises(KeyboardInterrupt):
                log.count("x")

        with log.claim("x") as claim:
            assert claim is None


@pytest.mark.parametrize("since", [[("y", 1)], _A_GOOD_MEGABYTE], ids=["little", "much"])
def test_claim_after_others_appended_is_a_claim_for_all(
    handles: tuple[Checkpoint, Checkpoint], since: list[tuple[str, object]]
) -> None:
    first, second = handles
    second.log("a").append_many(since)

    with first.log("a").claim("x") as held:
        second.log("a").append_many(since)

        assert held is not None
        with second.log("a").claim("x") as claim:
            assert claim is None
    assert noted_worker(second, "x") is None


def test_object_that_another_one_took_over_is_not_given_back(handles: tuple[Checkpoint, Checkpoint]) -> None:
    first, second = handles
    block = first.log("a").claim("x")
    held = block.__enter__()
    assert held is not None
    second._handle.workers.retire(held.worker)  # as if the session of the first had ended
    with second.log("a").claim("x") as taken:
        assert taken is not None

        block.__exit__(None, None, None)

        with first.log("a").claim("x") as claim:
            assert claim is None


def test_object_is_given_back_after_its_log_was_compacted(handles: tuple[Checkpoint, Checkpoint]) -> None:
    first, second = handles
    first.log("a").append_many([("y", number) for number in range(10)])
    with first.log("a").claim("x") as held:
        assert held is not None
        assert second.log("a").compact(keep_last=1).is_changed

    assert noted_worker(second, "x") is None
