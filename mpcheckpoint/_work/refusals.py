"""What a map refuses, at once and with advice: functions and items that cannot run."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from multiprocessing.reduction import ForkingPickler
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, NamedTuple

from mpcheckpoint._format.advice import a, shown
from mpcheckpoint._work.sent_item import packed
from mpcheckpoint._work.shortage import shortage_of
from mpcheckpoint.errors import InvalidFunctionError, InvalidItemError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor
    from multiprocessing.context import BaseContext

    from mpcheckpoint._work.inputs import Input

_MAIN = "__main__"
# Code typed at a prompt, also at that of a program that has a file: python -i program.py.
_PROMPTS = ("<stdin>", "<python-input-", "<ipython-input-")
_NOTHING_RUN = "Nothing was run or recorded"
_TO_MODULE = "Put it at the top level of a module, a .py file that is imported"
_FORK = 'have the workers forked, with mp_context=multiprocessing.get_context("fork")'
_NO_EXECUTOR = f"leave out executor= and {_FORK}"


# --- functions ---------------------------------------------------------------------------------------------


def require_function(fn: object, context: BaseContext | None, executor: Executor | None) -> None:
    """Refuse a function that cannot run for any item, before anything is run or recorded.

    Args:
        context: it runs in worker processes that this starts; None if it runs in ``executor``.

    Raises:
        InvalidFunctionError: it is no function, its call runs nothing, or it cannot be sent to where it would run.
    """
    if not callable(fn):
        raise InvalidFunctionError(
            f"fn is a function that takes an item, not {a(type(fn))}: {shown(fn)}. {_NOTHING_RUN}",
            reason="no function",
        )
    _require_plain(fn)
    _require_there(fn, context, executor)


def require_initializer(initializer: object, context: BaseContext | None) -> None:
    """Refuse what worker processes cannot call before their first item: see ``require_function``.

    Raises:
        InvalidFunctionError: as above.
    """
    if not callable(initializer):
        raise InvalidFunctionError(
            f"initializer is a function without arguments, not {a(type(initializer))}: {shown(initializer)}. "
            f"{_NOTHING_RUN}",
            reason="no function",
        )
    require_function(initializer, context, None)


def require_workers(context: object, executor: object) -> None:
    """Refuse what starts no workers.

    Raises:
        TypeError: one of them is neither None nor what it should be.
    """
    if not (context is None or callable(getattr(context, "get_start_method", None))):
        raise TypeError(
            f'mp_context is a context of multiprocessing, as multiprocessing.get_context("spawn"), not {shown(context)}'
        )
    if not (
        executor is None or (callable(getattr(executor, "submit", None)) and not isinstance(executor, type))
    ):
        raise TypeError(f"executor is an executor, as ThreadPoolExecutor(4), not {shown(executor)}")


def require_default(default: object, context: BaseContext | None, executor: Executor | None) -> None:
    """Refuse what cannot make JSON of results where they come about: see ``require_function``.

    Raises:
        InvalidFunctionError: as above.
    """
    if default is None:
        return
    if not callable(default):
        raise InvalidFunctionError(
            f"default is a function that makes JSON of a value, not {a(type(default))}: {shown(default)}. "
            f"{_NOTHING_RUN}",
            reason="no function",
        )
    _require_there(default, context, executor, "default=")


def _require_there(
    fn: Callable[..., object], context: BaseContext | None, executor: Executor | None, argument: str = ""
) -> None:
    """Refuse a function that cannot be sent to where it would run."""
    if context is not None:
        method = context.get_start_method()
        if method != "fork":
            _require_sent(fn, f"worker processes that {method} starts", _FORK, argument, is_fork=False)
    elif executor is not None and sends(executor):
        own: Any = getattr(executor, "_mp_context", None)
        is_fork = own is not None and own.get_start_method() == "fork"
        _require_sent(fn, "the processes of a ProcessPoolExecutor", _NO_EXECUTOR, argument, is_fork=is_fork)


def sends(executor: Executor) -> bool:
    """Return whether an executor pickles what it is given."""
    # A program that has one has loaded its module. Importing it here would make our import a twentieth longer.
    module = sys.modules.get("concurrent.futures.process")
    return module is not None and isinstance(executor, module.ProcessPoolExecutor)


def require_coroutine_function(fn: object) -> None:
    """Refuse what is no coroutine function for a map of these, before anything is run or recorded.

    Raises:
        InvalidFunctionError: it is none.
    """
    if not callable(fn):
        raise InvalidFunctionError(
            f"fn is an async function that takes an item, not {a(type(fn))}: {shown(fn)}. {_NOTHING_RUN}",
            reason="no function",
        )
    inner = _inner(fn)
    if inspect.isasyncgenfunction(inner):
        raise InvalidFunctionError(
            f"{_called(fn)} is an asynchronous generator function: a call of it runs nothing before somebody "
            f"iterates. Hand in one that returns its values, as a list: return instead of yield. {_NOTHING_RUN}",
            reason="generator function",
        )
    if not _is_coroutine_function(fn):
        raise InvalidFunctionError(f"{_why_no_coroutine(fn)}. {_NOTHING_RUN}", reason="no async function")


def _why_no_coroutine(fn: object) -> str:
    inner, name = _inner(fn), _short(fn)
    if callable(inner) and _is_coroutine_function(inspect.unwrap(inner)):
        return (
            f"{_called(fn)} is a plain function around an async one, as a decorator makes it with functools.wraps, and "
            "nothing tells that a call of it gives a coroutine. Have the decorator return an async function: async def "
            "wrapper(...): return await fn(...); or mark what it returns, from Python 3.12 on, by "
            "inspect.markcoroutinefunction(wrapper)"
        )
    return (
        f"{_called(fn)} is no async function: it would keep the event loop from going on. Use the map of a plain "
        f"handle, Checkpoint.log(...).map; or hand in an async function that runs it in a thread: async def run(item): "
        f"return await asyncio.to_thread({name}, item); or one that awaits it, if a call of it gives a coroutine: "
        f"async def run(item): return await {name}(item)"
    )


def _is_coroutine_function(fn: object) -> bool:
    """Return whether a call of this gives a coroutine, or is marked as giving one."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(_inner(fn))


def _inner(fn: object) -> object:
    """Return the function that a call of this calls."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if not isinstance(fn, FunctionType | MethodType | type):
        return getattr(type(fn), "__call__", fn)  # noqa: B004 - an object that can be called
    return fn


def _require_plain(fn: Callable[..., object]) -> None:
    """Refuse a function whose call only makes a coroutine or a generator."""
    inner = _inner(fn)
    name = _called(fn)
    if _is_coroutine_function(fn):
        raise InvalidFunctionError(
            f"{name} is an async function: a call of it runs nothing and gives a coroutine. In a program with an event "
            f"loop, `await log.map({_short(fn)}, items)` with a log of mpcheckpoint.aio.AsyncCheckpoint runs it; "
            f"elsewhere hand in a function that does: def run(item): return asyncio.run({_short(fn)}(item)). "
            f"{_NOTHING_RUN}",
            reason="async function",
        )
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise InvalidFunctionError(
            f"{name} is a generator function: a call of it runs nothing before somebody iterates. Hand in a function "
            f"that returns its values, as a list: return instead of yield. {_NOTHING_RUN}",
            reason="generator function",
        )


def _require_sent(
    fn: Callable[..., object], where: str, otherwise: str, argument: str, *, is_fork: bool
) -> None:
    obstacle = obstacle_to_sending(fn, is_fork=is_fork)
    if obstacle is None:
        return
    name = f"{argument}, {_called(fn)}," if argument else _called(fn)
    raise InvalidFunctionError(
        f"{name} cannot be sent to {where}: {obstacle.cause}. {obstacle.helps}, or {otherwise}, or run it in "
        f"threads, with executor=ThreadPoolExecutor(). {_NOTHING_RUN}",
        reason="cannot be sent",
    )


class Obstacle(NamedTuple):
    """Why a value cannot be sent to another process, and what helps."""

    cause: str
    helps: str


def obstacle_to_sending(value: object, *, is_fork: bool) -> Obstacle | None:
    """Return why a value cannot be sent to another process, or not be read there; None if it can.

    ``is_fork``: the process is a fork of this one, and has the same names.
    """
    scout = _Scout()
    try:
        scout.dump(value)
    except Exception as error:  # noqa: BLE001 - pickling runs the user's code
        return _obstacle_in(value, error)
    if is_fork:
        return None
    if _has_no_program():
        return Obstacle(
            "they begin by running the program again, which was read from no file",
            "Put the program into a file",
        )
    lost = next((each for each in scout.of_main if _is_lost(each)), None)
    if lost is None:
        return None
    return Obstacle(
        f"{lost.__qualname__} was made at a prompt, in a notebook or by python -c, where no other process finds it",
        _TO_MODULE,
    )


def _obstacle_in(value: object, error: Exception) -> Obstacle:
    """Return which part of a value cannot be pickled."""
    for name, part in _parts(value):
        try:
            _Scout().dump(part)
        except Exception as own:  # noqa: BLE001 - as above
            inner = _obstacle_in(part, own)
            what = _called(part) if callable(part) else a(type(part))
            return inner._replace(cause=f"its {name} is {what}: {inner.cause}")
    if getattr(value, "__name__", "") == "<lambda>":
        return Obstacle("a lambda has no name that another process could find it by", _TO_MODULE)
    if isinstance(value, FunctionType):
        return Obstacle(str(error), _TO_MODULE)
    return Obstacle(str(error), "Make it where it is used, when the function runs")


def _parts(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, functools.partial):
        yield "function", value.func
        yield from ((f"argument {number}", part) for number, part in enumerate(value.args, 1))
        yield from ((f"argument {name}", part) for name, part in value.keywords.items())
    elif isinstance(value, MethodType):
        yield "object", value.__self__
    elif not isinstance(value, FunctionType | type) and hasattr(value, "__dict__"):
        yield from ((f"attribute {name}", part) for name, part in vars(value).items())


class _Nowhere:
    """A file that keeps nothing: what is pickled may be large."""

    def write(self, data: Any) -> int:
        return len(data)


class _Scout(ForkingPickler):
    """Pickles a value to see whether it can be pickled, and which names of the main module it needs."""

    def __init__(self) -> None:
        super().__init__(_Nowhere())
        self.of_main: list[Any] = []

    def persistent_id(self, value: Any) -> None:
        """Note functions and classes, which are sent as names."""
        if (type(value) is FunctionType or issubclass(type(value), type)) and value.__module__ == _MAIN:
            self.of_main.append(value)


def _has_no_program() -> bool:
    """Return whether a new process would fail to run the main module, because it came from standard input."""
    main = sys.modules.get(_MAIN)
    file = getattr(main, "__file__", None)
    return getattr(main, "__spec__", None) is None and file is not None and not os.path.exists(file)


def _is_lost(value: Any) -> bool:
    """Return whether a new process would not find this function or class of the main module."""
    main = sys.modules.get(_MAIN)
    if getattr(main, "__spec__", None) is None and getattr(main, "__file__", None) is None:
        return True  # a notebook, a prompt, python -c
    code = getattr(value, "__code__", None)
    return code is not None and code.co_filename.startswith(_PROMPTS)


def _called(fn: object) -> str:
    """Return how a message names what was handed in as a function."""
    if isinstance(fn, functools.partial):
        return f"functools.partial({_called(fn.func)}, ...)"
    if getattr(fn, "__name__", "") == "<lambda>":
        return "the lambda"
    if isinstance(fn, FunctionType) and "<locals>" in fn.__qualname__:
        return f"{fn.__name__}(), defined inside another function,"
    if isinstance(fn, FunctionType | MethodType):
        return f"{fn.__qualname__}()"
    return a(type(fn)) if not isinstance(fn, type) else f"the class {fn.__qualname__}"


def _short(fn: object) -> str:
    name = getattr(fn, "__name__", "fn")
    return name if name.isidentifier() else "fn"


# --- items -------------------------------------------------------------------------------------------------


def item_message(entry: Input, context: Any) -> bytes:
    """Return an input as it is sent to a worker process of ours.

    Raises:
        InvalidItemError: it cannot be sent.
        MemoryError, OSError: the machine is short of something.
    """
    try:
        message = packed(entry)
    except Exception as error:
        if shortage_of(error) is not None:
            raise
        raise invalid_item(entry, str(error)) from error
    is_interactive = getattr(sys.modules.get(_MAIN), "__file__", None) is None
    if context.get_start_method() != "fork" and is_interactive:
        obstacle = obstacle_to_sending(entry.item, is_fork=False)
        if obstacle is not None:
            raise invalid_item(entry, obstacle.cause)
    return message


def refused_item(entry: Input, executor: Executor) -> InvalidItemError | None:
    """Return why an executor could not run an input at all; None if the input is not the cause."""
    if not sends(executor):
        return None
    obstacle = obstacle_to_sending(entry.item, is_fork=True)
    return None if obstacle is None else invalid_item(entry, obstacle.cause)


def invalid_item(entry: Input, cause: str) -> InvalidItemError:
    """Return the error for an input that cannot be sent to a worker process, or not be read there."""
    return InvalidItemError(
        f"the item {shown(entry.item)} (object key {entry.object_key!r:.200}) cannot be sent to a worker process: "
        f"{cause}. Hand in what it is made from, as a path instead of an open file, and make it in the function; or "
        "run in threads, with executor=ThreadPoolExecutor(). It was not run",
        reason="cannot be sent",
    )
