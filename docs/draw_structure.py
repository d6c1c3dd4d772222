"""Draw docs/structure.svg: the layers of the package, what each is for, and which imports which.

    python docs/draw_structure.py

Everything on it is read: the order of the layers from `tests/project/test_import_order.py`, which holds the package to
it; what each is for from its docstring; imports from the source. `tests/project/test_documents.py` compares the file
with what is drawn.
"""

from __future__ import annotations

import ast
import sys
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import NamedTuple

DOCS = Path(__file__).resolve().parent
PICTURE = DOCS / "structure.svg"
ROOT = "mpcheckpoint"

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
        return "._" not in self.name


def layers() -> list[Layer]:
    """Return the layers of the package as its source has them, highest first."""
    sys.path.insert(0, str(DOCS.parent / "tests" / "project"))
    import test_import_order as order  # noqa: PLC0415 - found only now

    sources, packages = order.package_sources()
    imports: dict[str, set[str]] = {layer: set() for layer in order.LAYERS}
    for module, source in sources.items():
        layer = order.layer_of(module) or ROOT
        found = order.imports_in(ast.parse(source), module, frozenset(sources), is_package=module in packages)
        imports[layer] |= {each.target for each in found if not each.is_for_types}
    return [
        Layer(
            name,
            _first_sentence(ast.get_docstring(ast.parse(sources[name])) or ""),
            frozenset(filter(None, map(order.layer_of, imports[name]))) - {name},
            tuple(sorted(_outside(imports[name]))),
        )
        for name in reversed(order.LAYERS)
    ]


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
    name = layer.name.removeprefix(f"{ROOT}.")
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


if __name__ == "__main__":
    PICTURE.write_text(draw(layers()), encoding="utf-8")
