"""Fetch what the report embeds of other projects: two JavaScript libraries, from the npm registry, with their licences.

    python tools/fetch_assets.py            the versions written down below
    python tools/fetch_assets.py --check    compare with what is there, change nothing

It takes npm. To move to another version, change it below, run this, then tests/report, and look at a report. The files
are kept as they were published; ``assets/versions.json`` says which they are, and tests/report/test_assets.py compares
their digests.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

ASSETS = Path(__file__).resolve().parent.parent / "mpcheckpoint" / "_report" / "assets"


class Package(NamedTuple):
    """A package, and which of its files are embedded under which names."""

    name: str
    version: str
    license: str
    files: dict[str, str]


PACKAGES = (
    Package(
        "uplot",
        "1.6.32",
        "MIT",
        {
            "dist/uPlot.iife.min.js": "uplot.js",
            "dist/uPlot.min.css": "uplot.css",
            "LICENSE": "uplot.LICENSE",
        },
    ),
    Package(
        "tabulator-tables",
        "6.5.3",
        "MIT",
        {
            "dist/js/tabulator.min.js": "tabulator.js",
            "dist/css/tabulator_simple.min.css": "tabulator.css",
            "LICENSE": "tabulator.LICENSE",
        },
    ),
)
_SOURCE_MAP = b"sourceMappingURL="


def fetched(package: Package, directory: Path) -> dict[str, bytes]:
    """Return the embedded files of a package, by the names they get."""
    subprocess.run(
        ["npm", "pack", "--silent", f"{package.name}@{package.version}"], cwd=directory, check=True
    )
    (archive,) = directory.glob(f"{package.name}-*.tgz")
    with tarfile.open(archive) as packed:
        described = json.loads(_content(packed, "package.json"))
        if described["license"] != package.license:
            raise SystemExit(f"{package.name} has another licence now: {described['license']}")
        return {name: _without_source_map(_content(packed, path)) for path, name in package.files.items()}


def _content(packed: tarfile.TarFile, path: str) -> bytes:
    file = packed.extractfile(f"package/{path}")
    assert file is not None
    return file.read()


def _without_source_map(content: bytes) -> bytes:
    """Return a file without the line that has a browser's tools ask for its source."""
    return b"\n".join(line for line in content.split(b"\n") if _SOURCE_MAP not in line or len(line) > 200)


def main() -> int:
    """Fetch, or compare; return the exit code."""
    parser = argparse.ArgumentParser(description="Fetch the libraries that the report embeds.")
    parser.add_argument("--check", action="store_true", help="compare with what is there, and change nothing")
    is_check = parser.parse_args().check
    files: dict[str, bytes] = {}
    versions = []
    for package in PACKAGES:
        with tempfile.TemporaryDirectory() as directory:
            found = fetched(package, Path(directory))
        files |= found
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(found.items())}
        versions.append(
            {
                "package": package.name,
                "version": package.version,
                "license": package.license,
                "sha256": digests,
            }
        )
    files["versions.json"] = json.dumps(versions, indent=2).encode() + b"\n"
    different = [
        name
        for name, content in files.items()
        if not (ASSETS / name).exists() or (ASSETS / name).read_bytes() != content
    ]
    if is_check:
        sys.stdout.write("".join(f"{name} is another\n" for name in different) or "all as published\n")
        return int(bool(different))
    for name, content in files.items():
        (ASSETS / name).write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
