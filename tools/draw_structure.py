"""Draw the structure of the package: docs/structure.svg, its rooms, and docs/modules.md, the modules of each.

    python tools/draw_structure.py

Everything is read from the source: what a room or module is for from its docstring, and what it imports. The order is
that of tests/project/module_order.txt, which this brings up to date first: new modules go in, removed ones come out.
Tests compare both files with what is drawn, and hold the package to the order.
"""

from __future__ import annotations

import ast
import sys
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parent.parent
PICTURE = CHECKOUT / "docs" / "structure.svg"
PAGE = CHECKOUT / "docs" / "modules.md"
ROOT = "mpcheckpoint"

sys.path.insert(0, str(CHECKOUT / "tests"))
from support import imports as read  # noqa: E402 - found only now

_ROW = 46
_TOP = 74
_LEFT = 16
_NAMES = 150  # where descriptions begin, and so on to the right
_OUTSIDE = 590
_MATRIX = 740
_CELL = 21
_DESCRIPTION_CHARS = 74
_PUBLIC, _PRIVATE, _INK, _FAINT, _DOT = "#dcebfa", "#f1f1ef", "#222222", "#666666", "#2b6cb0"


class Layer(NamedTuple):
    """A layer: its name, what its docstring says first, the layers it imports, and who else's packages."""

    name: str
    purpose: str
    below: frozenset[str]
    outside: tuple[str, ...]

    @property
    def is_public(self) -> bool:
        return not self.name.startswith("_")


def layers() -> list[Layer]:
    """Return the rooms of the package as its source has them, highest first."""
    sources, packages = read.package_sources()
    order = read.listed_order()
    imports: dict[str, set[str]] = {room: set() for room in order.rooms}
    for module, source in sources.items():
        found = read.imports_in(ast.parse(source), module, frozenset(sources), is_package=module in packages)
        imports[order.room_of(module) or ROOT] |= {each.target for each in found if not each.is_for_types}
    return [
        Layer(
            room,
            _purpose(sources[_module(room)]),
            frozenset(filter(None, (order.room_of(each) for each in imports[room] if each.startswith(ROOT))))
            - {room},
            tuple(sorted(_outside(imports[room]))),
        )
        for room in reversed(order.rooms)
    ]


def _module(room: str, name: str = "") -> str:
    return ".".join(filter(None, [ROOT, room if room != ROOT else "", name]))


def _purpose(source: str) -> str:
    return _first_sentence(ast.get_docstring(ast.parse(source)) or "")


def _first_sentence(docstring: str) -> str:
    paragraph = " ".join(docstring.partition("\n\n")[0].split()).replace("``", "")
    return paragraph.partition(". ")[0].rstrip(".") + "."


def _outside(targets: set[str]) -> set[str]:
    tops = {target.partition(".")[0] for target in targets}
    return tops - {ROOT} - sys.stdlib_module_names


def draw(found: list[Layer]) -> str:
    """Return the picture as SVG."""
    width = _MATRIX + _CELL * len(found) + _LEFT
    height = _TOP + _ROW * len(found) + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"',
        'font-family="Helvetica, Arial, sans-serif" font-size="12">',
        "<title>The layers of mpcheckpoint: imports only go down</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(_LEFT, 24, "The layers of mpcheckpoint", size=15, weight="bold"),
        _text(
            _LEFT,
            44,
            "Blue: for users. Each imports only what stands below it: no dot left of the diagonal.",
            fill=_FAINT,
        ),
        _text(_OUTSIDE, _TOP - 10, "other packages", fill=_FAINT, size=11),
        _text(_MATRIX, _TOP - 28, "imports", fill=_FAINT, size=11),
    ]
    for row, layer in enumerate(found):
        parts += _row(row, layer, found)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _row(row: int, layer: Layer, found: list[Layer]) -> list[str]:
    y = _TOP + _ROW * row
    middle = y + _ROW // 2 - 2
    name = layer.name
    fill = _PUBLIC if layer.is_public else _PRIVATE
    parts = [
        f'<rect x="{_LEFT}" y="{y}" width="{_MATRIX - _LEFT - 24}" height="{_ROW - 4}" rx="4" fill="{fill}"/>',
        _text(_LEFT + 24, middle + 4, name, weight="bold", family="monospace"),
        _text(_LEFT + 6, middle + 4, str(row + 1), fill=_FAINT, size=10),
        _text(
            _MATRIX + _CELL * row + _CELL // 2, _TOP - 10, str(row + 1), fill=_FAINT, size=10, anchor="middle"
        ),
        _text(_OUTSIDE, middle + 4, ", ".join(layer.outside), size=11),
    ]
    lines = wrap(layer.purpose, _DESCRIPTION_CHARS)
    for number, line in enumerate(lines):
        parts.append(_text(_NAMES, middle + 4 + round((number - (len(lines) - 1) / 2) * 14), line, size=11))
    for column, other in enumerate(found):
        x = _MATRIX + _CELL * column + _CELL // 2
        if column == row:
            parts.append(
                f'<rect x="{x - 4}" y="{middle - 4}" width="8" height="8" fill="{fill}" stroke="#999999"/>'
            )
        elif other.name in layer.below:
            parts.append(f'<circle cx="{x}" cy="{middle}" r="5" fill="{_DOT}"/>')
        else:
            parts.append(f'<circle cx="{x}" cy="{middle}" r="1" fill="#cccccc"/>')
    return parts


def _text(
    x: int,
    y: int,
    text: str,
    *,
    size: int = 12,
    fill: str = _INK,
    weight: str = "normal",
    family: str = "",
    anchor: str = "start",
) -> str:
    font = f' font-family="{family}"' if family else ""
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{fill}" text-anchor="{anchor}"'
        f"{font}>{escape(text)}</text>"
    )


# --- the modules ---------------------------------------------------------------------------------------------

_INTRODUCTION = """\
# The modules

The rooms of the package and the modules of each, lowest first: a module imports those that this page has before it, and
no others. The way of an append begins in `_logfile/append.py`, that of a read in `_logfile/read.py`.

Drawn from the source by `tools/draw_structure.py`, in the order of `tests/project/module_order.txt`; tests hold both
the page and the package to it. [structure.svg](structure.svg) shows which room imports which.
"""


def page() -> str:
    """Return the map of the modules as Markdown."""
    sources, packages = read.package_sources()
    order = read.listed_order()
    below = read.imports_in_room(order, sources, packages)
    parts = [_INTRODUCTION]
    for room, names in order.rooms.items():
        parts += [f"## {room}", "", _purpose(sources[_module(room)]), ""]
        if names:
            parts += ["| module | what it is | imports in its room |", "|---|---|---|"]
            parts += [_module_row(room, name, sources, below) for name in names] + [""]
    return "\n".join(parts)


def _module_row(room: str, name: str, sources: dict[str, str], below: dict[str, set[str]]) -> str:
    module = _module(room, name)
    path = f"../{module.replace('.', '/')}.py"
    imported = ", ".join(sorted(filter(None, map(read.name_in_room, below[module]))))
    return f"| [{name}]({path}) | {_purpose(sources[module]).replace('|', chr(92) + '|')} | {imported} |"


if __name__ == "__main__":
    read.LIST.write_text(read.brought_up_to_date(read.LIST.read_text(encoding="utf-8")), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
    PICTURE.write_text(draw(layers()), encoding="utf-8")
