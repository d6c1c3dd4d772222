"""The output of a command, kept up to a limit."""

from __future__ import annotations

from mpcheckpoint._work.text import to_text


class KeptOutput:
    """Keep the beginning and the end of what a command writes, in bounded memory, and say what was left out."""

    def __init__(self, limit_bytes: int) -> None:
        self._most_head = (limit_bytes + 1) // 2
        self._most_end = limit_bytes // 2
        self._head = bytearray()
        self._end = bytearray()
        self._total = 0

    def add(self, data: bytes) -> None:
        """Take in what the command wrote next."""
        self._total += len(data)
        room = self._most_head - len(self._head)
        self._head += data[:room]
        self._end += data[room:]
        if len(self._end) > 2 * self._most_end:  # not at each call: that would copy it all each time
            self._trim()

    def fields(self) -> dict[str, object]:
        """Return what is recorded: ``output``; if that is not all of it, also ``output_end`` and ``left_out_bytes``."""
        self._trim()
        left_out = self._total - len(self._head) - len(self._end)
        if left_out == 0:
            return {"output": to_text(bytes(self._head + self._end))}
        return {
            "output": to_text(bytes(self._head)),
            "output_end": to_text(bytes(self._end)),
            "left_out_bytes": left_out,
        }

    def _trim(self) -> None:
        del self._end[: max(0, len(self._end) - self._most_end)]
