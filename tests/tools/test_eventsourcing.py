"""The recorder on a log passes the tests that the package ``eventsourcing`` has for recorders."""

from __future__ import annotations

import importlib.util
import tempfile
from typing import TYPE_CHECKING, Any

from eventsourcing.tests import persistence as recorders

from mpcheckpoint import Checkpoint
from support.checkout import ROOT

if TYPE_CHECKING:
    from types import ModuleType


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


class TestAggregateRecorder(OnALog, recorders.AggregateRecorderTestCase):
    recorder_type = "LogAggregateRecorder"


class TestApplicationRecorder(OnALog, recorders.ApplicationRecorderTestCase):
    recorder_type = "LogApplicationRecorder"


class TestNotificationIds(OnALog, recorders.NonInterleavingNotificationIDsBaseCase):
    recorder_type = "LogApplicationRecorder"
    insert_num = 100
