"""How often the tests did what they are counted by: kills, power cuts, truncations, bit flips.

Printed at the end of a run, summed over its workers, because "at least 200 kills" is otherwise only a belief.
"""

from __future__ import annotations

from collections import Counter

_counts: Counter[str] = Counter()


def add(what: str, times: int = 1) -> None:
    """Count ``times`` more of ``what``. Only in the test's own process: a child's count is lost with it."""
    _counts[what] += times


def counts() -> dict[str, int]:
    """Return what was counted so far, in this process and in the workers that reported."""
    return dict(_counts)


def merge(counts_of_worker: dict[str, int]) -> None:
    """Add what a worker counted."""
    _counts.update(counts_of_worker)
