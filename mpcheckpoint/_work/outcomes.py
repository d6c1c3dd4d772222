"""What is recorded of an item: one event for its object, of one shape for functions and for commands."""

from __future__ import annotations

import os
import traceback
from dataclasses import make_dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

import msgspec

from mpcheckpoint._format.advice import name_of
from mpcheckpoint._format.codec import encode_payload, is_json
from mpcheckpoint._format.made_json import made_json
from mpcheckpoint._types import time_of
from mpcheckpoint._work.ctrl_c import raise_ctrl_c
from mpcheckpoint._work.invalid_results import invalid_result
from mpcheckpoint._work.worker_name import worker_name
from mpcheckpoint.errors import InvalidEventError, InvalidResultError, LimitExceededError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    # Plain ``Outcome`` is ``Outcome[Any, Any]``: type checkers know such defaults, Python itself from 3.13 on.
    from typing_extensions import TypeVar

    from mpcheckpoint._format.frame import Payload
    from mpcheckpoint._format.made_json import Default
    from mpcheckpoint._work.inputs import Input
    from mpcheckpoint._work.reruns import RunNote
    from mpcheckpoint._work.runs import JoinedRun

    T_co = TypeVar("T_co", covariant=True, default=Any)
    R_co = TypeVar("R_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    T_co = TypeVar("T_co", covariant=True)
    R_co = TypeVar("R_co", covariant=True)

# The worker of a result, where nobody knows which one it was.
NOT_KNOWN = ""
_MOST_ERROR_CHARS = 8000
_canonical = msgspec.json.Encoder(order="sorted").encode


# A Struct, as ``Record``: a frozen dataclass takes fifteen times as long to make, and a map makes one an item.
class Outcome(msgspec.Struct, Generic[T_co, R_co], frozen=True, weakref=True):
    """What became of one item of a map. It is durable before it is given out.

    Attributes:
        item: the item as it was handed in; from ``Log.results``, as it was recorded.
        object_key: the object that stands for it in the log.
        ok: whether the function returned a JSON value (in the shell: whether the command exited with 0).
        value: what it returned, or what ``default`` made of that; None if it failed. For a command, failed or not, a
            dict of ``exit_code``, ``output`` and what was left out of that.
        error: None, or what went wrong: the cause in the first line, then where.
        duration_s: how long it took, in seconds.
        repeated: whether nothing was run for this input here, because its outcome was there already: from an earlier
            start, from another process, or because the same input came before.
        attempts: how many attempts it took, the last one included; more than 1 only if failures are retried.
        rerun: the rerun it was made under; None if under none.
        version: the version of the map that made it.
        ended_us: when it was recorded, right after its last attempt ended, in microseconds since 1970. As the stamps of
            records it never goes back, whatever the clock does.
        worker: what ran the last attempt: "4711", a process, or "4711/2", the second thread of a process that runs
            items beside its first thread. None if that is not known: an executor broke, or the outcome was recorded
            before outcomes told it.
    """

    item: T_co
    object_key: str
    ok: bool
    value: R_co | None
    error: str | None
    duration_s: float
    repeated: bool
    attempts: int = 1
    rerun: str | None = None
    version: str = ""
    ended_us: int = 0
    worker: str | None = None

    @property
    def began_us(self) -> int:
        """When its last attempt began: ``duration_s`` before ``ended_us``.

        Of a process that died only the end is known: then it is the same.
        """
        return max(0, self.ended_us - round(self.duration_s * 1_000_000))

    @property
    def started(self) -> datetime:
        """When its last attempt began, as a datetime in UTC: that of ``began_us``."""
        return time_of(self.began_us)

    @property
    def ended(self) -> datetime:
        """When it was recorded, as a datetime in UTC: that of ``ended_us``."""
        return time_of(self.ended_us)


def _as_dataclass() -> None:
    """Have ``dataclasses`` and ``pprint`` take an outcome for the dataclass that it was."""
    required = len(Outcome.__struct_fields__) - len(Outcome.__struct_defaults__)
    defaults = dict(zip(Outcome.__struct_fields__[required:], Outcome.__struct_defaults__, strict=True))
    twin = make_dataclass("Outcome", Outcome.__annotations__.items(), namespace=defaults, frozen=True)
    for name in ("__dataclass_fields__", "__dataclass_params__"):
        setattr(Outcome, name, vars(twin)[name])


_as_dataclass()


class Result(NamedTuple):
    """What a call made of an item.

    Attributes:
        is_final: whether a failure is not retried.
        is_death: whether what ran was killed from elsewhere, so that the item runs again: see ``retries``.
        duration_s: how long it took, if the caller cannot know.
        worker: what ran it, if that is not the caller; NOT_KNOWN if nobody can tell.
    """

    ok: bool
    value: object
    error: str | None = None
    exception: BaseException | None = None
    is_final: bool = False
    duration_s: float | None = None
    is_death: bool = False
    worker: str | None = None

    @property
    def cause(self) -> str:
        """The first line of ``error``."""
        return (self.error or "").partition("\n")[0]

    @classmethod
    def of_exception(cls, error: BaseException) -> Result:
        """Return the failure that an exception is: its type and message, then where it was raised."""
        found = traceback.TracebackException.from_exception(error)
        cause = "".join(found.format_exception_only()).strip()
        where = "".join(found.stack.format()[1:])  # without the frame of the call itself
        return cls(False, None, _clean(cause, where), error)


def _clean(cause: str, where: str) -> str:
    cause = cause[:_MOST_ERROR_CHARS]
    room = _MOST_ERROR_CHARS - len(cause)
    text = f"{cause}\n{where[-room:] if room else ''}".rstrip()
    return text.encode("utf-8", "backslashreplace").decode()  # a lone surrogate has no JSON form


def made_result(value: object, default: Default | None) -> Result:
    """Return the result that a value is which a function returned, once ``default`` has made JSON of it if it is none.

    What ``default`` raises is the item's failure, and final, as a value that is no JSON is.

    Raises:
        KeyboardInterrupt: a Ctrl-C came.
        And in a process that ``default`` forked what that raised.
    """
    if default is None or is_json(value):
        return Result(True, value)
    pid = os.getpid()
    try:
        return Result(True, made_json(value, default, "result"))
    except InvalidEventError as found:
        return _invalid(InvalidResultError(str(found), reason=found.reason, type_name=found.type_name))
    except LimitExceededError as error:
        return _too_large(error)
    except BaseException as error:
        if os.getpid() != pid:
            raise
        raise_ctrl_c(error)
        # Whatever default= raises says why there is no JSON.
        raised = Result.of_exception(error).error
        invalid = InvalidResultError(
            f"default= raised for it: {raised}", reason="default raised", type_name=name_of(type(value))
        )
        invalid.__cause__ = error
        return _invalid(invalid)


def _invalid(error: InvalidResultError) -> Result:
    return Result(
        False, None, f"InvalidResultError: the result is no JSON value: {error}", error, is_final=True
    )


def _too_large(error: LimitExceededError) -> Result:
    return Result(False, None, f"LimitExceededError: the result is too large: {error}", error)


def outcome_payload(
    run: JoinedRun, entry: Input, result: Result, duration_s: float
) -> tuple[Payload, Result]:
    """Return the record of a result, and the result as recorded: what is no JSON value is a failure that says so.

    That failure is final: retries seldom return another type, and a function that always returns the wrong one would
    run as often as retries are allowed.
    """
    try:
        return _payload(run, entry, result, duration_s), result
    except InvalidEventError as found:
        result = _invalid(invalid_result(result.value, found))
    except LimitExceededError as error:
        result = _too_large(error)
    return _payload(run, entry, result, duration_s), result


def _payload(run: JoinedRun, entry: Input, result: Result, duration_s: float) -> Payload:
    event = _event(run, "ok", result.ok, result, duration_s)
    if entry.attempts:
        event["attempts"] = entry.attempts + 1
    if entry.file is not None:
        event["file"] = entry.file
    return encode_payload(entry.object_key, event | entry.recorded)


def attempt_payload(
    run: JoinedRun, entry: Input, result: Result, duration_s: float, pause_s: float
) -> Payload:
    """Return the record of a failed attempt that another one follows, ``pause_s`` later."""
    event = _event(run, "attempt", entry.attempts + 1, result, duration_s)
    return encode_payload(entry.object_key, event | {"pause_s": round(pause_s, 6)})


def death_payload(run: JoinedRun, entry: Input, number: int, result: Result, duration_s: float) -> Payload:
    """Return the record of a death after which the item runs again."""
    return encode_payload(entry.object_key, _event(run, "death", number, result, duration_s))


def _event(run: JoinedRun, name: str, value: object, result: Result, duration_s: float) -> dict[str, object]:
    """Return what every record of a run has in common. Its first bytes tell what it is: see ``reruns``.

    The version is not in each record: it may be a script of kilobytes, and ``run`` names the note that has it.
    """
    event: dict[str, object] = {"run": run.note.number, name: value}
    if run.note.rerun is not None:
        event["rerun"] = run.note.rerun
    event["error"] = result.error
    if result.ok or result.value is not None:
        event["value"] = result.value
    event["duration_s"] = round(duration_s, 6)
    if result.worker != NOT_KNOWN:
        event["worker"] = result.worker or worker_name()
    return event


class Recorded(msgspec.Struct):
    """What the record of an outcome says. Of any type, each: another kind of writer may have made it."""

    run: Any
    ok: Any
    error: Any = None
    value: Any = None
    duration_s: Any = 0.0
    worker: Any = None
    attempts: Any = 1
    item: Any = msgspec.UNSET
    opaque: Any = msgspec.UNSET

    def is_of(self, entry: Input) -> bool:
        """Return whether the record may be about this input."""
        if self.item is msgspec.UNSET and self.opaque is msgspec.UNSET:
            return not entry.recorded
        said = {"item": self.item, "opaque": self.opaque}
        return is_same(
            {name: value for name, value in said.items() if value is not msgspec.UNSET}, entry.recorded
        )

    def outcome(
        self, item: object, object_key: str, stamp_us: int, runs: Mapping[int, RunNote], *, repeated: bool
    ) -> Outcome:
        """Return the outcome, of an item that was handed in. ``runs`` have the versions."""
        run, worker = runs.get(self.run), self.worker
        return Outcome(
            item,
            object_key,
            self.ok,
            self.value,
            self.error,
            self.duration_s,
            repeated,
            self.attempts,
            None if run is None else run.rerun,
            "" if run is None else run.version,
            stamp_us,
            worker if isinstance(worker, str) else None,
        )


# Returns what the event of an outcome says.
recorded_in = msgspec.json.Decoder(Recorded).decode


def outcome_of(event: bytes, object_key: str, stamp_us: int, runs: Mapping[int, RunNote]) -> Outcome:
    """Return the outcome that a record holds, with the item as recorded. ``runs`` have the versions."""
    return _as_recorded(recorded_in(event), object_key, stamp_us, runs)


def outcome_in(
    fields: dict[str, Any], object_key: str, stamp_us: int, runs: Mapping[int, RunNote]
) -> Outcome:
    """Return the outcome that a decoded event is."""
    return _as_recorded(msgspec.convert(fields, Recorded), object_key, stamp_us, runs)


def _as_recorded(recorded: Recorded, object_key: str, stamp_us: int, runs: Mapping[int, RunNote]) -> Outcome:
    item = object_key if recorded.item is msgspec.UNSET else recorded.item
    return recorded.outcome(item, object_key, stamp_us, runs, repeated=True)


def is_same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Return whether two inputs are recorded alike. 1 and True differ; the order of a dict's keys does not matter."""
    return _canonical(first) == _canonical(second)
