"""The stores of these tests: one in a directory, and one on a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["directory", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store is to stand: a directory, or an address."""
    if request.param == "directory":
        return str(tmp_path / "store")
    address: str = request.getfixturevalue("postgres_database")
    return f"{address}#run"
