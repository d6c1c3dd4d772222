"""Records and claims in one step of the native core: what they are is what scanning the lines comes to."""

from __future__ import annotations

from typing import Any

import pytest

from mpcheckpoint import _core
from mpcheckpoint._format.blocks import canonical_records
from mpcheckpoint._format.columns import canonical_lines
from mpcheckpoint._format.control import Note, note_of, note_payload
from mpcheckpoint._format.frame import MAX_BATCH_BYTES, EndState, Payload, encode_batch
from mpcheckpoint._logfile import new_lines
from support.capabilities import native_core_in_use
from support.leaks import CALLS, require_no_leak
from support.scan_fuzz import START, Forger, forged

LOGS = 5000
CLAIMS = [
    note_payload(Note("claim", {"object_key": "item-1", "worker": "0" * 32})),
    note_payload(Note("claim", {"object_key": "ü", "worker": None})),
    note_payload(Note("claim", {"object_key": "", "worker": ""})),
]
# What is not as claims write it, and stands there as its bytes.
OTHERS = [
    note_payload(Note("claim", {"object_key": 'a "key"', "worker": None})),
    note_payload(Note("claim", {"object_key": "x", "worker": "\n"})),
    note_payload(Note("claim", {"worker": None, "object_key": "x"})),
    note_payload(Note("claim", {"object_key": "x", "worker": None, "more": 1})),
    note_payload(Note("claim", {"object_key": "x"})),
    note_payload(Note("claim", {"object_key": 7, "worker": None})),
    note_payload(Note("claim", {"object_key": "x", "worker": True})),
    note_payload(Note("map", {"object_key": "x", "worker": None})),
    Payload(b"null", b'{"control":"claim","object_key":"x","worker":null}'),
    Payload(b"null", b'{"control":"claim","ignorable":false,"object_key":"x","worker":null}'),
    Payload(b"null", b'{"control":"sealed","next":"x"}'),
]


@pytest.fixture(autouse=True, scope="module")
def native() -> Any:
    """The native core, in use also where it was told not to run."""
    with native_core_in_use() as found:
        yield found


def require_alike(data: bytes, start: EndState = START) -> bool:
    """Require of records and claims to be what the lines are; return whether there were any."""
    found = canonical_records(data, start, Note, most_batch_bytes=MAX_BATCH_BYTES)
    lines, whole = canonical_lines(data, start, most_batch_bytes=MAX_BATCH_BYTES) or ([], 0)
    if not lines or whole != len(lines):
        assert found is None
        return False
    assert found is not None
    records, notes, stamps_us, end, durable = found
    assert list(records) == [line for line in lines if line.object_key is not None]
    controls = [line for line in lines if line.object_key is None]
    assert stamps_us == [line.stamp_us for line in controls]
    assert end == EndState(lines[-1].end, lines[-1].stored_crc, lines[-1].stamp_us)
    assert durable == max(line.durable for line in lines)
    for note, line in zip(notes, controls, strict=True):
        assert note == line.event or (note.name == "claim" and note == note_of(line))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_core, "native", None)
        alone = new_lines._found_in(data, start)
    assert alone is not None
    assert (
        alone[:5] == found or alone.end.offset > end.offset
    )  # Python takes lines that the writer does not make
    return True


def batch(*payloads: Payload) -> bytes:
    data, _ = encode_batch(list(payloads), end=START, stamp_us=START.stamp_us + 1, durable=17)
    return data


@pytest.mark.parametrize("claim", CLAIMS)
def test_claim_as_our_writer_makes_it_is_a_note(claim: Payload) -> None:
    data = batch(Payload(b'"x"', b"1"), claim, Payload(b'"y"', b"[2]"), claim)

    assert require_alike(data)
    found = canonical_records(data, START, Note, most_batch_bytes=MAX_BATCH_BYTES)
    assert found is not None
    assert [type(note) for note in found[1]] == [Note, Note]


@pytest.mark.parametrize("other", OTHERS)
def test_control_line_that_is_no_usual_claim_stands_there_as_its_bytes(other: Payload) -> None:
    data = batch(other, CLAIMS[0])

    assert require_alike(data)
    found = canonical_records(data, START, Note, most_batch_bytes=MAX_BATCH_BYTES)
    assert found is not None
    assert found[1][0] == other.event


def test_claims_alone_are_no_records(native: Any) -> None:
    assert require_alike(batch(*CLAIMS))


def test_batch_that_is_not_whole_is_left_alone() -> None:
    data = batch(Payload(b'"x"', b"1"), *CLAIMS)

    for size in range(len(data)):
        assert not require_alike(data[:size])


def test_random_logs_come_to_the_same_as_their_lines() -> None:
    forger = Forger(7)
    payloads = [*CLAIMS, *OTHERS]
    taken = 0
    for _ in range(LOGS):
        lines = forger.fields()
        for at, fields in enumerate(lines):
            if forger.random.random() < 0.4:
                stamp_us, durable, more = fields.split(b",")[:3]
                lines[at] = b",".join(
                    (stamp_us, durable, more, b"null", forger.random.choice(payloads).event, b"null")
                )
        data = forged(lines)
        for _ in range(forger.random.choice([0, 0, 1])):
            data = forger.random.choice([forger._flipped, forger._torn, forger._spliced, forger._padded])(
                data
            )
        taken += require_alike(data)
    assert taken > LOGS // 3


@pytest.mark.parametrize(
    "arguments", [(), (b"", 0, 0, 0, 0), (b"", 0, 0, 0, 0, Note, 1), ("", 0, 0, 0, 0, Note)]
)
def test_wrong_arguments_are_refused(native: Any, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        native.records(*arguments)


def test_note_type_that_raises_is_told_of(native: Any) -> None:
    with pytest.raises(TypeError):
        native.records(batch(*CLAIMS), *START, MAX_BATCH_BYTES, None)


def test_records_leave_no_memory_behind(native: Any, intensity: int) -> None:
    data, other = batch(Payload(b'"x"', b'{"a":1}'), *CLAIMS, OTHERS[0]), b"x" * 200
    shared = (data, Note, None)

    def call() -> None:
        native.records(data, *START, MAX_BATCH_BYTES, Note)
        native.records(other, *START, MAX_BATCH_BYTES, Note)

    require_no_leak(call, shared, calls=CALLS * intensity)
