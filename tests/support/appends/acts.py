"""What is appended in a situation, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint import Log, Position


def _event(event: Any) -> Callable[[Log], Position | None]:
    return lambda log: log.append("x", event)


def _in_a_transaction(log: Log) -> None:
    with log.transaction() as transaction:
        transaction.append("x", len(transaction.events("x")))
        transaction.append("z", "new")


def _twice_with_one_id(log: Log) -> object:
    return log.append("x", "second", record_id="id-2"), log.append("x", "third", record_id="id-2")


ACTS: dict[str, Callable[[Log], object]] = {
    "atom": _event("an atom"),
    "null": _event(None),
    "number": _event(-1.5e300),
    "integer": _event(2**64 + 1),
    "nested": _event({"a": [1, {"b": [True, None, []]}, {}], "ü": "ß"}),
    "unicode": _event('\x00\x1f\x7f\\"/\u2028 ä 漢字 \U0001f600'),
    "unicode key": lambda log: log.append('kéy "\U0001f600"', 1),
    "empty": lambda log: log.append("", ""),
    "long": _event("long " * 300),
    "large": _event(["large"] * 50_000),
    "record id": lambda log: log.append("x", "with an id", record_id="id-1"),
    "record id again": _twice_with_one_id,
    "expected count": lambda log: log.append("new", 1, expected_count=0),
    "wrong expected count": lambda log: log.append("x", 1, expected_count=99),
    "no number": _event(float("nan")),
    "no JSON": _event({1, 2}),
    "many: 0": lambda log: log.append_many([]),
    "many: 1": lambda log: log.append_many([("x", 1)]),
    "many: 2": lambda log: log.append_many([("x", "first"), ("z", {"second": 2})]),
    "many: 100": lambda log: log.append_many([("x", number) for number in range(100)]),
    "transaction": _in_a_transaction,
}
# Of events that are taken and have room in the padding, on no condition or on one that was judged: what the native
# core is for.
USUAL = frozenset(
    {
        "atom",
        "null",
        "number",
        "nested",
        "unicode",
        "unicode key",
        "empty",
        "long",
        "many: 1",
        "many: 2",
        "transaction",
    }
)
