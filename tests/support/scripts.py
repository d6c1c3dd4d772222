"""The scripts of tools/, as modules."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

from support.checkout import ROOT


def script(name: str) -> Any:
    """Return a script of ``tools/``, imported."""
    spec = spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
