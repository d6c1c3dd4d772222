"""Logs of format version 1 read as they always did.

tests/golden/README.md tells what the files are. They are never made again: a test that fails here says that a release
can no longer read what an earlier one wrote.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint._format.codec import decode_event, encode_payload, record_id_of
from mpcheckpoint._format.control import (
    Header,
    UnknownControlError,
    control_name,
    encode_header,
    parse_header,
)
from mpcheckpoint._format.frame import Payload, encode_batch
from mpcheckpoint._format.names import file_name
from mpcheckpoint._format.scan import Scan, Stop, scan
from mpcheckpoint.errors import CorruptLogError, FormatVersionError
from support.checkout import GOLDEN

if TYPE_CHECKING:
    from mpcheckpoint._format.frame import Line

NAMES = sorted(path.stem for path in GOLDEN.glob("*.jsonl"))
READABLE = {"whole", "padded", "torn"}
STOPS = {
    "whole": {Stop.END},
    "padded": {Stop.PADDING},
    "torn": {Stop.INCOMPLETE, Stop.DAMAGED},
    "corrupt": {Stop.DAMAGED},
    "unknown": {Stop.END},
}


class Golden:
    """A golden log, and what was written down by hand about it."""

    def __init__(self, name: str) -> None:
        self.data = (GOLDEN / f"{name}.jsonl").read_bytes()
        self.expected: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
        self.outcome: str = self.expected["outcome"]

    def decode(self) -> tuple[Header, Scan]:
        header = parse_header(self.data)
        assert isinstance(header, Header)
        return header, scan(self.data[header.end.offset :], header.end)

    def store(self, base: Path) -> Path:
        """Make a store of nothing but this log."""
        directory = base / ".checkpoint"
        directory.mkdir()
        (directory / f"{self.expected['file_name']}.jsonl").write_bytes(self.data)
        return base

    def events(self) -> dict[str, list[Any]]:
        events: dict[str, list[Any]] = {}
        for _, _, _, object_key, event, _ in self.expected["lines"]:
            events.setdefault(object_key, []).append(event)
        return events


@pytest.fixture(params=NAMES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


@pytest.fixture(params=[name for name in NAMES if Golden(name).outcome in STOPS])
def decodable(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


@pytest.fixture(params=[name for name in NAMES if Golden(name).outcome in READABLE])
def readable(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


def test_golden_directory_has_an_expectation_for_every_log() -> None:
    assert len(NAMES) >= 8
    assert [path.stem for path in sorted(GOLDEN.glob("*.json"))] == NAMES


def test_golden_log_bytes_were_never_changed(golden: Golden) -> None:
    assert hashlib.sha256(golden.data).hexdigest() == golden.expected["sha256"]


def test_golden_log_decodes_to_the_lines_written_down(decodable: Golden) -> None:
    header, found = decodable.decode()
    expected = decodable.expected
    known = [
        line for line in found.lines if decodable.outcome != "unknown" or line.end <= expected["ends_at"]
    ]

    assert header[:4] == (
        expected["log_key"],
        expected["generation"],
        expected["created_us"],
        tuple(expected["previous"]),
    )
    # repr tells 0.0 from -0.0, 1 from 1.0 and from True.
    assert repr([described(line) for line in known if line.object_key is not None]) == repr(expected["lines"])
    controls = [line for line in found.lines if line.object_key is None]
    assert [[line.offset, line.stamp_us, decode_event(line.event)] for line in controls] == expected[
        "controls"
    ]
    assert found.stop in STOPS[decodable.outcome]
    if decodable.outcome != "unknown":
        assert found.end.offset == expected["ends_at"]


def described(line: Line) -> list[Any]:
    event = decode_event(line.event)
    return [line.offset, line.stamp_us, line.more, line.object_key, event, record_id_of(line.meta)]


def test_golden_log_is_what_the_code_writes_today(decodable: Golden) -> None:
    header, found = decodable.decode()
    written, end = encode_header(*header[:3], stamp_us=header.end.stamp_us, previous=header.previous)
    batch: list[Payload] = []
    for line in found.lines:
        batch.append(payload_of(line))
        if line.more == 0:
            data, end = encode_batch(batch, end=end, stamp_us=line.stamp_us, durable=line.durable)
            written += data
            batch = []

    assert written == decodable.data[: found.end.offset]


def payload_of(line: Line) -> Payload:
    if line.object_key is None:
        return Payload(b"null", line.event, line.meta)
    return encode_payload(line.object_key, decode_event(line.event), record_id_of(line.meta))


def test_golden_log_stands_under_the_file_name_written_down(golden: Golden) -> None:
    assert file_name(golden.expected["log_key"]) == golden.expected["file_name"]


def test_golden_log_reads_through_the_library(readable: Golden, tmp_path: Path) -> None:
    with Checkpoint(readable.store(tmp_path), read_only=True) as checkpoint:
        assert checkpoint.logs() == [readable.expected["log_key"]]
        assert repr({key: list(events) for key, events in checkpoint.items()}) == repr(readable.events())
        records = list(checkpoint.log(readable.expected["log_key"]).read())

    assert [record.record_id for record in records] == [line[5] for line in readable.expected["lines"]]
    assert [record.stamp_us for record in records] == [line[1] for line in readable.expected["lines"]]


def test_golden_log_takes_appends_and_reads_again(readable: Golden, tmp_path: Path) -> None:
    base = readable.store(tmp_path)
    with Checkpoint(base) as checkpoint:
        log = checkpoint.log(readable.expected["log_key"])
        log.append("new", "appended")
        assert [repair.offset for repair in log.repairs()] == (
            [readable.expected["ends_at"]] if readable.outcome == "torn" else []
        )
    with Checkpoint(base, read_only=True) as checkpoint:
        events = {key: list(events) for key, events in checkpoint.items()}

    assert repr(events) == repr(readable.events() | {"new": ["appended"]})


def test_golden_log_with_a_wrong_bit_is_refused_as_corrupt(tmp_path: Path) -> None:
    golden = Golden("corrupt")
    with Checkpoint(golden.store(tmp_path), read_only=True) as checkpoint:
        with pytest.raises(CorruptLogError) as caught:
            checkpoint.getCheckpointKeys()
        assert caught.value.offset == golden.expected["ends_at"]
        reader = checkpoint.log("corrupt").read()
        records = [next(reader).event for _ in golden.expected["lines"]]
        with pytest.raises(CorruptLogError):
            next(reader)

    assert records == [line[4] for line in golden.expected["lines"]]


def test_golden_log_with_a_control_line_of_the_future_is_refused_as_newer(tmp_path: Path) -> None:
    golden = Golden("unknown")
    _, found = golden.decode()
    with pytest.raises(UnknownControlError):
        control_name(found.lines[1])
    with (
        Checkpoint(golden.store(tmp_path), read_only=True) as checkpoint,
        pytest.raises(FormatVersionError) as caught,
    ):
        checkpoint.getCheckpointKeys()

    assert caught.value.offset == golden.expected["ends_at"]


def test_golden_log_of_another_version_is_refused_as_newer(tmp_path: Path) -> None:
    golden = Golden("newer")
    base = golden.store(tmp_path)
    with Checkpoint(base, read_only=True) as checkpoint, pytest.raises(FormatVersionError, match="version 2"):
        checkpoint.getCheckpointKeys()
    with Checkpoint(base) as checkpoint, pytest.raises(FormatVersionError, match="version 2"):
        checkpoint.log("newer")

    assert (base / ".checkpoint" / "newer.jsonl").read_bytes() == golden.data
