"""Results that no JSON can hold: what is raised for one, and when they end a map."""

from __future__ import annotations

from mpcheckpoint._format.codec import encode_event
from mpcheckpoint.errors import InvalidEventError, InvalidResultError

DEFAULT_MAX_INVALID_RESULTS = 3


def invalid_result(value: object, error: InvalidEventError) -> InvalidResultError:
    """Return the error for a result that no record can hold. ``error`` came from encoding its record."""
    try:
        encode_event(value, named="result")
    except InvalidEventError as own:
        error = own  # this one names the result, not the record that was to hold it
    return InvalidResultError(str(error), reason=error.reason, type_name=error.type_name)


class InvalidResults:
    """Ends a map whose function keeps returning what is no JSON value, so that it does not run for a night in vain.

    Items in a row count: a map whose function mostly returns JSON values goes on. NaN and infinity, of a type that JSON
    has, count only while the function has returned nothing that can be recorded; later they are that item's failure.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._in_a_row = 0
        self._has_valid = False

    def check(self, object_key: str, raised: BaseException | None, *, is_ok: bool) -> None:
        """Take note of what became of an item that ran here.

        Raises:
            InvalidResultError: it was one too many.
        """
        if is_ok:
            self._in_a_row, self._has_valid = 0, True
        if not isinstance(raised, InvalidResultError) or (raised.type_name is None and self._has_valid):
            return
        self._in_a_row += 1
        if self._limit is None or self._in_a_row < self._limit:
            return
        count = "1 item" if self._in_a_row == 1 else f"{self._in_a_row} items in a row"
        raise InvalidResultError(
            f"the map was stopped: no JSON can hold what the function returned for {count}, the last of them "
            f"{object_key!r:.200}. {raised}. What ran is recorded, these as failed: correct the function and start the "
            "map again with retry_failed=True. max_invalid_results sets how often this may be, None lets a map go on",
            reason=raised.reason,
            type_name=raised.type_name,
        )
