"""Imports only go down, from room to room and inside each room; and only one room knows the operating system.

Read from the source, not from what happens to be imported: an import inside a function, or for the type checker only,
is an import too.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest

from support import imports
from support.imports import LIST, ROOT, Import, Order, imports_in, listed_order, package_sources

if TYPE_CHECKING:
    from collections.abc import Iterator

# Who alone may import these. What cuts power and breaks files has to touch them itself.
ONLY_IN = {
    "fcntl": {"_system", "testing"},
    "portalocker": {"_system"},
    # From Python 3.12 on it refuses forks of two threads at once, and adds an audit hook.
    "filelock": set(),
    "click": {"_cli"},
    "rich": {"_cli", "_progress"},
    "pandas": {"_work"},
    "pyarrow": {"_work"},
    "optuna": {"optuna"},
    "pytest": {"testing"},
}

# Bytes in, bytes out: what a line means must not depend on anything else.
PURE_ROOM = "_format"
IMPURE = {"os", "io", "threading", "time"}

# Whatever the product does to files goes through the room where tests put faults in its place.
FILE_ROOM = "_system"
FILE_ROOMS = {FILE_ROOM, "testing"}
FILE_CALLS = {
    *("open", "pwrite", "pread", "fsync", "fdatasync", "rename", "replace", "link", "unlink", "remove"),
    *("ftruncate", "truncate", "mkdir", "makedirs"),
}


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


def complaints(sources: dict[str, str], packages: frozenset[str], order: Order) -> list[str]:
    """Return what is wrong with these modules (name: source), one sentence each."""
    return [
        f"{module}:{line} {complaint}"
        for module, source in sorted(sources.items())
        for line, complaint in _complaints_about(module, source, frozenset(sources), packages, order)
    ]


def _complaints_about(
    module: str, source: str, modules: frozenset[str], packages: frozenset[str], order: Order
) -> Iterator[tuple[int, str]]:
    room, tree = order.room_of(module), ast.parse(source)
    if room is None or order.place_of(module) is None:
        yield 1, f"has no place in {LIST.name}: python tools/draw_structure.py gives it one"
        return
    for found in imports_in(tree, module, modules, is_package=module in packages):
        yield from (
            (found.line, complaint) for complaint in _complaints_about_import(module, room, found, order)
        )
    if room not in FILE_ROOMS:
        for call, line in file_calls_in(tree):
            yield line, f"uses os.{call}: only {FILE_ROOM} touches files"


def _complaints_about_import(module: str, room: str, found: Import, order: Order) -> Iterator[str]:
    top_level = found.target.partition(".")[0]
    if top_level == ROOT:
        here, there = order.place_of(module), order.place_of(found.target)
        if here is None or there is None:
            yield f"imports {found.target}, which has no place in {LIST.name}"
        elif there > here:
            yield f"imports {found.target}, which comes after it in {LIST.name}"
        elif room == PURE_ROOM and order.room_of(found.target) == FILE_ROOM:
            yield f"imports {found.target}: {PURE_ROOM} is pure"
    elif room == PURE_ROOM and top_level in IMPURE:
        yield f"imports {found.target}: {PURE_ROOM} is pure"
    elif room not in ONLY_IN.get(top_level, {room}):
        rooms = sorted(ONLY_IN[top_level])
        whose = f"only {' and '.join(rooms)}" if rooms else "nobody"
        yield f"imports {found.target}: {whose} does"


def test_package_as_it_stands_keeps_the_order() -> None:
    sources, packages = package_sources()

    assert complaints(sources, packages, listed_order()) == []


def test_list_names_every_module_once_and_nothing_else() -> None:
    sources, packages = package_sources()
    order = listed_order()
    listed = [
        ROOT if room == ROOT else f"{ROOT}.{room}" + (f".{name}" if name else "")
        for room, names in order.rooms.items()
        for name in ["", *names]
    ]
    rooms = {module for module in packages if module.count(".") <= 1}

    assert sorted(listed) == sorted((sources.keys() - packages) | rooms)


# A package of which one can say what is wrong with it.
SMALL = Order(
    {room: [] for room in listed_order().rooms}
    | {
        "_format": ["frame"],
        "_system": ["linux", "files"],
        "_logfile": ["paths", "parts.low", "parts.high", "log"],
        "_view": ["follow"],
        "_work": ["claim"],
        "testing": ["_simulation.disk"],
        "_cli": ["commands"],
    }
)


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("_format.frame", "from mpcheckpoint._logfile.log import Log", "comes after it"),
        ("_format.frame", "from mpcheckpoint import _logfile", "comes after it"),
        ("_format.frame", "import mpcheckpoint._logfile.log", "comes after it"),
        ("_format.frame", "from .._logfile import log", "comes after it"),
        ("_format.frame", "def f():\n    from mpcheckpoint._logfile import log", "comes after it"),
        ("_format.frame", "if TYPE_CHECKING:\n    from mpcheckpoint._logfile import log", "comes after it"),
        ("_logfile.paths", "from mpcheckpoint._logfile.log import Log", "comes after it"),
        ("_logfile.paths", "if TYPE_CHECKING:\n    from mpcheckpoint._logfile import log", "comes after it"),
        ("_logfile.paths", "from mpcheckpoint._logfile import ROOM", "comes after it"),
        ("_logfile.parts.low", "from mpcheckpoint._logfile.parts import high", "comes after it"),
        ("_logfile.parts.low", "from mpcheckpoint._logfile.parts import NAME", "comes after it"),
        ("_logfile.new", "", "has no place"),
        ("_logfile.log", "import mpcheckpoint", "comes after it"),
        ("_work.claim", "from mpcheckpoint import Checkpoint", "comes after it"),
        ("_types", "from mpcheckpoint.errors import InvalidPositionError", "comes after it"),
        ("_types", "if TYPE_CHECKING:\n    from mpcheckpoint import errors", "comes after it"),
        ("_system.linux", "from mpcheckpoint._work import claim", "comes after it"),
        ("_logfile.log", "from mpcheckpoint.nowhere import x", "has no place"),
        ("nowhere", "", "has no place"),
        ("_format.frame", "import os.path", "is pure"),
        ("_format.frame", "from threading import Lock", "is pure"),
        ("_format.frame", "import time as clock", "is pure"),
        ("_logfile.log", "import fcntl", "only _system and testing does"),
        ("testing._simulation.disk", "import portalocker", "only _system does"),
        ("_work.claim", "from mpcheckpoint.testing import restart", "comes after it"),
        ("_view.follow", "import pytest", "only testing does"),
        ("_cli.commands", "from portalocker import lock", "only _system does"),
        ("_work.claim", "def f():\n    import filelock", "nobody does"),
        ("_view.follow", "from rich.progress import Progress", "only _cli and _progress does"),
        ("_work.claim", "import click", "only _cli does"),
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
        f"{ROOT}._logfile.parts": "",
        f"{ROOT}._logfile.parts.high": "",
        f"{ROOT}._work": "",
    }

    found = complaints(sources | {f"{ROOT}.{module}": source}, frozenset(), SMALL)

    assert len(found) == 1
    assert complaint in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("_logfile.log", "from mpcheckpoint import _system as system"),
        ("_logfile.log", "from mpcheckpoint._logfile import paths"),
        ("_logfile.log", "from . import paths"),
        ("_logfile.log", "from mpcheckpoint._logfile.parts import NAME"),
        ("_logfile.parts.high", "from mpcheckpoint._logfile.parts import low"),
        ("_logfile.log", "import os\nos.getpid()\nos.path.join('a', 'b')"),
        ("_system.files", "import os, fcntl\nos.open('a', 0)"),
        ("_system", "from .linux import sync"),
        ("_cli", "import click\nfrom mpcheckpoint import Checkpoint"),
        ("__main__", "from mpcheckpoint._cli import main"),
        ("errors", "if TYPE_CHECKING:\n    from mpcheckpoint._types import Position"),
        ("errors", "from mpcheckpoint._root_error import CheckpointError"),
    ],
)
def test_module_that_keeps_the_order_is_not_complained_about(module: str, source: str) -> None:
    others = ("_system", "_logfile.paths", "_logfile.parts", "_logfile.parts.low")
    sources = {f"{ROOT}.{other}": "" for other in others} | {f"{ROOT}.{module}": source}

    assert complaints(sources, frozenset({f"{ROOT}._system", f"{ROOT}._cli"}), SMALL) == []


def test_list_is_brought_up_to_date_without_moving_what_need_not(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {
        f"{ROOT}.room": "",
        f"{ROOT}.room.kept": "from mpcheckpoint.room import needed",
        f"{ROOT}.room.needed": "",
        f"{ROOT}.room.last": "from mpcheckpoint.room.kept import name",
        f"{ROOT}.room.new": "",
    }
    monkeypatch.setattr(imports, "package_sources", lambda: (sources, frozenset({f"{ROOT}.room"})))
    listed = "# Said before.\n\nroom  # said of it\n    kept\n    gone\n    last\n    needed\n"
    right = "# Said before.\n\nroom  # said of it\n    needed\n    kept\n    last\n    new\n"

    assert imports.brought_up_to_date(listed) == right
    assert imports.brought_up_to_date(right) == right
    sources[f"{ROOT}.room.needed"] = "from mpcheckpoint.room import last"
    with pytest.raises(
        ValueError, match=r"in a circle: mpcheckpoint\.room\.needed -> .*last -> .*kept -> .*needed"
    ):
        imports.brought_up_to_date(right)
