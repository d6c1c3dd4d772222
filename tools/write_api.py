"""Write docs/api.md: every public name, with its signature and its docstring.

    python tools/write_api.py

Signatures are taken from the source, so that they read the same with every version of Python.
`tests/project/test_documents.py` compares the file with what this writes.
"""

from __future__ import annotations

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).resolve().parent.parent / "docs" / "api.md"
ROOT = "mpcheckpoint"
MODULES = (
    ROOT,
    f"{ROOT}.maintenance",
    f"{ROOT}.errors",
    f"{ROOT}.testing",
    f"{ROOT}.testing.conformance",
    f"{ROOT}.testing.pytest_plugin",
)
# What users make themselves. Everything else is handed to them, and its constructor is no promise.
MADE_BY_USERS = re.compile(rf"{ROOT}\.(checkpoint\.Checkpoint|testing\.\S+)")
# What other layers of the package call, and users do not.
FOR_OTHER_LAYERS = {"Cursor.of", "Follower.reset_after_fork", "Tail.reset_after_fork", "pytest_addoption"}
# Tests, hooks of pytest, and what they share: who writes a storage overrides none of them.
NOT_TO_OVERRIDE = re.compile(
    r"StorageConformance\.(test_\w+|setup_method|teardown_method|open_log|open_handle\w*|require|received|another_process)"
)
_INTRODUCTION = """\
# API reference

Written from the docstrings by `tools/write_api.py`; a test says that it is current. What is not on this page, or begins
with an underscore, may change without notice. Times are seconds where a name ends in `_s`, microseconds since 1970
where it ends in `_us`; sizes are bytes. For a start see the [tutorial](tutorial.md), for tasks the
[how-to pages](README.md#how-to).
"""
_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):")
_WIDE = 100


def page() -> str:
    """Return the page."""
    contents = [f"- [`{name}`](#{_anchor(name)}): {_summary(import_module(name))}" for name in MODULES]
    parts = [_INTRODUCTION, "\n".join(contents), ""]
    for name in MODULES:
        parts += _module(name)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


def public_names(module: Any) -> list[str]:
    """Return what a module gives to users."""
    names = getattr(module, "__all__", None)
    if names is None:
        own = (
            name
            for name, value in vars(module).items()
            if getattr(value, "__module__", "") == module.__name__
        )
        names = [name for name in own if not name.startswith("_")]
    return [name for name in names if not name.startswith("__") and name not in FOR_OTHER_LAYERS]


def members(cls: type) -> dict[str, Any]:
    """Return the public functions and properties of a class, those of its bases in this package first."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith(ROOT):
            continue
        for name, value in vars(base).items():
            is_callable = inspect.isfunction(value) or isinstance(
                value, property | classmethod | staticmethod
            )
            if is_callable and not name.startswith("_") and _is_for_users(f"{cls.__name__}.{name}"):
                found[name] = value
    return found


def _is_for_users(name: str) -> bool:
    return name not in FOR_OTHER_LAYERS and NOT_TO_OVERRIDE.fullmatch(name) is None


# --- parts of the page -------------------------------------------------------------------------------------


def _module(name: str) -> Iterator[str]:
    module = import_module(name)
    yield f"## {name}\n"
    if name != ROOT:  # whose docstring goes on with an example that the README has, too
        yield _markdown(module)
    for each in public_names(module):
        value = getattr(module, each)
        if inspect.isclass(value):
            yield from _class(value)
        elif callable(value):
            yield f"### {each}\n"
            is_fixture = hasattr(value, "_get_wrapped_function")  # pytest hands it its arguments
            yield "A fixture.\n" if is_fixture else _signature(each, value)
            yield _markdown(value)
        else:
            yield f"### {each}\n\n```text\n{each} = {value!r}\n```\n"


def _class(cls: type) -> Iterator[str]:
    yield f"### {cls.__name__}\n"
    if issubclass(cls, BaseException):
        bases = [base.__name__ for base in cls.__bases__]
        yield f"An error: {', '.join(f'`{base}`' for base in bases)}.\n"
    constructor: Any = vars(cls).get("__init__")
    is_shown = _is_written(constructor) and _is_made_by_users(cls)
    if is_shown:
        yield _signature(cls.__name__, constructor)
    yield _markdown(cls)
    if is_shown and constructor.__doc__:
        yield _markdown(constructor)
    for name, value in members(cls).items():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        yield f"#### {cls.__name__}.{name}\n"
        yield _signature(f"{cls.__name__}.{name}", function, is_property=isinstance(value, property))
        yield _markdown(function)


def _is_made_by_users(cls: type) -> bool:
    is_error = issubclass(cls, BaseException)
    return not is_error and MADE_BY_USERS.fullmatch(f"{cls.__module__}.{cls.__qualname__}") is not None


def _is_written(function: Any) -> bool:
    """Return whether a person wrote this function, and no decorator."""
    return inspect.isfunction(function) and Path(function.__code__.co_filename).is_file()


def _signature(name: str, function: Any, *, is_property: bool = False) -> str:
    source = dedent(inspect.getsource(inspect.unwrap(function)))
    tree = ast.parse(source).body[0]
    assert isinstance(tree, ast.FunctionDef)
    returns = ast.unparse(tree.returns) if tree.returns and tree.name != "__init__" else ""
    if is_property:
        return f"```text\n{name}: {returns}\n```\n"
    parameters = [
        each for each in _parameters(tree.args, source) if each.partition(":")[0] not in ("self", "cls")
    ]
    text = f"{name}({', '.join(parameters)})"
    if len(text) + len(returns) > _WIDE:
        text = "\n".join([f"{name}(", *(f"    {each}," for each in parameters), ")"])
    return f"```text\n{text}{' -> ' if returns else ''}{returns}\n```\n"


def _parameters(arguments: ast.arguments, source: str) -> Iterator[str]:
    """Yield the parameters, one at a time, as they are written."""

    def written(parameter: ast.arg, default: ast.expr | None) -> str:
        if default is None:
            return ast.unparse(parameter)
        equals = " = " if parameter.annotation else "="
        return ast.unparse(parameter) + equals + (ast.get_source_segment(source, default) or "")

    places = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(places) - len(arguments.defaults)) + list(arguments.defaults)
    for number, (place, default) in enumerate(zip(places, defaults, strict=True), 1):
        yield written(place, default)
        if number == len(arguments.posonlyargs):
            yield "/"
    if arguments.vararg:
        yield f"*{ast.unparse(arguments.vararg)}"
    elif arguments.kwonlyargs:
        yield "*"
    for place, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield written(place, default)
    if arguments.kwarg:
        yield f"**{ast.unparse(arguments.kwarg)}"


# --- docstrings --------------------------------------------------------------------------------------------


def _summary(value: Any) -> str:
    paragraph = " ".join((inspect.getdoc(value) or "").partition("\n\n")[0].split())
    return _escaped(paragraph.rstrip(":"))


def _markdown(value: Any) -> str:
    """Return a docstring as Markdown: sections as lists, everything else as it stands."""
    lines: list[str] = []
    section = ""
    for line in (inspect.getdoc(value) or "").splitlines():
        match = _SECTION.fullmatch(line)
        if match is not None:
            section = match[1]
            lines.append(f"*{match[1]}*\n")
        elif not line or not line.startswith(" "):
            section = ""
            lines.append(_escaped(re.sub("::$", ":", line)))
        elif section:
            text = _escaped(line[4:])
            # What is returned is one thing, told in sentences, or several with names, told in a list.
            is_item = text.startswith("`") if section == "Returns" else not text.startswith(" ")
            lines.append(f"- {text}" if is_item else f"  {text.strip()}")
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _escaped(line: str) -> str:
    pieces = line.replace("``", "`").split("`")
    pieces[::2] = [re.sub(r"([<*])", r"\\\1", piece) for piece in pieces[::2]]
    return "`".join(pieces)


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w-]", "", heading)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
