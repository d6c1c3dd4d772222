"""Which numbers the tests carry as marks, read from their source."""

from __future__ import annotations

import ast


def numbers_in(mark: str, source: str) -> set[int]:
    """Return n of every ``pytest.mark.<mark>(n)``."""
    return {
        argument.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == mark
        for argument in node.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, int)
    }
