"""What a hostile review broke in views: writes that end while a reader judges them, cuts over several logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint._logfile import read as reader_module
from mpcheckpoint.errors import CorruptLogError
from support.verbs import Faults, become_a_new_process, log_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.mark.guarantee(4)
@pytest.mark.parametrize("at_look", [1, 2])
def test_write_that_ends_while_a_reader_judges_it_is_seen_at_the_next_look(
    at_look: int, store: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append("x", 1)
    whole = log_file(store).read_bytes()
    become_a_new_process()  # which knows nothing of what is durable
    log_file(store).write_bytes(whole[:-10])
    reader = Checkpoint(store, read_only=True)
    looks = 0

    def replay(*args: Any, **how: Any) -> Iterator[Any]:
        nonlocal looks
        for result in real_replay(*args, **how):
            looks += result.damage is not None
            if looks == at_look:
                log_file(store).write_bytes(whole)  # the writer goes on while the reader stands still
            yield result

    real_replay = reader_module.replay
    monkeypatch.setattr(reader_module, "replay", replay)
    for _ in range(at_look):
        assert reader["x"] in ((0,), (0, 1))

    assert reader["x"] == (0, 1)


@pytest.mark.guarantee(6)
def test_log_found_shortened_is_refused_at_every_try(store: Path, log: Log) -> None:
    older = log_file(store).read_bytes()
    log.append("x", 1)
    log_file(store).write_bytes(older)

    for _ in range(3):
        with pytest.raises(CorruptLogError, match="knows to be durable"):
            log.append("x", 2)
        assert log_file(store).read_bytes() == older


@pytest.mark.guarantee(3)
def test_snapshot_over_logs_holds_no_effect_without_its_cause(store: Path, faults: Faults) -> None:
    causes, effects = (Checkpoint(store).log(log_key) for log_key in ("a", "b"))
    reader = Checkpoint(store, read_only=True)
    assert len(reader) == 0

    def write_first(real: Any, *args: Any) -> Any:
        causes.append("cause", 1)
        effects.append("effect", 1)
        return real(*args)

    faults.act("read_at", write_first, on=r"b\.jsonl$")  # when the first log was passed already

    assert list(reader.snapshot()) == ["cause", "effect"]
