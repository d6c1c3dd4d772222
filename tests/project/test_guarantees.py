"""Every guarantee of the README has tests that carry its number: ``pytest -m guarantee`` runs them."""

from __future__ import annotations

import ast

from support.checkout import TESTS


def numbers_in(source: str) -> set[int]:
    """Return n of every ``pytest.mark.guarantee(n)``."""
    return {
        argument.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "guarantee"
        for argument in node.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, int)
    }


def test_numbers_in_marked_source_are_found() -> None:
    assert numbers_in(
        "@pytest.mark.guarantee(3)\ndef test(): ...\npytestmark = [pytest.mark.guarantee(4)]"
    ) == {3, 4}


def test_every_guarantee_is_named_by_a_test() -> None:
    proven = set[int]().union(*(numbers_in(path.read_text()) for path in TESTS.rglob("test_*.py")))

    assert proven == set(range(1, 12))
