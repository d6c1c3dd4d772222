"""What is recorded of an item: one event for its object, in one shape for functions and for commands."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mpcheckpoint._format.codec import decode_event, encode_payload
from mpcheckpoint._work.refusals import invalid_result
from mpcheckpoint.errors import InvalidEventError, LimitExceededError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._work.inputs import Input
    from mpcheckpoint._work.reruns import RunNote
    from mpcheckpoint._work.runs import Run

_MOST_ERROR_CHARS = 8000
_canonical = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one item of a map. It was durable before anybody was given it.

    Attributes:
        item: the item as it was handed in; from ``Log.results``, as it was recorded.
        object_key: the object that stands for it in the log.
        ok: whether the function returned a JSON value (in the shell: whether the command exited with 0).
        value: what it returned; for a command a dict of ``exit_code``, ``output`` and what was left out of that.
        error: None, or what went wrong: in the first line the cause, then where.
        duration_s: how long it took, in seconds.
        repeated: whether nothing was run for this input here, since its outcome was there already: of an earlier start,
            of another process, or of the same input earlier on.
        attempts: how many attempts it took, the last one included; more than 1 only where failures are retried.
        rerun: the rerun it was made under; None if under none.
        version: the version of the map that made it.
    """

    item: Any
    object_key: str
    ok: bool
    value: Any
    error: str | None
    duration_s: float
    repeated: bool
    attempts: int = 1
    rerun: str | None = None
    version: str = ""


class Result(NamedTuple):
    """What a call made of an item.

    Attributes:
        is_final: whether a failure is not to be retried.
        is_death: whether what ran was killed from elsewhere, so that the item is to run again: see ``deaths``.
        duration_s: how long it took, where whoever called it cannot know.
    """

    ok: bool
    value: object
    error: str | None = None
    exception: BaseException | None = None
    is_final: bool = False
    duration_s: float | None = None
    is_death: bool = False

    @classmethod
    def of_exception(cls, error: BaseException) -> Result:
        """Return the failure that an exception is: its type and message, then where it came from."""
        found = traceback.TracebackException.from_exception(error)
        cause = "".join(found.format_exception_only()).strip()
        where = "".join(found.stack.format()[1:])  # without the frame of the call itself
        return cls(False, None, _clean(cause, where), error)


def _clean(cause: str, where: str) -> str:
    cause = cause[:_MOST_ERROR_CHARS]
    room = _MOST_ERROR_CHARS - len(cause)
    text = f"{cause}\n{where[-room:] if room else ''}".rstrip()
    return text.encode("utf-8", "backslashreplace").decode()  # a lone surrogate has no JSON form


def outcome_payload(run: Run, entry: Input, result: Result, duration_s: float) -> tuple[Payload, Result]:
    """Return the record of a result, and the result as recorded: what has no JSON form is a failure that says so.

    It is final: a function that returns another type the next time is rare, and one that always returns the wrong one
    would run as often as retries are allowed.
    """
    try:
        return _payload(run, entry, result, duration_s), result
    except InvalidEventError as found:
        invalid = invalid_result(result.value, found)
        text = f"InvalidResultError: the result is no JSON value: {invalid}"
        result = Result(False, None, text, invalid, is_final=True)
    except LimitExceededError as error:
        result = Result(False, None, f"LimitExceededError: the result is too large: {error}", error)
    return _payload(run, entry, result, duration_s), result


def _payload(run: Run, entry: Input, result: Result, duration_s: float) -> Payload:
    event = beginning_of(run, "ok", result.ok) | {"error": result.error}
    if result.ok or result.value is not None:
        event["value"] = result.value
    event["duration_s"] = round(duration_s, 6)
    if entry.attempts:
        event["attempts"] = entry.attempts + 1
    event |= entry.recorded
    return encode_payload(entry.object_key, event)


def attempt_payload(run: Run, entry: Input, result: Result, duration_s: float, pause_s: float) -> Payload:
    """Return the record of an attempt that failed and is to be followed by another, after so many seconds."""
    event = beginning_of(run, "attempt", entry.attempts + 1) | {"error": result.error}
    if result.value is not None:
        event["value"] = result.value
    event |= {"duration_s": round(duration_s, 6), "pause_s": round(pause_s, 6)}
    return encode_payload(entry.object_key, event)


def beginning_of(run: Run, name: str, value: object) -> dict[str, object]:
    """Return how every record of a run begins, so that it is known from its first bytes: see ``reruns``.

    The version is not repeated in each record: it may be a script of kilobytes, and ``run`` names the note that has it.
    """
    event: dict[str, object] = {"run": run.number, name: value}
    return event if run.rerun is None else event | {"rerun": run.rerun}


def outcome_of(
    event: bytes, object_key: str, *, repeated: bool, runs: Mapping[int, RunNote] = MappingProxyType({})
) -> Outcome:
    """Return the outcome that a record holds, with the item as recorded. ``runs`` tell of which version it is."""
    return outcome_in(decode_event(event), object_key, repeated=repeated, runs=runs)


def outcome_in(
    fields: dict[str, Any],
    object_key: str,
    *,
    repeated: bool,
    runs: Mapping[int, RunNote] = MappingProxyType({}),
) -> Outcome:
    """Return the outcome that a decoded event is."""
    run = runs.get(fields["run"])
    return Outcome(
        fields.get("item", object_key),
        object_key,
        fields["ok"],
        fields.get("value"),
        fields.get("error"),
        fields.get("duration_s", 0.0),
        repeated,
        fields.get("attempts", 1),
        None if run is None else run.rerun,
        "" if run is None else run.version,
    )


def is_same_input(event: bytes, entry: Input) -> bool:
    """Return whether a record is about this input, as far as can be told."""
    fields: dict[str, Any] = decode_event(event)
    return is_same({name: fields[name] for name in ("item", "opaque") if name in fields}, entry.recorded)


def is_same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Return whether two inputs are recorded alike: 1 and True differ, the order of a dict's keys does not matter."""
    return _canonical(first) == _canonical(second)
