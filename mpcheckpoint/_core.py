"""Which core runs: the native one, in C, or Python alone.

Both do the same. The native one takes what is usual and hands everything else to Python (native/README.md). It is left
out where there was no C compiler when this package was installed. Which one runs is decided once, at the import.
"""

from __future__ import annotations

import os
import sysconfig
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

# What the native core and the modules that call it agree on: CORE_VERSION in native/core.h.
_VERSION = 10
_PURE = "MPCHECKPOINT_PURE"
_NOT_BUILT = "there was no C compiler, or no Python headers, when it was installed"


def _usable() -> tuple[ModuleType | None, str]:
    """Return the native core, or None and why it does not run."""
    if os.environ.get(_PURE, "0") not in {"", "0"}:
        return None, f"{_PURE} is set"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return None, "this Python is free-threaded"
    try:
        found = import_module("mpcheckpoint._native")
    except ModuleNotFoundError:
        return None, _NOT_BUILT
    except ImportError as error:  # as in an interpreter that has its own lock
        return None, f"the native core cannot be loaded: {error}"
    if os.path.dirname(str(found.__file__)) != os.path.dirname(__file__):
        # What makes an editable install looks there for each module that another copy of the package lacks.
        return None, _NOT_BUILT
    if found.VERSION != _VERSION:
        return None, f"the native core is of version {found.VERSION}, not {_VERSION}: install it again"
    return found, ""


native, WHY_PURE = _usable()
kind = "pure" if native is None else "native"


def description() -> str:
    """Return which core runs, and why if it is not the native one."""
    return "native core" if native is not None else f"pure Python: {WHY_PURE}"
