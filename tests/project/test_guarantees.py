"""Every guarantee of the README has tests that carry its number: ``pytest -m guarantee`` runs them."""

from __future__ import annotations

from support.checkout import TESTS
from support.marks import numbers_in


def test_numbers_in_marked_source_are_found() -> None:
    assert numbers_in(
        "guarantee", "@pytest.mark.guarantee(3)\ndef test(): ...\npytestmark = [pytest.mark.guarantee(4)]"
    ) == {3, 4}


def test_every_guarantee_is_named_by_a_test() -> None:
    proven = set[int]().union(
        *(numbers_in("guarantee", path.read_text()) for path in TESTS.rglob("test_*.py"))
    )

    assert proven == set(range(1, 13))
