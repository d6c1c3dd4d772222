"""The engine in memory, at addresses: what `mpcheckpoint` does with a store on a server, without a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpcheckpoint._engines import Engine
from mpcheckpoint._store.findings import OK, WARN, Finding
from mpcheckpoint.errors import StoreNotFoundError
from support.memory_storage import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpcheckpoint._postgres.address import Address
    from support.memory_content import Content


class MemoryEngine(MemoryStore):
    """A store of this process, known by its address without the password."""

    _places: dict[str, dict[str, Content]] = {}  # noqa: RUF012 - all stores share it: that is its purpose

    def __init__(self, address: Address, *, create: bool, read_only: bool, retry_s: float) -> None:
        self.path = str(address)
        if not create and self.path not in self._places:
            raise StoreNotFoundError(f"there is no store at {address}", path=self.path, reason="no store")
        self._arguments = (address, create and not read_only, read_only, retry_s)
        self.workers = self.workers_type(self.path)
        with self._mutex:
            self.contents = self._places.setdefault(self.path, {})

    @classmethod
    def all_contents(cls) -> Iterator[Content]:
        """Yield all logs of all stores."""
        for logs in cls._places.values():
            yield from logs.values()

    @classmethod
    def contents_at(cls, path: str) -> dict[str, Content] | None:
        """Return the logs of a store; None if there is none."""
        return cls._places.get(path)

    @classmethod
    def forget_all(cls) -> None:
        """Drop all stores."""
        with cls._mutex:
            cls._places.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, self._arguments


def _reopened(address: Address, create: bool, read_only: bool, retry_s: float) -> MemoryEngine:
    return MemoryEngine(address, create=create, read_only=read_only, retry_s=retry_s)


def examine_memory(address: Address) -> Iterator[Finding]:
    """Yield that nothing here is durable."""
    yield Finding("durability", WARN, "an append is in memory only", {"is_durable": False})
    contents = MemoryEngine.contents_at(str(address))
    text = "none here yet" if contents is None else f"logs: {len(contents)}"
    yield Finding("store", OK, text, {"logs": len(contents or ())})


MEMORY = Engine(MemoryEngine, examine_memory)
