"""Build the native core where there is a C compiler, and leave it out where there is none.

All else that is to be said of the distribution stands in pyproject.toml. native/README.md is the page on the core.
"""

from __future__ import annotations

import atexit
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).resolve().parent / "native"))
from build import FLAGS, HEADERS, SOURCES, STABLE_ABI  # from the folder that was just put on the path

# Such a build of Python has no stable ABI, and the core relies on the interpreter's lock.
IS_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
NATIVE = Extension(
    "mpcheckpoint._native",
    [f"native/{name}" for name in SOURCES],
    depends=[f"native/{name}" for name in HEADERS],
    define_macros=[STABLE_ABI],
    extra_compile_args=list(FLAGS),
    py_limited_api=True,
    optional=True,
)


class OptionalBuild(build_ext):
    """Builds the core, or says in a line that it could not and goes on."""

    def run(self) -> None:
        """Build what can be built."""
        super().run()
        if self.extensions and not self.is_there():
            self.warn("no C compiler or Python headers: built without its native core, as pure Python")

    def is_there(self) -> bool:
        """Return whether the core was built."""
        return all(Path(self.get_ext_fullpath(each.name)).exists() for each in self.extensions)


class HonestWheel(bdist_wheel):
    """Calls the wheel pure Python if it is."""

    def run(self) -> None:
        """Build the core first: what the wheel is depends on whether that worked."""
        self.run_command("build_ext")
        if not self.get_finalized_command("build_ext").is_there():
            self.distribution.ext_modules = []
            self.root_is_pure = True
        super().run()


def options() -> dict[str, dict[str, Any]]:
    """Return the options of commands.

    The build directory is a new one each time: what earlier builds left, modules since removed among it, would go into
    the wheel, and two builds at the same time would meet.
    """
    build_base = tempfile.mkdtemp(prefix="mpcheckpoint-build-")
    atexit.register(shutil.rmtree, build_base, ignore_errors=True)
    return {"build": {"build_base": build_base}, "bdist_wheel": {"py_limited_api": "cp311"}}


setup(
    ext_modules=[] if IS_FREE_THREADED else [NATIVE],
    cmdclass={"build_ext": OptionalBuild, "bdist_wheel": HonestWheel},
    options=options(),
)
