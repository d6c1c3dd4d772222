"""Make the report of a store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from mpcheckpoint import _system as system
from mpcheckpoint._engines import address_of, listing, store_at
from mpcheckpoint._format.byte_text import to_text
from mpcheckpoint._postgres.address import Address
from mpcheckpoint._report.page import page_of
from mpcheckpoint._report.story import story_of
from mpcheckpoint.errors import CheckpointError, LogNotFoundError, shell_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpcheckpoint._report.story import Story
    from mpcheckpoint._store.protocol import Store

# A page with more logs is no overview any more.
MOST_LOGS = 20


class Report(NamedTuple):
    """A report, and what could not be told.

    Attributes:
        page: the page; None if no map has run on any of the logs.
        log_keys: the logs that it shows.
        without_map: logs on which no map ran.
        left_out: logs with a map for which the page has no room: those that began first.
        damages: why logs could not be read, or not to their end.
    """

    page: str | None
    log_keys: list[str]
    without_map: list[str]
    left_out: list[str]
    damages: list[CheckpointError]


def report_of(path: str | os.PathLike[str] | Address, log_keys: Sequence[str] = ()) -> Report:
    """Return the report of a store, or of some of its logs. Writes nothing, and takes no lock that delays a writer.

    Raises:
        StoreNotFoundError, NotAStoreError, StoreAccessError: there is no store that can be read.
        LogNotFoundError, InvalidKeyError: one of ``log_keys`` does not exist, or cannot.
        ImportError: jinja2 is not installed.
    """
    store = store_at(path)
    told: list[Story] = []
    without_map: list[str] = []
    unreadable: list[CheckpointError] = []
    damages: list[CheckpointError] = []
    for found in _found(store, log_keys):
        if isinstance(found, CheckpointError):
            unreadable.append(found)
            continue
        story = story_of(store.find_log(found), store.workers)
        if story.damage is not None:
            damages.append(story.damage)
        if story.runs or story.attempts:
            told.append(story)
        else:
            without_map.append(found)
    told.sort(key=lambda each: -max((attempt.ended_us for attempt in each.attempts), default=0))
    left_out = [each.log_key for each in told[MOST_LOGS:]]
    told = told[:MOST_LOGS]
    page = None
    if told:
        page = page_of(_name_of(path), told, _notices(unreadable, without_map, left_out), system.now_us())
    return Report(page, [each.log_key for each in told], without_map, left_out, [*unreadable, *damages])


def _name_of(path: str | os.PathLike[str] | Address) -> str:
    """Return what the page calls the store."""
    address = address_of(path)
    if address is not None:
        return address.store
    assert not isinstance(path, Address)
    return to_text(os.fsencode(os.path.basename(os.path.abspath(path)) or path))


def _found(store: Store, log_keys: Sequence[str]) -> list[str | CheckpointError]:
    if not log_keys:
        return [found for _, found in listing(store)]
    found: list[str | CheckpointError] = []
    for log_key in dict.fromkeys(log_keys):
        try:
            store.find_log(log_key)
        except LogNotFoundError:
            raise
        except CheckpointError as error:
            found.append(error)
        else:
            found.append(log_key)
    return found


def _notices(
    unreadable: Sequence[CheckpointError], without_map: Sequence[str], left_out: Sequence[str]
) -> list[str]:
    notices = [shell_text(error) for error in unreadable]
    if left_out:
        notices.append(
            f"{len(left_out)} more logs have a map, of which there is no room here; name them with --key: "
            + ", ".join(left_out[:MOST_LOGS])
        )
    if without_map:
        notices.append("No map has run on: " + ", ".join(without_map[:MOST_LOGS]))
    return notices
