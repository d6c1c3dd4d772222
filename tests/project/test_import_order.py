"""Imports only go down, and only one layer knows the operating system.

Read from the source, not from what happens to be imported: an import inside a function, or for the type checker only,
is an import too.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import mpcheckpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = "mpcheckpoint"

# Lowest first: a module may import from its own layer and from those before it.
LAYERS = (
    "mpcheckpoint._root_error",
    "mpcheckpoint._types",
    "mpcheckpoint.errors",
    "mpcheckpoint._format",
    "mpcheckpoint._system",
    "mpcheckpoint._logfile",
    "mpcheckpoint._salvage",
    "mpcheckpoint._store",
    "mpcheckpoint._view",
    "mpcheckpoint._work",
    "mpcheckpoint.log",
    "mpcheckpoint.checkpoint",
    "mpcheckpoint._maintenance",
    "mpcheckpoint.maintenance",
    ROOT,  # `__init__` gives the public names; whoever imports from it stands above it
    "mpcheckpoint.testing",
    "mpcheckpoint._cli",
    "mpcheckpoint.__main__",
)

# Who alone may import these. What cuts power and breaks files has to touch them itself.
ONLY_IN = {
    "fcntl": {"mpcheckpoint._system", "mpcheckpoint.testing"},
    "portalocker": {"mpcheckpoint._system"},
    "filelock": {"mpcheckpoint._system"},
    "click": {"mpcheckpoint._cli"},
    "rich": {"mpcheckpoint._cli"},
    "pytest": {"mpcheckpoint.testing"},
}

# Bytes in, bytes out: what a line means must not depend on anything else.
PURE_LAYER = "mpcheckpoint._format"
IMPURE = {"os", "io", "threading", "time"}

# Whatever the product does to files goes through the layer where tests put faults in its place.
FILE_LAYER = "mpcheckpoint._system"
FILE_LAYERS = {FILE_LAYER, "mpcheckpoint.testing"}
FILE_CALLS = {
    *("open", "pwrite", "pread", "fsync", "fdatasync", "rename", "replace", "link", "unlink", "remove"),
    *("ftruncate", "truncate", "mkdir", "makedirs"),
}


@dataclass(frozen=True)
class Import:
    """One imported name: its module, and whether only the type checker follows it."""

    target: str
    line: int
    is_for_types: bool


def layer_of(module: str) -> str | None:
    """Return the most particular layer the module is in."""
    found = [
        layer for layer in LAYERS if module == layer or (layer != ROOT and module.startswith(f"{layer}."))
    ]
    return found[0] if found else None


def imports_in(
    tree: ast.Module, module: str, modules: frozenset[str], *, is_package: bool
) -> Iterator[Import]:
    """Yield every import of the module, at whatever depth. ``modules`` are those of the package."""
    for_types = {id(node) for block in _blocks_for_types(tree) for node in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(node, module, is_package=is_package)
            inside = (f"{source}.{alias.name}" for alias in node.names)
            # `from package import module` imports the module; `from package import name` the package.
            targets = [target if target in modules else source for target in inside]
        else:
            continue
        for target in targets:
            yield Import(target, node.lineno, id(node) in for_types)


def _blocks_for_types(tree: ast.Module) -> Iterator[ast.stmt]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            yield from node.body


def _absolute(node: ast.ImportFrom, module: str, *, is_package: bool) -> str:
    if node.level == 0:
        return node.module or ""
    parts = module.split(".")
    base = parts[: len(parts) - node.level + is_package]
    return ".".join([*base, *([node.module] if node.module else [])])


def file_calls_in(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield every function of os that touches files, however it is named here."""
    names_of_os = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name in {"os", "posix"}
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in names_of_os and node.attr in FILE_CALLS:
                yield node.attr, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module in {"os", "posix"}:
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name in FILE_CALLS)


def complaints(sources: dict[str, str], packages: frozenset[str] = frozenset()) -> list[str]:
    """Return what is wrong with these modules (name: source), one sentence each."""
    modules = frozenset(sources)
    return [
        f"{module}:{line} {complaint}"
        for module, source in sorted(sources.items())
        for line, complaint in _complaints_about(
            module, ast.parse(source), modules, is_package=module in packages
        )
    ]


def _complaints_about(
    module: str, tree: ast.Module, modules: frozenset[str], *, is_package: bool
) -> Iterator[tuple[int, str]]:
    layer = layer_of(module)
    if layer is None:
        yield 1, "belongs to no layer: give it a place in LAYERS"
        return
    for found in imports_in(tree, module, modules, is_package=is_package):
        yield from ((found.line, complaint) for complaint in _complaints_about_import(layer, found))
    if layer not in FILE_LAYERS:
        for call, line in file_calls_in(tree):
            yield line, f"uses os.{call}: only {FILE_LAYER} touches files"


def _complaints_about_import(layer: str, found: Import) -> Iterator[str]:
    top_level = found.target.partition(".")[0]
    if top_level == ROOT:
        target_layer = layer_of(found.target)
        if target_layer is None:
            yield f"imports {found.target}, which belongs to no layer"
        elif LAYERS.index(target_layer) > LAYERS.index(layer):
            yield f"imports {found.target}, which stands above it"
        elif layer == PURE_LAYER and target_layer == FILE_LAYER:
            yield f"imports {found.target}: {PURE_LAYER} is pure"
    elif layer == PURE_LAYER and top_level in IMPURE:
        yield f"imports {found.target}: {PURE_LAYER} is pure"
    elif layer not in ONLY_IN.get(top_level, {layer}):
        yield f"imports {found.target}: only {' and '.join(sorted(ONLY_IN[top_level]))} does"


def package_sources() -> tuple[dict[str, str], frozenset[str]]:
    """Return the modules of the package under test, and which of them are packages."""
    directory = Path(mpcheckpoint.__file__).parent
    sources, packages = {}, set()
    for path in directory.rglob("*.py"):
        *parents, name = path.relative_to(directory.parent).with_suffix("").parts
        module = ".".join(parents if name == "__init__" else [*parents, name])
        sources[module] = path.read_text()
        if name == "__init__":
            packages.add(module)
    return sources, frozenset(packages)


def test_package_as_it_stands_keeps_the_order() -> None:
    sources, packages = package_sources()

    assert len(sources) > len(LAYERS)
    assert complaints(sources, packages) == []


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("_format.frame", "from mpcheckpoint._logfile.log import Log", "stands above it"),
        ("_format.frame", "from mpcheckpoint import _logfile", "stands above it"),
        ("_format.frame", "import mpcheckpoint._logfile.log", "stands above it"),
        ("_format.frame", "from .._logfile import log", "stands above it"),
        ("_format.frame", "def f():\n    from mpcheckpoint._logfile import log", "stands above it"),
        ("_format.frame", "if TYPE_CHECKING:\n    from mpcheckpoint._logfile import log", "stands above it"),
        ("_logfile.log", "import mpcheckpoint", "stands above it"),
        ("_work.claim", "from mpcheckpoint import Checkpoint", "stands above it"),
        ("_types", "from mpcheckpoint.errors import InvalidPositionError", "stands above it"),
        ("_types", "if TYPE_CHECKING:\n    from mpcheckpoint import errors", "stands above it"),
        ("_system.linux", "from mpcheckpoint._work import claim", "stands above it"),
        ("_logfile.log", "from mpcheckpoint.nowhere import x", "belongs to no layer"),
        ("nowhere", "", "belongs to no layer"),
        ("_format.frame", "import os.path", "is pure"),
        ("_format.frame", "from threading import Lock", "is pure"),
        ("_format.frame", "import time as clock", "is pure"),
        ("_logfile.log", "import fcntl", "only mpcheckpoint._system and mpcheckpoint.testing does"),
        ("testing._simulation.disk", "import portalocker", "only mpcheckpoint._system does"),
        ("_work.claim", "from mpcheckpoint.testing import restart", "stands above it"),
        ("_view.follow", "import pytest", "only mpcheckpoint.testing does"),
        ("_cli.commands", "from portalocker import lock", "only mpcheckpoint._system does"),
        ("_work.claim", "def f():\n    import filelock", "only mpcheckpoint._system does"),
        ("_view.follow", "from rich.progress import Progress", "only mpcheckpoint._cli does"),
        ("_work.claim", "import click", "only mpcheckpoint._cli does"),
        ("_logfile.log", "import os\nos.replace('a', 'b')", "uses os.replace"),
        ("_work.claim", "import os as o\nhandle = o.open", "uses os.open"),
        ("_cli.commands", "from os import unlink", "uses os.unlink"),
    ],
)
def test_module_that_breaks_the_order_is_complained_about(module: str, source: str, complaint: str) -> None:
    sources = {
        f"{ROOT}.{module}": source,
        f"{ROOT}._logfile": "",
        f"{ROOT}._logfile.log": "",
        f"{ROOT}._work": "",
    }

    found = complaints(sources | {f"{ROOT}.{module}": source})

    assert len(found) == 1
    assert complaint in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("_logfile.log", "from mpcheckpoint import _system as system"),
        ("_logfile.log", "from mpcheckpoint._logfile import paths"),
        ("_logfile.log", "from . import paths"),
        ("_logfile.log", "import os\nos.getpid()\nos.path.join('a', 'b')"),
        ("_system.files", "import os, fcntl\nos.open('a', 0)"),
        ("_system", "from ._linux import sync"),
        ("_cli", "import click\nfrom mpcheckpoint import Checkpoint"),
        ("__main__", "from mpcheckpoint._cli import main"),
        ("errors", "if TYPE_CHECKING:\n    from mpcheckpoint._types import Position"),
        ("errors", "from mpcheckpoint._root_error import CheckpointError"),
    ],
)
def test_module_that_keeps_the_order_is_not_complained_about(module: str, source: str) -> None:
    sources = {f"{ROOT}._system": "", f"{ROOT}._logfile.paths": ""} | {f"{ROOT}.{module}": source}

    assert complaints(sources, packages=frozenset({f"{ROOT}._system", f"{ROOT}._cli"})) == []
