"""What to use instead of a value that JSON cannot hold. Needed only once a value was refused.

Types are recognized by the names of their bases and by their methods: their libraries are no dependencies, and to look
at the attributes of a value may run the user's code.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping

_MOST_SHOWN_CHARS = 60

# What to do with data that no line holds.
FOR_LARGE_DATA = "store the data in a file and record its name and hash, or split it into several events"

# The first that fits counts, so a type stands before its bases.
_BY_BASE = (
    ("numpy.bool", "bool(x)"),
    ("numpy.bool_", "bool(x)"),  # its name before numpy 2
    ("numpy.timedelta64", "str(x)"),
    ("numpy.datetime64", "str(x)"),
    ("numpy.integer", "int(x)"),
    ("numpy.floating", "float(x)"),
    ("numpy.complexfloating", "[float(x.real), float(x.imag)]"),
    ("numpy.str_", "str(x)"),
    ("numpy.bytes_", "x.decode()"),
    ("numpy.generic", "x.item()"),
    ("pandas.DataFrame", 'x.to_dict("records")'),
    ("pandas.Period", "str(x)"),
    ("pandas.Interval", "str(x)"),
    ("enum.Flag", "x.value"),
    ("enum.IntEnum", "x.value"),
    ("enum.StrEnum", "x.value"),
    ("enum.Enum", "x.name"),
    ("bytes", "x.decode(), or base64.b64encode(x).decode() if it is no text,"),
    ("bytearray", "x.decode(), or base64.b64encode(x).decode() if it is no text,"),
    ("memoryview", "base64.b64encode(x).decode()"),
    ("datetime.timedelta", "x.total_seconds()"),
    ("datetime.date", "x.isoformat()"),
    ("datetime.time", "x.isoformat()"),
    ("decimal.Decimal", "str(x)"),
    ("fractions.Fraction", "str(x)"),
    ("uuid.UUID", "str(x)"),
    ("pathlib.PurePath", "str(x)"),
    ("ipaddress._IPAddressBase", "str(x)"),
    ("complex", "[x.real, x.imag]"),
    ("str", "str(x)"),
    ("int", "int(x)"),
    ("float", "float(x)"),
    ("BaseException", "repr(x)"),
    ("_io._IOBase", "its name, x.name,"),
    ("type", "its name, x.__qualname__,"),
    ("function", "its name, x.__qualname__,"),
    ("builtin_function_or_method", "its name, x.__qualname__,"),
    ("method", "its name, x.__qualname__,"),
    ("module", "its name, x.__name__,"),
)
_BY_METHOD = (
    ("__dataclass_fields__", "dataclasses.asdict(x)"),
    ("__attrs_attrs__", "attrs.asdict(x)"),
    ("__struct_fields__", "msgspec.to_builtins(x)"),
    ("model_dump", 'x.model_dump(mode="json")'),  # pydantic
    ("_asdict", "x._asdict(), or list(x),"),  # named tuples
    ("tolist", "x.tolist()"),  # arrays, tensors, series
    ("to_pylist", "x.to_pylist()"),  # Arrow
    ("to_dicts", "x.to_dicts()"),  # a data frame of polars
    ("to_dict", "x.to_dict()"),
    ("isoformat", "x.isoformat()"),
    ("__await__", "what awaiting it gives"),
    ("__aiter__", "[item async for item in x]"),
)
_TEXTS = frozenset(
    [
        "str",
        "int",
        "float",
        "decimal.Decimal",
        "uuid.UUID",
        "pathlib.PurePath",
        "datetime.date",
        "numpy.generic",
    ]
)


def name_of(kind: type) -> str:
    """Return the name by which users know a type: bare for a builtin, else with the package it is imported from."""
    module, name = kind.__module__, kind.__qualname__
    if module == "builtins":
        return name
    parts = module.split(".")
    for length in range(1, len(parts)):  # users know pathlib._local.PosixPath as pathlib.PosixPath
        package = ".".join(parts[:length])
        if package in sys.modules and vars(sys.modules[package]).get(name) is kind:
            return f"{package}.{name}"
    return f"{module}.{name}"


def a(kind: type) -> str:
    """Return the name of a type with its article."""
    name = name_of(kind)
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def shown(value: object) -> str:
    """Return a value as messages show it: short, and also if its ``repr`` fails."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - the user's code failed, or an integer has too many digits
        return f"<{name_of(type(value))}>"
    return text if len(text) <= _MOST_SHOWN_CHARS else f"{text[: _MOST_SHOWN_CHARS - 3]}..."


def json_for(kind: type) -> str:
    """Return what to use, mostly an expression, instead of ``x``, a value of a type that JSON does not have."""
    if kind.__name__ in ("NaTType", "NAType"):  # a missing value of pandas
        return "None"
    bases = _bases(kind)
    for base, advice in _BY_BASE:
        if base in bases:
            return advice
    for method, advice in _BY_METHOD:
        if hasattr(kind, method):
            return advice
    if issubclass(kind, Mapping):
        return "dict(x)"
    if issubclass(kind, Iterable):
        return "list(x)"
    return "a dict of what matters of it, or str(x),"


def text_for(kind: type) -> str | None:
    """Return what to use where a string is wanted, instead of ``x``; None where nothing is surely right."""
    bases = _bases(kind)
    if "enum.Enum" in bases:
        return "x.name"
    if bases & {"bytes", "bytearray"}:
        return "x.decode(), or os.fsdecode(x) for the name of a file,"
    if bases & _TEXTS:
        return "str(x)"
    if bases & {"tuple", "list"}:
        return "'/'.join(map(str, x))"
    return None


def no_text(what: str, value: object) -> str:
    """Return the message for a value that should be a string and is not."""
    advice = text_for(type(value))
    instead = f"; use {advice} instead" if advice else ""
    return f"{what} is a str, not {a(type(value))}: {shown(value)}{instead}"


def _bases(kind: type) -> set[str]:
    return {name_of(base) for base in kind.__mro__}
