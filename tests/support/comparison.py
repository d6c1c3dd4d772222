"""What both programs that compare the native core with Python alone do: arguments, counts, what is told."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from mpcheckpoint import _core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def compare(
    description: str | None, what: str, differences: Callable[[int, int], Iterator[str | tuple[object, ...]]]
) -> int:
    """Compare so many as the command line says; return an exit code.

    Args:
        description: of the program.
        what: is compared, in the plural.
        differences: given how many and a seed, yields the kind of each that is alike, or a tuple that shows one that is
            not.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(f"--{what}", dest="count", type=int, default=20_000, metavar="N")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    if _core.native is None:
        sys.exit(f"nothing to compare: {_core.description()}")
    counts: Counter[str] = Counter()
    for found in differences(options.count, options.seed):
        if not isinstance(found, str):
            sys.stdout.write("\n".join(map(repr, found)) + "\n")
            return 1
        counts[found] += 1
    sys.stdout.write(f"{options.count} {what}, seed {options.seed}, all alike: {json.dumps(counts)}\n")
    return 0
