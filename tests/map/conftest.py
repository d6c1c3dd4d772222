"""What tests of the map begin with."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from mpcheckpoint import Checkpoint, Log

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def log(store: Path) -> Log:
    """A log that holds nothing yet."""
    return Checkpoint(store).log("a")


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Four threads: where the test is not about processes they are quicker to start."""
    with ThreadPoolExecutor(4) as executor:
        yield executor
