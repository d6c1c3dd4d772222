"""Write the API reference: docs/api.md, and what the docstrings say on the pages of docs/api.

    python tools/write_api.py

The pages are written by hand, but for what stands between ``<!-- api: Log.append -->`` and ``<!-- end -->``: there this
puts the signature and the docstring of that name, or of several. Each is followed by an example, which a test runs.
Signatures are taken from the source, so that they read the same with every version of Python.
`tests/project/test_api_pages.py` compares the pages with what this writes.
"""

from __future__ import annotations

import ast
import inspect
import re
from functools import cache
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

INDEX = Path(__file__).resolve().parent.parent / "docs" / "api.md"
PAGES = INDEX.with_suffix("")
ROOT = "mpcheckpoint"
MODULES = (
    ROOT,
    f"{ROOT}.aio",
    f"{ROOT}.maintenance",
    f"{ROOT}.optuna",
    f"{ROOT}.errors",
    f"{ROOT}.testing",
    f"{ROOT}.testing.conformance",
    f"{ROOT}.testing.pytest_plugin",
)
# What users make themselves. Everything else is handed to them, and its constructor is no promise.
MADE_BY_USERS = re.compile(
    rf"{ROOT}\.(checkpoint\.Checkpoint|_aio\.checkpoint\.AsyncCheckpoint|optuna\.\S+|testing\.\S+)"
)
# What other layers of the package call, and users do not.
FOR_OTHER_LAYERS = {
    "AsyncFollower.reset_after_fork",
    "AsyncTail.reset_after_fork",
    "Cursor.of",
    "Follower.go_back",
    "Follower.reset_after_fork",
    "Follower.wait_for_some",
    "JournalBackend.reset_after_fork",
    "Tail.go_back",
    "Tail.reset_after_fork",
    "pytest_addoption",
}
# Tests, hooks of pytest, and what they share: who writes a storage overrides none of them.
NOT_TO_OVERRIDE = re.compile(
    r"StorageConformance\.(test_\w+|setup_method|teardown_method|open_log|open_handle\w*|require|received|another_process|"
    r"workers|open_filled|open_losing|opened|add|assert_\w+|require_\w+|end_worker)"
)
_INTRODUCTION = """\
# API reference

By what you want to do. The names of each page lead to what a call takes, returns and raises, what has reached the disk
then, and an example, which a test runs. What is on none of these pages, or begins with an underscore, may change
without notice. Times are seconds where a name ends in `_s`, microseconds since 1970 where it ends in `_us`; sizes are
bytes. For a start see the [tutorial](tutorial.md), for tasks the [how-to pages](README.md#how-to).
"""
# What is generated on a page, and the names that it is made of.
MARK = re.compile(
    r"^<!-- api: (?P<names>[^\n]+) -->\n(?:(?:(?!<!-- api: ).)*?^<!-- end -->\n)?", re.MULTILINE | re.DOTALL
)
_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):")
_WIDE = 100


def pages() -> list[Path]:
    """Return the pages, in the order in which docs/README.md names them."""
    overview = INDEX.with_name("README.md").read_text(encoding="utf-8")
    return sorted(PAGES.glob("*.md"), key=lambda page: overview.find(f"](api/{page.name})"))


@cache
def entries() -> dict[str, Any]:
    """Return everything public, by the name that stands in a mark."""
    found: dict[str, Any] = {}
    for module_name in MODULES:
        module = import_module(module_name)
        if module_name != ROOT:  # whose docstring goes on with an example that the README has, too
            found[module_name] = module
        for name in public_names(module):
            value = getattr(module, name)
            if name in found:
                name = f"{module_name.rpartition('.')[2]}.{name}"  # noqa: PLW2901
            found[name] = value
            if inspect.isclass(value):
                found |= {f"{name}.{member}": each for member, each in members(value).items()}
    return found


def written(text: str) -> str:
    """Return a page with what its marks ask for."""
    known = entries()
    return MARK.sub(lambda mark: _part(mark["names"], known), text)


def names_of(mark: str) -> list[str]:
    """Return the names in a mark."""
    return mark.split(", ")


def index() -> str:
    """Return the page that leads to the others."""
    parts = [_INTRODUCTION]
    for page in pages():
        text = page.read_text(encoding="utf-8")
        title, _, summary = text.partition("\n")
        names = [name for mark in MARK.finditer(text) for name in names_of(mark["names"])]
        links = [
            f"[`{name}`](api/{page.name}#{_anchor(heading)})"
            for heading in _headings(text)
            for name in names_of(heading)
            if name in names
        ]
        parts.append(f"## [{title.removeprefix('# ')}](api/{page.name})\n")
        parts.append(summary.strip().partition("\n\n")[0] + "\n")
        parts.append(" ·\n".join(links) + "\n")
    return "\n".join(parts)


def _headings(text: str) -> list[str]:
    return re.findall(r"^## (.*)$", text, re.MULTILINE)


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


def _part(mark: str, known: dict[str, Any]) -> str:
    """Return what stands on a page for a mark: names with the same function have one entry."""
    lines = [f"<!-- api: {mark} -->\n"]
    groups: dict[int, list[str]] = {}
    for name in names_of(mark):
        groups.setdefault(id(known[name]), []).append(name)
    for names in groups.values():
        lines += _entry(names, known[names[0]])
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip()
    return f"{text}\n\n<!-- end -->\n"


def _entry(names: list[str], value: Any) -> Iterator[str]:
    name = names[0]
    if inspect.ismodule(value):
        yield _markdown(value)
        return
    yield f"## {', '.join(names)}\n"
    if inspect.isclass(value):
        yield from _class(value)
    elif isinstance(value, property | classmethod | staticmethod) or callable(value):
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        is_fixture = hasattr(value, "_get_wrapped_function")  # pytest hands it its arguments
        shown = name if len(names) == 1 else name.rpartition(".")[2]
        is_property = isinstance(value, property)
        yield "A fixture.\n" if is_fixture else _signature(shown, function, is_property=is_property)
        yield _markdown(value if is_fixture else function)
    else:
        yield f"```text\n{name} = {value!r}\n```\n"


def _class(cls: type) -> Iterator[str]:
    if issubclass(cls, BaseException):
        bases = [base.__name__ for base in cls.__bases__]
        yield f"An error: {', '.join(f'`{base}`' for base in bases)}.\n"
    constructor: Any = vars(cls).get("__init__")
    is_shown = _is_written(constructor) and _is_made_by_users(cls)
    if is_shown:
        yield _signature(cls.__name__, constructor)
    yield _markdown(cls, attribute_types(cls))
    if is_shown and constructor.__doc__:
        yield _markdown(constructor)


def attribute_types(cls: type) -> dict[str, str]:
    """Return the types of what instances hold, as they are written: in the class, or where it is set."""
    found = {"errno": "int"} if issubclass(cls, OSError) else {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith(ROOT):
            continue
        try:
            source = inspect.getsource(base)
        except OSError:  # an error that says that it is of another module
            source = inspect.getsource(base.__init__)  # type: ignore[misc]
        tree = ast.parse(dedent(source))
        for node in ast.walk(tree):
            if isinstance(node, ast.arg) and node.annotation is not None:
                found.setdefault(node.arg, ast.unparse(node.annotation))
        for node in ast.walk(tree):
            if isinstance(node, ast.AnnAssign):
                target = node.target
                name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
                found[name] = re.sub(r"^ClassVar\[(.*)\]$", r"\1", ast.unparse(node.annotation))
    return found


def _is_made_by_users(cls: type) -> bool:
    is_error = issubclass(cls, BaseException)
    return not is_error and MADE_BY_USERS.fullmatch(f"{cls.__module__}.{cls.__qualname__}") is not None


def _is_written(function: Any) -> bool:
    """Return whether a person wrote this function, here, and no decorator."""
    is_function = inspect.isfunction(function) and function.__module__.startswith(ROOT)
    return is_function and Path(function.__code__.co_filename).is_file()


def _signature(name: str, function: Any, *, is_property: bool = False) -> str:
    source = dedent(inspect.getsource(inspect.unwrap(function)))
    tree = ast.parse(source).body[0]
    assert isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef)
    returns = ast.unparse(tree.returns) if tree.returns and tree.name != "__init__" else ""
    if is_property:
        return f"```text\n{name}: {returns}\n```\n"
    parameters = [
        each for each in _parameters(tree.args, source) if each.partition(":")[0] not in ("self", "cls")
    ]
    word = "async " if isinstance(tree, ast.AsyncFunctionDef) else ""
    text = f"{word}{name}({', '.join(parameters)})"
    if len(text) + len(returns) > _WIDE:
        text = "\n".join([f"{word}{name}(", *(f"    {each}," for each in parameters), ")"])
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


def _markdown(value: Any, types: dict[str, str] | None = None) -> str:
    """Return a docstring as Markdown: sections as lists, attributes with their types, everything else as it stands."""
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
            if is_item and section == "Attributes":
                text = _typed(text, types or {})
            lines.append(f"- {text}" if is_item else f"  {text.strip()}")
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _typed(text: str, types: dict[str, str]) -> str:
    """Return the line of an attribute, or of several, with their types."""
    names, colon, rest = text.partition(": ")
    told = dict.fromkeys(types[name] for name in names.split(", ") if name in types)
    return f"{names} (`{'`, `'.join(told)}`){colon}{rest}" if told else text


def _escaped(line: str) -> str:
    pieces = line.replace("``", "`").split("`")
    pieces[::2] = [re.sub(r"([<*])", r"\\\1", piece) for piece in pieces[::2]]
    return "`".join(pieces)


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")


if __name__ == "__main__":
    for each in pages():
        each.write_text(written(each.read_text(encoding="utf-8")), encoding="utf-8")
    INDEX.write_text(index(), encoding="utf-8")
