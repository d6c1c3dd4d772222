"""Run the examples of a page of docs/api, each in a process and a directory of its own.

    python -m support.examples PAGE DIRECTORY

The first block of the page, before the first mark, is what each example begins with. A block with a name
(```python test_job.py) is a file; if there are tests among them, pytest runs them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

from support.documents import Block, blocks_of

_MARK, _END = "<!-- api: ", "<!-- end -->"


class Example(NamedTuple):
    """What follows a mark: the names in it, and blocks that show how these are used. Without names: before any mark."""

    names: list[str]
    blocks: list[Block]

    @property
    def code(self) -> str:
        """All of it, as text."""
        return "\n".join(block.code for block in self.blocks)


def examples_of(text: str) -> tuple[list[Block], list[Example]]:
    """Return what each example of a page begins with, and the examples."""
    head, *parts = text.split(_MARK)
    line = head.count("\n")
    begin = _python(head)
    examples = [Example([], begin[1:])] if begin[1:] else []
    for part in parts:
        generated, end, written = part.partition(_END)
        assert end, f"{part.partition(' -->')[0]}: run python tools/write_api.py"
        before = line + generated.count("\n")
        blocks = [block._replace(line=block.line + before) for block in _python(written)]
        examples.append(Example(part.partition(" -->")[0].split(", "), blocks))
        line += part.count("\n")
    return begin[:1], examples


def _python(text: str) -> list[Block]:
    return [block for block in blocks_of(text) if block.language == "python"]


def main(page: Path, directory: Path) -> int:
    """Run all examples; return how many failed. What they print is told of those."""
    begin, examples = examples_of(page.read_text(encoding="utf-8"))
    failed = 0
    for number, example in enumerate(examples):
        place = directory / str(number)
        place.mkdir()
        pid = os.fork()
        if not pid:
            _run(page, [*begin, *example.blocks], place)
        failed += os.waitpid(pid, 0)[1] != 0
    return failed


def _run(page: Path, blocks: list[Block], place: Path) -> None:
    """Run one example, and end the process as a script ends."""
    os.chdir(place)
    # Where what a worker process is sent is looked for.
    names = vars(sys.modules["__main__"])
    code = 0
    try:
        for block in blocks:
            if block.name:
                place.joinpath(block.name).write_text(block.code, encoding="utf-8")
            else:
                source = "\n" * (block.line - 1) + block.code
                exec(compile(source, str(page), "exec", dont_inherit=True), names)
        if any(place.glob("test_*.py")):
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(place)]
            code = subprocess.run(command, cwd=place, check=False).returncode
    except BaseException:  # noqa: BLE001 - an example may end in any way
        traceback.print_exc()
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    sys.exit(min(main(Path(sys.argv[1]), Path(sys.argv[2])), 1))
