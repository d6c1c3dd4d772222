"""Forty-three ways such a log loses data or lets people down: a test holds the rule against each.

They were collected from the sources and issue trackers of other logs and databases, and from experiments. A test that
holds the rule against the n-th carries ``pytest.mark.rule(n)``: so a rule cannot lose its test unseen.
"""

from __future__ import annotations

import pytest

from support.checkout import TESTS
from support.marks import numbers_in

PITFALLS = {
    1: "torn record buried by the next append",
    2: "reading an append in progress",
    3: "truncation under a reader",
    4: "the CRC of zeros is zero",
    5: "blocks reach the disk out of order",
    6: "corrupted length",
    7: "old bytes resurrected",
    8: "header not durable before records",
    9: "directory entry lost",
    10: "flock is shared across fork",
    11: "zombie lock",
    12: "POSIX record locks vanish at any close",
    13: "two kinds of lock ignore each other",
    14: "a sync that failed, tried again",
    15: "disk full, short write",
    16: "killed between write and sync, no reboot",
    17: "visible before durable",
    18: "file replaced under readers and writers",
    19: "lock stolen by age",
    20: "clock and mtime go back",
    21: "network file systems",
    22: "file systems without working locks",
    23: "threads share a descriptor; a second handle deadlocks on itself",
    24: "signals and Ctrl-C",
    25: "O_APPEND",
    26: "preallocation",
    27: "shared mapped hints",
    28: "an I/O error on read is not the end; read-only never writes",
    29: "indexes and snapshots",
    30: "silent repair",
    31: "a map keeps the lock",
    32: "looking at a file's times slows its writers",
    33: "a hint file copied later than its log",
    34: "two facts in one write",
    35: "repair by another user",
    36: "standard streams and other descriptors closed and reused",
    37: "a slow copy of a preallocated file",
    38: "a probe that could not run taken for proof",
    39: "pass-through file systems",
    40: "a shortage, or a signal to the whole job, recorded as an item's failure",
    41: "a worker that lost its claim records all the same",
    42: "a forked child of user code returns through our frames",
    43: "an interrupt inside close",
}
HELD = set[int]().union(
    *(numbers_in("rule", path.read_text(encoding="utf-8")) for path in TESTS.rglob("test_*.py"))
)


@pytest.mark.parametrize("number", PITFALLS, ids=lambda number: f"{number} {PITFALLS[number]}")
def test_rule_against_every_pitfall_is_held_by_a_test(number: int) -> None:
    assert number in HELD


def test_rules_that_tests_hold_are_in_the_table() -> None:
    assert HELD - PITFALLS.keys() == set()
    assert list(PITFALLS) == list(range(1, 44))
