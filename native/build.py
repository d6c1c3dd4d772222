"""Build the native core without pip: into the checkout's package, or elsewhere, also with sanitizers.

    python native/build.py                        into mpcheckpoint/ of this checkout, for editable installs
    python native/build.py --sanitize             with address and undefined-behaviour sanitizers (README.md)
    python native/build.py --into DIR --source S  what the tests use

What `pip install` builds is told to setuptools in setup.py, from the same list of files and with the same flags.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = (
    *("crc.c", "json.c", "lines.c", "columns.c", "block.c", "count.c", "recode.c", "bodies.c"),
    *(
        "numbers.c",
        "tally.c",
        "encode.c",
        "state.c",
        "append.c",
        "queued.c",
        "commit.c",
        "page.c",
        "system.c",
        "module.c",
    ),
)
HEADERS = ("core.h", "page.h", "state.h")
# One file for every Python from 3.11 on.
STABLE_ABI = ("Py_LIMITED_API", "0x030B0000")
FILE_NAME = "_native.abi3.so"
FLAGS = ("-std=c11", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra")
_SANITIZED = (
    "-O1",
    "-g",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
)
_SHARED = ("-bundle", "-undefined", "dynamic_lookup") if sys.platform == "darwin" else ("-shared", "-pthread")


def compiler() -> list[str]:
    """Return the command of the C compiler: what CC says, else what built this Python, else cc."""
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def build(into: Path, *, source: Path = HERE, is_sanitized: bool = False) -> Path:
    """Compile the core into a directory, with every warning an error; return the file.

    Raises:
        OSError: there is no compiler.
        subprocess.CalledProcessError: it refused; what it said went to standard error.
    """
    target = into / FILE_NAME
    # Beside it first: a process may have the old one mapped, and one that is written over would crash it.
    made = into / f"{FILE_NAME}.{os.getpid()}.tmp"
    flags = [*FLAGS, *(_SANITIZED if is_sanitized else ()), "-Werror", "-fPIC", f"-D{'='.join(STABLE_ABI)}"]
    includes = [f"-I{sysconfig.get_path(name)}" for name in ("include", "platinclude")]
    files = [str(source / name) for name in SOURCES]
    subprocess.run([*compiler(), *flags, *includes, *files, *_SHARED, "-o", str(made)], check=True)
    made.replace(target)
    return target


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--into", type=Path, default=HERE.parent / "mpcheckpoint", metavar="DIR")
    parser.add_argument("--source", type=Path, default=HERE, metavar="DIR")
    parser.add_argument("--sanitize", action="store_true")
    options = parser.parse_args()
    made = build(options.into, source=options.source, is_sanitized=options.sanitize)
    sys.stdout.write(f"{made}\n")


if __name__ == "__main__":
    main()
