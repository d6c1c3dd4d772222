"""Look after a store: what the commands of the command line stand on, for programs."""

from __future__ import annotations

__all__: list[str] = []
