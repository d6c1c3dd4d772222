"""What the benchmarks share: options, a place to work in, the environment, the report.

A figure is a median over rounds. Within a round the engines take turns, so that whatever else the machine does hits
all of them alike, and engines are compared by their ratio within a round, never by absolute figures of different runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import sqlite3
import sys
import tempfile
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines import BASELINE, ENGINES, OURS, installed

import mpcheckpoint
from mpcheckpoint import _core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

RAM_DISK = Path("/dev/shm")
_RAM_FILE_SYSTEMS = ("tmpfs", "ramfs")
_MOUNTS = Path("/proc/self/mountinfo")


# --- options -----------------------------------------------------------------------------------------------


def parser(description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--rounds", type=positive(int), default=rounds, help="default: %(default)s")
    options.add_argument(
        "--directory", type=directory, help="where; default: a temporary one in the current one"
    )
    options.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    return options


def add_engines(options: argparse.ArgumentParser, default: Sequence[str] = tuple(ENGINES)) -> None:
    """Add the option that chooses the engines."""
    options.add_argument(
        "--engines",
        nargs="+",
        choices=ENGINES,
        default=list(default),
        metavar="ENGINE",
        help=f"of {', '.join(ENGINES)}; default: {'all' if tuple(default) == tuple(ENGINES) else ' '.join(default)}; "
        f"{BASELINE} takes part in any case",
    )


def chosen_engines(chosen: argparse.Namespace) -> list[str]:
    """Return the engines that were chosen and are installed, the baseline among them; say how they are set up."""
    present = installed()
    names = [name for name in ENGINES if name in chosen.engines or name == BASELINE]
    for name in names:
        engine = ENGINES[name]
        if name in present:
            print(f"{name}: {engine.setting} [{engine.source}]")
        else:
            print(f"{name}: skipped, the package {engine.module} is not installed")
    return [name for name in names if name in present]


def positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    """Return what turns an option into a number above zero."""

    def parse(text: str) -> float:
        number = kind(text)
        if not 0 < number < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not above zero")
        return number

    return parse


def directory(text: str) -> Path:
    """Turn an option into a directory that exists."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory {text}")
    return path


# --- where it runs -----------------------------------------------------------------------------------------


@contextmanager
def work_directory(parent: Path | None) -> Iterator[Path]:
    """Give a fresh directory below ``parent`` or the current directory, and remove it afterwards."""
    source = source_digest()
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=parent or Path.cwd()) as name:
        if is_ram_disk(Path(name)) and parent != RAM_DISK:
            print(f"{parent or 'the current directory'} has no disk under it: --directory", file=sys.stderr)
        yield Path(name)
    if source_digest() != source:
        print("the package was changed during the run: some figures are the old code's", file=sys.stderr)


def ram_disk() -> Path | None:
    """Return the place that has no disk under it, if there is one."""
    return RAM_DISK if RAM_DISK.is_dir() and is_ram_disk(RAM_DISK) else None


def is_ram_disk(path: Path) -> bool:
    """Return whether no disk is under ``path``."""
    return file_system_of(path) in _RAM_FILE_SYSTEMS


def source_digest() -> str:
    """Return what tells one state of the package's source from another: processes started later import it anew."""
    digest = hashlib.sha256()
    package = Path(mpcheckpoint.__file__).parent
    for path in sorted([*package.rglob("*.py"), *package.glob("_native*")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def environment(path: Path) -> dict[str, str]:
    """Return what a figure depends on: machine, file system of ``path``, versions."""
    return {
        "cpus": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "file system": file_system_of(path),
        "python": platform.python_version(),
        OURS: f"{mpcheckpoint.__version__} ({source_digest()})",
        "core": _core.kind,
        BASELINE: sqlite3.sqlite_version,
        **{
            name: _version(name)
            for name in ("msgspec", "portalocker", "filelock", "lmdb", "optuna", "diskcache")
        },
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def file_system_of(path: Path) -> str:
    """Return the type of the file system that holds ``path``, or "unknown"."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = _MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return "unknown"
    return next(
        (line.partition(" - ")[2].split()[0] for line in mounts if line.split()[2] == number), "unknown"
    )


def line_of(facts: Mapping[str, str]) -> str:
    """Return the environment as one line."""
    return ", ".join(f"{name} {value}" for name, value in facts.items())


# --- report ------------------------------------------------------------------------------------------------


def show_environment(path: Path) -> dict[str, str]:
    """Print the environment as one line, and return it."""
    facts = environment(path)
    print(line_of(facts), flush=True)
    return facts


def settings(names: Sequence[str]) -> dict[str, str]:
    """Return how these engines are set up."""
    return {name: ENGINES[name].setting for name in names}


def write_json(path: Path | None, *, results: Sequence[Mapping[str, Any]], **report: Any) -> None:
    """Write a report, and the command that repeats it, if ``--json`` was given; a line a result, for small diffs."""
    if path is None:
        return
    script = Path(sys.argv[0]).resolve()
    report["command"] = ["python", f"{script.parent.name}/{script.name}", *sys.argv[1:]]
    head = json.dumps(report, indent=1).removesuffix("\n}")
    rows = ",\n  ".join(json.dumps(_shortened(row)) for row in results)
    path.write_text(f'{head},\n "results": [\n  {rows}\n ]\n}}\n', encoding="utf-8")


def _shortened(value: Any) -> Any:
    """Return a result without digits that mean nothing."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {name: _shortened(each) for name, each in value.items()}
    return [_shortened(each) for each in value] if isinstance(value, list | tuple) else value
