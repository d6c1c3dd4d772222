"""version="auto": the version of a map is made of the source of its function."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
import subprocess
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Log
from mpcheckpoint._work.fingerprint import fingerprint
from mpcheckpoint.errors import ChangedVersionError, NoSourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_numbers = itertools.count()


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """What imports a source, as a module of its own each time, and returns its ``fn``."""
    names: list[str] = []

    def loaded(source: str) -> Any:
        names.append(f"auto_version_{next(_numbers)}")
        path = tmp_path / f"{names[-1]}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(names[-1], path)
        assert spec is not None
        assert spec.loader is not None
        module: ModuleType = importlib.util.module_from_spec(spec)
        sys.modules[names[-1]] = module
        spec.loader.exec_module(module)
        return module.fn

    yield loaded
    for name in names:
        del sys.modules[name]


SAME = [
    ("def fn(x):\n    return x + 1\n", "def fn(x):\n    # one more\n\n    return x + 1  # here\n"),
    ("def fn(x):\n    return x + 1\n", "import os\n\n\ndef fn(x):\n    return x + 1\n"),
    ("fn = lambda x: x + 1\n", "other = lambda x: x; fn = lambda x: x + 1\n"),
    ("fn = [\n lambda x:\n  x + 1][0]\n", "fn = [lambda x: x, lambda x:\n  x + 1][1]\n"),
    ("fn = lambda x: 1\n", "fn, other = lambda x: 1, lambda x: 2\n"),
    ("fn = lambda x: 1\n", "fn = lambda x: 1\nother = lambda x: 2\n"),
    ("fn = lambda: 1\n", "fn = (lambda: (lambda: 1))()\n"),
]
OTHER = [
    ("def fn(x):\n    return x + 1\n", "def fn(x):\n    return x + 2\n"),
    ("def fn(x):\n    return '''a\n\nb'''\n", "def fn(x):\n    return '''a\nb'''\n"),
    ("def fn(x):\n    return '''a \nb'''\n", "def fn(x):\n    return '''a\nb'''\n"),
    ("def fn(x):\n    return '# 1'\n", "def fn(x):\n    return '# 2'\n"),
    ("f, fn = lambda x: 1, lambda x: 2\n", "fn, f = lambda x: 1, lambda x: 2\n"),
    ("fn = lambda x: 1\nlast = lambda x: x\n", "fn = lambda x: 2\nlast = lambda x: x\n"),
    ("n = 1\ndef fn(x, y=n):\n    return y\n", "n = 2\ndef fn(x, y=n):\n    return y\n"),
    ("n = 1\ndef fn(x, *, y=n):\n    return y\n", "n = 2\ndef fn(x, *, y=n):\n    return y\n"),
]
HOLDING = """
import functools
def adding(n):
    def add(x):
        return x + n
    return add
def logged(f):
    @functools.wraps(f)
    def wrapper(x):
        return f(x){wrapped}
    return wrapper
class Adder:
    def __init__(self, n):
        self.n, self.lock = n, object()
    def __call__(self, x):
        return x + self.n
    def method(self, x):
        return x * self.n
def two(a, b):
    return a + b{two}
@logged
def decorated(x):
    return x
fn = {fn}
"""
HELD = ["adding(1)", "adding([1, {'a': None}])", "functools.partial(two, 1)", "functools.partial(two, b=1)"]
HELD += ["Adder(1)", "Adder(1).method", "logged(adding(1))", "adding(adding(1))", "decorated", "Adder"]
HELD += [
    "functools.partial(two, Adder(1))",
    "functools.cache(adding(1))",
    "functools.partial(functools.partial(two), 1)",
]


def holding(fn: str, wrapped: str = "", two: str = "") -> str:
    return HOLDING.format(fn=fn, wrapped=wrapped, two=two)


@pytest.mark.parametrize(("first", "second"), SAME)
def test_function_that_does_the_same_has_the_same_version(first: str, second: str, load: Any) -> None:
    assert fingerprint(load(first)) == fingerprint(load(second))


@pytest.mark.parametrize(("first", "second"), OTHER)
def test_function_that_was_changed_has_another_version(first: str, second: str, load: Any) -> None:
    assert fingerprint(load(first)) != fingerprint(load(second))


def test_lambda_whose_place_in_its_line_is_not_known_has_its_own_version_or_none(tmp_path: Path) -> None:
    (tmp_path / "lambdas.py").write_text(
        "one, two = lambda x: x + 1, lambda x: x + 2\n"
        "alone = lambda x: x + 1\n"
        "def make(n): return (lambda: n), (lambda: n + 1)\n"
    )
    check = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from lambdas import *; from mpcheckpoint._work.fingerprint import fingerprint as of\n"
        "assert of(one) == of(alone) != of(two)\n"
        "of(make(1)[0])\n"
    )

    environment = os.environ | {"PYTHONNODEBUGRANGES": "1"}
    done = subprocess.run(
        [sys.executable, "-c", check],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert "which lambda of its line it is cannot be told" in done.stderr.splitlines()[-1]
    assert "AssertionError" not in done.stderr


@pytest.mark.parametrize("fn", HELD)
def test_function_that_holds_something_has_a_version_of_it(fn: str, load: Any) -> None:
    version = fingerprint(load(holding(fn)))

    assert version == fingerprint(load(holding(fn)))
    if "1" in fn and "Adder(1))" not in fn:
        assert version != fingerprint(load(holding(fn.replace("1", "2"))))
    if "two" in fn:
        assert version != fingerprint(load(holding(fn, two=" * 2")))
    if "logged" in fn or fn == "decorated":
        assert version != fingerprint(load(holding(fn, wrapped=" * 2")))


def test_function_that_holds_itself_has_a_version(load: Any) -> None:
    source = "def make():\n    def fn(x):\n        return fn(x - 1) if x else 0\n    return fn\nfn = make()\n"

    assert fingerprint(load(source)) == fingerprint(load(source))


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (len, "len"),
        (str.upper, "str.upper"),
        (functools.partial(len), "len"),
        (eval("lambda x: x"), "<lambda>"),
    ],
)
def test_function_without_source_is_refused_by_name_and_nothing_is_recorded(
    fn: Any, name: str, log: Log, threads: Any
) -> None:
    with pytest.raises(
        NoSourceError, match=rf"that of {name} cannot be read.*Give version= a text of your own"
    ):
        log.map(fn, ["a"], version="auto", executor=threads)

    assert log.map_status() is None


def test_map_of_a_changed_function_is_refused_as_with_another_version(
    log: Log, threads: Any, load: Any
) -> None:
    first = load("def fn(x):\n    return 1\n")
    second = load("def fn(x):\n    return 2\n")
    assert [each.value for each in log.map(first, ["a"], version="auto", executor=threads)] == [1]
    assert [each.repeated for each in log.map(first, ["a"], version="auto", executor=threads)] == [True]

    with pytest.raises(ChangedVersionError, match="auto:"):
        log.map(second, ["a"], version="auto", executor=threads)
    kept = log.map(second, ["a", "b"], version="auto", if_changed="keep", executor=threads)
    assert sorted(each.value for each in kept) == [1, 2]
