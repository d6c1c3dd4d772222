"""The outcomes that a log holds: chosen, sorted, given out one by one or as a table."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from importlib import import_module
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from mpcheckpoint._view.moments import stamp_us_of
from mpcheckpoint._work.outcomes import Outcome, R_co, T_co
from mpcheckpoint._work.reruns import require_rerun_name
from mpcheckpoint._work.status import outcomes_of
from mpcheckpoint._work.whole_number import whole_number
from mpcheckpoint.errors import MissingExtraError

if TYPE_CHECKING:
    import pandas
    import pyarrow

    from mpcheckpoint._view.log_handle import LogHandle
    from mpcheckpoint._view.moments import Moment

_ROWS_A_PART = 10_000
_TEXT = msgspec.json.Encoder()


class Chosen(NamedTuple):
    """Which outcomes are wanted.

    Attributes:
        only_failed: only failures.
        since_us: only what ended then or later, in microseconds since 1970.
        slowest: so many, those that took longest, the longest first; None for all, in the order of the log.
    """

    only_failed: bool = False
    since_us: int = 0
    slowest: int | None = None

    def of(self, outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
        """Yield those of the outcomes that are wanted. Keeps no more than ``slowest`` in memory."""
        chosen = filter(self._is_wanted, outcomes)
        if self.slowest is None:
            return chosen
        return _slowest(chosen, self.slowest)

    def _is_wanted(self, outcome: Outcome) -> bool:
        return outcome.ended_us >= self.since_us and not (self.only_failed and outcome.ok)


def _slowest(outcomes: Iterator[Outcome], most: int) -> Iterator[Outcome]:
    """Yield the slowest ones; of those that took equally long, the first ones of the log. Begins when it is asked."""
    yield from heapq.nlargest(most, outcomes, key=lambda outcome: outcome.duration_s)


def chosen_outcomes(*, only_failed: object, since: Moment | None, slowest: object) -> Chosen:
    """Return the choice that was handed in.

    Raises:
        TypeError, ValueError: ``since`` is no time, or ``slowest`` no number of outcomes.
    """
    return Chosen(
        bool(only_failed),
        0 if since is None else stamp_us_of(since, "since"),
        None
        if slowest is None
        else whole_number(slowest, 1, "slowest is a number of outcomes, at least 1, or None"),
    )


def item_text(item: Any) -> str:
    """Return an item as a cell of a table: a string stands for itself, anything else for its JSON."""
    return item if isinstance(item, str) else json_text(item)


def json_text(value: Any) -> str:
    """Return a value as JSON."""
    return _TEXT.encode(value).decode()


# The columns of every table, in this order: what they hold of an outcome. Times are microseconds since 1970.
COLUMNS: dict[str, Any] = {
    "item": lambda outcome: item_text(outcome.item),
    "object_key": lambda outcome: outcome.object_key,
    "ok": lambda outcome: outcome.ok,
    "error": lambda outcome: outcome.error,
    "began": lambda outcome: outcome.began_us,
    "ended": lambda outcome: outcome.ended_us,
    "duration_s": lambda outcome: float(outcome.duration_s),
    "attempts": lambda outcome: outcome.attempts,
    "worker": lambda outcome: outcome.worker,
    "rerun": lambda outcome: outcome.rerun,
    "version": lambda outcome: outcome.version,
    "value": lambda outcome: None if outcome.value is None and not outcome.ok else json_text(outcome.value),
}


class Results(Iterator[Outcome[T_co, R_co]]):
    """The outcomes of a map, as ``Log.results`` chose them: an iterator over them, or one of the tables.

    An outcome is read when it is asked for, in bounded memory. A table holds all that were not given out yet, one row
    each.

    Concurrency: for one thread. What is recorded meanwhile may be there or not.
    """

    def __init__(self, outcomes: Iterator[Outcome[T_co, R_co]]) -> None:
        self._outcomes = outcomes

    def __iter__(self) -> Results[T_co, R_co]:
        return self

    def __next__(self) -> Outcome[T_co, R_co]:
        """Return the next outcome."""
        return next(self._outcomes)

    def to_pandas(self) -> pandas.DataFrame:
        """Return a ``pandas.DataFrame`` of the outcomes. Takes the extra ``pandas``.

        Returns:
            Columns ``item`` and ``value`` (as they were recorded), ``object_key``, ``ok``, ``error``, ``began`` and
            ``ended`` (datetimes in UTC, of microseconds), ``duration_s``, ``attempts``, ``worker``, ``rerun``,
            ``version``. What is not known is None.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        module = extra("pandas", "pandas")
        rows = list(self)
        columns: dict[str, Any] = {}
        for name, cell in COLUMNS.items():
            if name in ("item", "value"):
                values: list[Any] = [getattr(outcome, name) for outcome in rows]
            else:
                values = list(map(cell, rows))
            if name in ("began", "ended"):
                stamps = module.Series(values, dtype="int64").astype("datetime64[us]")
                columns[name] = stamps.dt.tz_localize("UTC")
            else:
                columns[name] = module.Series(values, dtype=_PANDAS_TYPES.get(name, "object"))
        return module.DataFrame(columns)

    def to_arrow(self) -> pyarrow.Table:
        """Return a ``pyarrow.Table`` of the outcomes. Takes the extra ``arrow``.

        Returns:
            Columns ``item`` (a string stands for itself, anything else for its JSON), ``object_key``, ``ok``,
            ``error``, ``began`` and ``ended`` (timestamps of microseconds in UTC), ``duration_s``, ``attempts``,
            ``worker``, ``rerun``, ``version`` (a dictionary: there are few different ones), and ``value`` (JSON).
            What is not known is null.

        Raises:
            MissingExtraError: pyarrow is not installed.
        """
        module = extra("pyarrow", "arrow")
        schema = _schema(module)
        return module.Table.from_batches(_batches(module, schema, self), schema)

    def write_parquet(self, file: Any) -> int:
        """Write the outcomes as Parquet, part by part, in bounded memory. Takes the extra ``arrow``.

        Args:
            file: a path, or a binary file that is open for writing.

        Returns:
            How many there were.

        Raises:
            MissingExtraError: pyarrow is not installed. Nothing was written.
        """
        module, parquet = extra("pyarrow", "arrow"), extra("pyarrow.parquet", "arrow")
        schema, rows = _schema(module), 0
        with parquet.ParquetWriter(file, schema) as writer:
            for batch in _batches(module, schema, self):
                writer.write_batch(batch)
                rows += int(batch.num_rows)
        return rows


class _WithHandle(Protocol):
    """A Log."""

    _handle: LogHandle


def results(
    self: _WithHandle,
    *,
    rerun: str | None = None,
    failed: bool = False,
    since: Moment | None = None,
    slowest: int | None = None,
) -> Results[Any, Any]:
    """Return an iterator over the last outcome of each item, whatever rerun it came from, in the order of the
    objects. Its ``item`` is the item as it was recorded: its object key, if it was no JSON value. The iterator
    turns what it would give into a table, too: ``to_pandas``, ``to_arrow``, ``write_parquet``.

    Args:
        rerun: the last outcome under this name; nothing if there is no such rerun.
        failed: only failures.
        since: only what ended then or later; as for ``read``.
        slowest: only so many, those whose last attempt took longest, the longest first.

    Raises:
        TypeError, ValueError: ``rerun`` is no name, ``since`` no time, or ``slowest`` no number of outcomes.
    """
    require_rerun_name(rerun)
    chosen = chosen_outcomes(only_failed=failed, since=since, slowest=slowest)
    return Results(chosen.of(outcomes_of(self._handle, rerun)))


_PANDAS_TYPES = {"ok": "bool", "duration_s": "float64", "attempts": "int64"}


def extra(module: str, name: str) -> Any:
    """Return a module that an extra installs.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(name, module.partition(".")[0]) from error


def _schema(module: Any) -> Any:
    text, moment = module.string(), module.timestamp("us", tz="UTC")
    types = {
        "ok": module.bool_(),
        "began": moment,
        "ended": moment,
        "duration_s": module.float64(),
        "attempts": module.int64(),
        "version": module.dictionary(module.int32(), text),
    }
    return module.schema([module.field(name, types.get(name, text)) for name in COLUMNS])


def _batches(module: Any, schema: Any, outcomes: Iterator[Outcome]) -> Iterator[Any]:
    while rows := list(islice(outcomes, _ROWS_A_PART)):
        arrays = [
            module.array(list(map(cell, rows)), type=schema.field(name).type)
            for name, cell in COLUMNS.items()
        ]
        yield module.record_batch(arrays, schema=schema)
