"""What was attempted and what was acknowledged, recorded where no crash of the store reaches it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mpcheckpoint.checkpoint import Checkpoint
from mpcheckpoint.errors import CheckpointError, OutcomeUnknownError, PoisonedLogError
from mpcheckpoint.log import handle_of
from mpcheckpoint.testing._simulation.processes import restart

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from mpcheckpoint._types import Position, Record
    from mpcheckpoint.log import Log

_PROBE = "appended after a crash"


@dataclass(frozen=True)
class Attempt:
    """An append of a batch to a log, and its outcome as the caller saw it.

    Attributes:
        log_key, records: the log, and the pairs of object key and event of the batch.
        is_acknowledged: the append returned: the batch survives the death of any process.
        is_durable: it was acknowledged as durable: the batch survives loss of power.
        is_refused: it raised an error that says that nothing was written: the batch is not there.
    """

    log_key: str
    records: tuple[tuple[str, Any], ...]
    is_acknowledged: bool = False
    is_durable: bool = False
    is_refused: bool = False


@dataclass
class Ledger:
    """Appends for a scenario, and records the outcomes.

    Requires: no two records of a log are equal.
    """

    attempts: list[Attempt] = field(default_factory=list)

    def append(self, log: Log, object_key: str, event: Any, **options: Any) -> Position:
        """Append one event as ``Log.append`` does, and record the outcome."""
        with self._recorded(log, [(object_key, event)], options):
            return log.append(object_key, event, **options)

    def append_many(self, log: Log, records: Iterable[tuple[str, Any]], **options: Any) -> Position | None:
        """Append a batch as ``Log.append_many`` does, and record the outcome."""
        batch = list(records)
        with self._recorded(log, batch, options):
            return log.append_many(batch, **options)

    def flushed(self, log: Log) -> None:
        """Flush a log, and record that all it has acknowledged is durable."""
        log.flush()
        for number, attempt in enumerate(self.attempts):
            if attempt.log_key == log.log_key and attempt.is_acknowledged:
                self.attempts[number] = replace(attempt, is_durable=True)

    def copy(self) -> Ledger:
        """Return an independent copy."""
        return Ledger(list(self.attempts))

    def after_loss_of_power(self) -> Ledger:
        """Return a copy in which only what is durable counts as acknowledged."""
        return Ledger([replace(attempt, is_acknowledged=attempt.is_durable) for attempt in self.attempts])

    @contextmanager
    def _recorded(self, log: Log, records: list[tuple[str, Any]], options: dict[str, Any]) -> Iterator[None]:
        number = len(self.attempts)
        self.attempts.append(Attempt(log.log_key, tuple(records)))
        try:
            yield
        except OutcomeUnknownError:
            raise
        except CheckpointError:
            self.attempts[number] = replace(self.attempts[number], is_refused=True)
            raise
        is_durable = (options.get("durability") or handle_of(log).store.settings.durability) == "always"
        self.attempts[number] = replace(self.attempts[number], is_acknowledged=True, is_durable=is_durable)


def check_recovery(store: Path, ledger: Ledger) -> None:
    """Check what a new process finds in a store after a crash, and that it can go on from there.

    Every acknowledged batch is there, whole, once, in the order of the attempts, and nothing that was not attempted;
    handles show what a replay gives; and every log can be appended to, by this process and by the next.

    Raises:
        AssertionError: something is wrong.
        CheckpointError: the store cannot be read, or not be appended to.
    """
    keys = [*sorted({attempt.log_key for attempt in ledger.attempts} - {_PROBE}), _PROBE]
    if any(attempt.is_acknowledged for attempt in ledger.attempts) or (store / ".checkpoint").is_dir():
        _check_contents(Checkpoint(store, read_only=True), keys, ledger)
    checkpoint = Checkpoint(store)
    _append_again(checkpoint, keys, ledger)
    _check_contents(checkpoint, keys, ledger)
    restart()
    checkpoint = Checkpoint(store)
    _append_again(checkpoint, keys, ledger)
    _check_contents(Checkpoint(store, read_only=True), keys, ledger)


def _append_again(checkpoint: Checkpoint, log_keys: list[str], ledger: Ledger) -> None:
    for log in map(checkpoint.log, log_keys):
        event = len(ledger.attempts)  # unlike every other
        try:
            ledger.append(log, _PROBE, event)
        except PoisonedLogError:
            log.recover()
            ledger.append(log, _PROBE, event + 1)


def _check_contents(checkpoint: Checkpoint, log_keys: list[str], ledger: Ledger) -> None:
    there = set(checkpoint.logs())
    shown: dict[str, list[Any]] = {}
    for log_key in log_keys:
        attempts = [attempt for attempt in ledger.attempts if attempt.log_key == log_key]
        found = list(checkpoint.log(log_key).read()) if log_key in there else []
        _check_log(log_key, attempts, found)
        for record in found:
            shown.setdefault(record.object_key, []).append(record.event)
    in_view = {key: list(events) for key, events in checkpoint.items()}
    for events in [*shown.values(), *in_view.values()]:
        events.sort(key=repr)  # over several logs the order is by stamp; within one it was compared above
    assert in_view == shown, f"a handle shows {in_view}, a replay gives {shown}"


def _check_log(log_key: str, attempts: list[Attempt], found: list[Record]) -> None:
    """Compare the records of a log with the attempts, which must appear in their order, each whole or not at all."""
    records = [(record.object_key, record.event) for record in found]
    at = 0
    for attempt in attempts:
        size = len(attempt.records)
        if records[at : at + size] == list(attempt.records):
            assert not attempt.is_refused or not size, (
                f"log {log_key!r}: {_short(attempt.records)} is there, though its append was refused"
            )
            at += size
        else:
            assert not attempt.is_acknowledged, (
                f"log {log_key!r}: {_short(attempt.records)} was acknowledged and is not there; "
                f"from record {at} on there is {_short(records[at:])}"
            )
    assert at == len(records), (
        f"log {log_key!r}: record {at} is none that was to be here: {_short(records[at:])}"
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}..."
