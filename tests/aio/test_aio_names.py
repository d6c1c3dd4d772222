"""The handles for tasks have the names that the plain ones have, but for those that are told of here."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest

from mpcheckpoint import Checkpoint, Log
from mpcheckpoint.aio import AsyncCheckpoint, AsyncLog
from mpcheckpoint.errors import ClosedError
from support.awaits import run

if TYPE_CHECKING:
    from pathlib import Path

_OLDER_TOOL = "a name of the tool that this one replaces, which has no tasks"
_PROCESSES = "about the workers of a map, which are tasks of one loop here"
# What the plain handle has and the one for tasks has not, with the reason.
LEFT_OUT = {
    (Checkpoint, "createCheckpointLog"): _OLDER_TOOL,
    (Checkpoint, "writeCheckpoint"): _OLDER_TOOL,
    (Checkpoint, "getCheckpoints"): _OLDER_TOOL,
    (Checkpoint, "getCheckpointKeys"): _OLDER_TOOL,
    (Checkpoint, "getCheckpointLogKeys"): _OLDER_TOOL,
    (Checkpoint, "releaseCheckpointLog"): _OLDER_TOOL,
}
ARGUMENTS_LEFT_OUT = {
    ("map", "mp_context"): _PROCESSES,
    ("map", "executor"): _PROCESSES,
    ("map", "memory"): _PROCESSES,
    ("map", "initializer"): _PROCESSES,
    ("map", "tasks_per_worker"): _PROCESSES,
}
# They hand all other arguments to the plain call, which documents them.
HAND_ON = {"backup", "compact", "pending"}

PAIRS = [(Checkpoint, AsyncCheckpoint), (Log, AsyncLog)]


def public(handle: type) -> set[str]:
    return {name for name in dir(handle) if not name.startswith("_")}


@pytest.mark.parametrize(("plain", "for_tasks"), PAIRS)
def test_handle_for_tasks_has_every_name_of_the_plain_one_and_no_others(plain: type, for_tasks: type) -> None:
    left_out = {name for handle, name in LEFT_OUT if handle is plain}
    assert public(for_tasks) == public(plain) - left_out
    assert left_out <= public(plain)


@pytest.mark.parametrize(("plain", "for_tasks"), PAIRS)
def test_methods_for_tasks_take_what_the_plain_ones_take(plain: type, for_tasks: type) -> None:
    for name in public(for_tasks):
        if isinstance(getattr(plain, name), property):
            assert isinstance(getattr(for_tasks, name), property), name
            continue
        own, others = (_arguments(getattr(handle, name)) for handle in (for_tasks, plain))
        if name in HAND_ON:
            assert own.pop("choices") == inspect.Parameter.empty
            others = {each: others[each] for each in own}
        left_out = {argument for method, argument in ARGUMENTS_LEFT_OUT if method == name}
        assert left_out <= others.keys()
        assert own == {each: default for each, default in others.items() if each not in left_out}, name


def _arguments(method: Any) -> dict[str, Any]:
    return {name: each.default for name, each in inspect.signature(method).parameters.items()}


def test_what_a_mapping_gives_is_given_to_tasks(place: str) -> None:
    plain = Checkpoint(place)
    plain.log("a").append_many([("x", 1), ("y", 2), ("x", 3)])
    plain.log("b").append("z", None)

    async def main() -> None:
        async with AsyncCheckpoint(place) as checkpoint:
            for own, other in ((checkpoint, plain), (checkpoint.log("a"), plain.log("a"))):
                assert own.path == other.path
                assert list(await own.keys()) == list(other.keys())
                assert list(await own.items()) == list(other.items())
                assert list(await own.values()) == list(other.values())
                assert dict(await own.snapshot()) == dict(other.snapshot())
                assert await own.get("x") == other.get("x") == (1, 3)
                assert await own.get("nobody", 7) == 7
                assert [each async for each in own.objects(match="[xy]")] == list(other.objects(match="[xy]"))
            assert await checkpoint.log("a").get("z") is None

    run(main())


def test_path_of_a_handle_that_was_never_open_is_refused_and_stays_once_it_is_closed(tmp_path: Path) -> None:
    checkpoint = AsyncCheckpoint(tmp_path)
    with pytest.raises(ClosedError, match="is not open"):
        _ = checkpoint.path

    async def main() -> None:
        async with checkpoint:
            path = checkpoint.log("a").path  # asking for it opens nothing
            assert path is not None
            assert not path.exists()

    run(main())
    assert checkpoint.path == tmp_path
