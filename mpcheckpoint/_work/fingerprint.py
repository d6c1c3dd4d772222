"""A version for a function, made of its source: ``version="auto"``.

What goes in is what is plain to find: the source without comments, the defaults of the parameters, and what the
function holds of its surroundings. JSON goes in by its value, functions by their source; anything else by its type
alone, since its text may tell where it is in memory. What the function looks up by name while it runs does not go in.

Rejected: the compiled code. Each version of Python compiles in another way, so an upgrade would refuse every map.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import io
import tokenize
from collections.abc import Iterator
from textwrap import dedent
from types import CodeType, FunctionType, MethodType
from typing import Any

from mpcheckpoint._format.advice import shown
from mpcheckpoint._format.codec import encode_event
from mpcheckpoint.errors import InvalidEventError, LimitExceededError, NoSourceError

AUTO = "auto"
_SHOWN_DIGITS = 16
# A function holds functions that hold functions: so deep, and no deeper.
_MOST_DEPTH = 8


def fingerprint(fn: object) -> str:
    """Return a version that is another one when the function is.

    Raises:
        NoSourceError: its source cannot be read.
    """
    parts = _Parts()
    digest = hashlib.sha256()
    for part in parts.of_function(fn, 0):
        text = part.encode("utf-8", "backslashreplace")
        digest.update(b"%d:%b" % (len(text), text))
    return f"{AUTO}:{digest.hexdigest()[:_SHOWN_DIGITS]}"


class _Parts:
    """What goes into a fingerprint, each function and object once."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def of_function(self, fn: Any, depth: int) -> Iterator[str]:
        """Yield the parts of whatever can be called."""
        if id(fn) in self._seen or depth > _MOST_DEPTH:
            return
        self._seen.add(id(fn))
        if isinstance(fn, functools.partial):
            yield from self.of_function(fn.func, depth + 1)
            yield from self.of_values(dict(enumerate(fn.args)) | fn.keywords, depth)
        elif isinstance(fn, MethodType):
            yield from self.of_function(fn.__func__, depth + 1)
            yield from self.of_object(fn.__self__, depth)
        elif isinstance(fn, FunctionType):
            yield _source_of(fn)
            yield from self.of_values(
                dict(enumerate(fn.__defaults__ or ())) | (fn.__kwdefaults__ or {}), depth
            )
            yield from self.of_values(_held_by(fn), depth)
        elif isinstance(fn, type):
            yield _source_of(fn)
        elif isinstance(wrapped := getattr(fn, "__wrapped__", None), FunctionType):  # functools.cache
            yield from self.of_function(wrapped, depth + 1)
        else:
            yield _source_of(type(fn), fn)
            yield from self.of_object(fn, depth)

    def of_object(self, held: object, depth: int) -> Iterator[str]:
        """Yield the parts of an object that a method is bound to, or that is called itself."""
        if isinstance(held, type):
            yield held.__qualname__
        else:
            yield from self.of_values(getattr(held, "__dict__", {}), depth)

    def of_values(self, values: dict[Any, Any], depth: int) -> Iterator[str]:
        """Yield names and values: JSON by its value, functions by their parts, all else by its type."""
        for name, value in values.items():
            yield str(name)
            if isinstance(value, functools.partial | MethodType | FunctionType):
                yield from self.of_function(value, depth + 1)
            else:
                yield _text_of(value)


def _text_of(value: object) -> str:
    try:
        return encode_event(value).decode()
    except (InvalidEventError, LimitExceededError):
        return type(value).__qualname__


def _held_by(fn: FunctionType) -> dict[str, Any]:
    """Return the variables of enclosing functions that a function uses."""
    held = {}
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            held[name] = cell.cell_contents
        except ValueError:
            held[name] = None  # it has no value yet
    return held


def _source_of(fn: FunctionType | type, named: object = None) -> str:
    """Return the source of a function or class, without comments and the blanks it is indented by.

    Args:
        named: what messages speak of, if it is something else.
    """
    try:
        if isinstance(fn, FunctionType) and fn.__name__ == "<lambda>":
            return _source_of_lambda(fn.__code__)
        # Not `inspect.getsource(fn)`, which looks through a decorator: that has a source of its own.
        return _without_comments(inspect.getsource(fn.__code__ if isinstance(fn, FunctionType) else fn))
    except (OSError, TypeError, SyntaxError, tokenize.TokenError) as error:
        named = named or fn
        name = getattr(named, "__qualname__", None) or shown(named)
        raise NoSourceError(
            f'version="auto" is made of the source of the function, and that of {name} cannot be read: it was written '
            f"in C, typed at a prompt, or made by exec ({error}). Give version= a text of your own, and another one "
            "whenever the function changes. Nothing was run or recorded",
            reason="no source",
        ) from error


def _without_comments(source: str) -> str:
    """Return a source without comments, blank lines and blanks at the ends of lines, but those inside of texts."""
    lines = dedent(source).splitlines()
    inside: set[int] = set()  # numbers of lines whose end is inside a text
    for token in tokenize.generate_tokens(io.StringIO("\n".join(lines) + "\n").readline):
        inside.update(range(token.start[0], token.end[0]))
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    kept = [
        line if row in inside else line.rstrip()
        for row, line in enumerate(lines, 1)
        if row in inside or line.strip()
    ]
    return "\n".join(kept)


def _source_of_lambda(code: CodeType) -> str:
    """Return the source of one lambda. There may be several on its line, and the lines alone may be no Python.

    Raises:
        OSError: which one it is cannot be told, or its file was written anew meanwhile.
    """
    lines, _ = inspect.findsource(code)
    text = "".join(lines)
    places = [place for place in code.co_positions() if place[0] is not None and place[2] is not None]
    # The first place is that of the start of the code, and may have no columns worth the name.
    inside = [(row, column) for row, _, column, end in places if end]
    found = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Lambda)
        and node.lineno == code.co_firstlineno
        and all(_holds(node.body, place) for place in inside)
    ]
    # CPython 3.12 knows no columns where a constant is returned, and none at all with PYTHONNODEBUGRANGES.
    if not inside and len(found) > 1:
        found = [node for node in found if _compiles_to(node, code)]
    smallest = max(found, key=lambda node: (node.lineno, node.col_offset), default=None)
    segment = None if smallest is None else ast.get_source_segment(text, smallest)
    if segment is None:
        raise OSError("which lambda of its line it is cannot be told")
    return _without_comments(f"({segment})")


def _compiles_to(node: ast.Lambda, code: CodeType) -> bool:
    """Return whether a lambda is that of a code: never of one that uses variables of an enclosing function."""
    compiled = compile(ast.Expression(node), code.co_filename, "eval", dont_inherit=True)
    return any(isinstance(each, CodeType) and _is_alike(each, code) for each in compiled.co_consts)


def _is_alike(one: CodeType, other: CodeType) -> bool:
    """Return whether two codes are the same but for what tells what they were compiled inside of."""
    return one.replace(co_qualname=other.co_qualname, co_flags=other.co_flags) == other


def _holds(node: ast.expr, place: tuple[int | None, int | None]) -> bool:
    row, column = place
    if row is None or column is None or node.end_lineno is None or node.end_col_offset is None:
        return False
    return (node.lineno, node.col_offset) <= (row, column) < (node.end_lineno, node.end_col_offset)
