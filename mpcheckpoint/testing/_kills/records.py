"""Compare the records that were found with those that were acknowledged. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

_SHOWN = 5


@dataclass(eq=False, repr=False)
class RecordsError(AssertionError):
    """The records found are not the ones they may be.

    Attributes:
        lost: acknowledged and not found.
        duplicated: found more than once.
        reordered: found after a record of the same sequence that should come after them.
        invented: found and never attempted.
    """

    lost: tuple[Hashable, ...] = ()
    duplicated: tuple[Hashable, ...] = ()
    reordered: tuple[Hashable, ...] = ()
    invented: tuple[Hashable, ...] = ()

    def __post_init__(self) -> None:
        super().__init__(*vars(self).values())  # pickled with these

    def __str__(self) -> str:
        return "; ".join(
            f"{len(records)} {what}: {_shown(records)}"
            for what in ("lost", "duplicated", "reordered", "invented")
            if (records := getattr(self, what))
        )


def check_records(
    found: Iterable[Hashable],
    *,
    acknowledged: Iterable[Hashable],
    attempted: Iterable[Hashable] | None = None,
    order: Callable[[Any], tuple[Hashable, Any]] | None = None,
) -> None:
    """Raise unless every acknowledged record was found, none twice, none out of order, and none that was not written.

    Args:
        found: the records in the logs, in log order. A record is anything that tells it from all others, such as (log
            key, writer, number).
        acknowledged: the records that must be there, in any order; one that is named twice must be there once.
        attempted: every record that may be there, acknowledged or not; None accepts any.
        order: returns for a record its sequence and its place in that; places must rise within a sequence. None accepts
            any order. See `by_writer`.

    Raises:
        RecordsError: an AssertionError that names them all.
    """
    times_found = Counter(found)
    lost = [record for record in dict.fromkeys(acknowledged) if record not in times_found]
    duplicated = [record for record, times in times_found.items() if times > 1]
    # Of a record that is there twice, the first place counts: a Counter keeps the order of the first ones.
    reordered = _reordered(times_found, order) if order is not None else []
    may_be_there = set(times_found) if attempted is None else set(attempted)
    invented = [record for record in times_found if record not in may_be_there]
    if lost or duplicated or reordered or invented:
        raise RecordsError(tuple(lost), tuple(duplicated), tuple(reordered), tuple(invented))


def by_writer(record: tuple[Any, ...]) -> tuple[Hashable, Any]:
    """Order records such as (log key, writer, number): the numbers of a writer rise within a log."""
    return record[:-1], record[-1]


def _reordered(records: Iterable[Hashable], order: Callable[[Any], tuple[Hashable, Any]]) -> list[Hashable]:
    late = []
    highest: dict[Hashable, Any] = {}
    for record in records:
        sequence, place = order(record)
        if sequence in highest and place < highest[sequence]:
            late.append(record)
        else:
            highest[sequence] = place
    return late


def _shown(records: tuple[Hashable, ...]) -> str:
    more = f", and {len(records) - _SHOWN} more" if len(records) > _SHOWN else ""
    return ", ".join(map(repr, records[:_SHOWN])) + more
