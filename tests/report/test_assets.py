"""What the report embeds of others is what was published, may be embedded, and survives being put into a page."""

from __future__ import annotations

import hashlib
import json
import re
from importlib import resources

import pytest

ASSETS = {
    file.name: file.read_bytes()
    for file in resources.files("mpcheckpoint._report").joinpath("assets").iterdir()
}
VERSIONS = json.loads(ASSETS["versions.json"])


@pytest.mark.parametrize("package", VERSIONS, ids=lambda package: package["package"])
def test_library_is_byte_for_byte_the_version_that_is_named(package: dict[str, dict[str, str]]) -> None:
    assert {name: hashlib.sha256(ASSETS[name]).hexdigest() for name in package["sha256"]} == package["sha256"]


@pytest.mark.parametrize("package", VERSIONS, ids=lambda package: package["package"])
def test_library_has_a_permissive_licence_beside_it(package: dict[str, dict[str, str]]) -> None:
    (license_file,) = (name for name in package["sha256"] if name.endswith(".LICENSE"))

    assert package["license"] == "MIT"
    assert ASSETS[license_file].startswith(b"The MIT License")


@pytest.mark.parametrize("name", sorted(name for name in ASSETS if name.endswith((".js", ".css"))))
def test_asset_stands_in_a_page_as_it_is_and_asks_for_nothing(name: str) -> None:
    text = ASSETS[name].decode("utf-8")

    assert "\r" not in text  # a browser would make another text of it, whose digest the policy does not have
    assert "</script" not in text.lower()
    assert "</style" not in text.lower()
    assert "sourceMappingURL" not in text
    assert name.endswith(".js") or not re.search(r"@import|url\(", text)


def test_every_library_is_named_with_its_version() -> None:
    named = {name for package in VERSIONS for name in package["sha256"]}
    ours = {"report.js", "report.css", "report.html.jinja", "versions.json"}

    assert set(ASSETS) == named | ours
