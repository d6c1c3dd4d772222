"""Faults planted in the engine in memory: each names the tests of the conformance suite that must find it.

`stores`, `logs`, `conditions`, `readers`, `looks`, `losses`, `lost_answers`, `compactions`, `moves` and `workers` hold
the faulty parts; importing one of them fills `PLANTED`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from support.memory_storage import MemoryLog, MemoryReader, MemoryStore
from support.memory_workers import MemoryWorkers

if TYPE_CHECKING:
    from collections.abc import Callable

# Long enough for another thread to get between.
PAUSE_S = 0.002


class Planted(NamedTuple):
    """A fault: the engine that has it, and the tests that must find it."""

    store_type: type[MemoryStore]
    found_by: tuple[str, ...]

    def __str__(self) -> str:
        return self.store_type.__name__


PLANTED: list[Planted] = []


def found_by(*tests: str) -> Callable[[type], type]:
    """Have a faulty part of the engine in memory listed with the tests that must find it."""

    def plant(part: type) -> type:
        PLANTED.append(Planted(_store_with(part), tests))
        return part

    return plant


def _store_with(part: type) -> type[MemoryStore]:
    if issubclass(part, MemoryStore):
        return part
    if issubclass(part, MemoryWorkers):
        return type(part.__name__, (MemoryStore,), {"workers_type": part})
    log_type = (
        type(part.__name__, (MemoryLog,), {"reader_type": part}) if issubclass(part, MemoryReader) else part
    )
    return type(part.__name__, (MemoryStore,), {"log_type": log_type})
