"""Optuna's own tests of a storage, from its wheel, on a journal in a log: in a directory, and on a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from optuna.storages import JournalStorage
from optuna.testing.pytest_storages import StorageTestCase

from mpcheckpoint.optuna import JournalBackend

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.usefixtures("without_syncs")
class TestStorageInDirectory(StorageTestCase):
    """What Optuna asks of every storage."""

    @pytest.fixture
    def storage(self, tmp_path: Path) -> JournalStorage:
        """Return the storage that its tests are about."""
        return JournalStorage(JournalBackend(tmp_path / "study"))


@pytest.mark.slow  # here, not in the list of slow tests: their names are Optuna's
class TestStorageOnServer(StorageTestCase):
    """What Optuna asks of every storage."""

    @pytest.fixture
    def storage(self, postgres_database: str) -> JournalStorage:
        """Return the storage that its tests are about."""
        return JournalStorage(JournalBackend(postgres_database))
