"""One log of a store, for users."""

from __future__ import annotations

from typing import Any

from mpcheckpoint._log.record_log import RecordLog
from mpcheckpoint._log.session import Session, Settings

__all__ = ["Log"]


class Log(RecordLog):
    """One append-only log of a store; get it from ``Checkpoint.log``.

    Concurrency: any number of threads; survives fork on both sides; pickles, to a handle of its own on the same log.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._session.settings._replace(log_keys=(self.log_key,)), self.log_key)


def _reopen(settings: Settings, log_key: str) -> Log:
    return Log(Session(settings), log_key)
