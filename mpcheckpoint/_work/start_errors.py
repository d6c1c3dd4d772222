"""The errors for worker processes that cannot start."""

from __future__ import annotations

from mpcheckpoint.errors import WorkerDiedError


def not_ready(text: str) -> WorkerDiedError:
    """Return the error for an initializer that failed."""
    return WorkerDiedError(
        f"the initializer of a worker process failed: {text}. No item has failed for it; what is done is "
        "recorded. Correct it, and start the map again to carry on",
        reason="initializer failed",
    )


def died_in_initializer(cause: str, times: int) -> WorkerDiedError:
    """Return the error for processes that died in their initializer, so many in a row."""
    return WorkerDiedError(
        f"{times} worker processes in a row died in their initializer, the last one so: {cause}. No item has "
        "failed for it; what is done is recorded",
        reason="died in its initializer",
    )


def cannot_start(cause: str) -> WorkerDiedError:
    """Return the error for processes that die before they can run anything."""
    return WorkerDiedError(
        f"a worker process could not start: {cause}. The start methods spawn and forkserver import the main module "
        "again, so put what starts the map under `if __name__ == '__main__':`",
        reason="worker cannot start",
    )
