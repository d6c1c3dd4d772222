"""What is read of a mapping by its snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import ItemsView, KeysView, ValuesView

    from mpcheckpoint._view.object_mapping import Snapshot


class SnapshotViews:
    """The views of a mapping from object key to events, of one cut each."""

    async def snapshot(self) -> Snapshot:
        """Return the state as it is now, frozen: a mapping from object key to events, in memory."""
        raise NotImplementedError

    async def keys(self) -> KeysView[str]:
        """Return the keys of all objects, as they are now, in the order in which they came."""
        return (await self.snapshot()).keys()

    async def items(self) -> ItemsView[str, tuple[Any, ...]]:
        """Return the items of one cut, in memory: pairs of object key and events."""
        return (await self.snapshot()).items()

    async def values(self) -> ValuesView[tuple[Any, ...]]:
        """Return the values of one cut, in memory: tuples of events."""
        return (await self.snapshot()).values()
