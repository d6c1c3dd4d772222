"""The modules of the package, what each imports, and the order that they keep.

Read from the source, not from what happens to be imported: an import inside a function, or for the type checker only,
is an import too.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mpcheckpoint
from support.checkout import TESTS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = "mpcheckpoint"
# Which rooms there are, and which modules in each, both lowest first.
LIST = TESTS / "project" / "module_order.txt"


@dataclass(frozen=True)
class Import:
    """One imported name: its module, and whether only the type checker follows it."""

    target: str
    line: int
    is_for_types: bool


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


# --- the order -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """Rooms, lowest first, and in each that is a folder its modules, lowest first, by their names in the room."""

    rooms: dict[str, list[str]]

    @classmethod
    def read(cls, text: str) -> Order:
        """Read a list: a room a line; below it, indented, its modules. What follows a `#` is a comment."""
        rooms: dict[str, list[str]] = {}
        for line in text.splitlines():
            name = line.partition("#")[0].strip()
            if name and not line.startswith(" "):
                rooms[name] = []
            elif name:
                rooms[next(reversed(rooms))].append(name)
        return cls(rooms)

    def room_of(self, module: str) -> str | None:
        """Return the room that a module is, or is in; None if it is in none."""
        room = module.removeprefix(f"{ROOT}.").partition(".")[0]
        return room if room in self.rooms else None

    def place_of(self, module: str) -> tuple[int, float] | None:
        """Return where a module is in the order: a package is after all that it contains. None if it has no place."""
        room, name = self.room_of(module), name_in_room(module)
        if room is None:
            return None
        names = self.rooms[room]
        inside = [index for index, each in enumerate(names) if not name or each.startswith(f"{name}.")]
        if name in names:
            index = float(names.index(name))
        elif inside or not name:
            index = max(inside, default=0) + 0.5
        else:
            return None
        return list(self.rooms).index(room), index


def name_in_room(module: str) -> str:
    """Return the name of a module in its room, as `frame` or `imports.shapes`; nothing for the room itself."""
    return module.removeprefix(f"{ROOT}.").partition(".")[2]


def listed_order() -> Order:
    """Return the order that the list says."""
    return Order.read(LIST.read_text(encoding="utf-8"))


def imports_in_room(order: Order, sources: dict[str, str], packages: frozenset[str]) -> dict[str, set[str]]:
    """Return for each module those of its own room that it imports, type checking included."""
    return {
        module: {
            found.target
            for found in imports_in(
                ast.parse(source), module, frozenset(sources), is_package=module in packages
            )
            if order.room_of(found.target) == order.room_of(module) and found.target != module
        }
        for module, source in sources.items()
    }


def brought_up_to_date(text: str) -> str:
    """Return a list with the modules that there are, each after those it imports and otherwise where it was.

    Raises:
        ValueError: modules of a room import each other in a circle, so that no order is right.
    """
    sources, packages = package_sources()
    order = Order.read(text)
    below = {module: found - packages for module, found in imports_in_room(order, sources, packages).items()}
    heads = {line.partition("#")[0].rstrip(): line for line in text.splitlines()}
    lines = [*text.partition("\n\n")[0].splitlines(), ""]
    for room, listed in order.rooms.items():
        names = [
            name_in_room(each) for each in sources.keys() - packages if each.startswith(f"{ROOT}.{room}.")
        ]
        placed: list[str] = []
        for name in sorted(
            names, key=lambda name: (listed.index(name) if name in listed else len(listed), name)
        ):
            _place(f"{ROOT}.{room}.{name}", below, placed, ())
        lines.append(heads[room])
        lines += [f"    {name_in_room(module)}" for module in placed]
    return "\n".join(lines) + "\n"


def _place(module: str, below: dict[str, set[str]], placed: list[str], above: tuple[str, ...]) -> None:
    """Add a module to those that are placed, after those it imports."""
    if module in above:
        raise ValueError(f"imports in a circle: {' -> '.join([*above[above.index(module) :], module])}")
    if module not in placed:
        for each in sorted(below[module]):
            _place(each, below, placed, (*above, module))
        placed.append(module)
