"""Run the code blocks of a page of the documentation, top to bottom, as a reader would who types them in.

All of a page runs in one session of bash, in one directory that is empty at the start:

    ```sh             bash, with `set -euo pipefail`
    ```python         a script
    ```python job.py  a file that is saved under this name; a later block has to use it
    ```console        a transcript: `$ command`, its further lines behind `> `, then what it prints

Other blocks (`text`, `json`) are not run, and neither is one behind the comment `<!-- not run: reason -->`. What varies
in a transcript is written `...`: something within a line, or, as a line of its own, any number of lines. A command of
a transcript ends with exit code 0, unless `$ echo $?` follows it.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

from support import process_tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TIMEOUT_S = 60.0
_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<info>[^\n`]+)\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
_NOT_RUN = re.compile(r"<!-- not run: [^\n]+ -->\n+\Z")
_EXIT_CODE = "echo $?"
_COMMANDS = {
    "python": ("",),
    "python3": ("",),
    # Without a plugin that takes two seconds to load, once a worker, and that no page uses.
    "pytest": ("-m", "pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"),
    "mpcheckpoint": ("-P", "-m", "mpcheckpoint"),  # as the installed command: without the current directory
}
# As a terminal has it: each background job is a process group of its own, which can be killed as a whole.
_OPENING = "set -m -euo pipefail\n"
_BEGIN = "_status=0\n"


class PageError(AssertionError):
    """A block of a page does not do what the page says. Names the page, the line, and what was printed."""


class Block(NamedTuple):
    """A fenced block: its language, the name behind it, the line its code begins at, and the code."""

    language: str
    name: str
    line: int
    code: str
    is_run: bool


class Step(NamedTuple):
    """What is run in one go: a line for messages, the lines of bash, and what they have to print."""

    line: int
    script: str
    shown: str | None = None  # None: it may print what it likes
    may_fail: bool = False


def blocks_of(text: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    return [
        Block(
            match["info"].split()[0],
            match["info"].partition(" ")[2].strip(),
            text.count("\n", 0, match.start()) + 2,
            re.sub(rf"^{match['indent']}", "", match["code"], flags=re.MULTILINE),
            is_run=_NOT_RUN.search(text[: match.start()]) is None,
        )
        for match in _BLOCK.finditer(text)
    ]


def run_page(page: Path, directory: Path, *, timeout_s: float = TIMEOUT_S) -> int:
    """Run every block of a page; return how many commands, scripts and shell blocks that were.

    Args:
        page: the file.
        directory: an empty one, in which the session and what it needs are put.
        timeout_s: for the whole page.

    Raises:
        PageError: a block failed, printed something else, did not end, or is never used.
    """
    work, tools = directory / "work", directory / "tools"
    work.mkdir()
    tools.mkdir()
    steps = list(_steps(page, tools))
    _run(page.name, steps, work, tools, timeout_s)
    return len(steps)


# --- from blocks to steps ----------------------------------------------------------------------------------


def _steps(page: Path, tools: Path) -> Iterator[Step]:
    blocks = [block for block in blocks_of(page.read_text(encoding="utf-8")) if block.is_run]
    for number, block in enumerate(blocks):
        if block.language == "sh":
            yield Step(block.line, _BEGIN + block.code)
        elif block.language == "console":
            yield from _transcript(page.name, block)
        elif block.language == "python":
            source = tools / f"{block.line}.py"
            # With the lines before it, so that a traceback names the lines of the page.
            source.write_text("\n" * (block.line - 1) + block.code, encoding="utf-8")
            name = block.name or f"line_{block.line}.py"
            run = "" if block.name else f"python {name}\nrm {name}\n"
            if block.name and not any(_uses(later, name) for later in blocks[number + 1 :]):
                raise PageError(f"{page.name}:{block.line}: no later block uses {name}")
            yield Step(block.line, f"{_BEGIN}cp '{source}' {name}\n{run}")


def _uses(block: Block, name: str) -> bool:
    module = name.removesuffix(".py")
    if block.language == "python":
        return re.search(rf"^(from|import) {re.escape(module)}\b", block.code, re.MULTILINE) is not None
    is_collected = name.startswith("test_") or name == "conftest.py"
    return block.language in ("sh", "console") and (
        name in block.code or (is_collected and "pytest" in block.code)
    )


def _transcript(page: str, block: Block) -> Iterator[Step]:
    found: list[tuple[int, list[str], list[str]]] = []
    for number, text in enumerate(block.code.splitlines(), block.line):
        if text.startswith("$ "):
            found.append((number, [text[2:]], []))
        elif not found:
            raise PageError(f"{page}:{number}: a transcript begins with `$ ` and a command")
        elif text.startswith("> ") and not found[-1][2]:
            found[-1][1].append(text[2:])
        else:
            found[-1][2].append(text)
    for (line, command, shown), following in zip(found, [*found[1:], None], strict=True):
        may_fail = following is not None and following[1] == [_EXIT_CODE]
        script = "\n".join(
            ["set +e +o pipefail", "(exit $_status)", *command, "_status=$?", "set -eo pipefail"]
        )
        if line == block.line:
            script = _BEGIN + script
        yield Step(line, script, "\n".join(shown), may_fail)


# --- run ---------------------------------------------------------------------------------------------------


def _run(page: str, steps: list[Step], work: Path, tools: Path, timeout_s: float) -> None:
    mark = f"mark-{secrets.token_hex(8)}"
    script = tools / "session.sh"
    script.write_text(
        _OPENING + "".join(f"{step.script}\nprintf '\\n{mark} %d\\n' $_status\n" for step in steps)
    )
    output = tools / "output"
    earlier = process_tree.living_descendants()
    with output.open("wb") as file:
        # A file, not a pipe: nobody waits for what a background job may still print.
        session = subprocess.Popen(
            ["bash", str(script)],
            cwd=work,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=_environment(tools),
            start_new_session=True,
        )
        try:
            code: int | str = session.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = f"none within {timeout_s:.0f} s"
            process_tree.end(process_tree.living_descendants() - earlier)
        finally:
            session.kill()
            session.wait()
    *done, rest = re.split(rf"\n{mark} (\d+)\n", output.read_text(encoding="utf-8", errors="replace"))
    printed, statuses = done[::2], [int(status) for status in done[1::2]]
    for step, text, status in zip(steps, printed, statuses, strict=False):
        _judge(page, step, text, status)
    if len(statuses) < len(steps):
        step = steps[len(statuses)]
        raise PageError(f"{page}:{step.line}: failed, exit code {code}; it printed:\n{rest}")


def _environment(tools: Path) -> dict[str, str]:
    commands = tools / "bin"
    commands.mkdir()
    for name, arguments in _COMMANDS.items():
        command = commands / name
        command.write_text(f"#!/bin/sh\nexec '{sys.executable}' {' '.join(arguments)} \"$@\"\n")
        command.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHONDONTWRITEBYTECODE": "1",  # a page may show what stands in its directory
        "PYTHONWARNINGS": "error",
        "TERM": "dumb",
    }
    for name in ("PYTHONSAFEPATH", "MPCHECKPOINT_STORE", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
        environment.pop(name, None)
    return environment


def _judge(page: str, step: Step, printed: str, status: int) -> None:
    where = f"{page}:{step.line}"
    if status and not step.may_fail:
        raise PageError(
            f"{where}: exit code {status} and no `$ {_EXIT_CODE}` behind it; it printed:\n{printed}"
        )
    if step.shown is not None and not is_like(printed, step.shown):
        raise PageError(f"{where}: shown is\n{step.shown}\nbut it printed\n{printed}")


def is_like(printed: str, shown: str) -> bool:
    """Return whether a command printed what a transcript shows, with its `...` for what varies."""
    pattern = "".join(
        r"(?:.*\n)*" if line.strip() == "..." else ".*".join(map(re.escape, line.split("..."))) + r"[ \t]*\n"
        for line in shown.rstrip().splitlines()
    )
    return re.fullmatch(pattern, printed.rstrip() + "\n" if printed.strip() else "") is not None
