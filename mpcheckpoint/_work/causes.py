"""Why an item failed, as its outcome tells it: what ``retry_failed`` and ``--where`` choose by."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from mpcheckpoint._format.advice import a, shown
from mpcheckpoint._work.retries import is_kill, is_told_to_end

if TYPE_CHECKING:
    from mpcheckpoint._work.outcomes import Outcome

    Choice = Callable[[Outcome], object]

# How the causes begin that are no exception's: one begins with the name of its type and a colon.
NOT_STARTED = "could not be started: "
TIMED_OUT = "timed out after "
EXECUTOR_BROKE = "the process that ran it died: its executor broke"
OVER_MEMORY = "exceeded the memory limit of "
_KILLED = re.compile(r"(?:the process that ran it died: it was )?killed by signal (\d{1,3})")
_ENDED = re.compile(r"the process that ran it died: it ended with exit code (\d+)")
_EXIT = re.compile(r"exit=(\d{1,3})")
_MOST_CODE = 255
CONDITIONS = "exit=CODE, timed-out, over-memory, killed, not-started"


def _is_not_started(outcome: Outcome) -> bool:
    return (outcome.error or "").startswith(NOT_STARTED)


def _is_timed_out(outcome: Outcome) -> bool:
    return (outcome.error or "").startswith(TIMED_OUT)


def _is_over_memory(outcome: Outcome) -> bool:
    return (outcome.error or "").startswith(OVER_MEMORY)


def _is_killed(outcome: Outcome) -> bool:
    """Return whether a signal ended what ran: the command, what its shell ran, or the process of a function.

    Not what the map itself has ended, for its time or its memory. How a process ended whose executor broke nobody
    tells: most are killed.
    """
    code = exit_code(outcome)
    by_shell = code is not None and code > 0 and (is_kill(code) or is_told_to_end(code))
    is_by_signal = by_shell or _KILLED.match(outcome.error or "") is not None
    is_by_map = _is_timed_out(outcome) or _is_over_memory(outcome)
    return not is_by_map and (is_by_signal or (outcome.error or "").startswith(EXECUTOR_BROKE))


_NAMED: dict[str, Choice] = {
    "timed-out": _is_timed_out,
    "over-memory": _is_over_memory,
    "killed": _is_killed,
    "not-started": _is_not_started,
}


def exit_code(outcome: Outcome) -> int | None:
    """Return the exit code of a command (negative: a signal), or of the process of a function; None if none ended."""
    if isinstance(outcome.value, dict) and type(outcome.value.get("exit_code")) is int:
        code: int = outcome.value["exit_code"]
        return code
    ended = _ENDED.match(outcome.error or "")
    return int(ended[1]) if ended else None


def killing_signal(outcome: Outcome) -> int | None:
    """Return the signal that ended a command, or the process of a function; None if none did."""
    code = exit_code(outcome)
    if code is not None and code < 0:
        return -code
    found = _KILLED.match(outcome.error or "")
    return None if found is None else int(found[1])


def condition(text: str) -> Choice:
    """Return what tells whether a failure is of one kind.

    Raises:
        ValueError: there is no such kind.
    """
    if text in _NAMED:
        return _NAMED[text]
    found = _EXIT.fullmatch(text)
    if found is None or not 0 < int(found[1]) <= _MOST_CODE:
        raise ValueError(
            f"{text!r} is no way to fail; there are {CONDITIONS}, with a CODE from 1 to {_MOST_CODE}"
        )
    wanted = int(found[1])
    return lambda outcome: exit_code(outcome) == wanted


def any_of(texts: Iterable[str]) -> Choice:
    """Return what tells whether a failure is of one of these kinds.

    Raises:
        ValueError: there is no such kind, or none is named.
    """
    conditions = [condition(text) for text in texts]
    if not conditions:
        raise ValueError(f"which failures are to run again is not said; there are {CONDITIONS}")
    return lambda outcome: any(fits(outcome) for fits in conditions)


def chosen_failures(retry_failed: Any) -> tuple[bool, Choice | None]:
    """Return whether all failures run again, and what chooses among them, as ``retry_failed=`` says.

    Raises:
        TypeError, ValueError: it says nothing.
    """
    if isinstance(retry_failed, bool):
        return retry_failed, None
    if isinstance(retry_failed, str):
        return False, condition(retry_failed)
    if callable(retry_failed):
        return False, retry_failed
    if isinstance(retry_failed, Iterable):
        texts = list(retry_failed)
        if all(isinstance(each, str) for each in texts):
            return False, any_of(texts)
    raise TypeError(
        f"retry_failed is True, False, one or several of {CONDITIONS}, or a function that takes an Outcome, not "
        f"{a(type(retry_failed))}: {shown(retry_failed)}"
    )
