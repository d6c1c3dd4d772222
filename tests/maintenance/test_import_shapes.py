"""The quick look at many lines finds what a look at each line finds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hypothesis import example, given
from hypothesis import strategies as st

from mpcheckpoint._maintenance.imports.intake import Intake, Mark
from mpcheckpoint._maintenance.imports.shapes import Fields, FoundRecord, NotARecordError
from mpcheckpoint._maintenance.imports.sources import SourcePiece

if TYPE_CHECKING:
    from mpcheckpoint.errors import BadLineError

VALUES = st.one_of(
    st.fixed_dictionaries(
        {"object_key": st.one_of(st.text(max_size=3), st.integers()), "event": st.integers()}
    ),
    st.fixed_dictionaries({"object_key": st.text(max_size=3)}),
    st.lists(st.integers(), max_size=2),
)
LINE = st.one_of(
    VALUES.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(
        [b"", b" ", b"{", b'{"object_key":"a","event":NaN}', b'{"object_key":\r"a","event":1}', b"}"]
    ),
    st.just(b'{"object_key":"a","event":1}{"object_key":"a","event":1}'),
)


def found_one_by_one(shape: Fields, data: bytes) -> list[FoundRecord] | None:
    """Return the records where each line holds exactly one; else None."""
    found: list[FoundRecord] = []
    for line in data.split(b"\n")[:-1]:
        try:
            here = shape.find(line, 1) if line.strip() else []
        except NotARecordError:
            return None
        if len(here) != 1:
            return None
        found += here
    return found


@given(st.lists(LINE, min_size=1, max_size=5), st.sampled_from([None, "event"]))
@example([b'{"object_key":', b'"a","event":1}'], "event")
@example([b'{"object_key":"a","event":1}', b""], "event")
def test_quick_look_at_lines_finds_what_a_look_at_each_finds(parts: list[bytes], field: str | None) -> None:
    data = b"\n".join(parts) + b"\n"
    shape = Fields("object_key", field)

    found = shape.find_in_all(data)

    if found is not None:
        assert found == found_one_by_one(shape, data)


@given(st.lists(LINE, min_size=1, max_size=8), st.data())
def test_pieces_of_any_size_give_the_same_records(parts: list[bytes], data: st.DataObject) -> None:
    text = b"\n".join(parts) + b"\n"
    cuts = sorted(data.draw(st.sets(st.sampled_from([at + 1 for at, byte in enumerate(text) if byte == 10]))))

    def taken(*pieces: bytes) -> tuple[Any, ...]:
        bad: list[tuple[int, int]] = []

        def note(error: BadLineError) -> None:
            bad.append((error.line, error.offset or 0))

        intake = Intake("source", Fields("object_key", "event"), Mark(0, 0, 0), note)
        batches = [intake.take(SourcePiece(piece)) for piece in pieces if piece]
        payloads = [payload for batch in batches for payload in batch.payloads]
        return payloads, batches[-1].end, sorted(bad), intake.skipped

    pieces = [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert taken(*pieces) == taken(text)
