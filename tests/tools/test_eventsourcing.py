"""The recorder on a log passes the tests that the package ``eventsourcing`` has for recorders, if it is installed."""

from __future__ import annotations

import importlib.util
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from support.checkout import ROOT

if TYPE_CHECKING:
    from types import ModuleType

recorders = pytest.importorskip("eventsourcing.tests.persistence", exc_type=ImportError)


def _recorder_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("event_recorder", ROOT / "benchmarks" / "event_recorder.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class OnALog:
    """A store of its own for each test."""

    recorder_type: str

    def setUp(self) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self._checkpoint = Checkpoint(f"{self._directory.name}/store", durability="never")

    def tearDown(self) -> None:
        self._checkpoint.close()
        self._directory.cleanup()

    def create_recorder(self) -> Any:
        return getattr(_recorder_module(), self.recorder_type)(self._checkpoint.log("events"))


class TestAggregateRecorder(OnALog, recorders.AggregateRecorderTestCase):  # type: ignore[misc, name-defined]
    recorder_type = "LogAggregateRecorder"


class TestApplicationRecorder(OnALog, recorders.ApplicationRecorderTestCase):  # type: ignore[misc, name-defined]
    recorder_type = "LogApplicationRecorder"


class TestNotificationIds(OnALog, recorders.NonInterleavingNotificationIDsBaseCase):  # type: ignore[misc, name-defined]
    recorder_type = "LogApplicationRecorder"
    insert_num = 100
