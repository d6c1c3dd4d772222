"""Stores that are pulled away: what is acknowledged is in the store that stands there, everything else has raised.

What one process is told of it stands in tests/maintenance/test_bad_places.py.
"""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint.errors import (
    CheckpointError,
    LogNotFoundError,
    OutcomeUnknownError,
    StoreNotFoundError,
)
from mpcheckpoint.testing._simulation.seam import Seam, SeamCall
from support.processes import call
from support.verbs import (
    assert_goes_on,
    bounded,
    inside,
    log_file,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mpcheckpoint.testing._kills.acknowledgements import AcknowledgementJournal, AcknowledgementWriter
    from support.processes import Children

pytestmark = pytest.mark.guarantee(9)


# --- pulled away -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["store", "files of the store", "log"])
def test_store_removed_under_writers_is_said_to_each_and_never_made_again(
    store: Path, acknowledgements: AcknowledgementJournal, children: Children, what: str
) -> None:
    for name in range(3):
        children.start(append_until_removed, store, name, acknowledgements.writer, method="fork")
    wait_until_all_append(acknowledgements)

    gone = {"store": store, "files of the store": inside(store), "log": log_file(store)}[what]
    remove(gone)
    store.with_name("removed").touch()

    children.wait_all(20)  # nobody hangs, and each was told what is wrong
    assert not log_file(store).exists()
    assert what == "log" or not gone.exists()
    log = Checkpoint(store).log("a")
    assert_goes_on(log, [])


def wait_until_all_append(journal: AcknowledgementJournal) -> None:
    wait_until(lambda: {name for name, *_ in journal.acknowledged()} == {0, 1, 2}, "all have begun")


def append_until_removed(store: Path, name: int, writer: AcknowledgementWriter) -> None:
    log = Checkpoint(store, lock_timeout_s=10).log("a")
    with pytest.raises(CheckpointError) as caught:  # noqa: PT012  # until it does
        for number in range(1_000_000):
            log.append("x", [name, number])
            writer.acknowledge(name, number)
    gone = (StoreNotFoundError, LogNotFoundError, OutcomeUnknownError)
    assert isinstance(caught.value, gone), caught.value
    # In the midst of the removal a recovery may still find the store, and the store lock's library then makes its
    # directory anew: empty, and nothing is acknowledged in it.
    wait_until(store.with_name("removed").exists, "all is removed")
    for attempt in (lambda: log.append("x", 1), lambda: log.events("x"), log.recover, log.flush):
        with pytest.raises((StoreNotFoundError, LogNotFoundError)):
            attempt()


def remove(path: Path) -> None:
    """Remove as ``rm -rf`` does, again if somebody put a file in it meanwhile."""
    if path.is_file():
        path.unlink()
        return
    deadline = time.monotonic() + 20
    while path.exists():
        assert time.monotonic() < deadline, "whoever is removed goes on making files"
        shutil.rmtree(path, ignore_errors=True)


@pytest.mark.guarantee(1)
def test_store_replaced_under_writers_has_every_append_that_began_with_it(
    store: Path, tmp_path: Path, acknowledgements: AcknowledgementJournal, children: Children, intensity: int
) -> None:
    stop = tmp_path / "stop"
    Checkpoint(store).log("a")
    for name in range(3):
        children.start(append_in_spite_of_removals, store, name, stop, acknowledgements.writer, method="fork")

    wait_until_all_append(acknowledgements)
    places = [(tmp_path / "removed 0", 0.0)]
    for number in range(8 * intensity):
        seen = len(acknowledgements.acknowledged())
        acknowledgements.wait_for(seen + 10)
        store.rename(places[-1][0])  # moved, not deleted: what it was told can be looked up
        # By somebody who knows nothing of what stood there.
        call(create_anew, store, method="fork")
        places.append((tmp_path / f"removed {number + 1}", time.monotonic()))
    stop.touch()
    children.wait_all()
    store.rename(places[-1][0])

    verify_places(places, acknowledgements.acknowledged())


def create_anew(store: Path) -> None:
    Checkpoint(store).log("a")


def append_in_spite_of_removals(store: Path, name: int, stop: Path, writer: AcknowledgementWriter) -> None:
    """Append through one handle, whatever stands at the path; acknowledge with the generation that was named."""
    log = Checkpoint(store, lock_timeout_s=10).log("a")
    number = 0
    while not stop.exists():
        started_s = time.monotonic()
        try:
            position = log.append("x", [name, number])
            writer.acknowledge(name, number, position.generation, started_s)
        except (StoreNotFoundError, LogNotFoundError, OutcomeUnknownError):
            pass
        number += 1


def verify_places(places: list[tuple[Path, float]], acknowledged: list[tuple[Any, ...]]) -> None:
    """Every acknowledged append is in the store it names, and none names one that was gone when it began."""
    held = {}
    for number, (place, _) in enumerate(places):
        records = list(Checkpoint(place, read_only=True).log("a").read())
        for record in records:
            held[record.position.generation, *record.event] = number
        events = [tuple(record.event) for record in records]
        assert len(set(events)) == len(events)
    assert len(set(held.values())) > len(places) / 2, "writers did not go on in the new stores"
    for name, number, generation, started_s in acknowledged:
        verify_began_in_time(held[generation, name, number], started_s, places)
    log = Checkpoint(places[-1][0]).log("a")
    assert_goes_on(log, list(log.events("x")))
    name, number, generation, _ = acknowledged[0]
    with pytest.raises(AssertionError, match="into the void"):  # the control: one that began too late
        verify_began_in_time(held[generation, name, number], time.monotonic(), places)


def verify_began_in_time(place: int, started_s: float, places: list[tuple[Path, float]]) -> None:
    successors_s = [created_s for _, created_s in places[place + 1 :]]
    assert not successors_s or started_s <= successors_s[0], "an append into the void"


@pytest.mark.parametrize("is_made_again", [False, True])
@pytest.mark.parametrize("durability", ["always", "never"])
def test_store_removed_at_any_call_of_an_append_has_it_or_the_append_raises(
    tmp_path: Path, durability: str, is_made_again: bool
) -> None:
    number, is_reached = 0, True
    while is_reached:
        number += 1
        store = tmp_path / f"{number}"
        log = Checkpoint(store, durability=durability).log("a")
        log.append("x", 0)
        looks: list[int] = []  # at which calls it was looked up what stands at the log's path

        def pull_away(
            made: SeamCall, store: Path = store, number: int = number, looks: list[int] = looks
        ) -> Any:
            if made.number == number:
                remove(store)
                if is_made_again:
                    call(create_anew, store, method="fork")
            if made.name == "path_status" and made.path == str(log_file(store)):
                looks.append(made.number)
            return made.proceed()

        with Seam(pull_away) as seam:
            has_raised = raises(bounded, log.append, "x", 1)
        is_reached = seam.count >= number
        assert has_raised or is_in_place(store) or number > looks[-1], number
        # A durable append looks once more when it is durable: it never speaks of a store that was gone by then.
        assert not is_reached or has_raised or is_in_place(store) or durability == "never", number
    assert number > 6


def raises(function: Callable[..., object], *args: object) -> bool:
    try:
        function(*args)
    except CheckpointError:
        return True
    return False


def is_in_place(store: Path) -> bool:
    """Return whether the event 1 is in the store that stands there now."""
    if not store.exists():
        return False
    return 1 in Checkpoint(store, read_only=True).getCheckpoints("x")
